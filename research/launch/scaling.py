"""What a mesh costs on this machine: times the training step of an experiment on several meshes, in turns.

    python -m research.launch.scaling gpt_austen --devices 8

Prints a table of step times as ratios to one device's, measured in one run, since a busy machine's seconds vary. The
devices of a CPU are virtual and share its cores: there the ratio is what splitting costs, and nothing can be gained.
"""

import dataclasses
import importlib
import time
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.table import Table

from research.core import command_line, configs
from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.core.ranges import Range
from research.core.terminal import console
from research.data.dataset import Data
from research.launch.discovery import modules
from research.runtime import backend
from research.train import exact
from research.train.experiment import Experiment, assemble
from research.train.loop import prepare_batches


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time."""

    name: Annotated[str, tyro.conf.Positional] = "gpt_austen"
    """the experiment"""
    devices: Annotated[int, Range(0, 4096)] = 0
    """devices to use, which a CPU imitates (0: those that are there)"""
    rounds: Annotated[int, Range(1, 10_000)] = 7
    """turns, of which the median counts"""
    steps: Annotated[int, Range(1, 10_000)] = 5
    """steps of a turn"""


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    if options.name not in modules():
        raise UserError(f"There is no experiment {options.name!r}: there are {', '.join(modules())}.")
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    backend.start(exact.THREADS)
    experiment = importlib.import_module(f"experiments.{options.name}").CONFIG
    names, turns = zip(*_turns(experiment, options.steps), strict=True)
    seconds = np.array([[turn() for turn in turns] for _ in range(1 + options.rounds)])[1:]  # the first one compiles
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    print(f"{options.name} on {count} x {kind}, {exact.THREADS} threads")
    table = Table("mesh", "step")
    for name, ratio in zip(names, ratios, strict=True):
        table.add_row(name, f"{ratio:.2f}")
    console().print(table)
    print(f"one device: {np.median(seconds[:, 0]) * 1000:.1f} ms a step; times are ratios to it")


def _turns(experiment: Experiment, steps: int) -> Iterator[tuple[str, Any]]:
    """Yields (name, function that returns the seconds of a step) of every mesh that the devices and the model allow."""
    count = jax.device_count()
    powers = [2**power for power in range(count.bit_length())]
    meshes = [({"data": size}, False) for size in powers]
    meshes += [({"data": 1, axis: size}, False) for axis in ("fsdp", "tensor", "context") for size in powers[1:]]
    meshes += [({"data": size}, True) for size in powers]
    data = configs.built(experiment.data, Data)
    for sizes, exactly in meshes:
        changed = dataclasses.replace(experiment, mesh=MeshConfig(**sizes), exact=exactly)
        if "context" in sizes and not hasattr(experiment.model, "context"):
            continue
        try:
            assembly = assemble(changed, data)
        except UserError:
            continue
        name = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "one device"
        yield name + (", exact" if exactly else ""), _turn(assembly, steps)


def _turn(assembly: Any, steps: int) -> Any:
    step, batches, state = assembly.compiled_step(), prepare_batches(assembly), assembly.initial_state()

    def turn() -> float:
        nonlocal state
        prepared = [batches(index) for index in range(steps)]
        began = time.perf_counter()
        for batch in prepared:
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - began) / steps

    return turn


if __name__ == "__main__":
    command_line.run(main)
