"""Explained instead of run: `--plan-sharding` and `--plan-memory` on any experiment, for any number of devices.

The devices need not exist: an explanation works with virtual ones, which hold nothing, and leaves those that do exist
alone, so that it may be asked for on a login node.
"""

import dataclasses
from typing import Annotated

import jax

from research.core import configs
from research.core.errors import UserError
from research.core.ranges import Range
from research.core.terminal import console
from research.data.dataset import Data
from research.plan.fit import device_count, on_devices, show_memory
from research.plan.sharding import show_sharding
from research.train.experiment import Experiment, assemble

MOST = 4096  # virtual devices; more take minutes to set up
ENOUGH = 512  # devices to look for a mesh that fits on, set up in a fraction of a second


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What to explain before a launch, instead of launching."""

    plan_sharding: bool = False
    """print where every parameter would live, and end"""
    plan_memory: bool = False
    """compile a step for the mesh, which need not exist here; print what it takes of each device, and end"""
    devices: tuple[Annotated[int, Range(1, MOST)], ...] = ()
    """explain for each of these numbers of devices: fsdp takes what the other axes of the mesh leave, and a batch is
    cut into as many micro-batches as keep the examples on a device at once"""
    device_memory: Annotated[float, Range(0, 1e6, above=True)] = 80.0
    """GB of each device that --plan-memory compares with"""

    @property
    def asked(self) -> bool:
        """Whether there is anything to explain."""
        return self.plan_sharding or self.plan_memory

    def show(self, experiment: Experiment) -> None:
        """Prints the explanations.

        Raises:
            UserError: sizes, rules or mesh that do not fit one another; more devices than can be imitated.
        """
        mesh, experiment = experiment.mesh, dataclasses.replace(experiment, exact=False)  # its programs are several
        one_copy = dataclasses.replace(experiment, mesh=dataclasses.replace(mesh, data=mesh.data or 1))
        experiments = [on_devices(one_copy, count) for count in self.devices] or [one_copy]
        imitate_devices(max(map(device_count, experiments)))
        data, shown = configs.built(experiment.data, Data), console()
        if self.plan_sharding:
            for each in experiments:
                show_sharding(assemble(each, data), shown)
        if self.plan_memory:
            show_memory(experiments, data, self.device_memory * 1e9, shown)


def imitate_devices(count: int) -> None:
    """Makes JAX see at least `count` virtual devices, where it has not started yet.

    Raises:
        UserError: JAX has started with fewer, or they are too many.
    """
    if count > MOST:
        raise UserError(f"{count} devices are more than can be imitated here: explain {MOST} or fewer.")
    try:
        jax.config.update("jax_num_cpu_devices", max(count, ENOUGH))
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:  # JAX has started: a notebook, a test
        if jax.device_count() < count:
            raise UserError(
                f"JAX has started with {jax.device_count()} devices, fewer than the {count} to explain: explain them "
                "from the command line."
            ) from None
