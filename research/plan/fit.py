"""Whether a training step fits its devices, for several numbers of them, and what to change where it does not.

`show_memory` prints the table of `research.plan.memory` with one column for each number of devices. Where a column
does not fit, changes that leave the learning as it is are tried, each on top of those before that helped.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.core import configs
from research.core.errors import UserError
from research.core.mesh import BATCH_AXES
from research.data.dataset import Data
from research.plan.memory import Memory, estimate
from research.train.experiment import Experiment, assemble

HOST = 8  # devices in the usual host, whose links the tensor axis needs
ROWS = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "average": "moving average",
    "batch": "batch",
    "activations": "kept activations",
    "working": "working memory",
}
NOTE = (
    "Compiled for shapes alone; nothing was allocated. Parameters, optimizer state and batch are exact. Kept "
    "activations: what the forward pass over one micro-batch leaves for the backward pass, at most all temporaries. "
    "Working memory: the other temporaries at their peak (gradients, parameters gathered or cast, one layer's inside), "
    "as compiled for CPUs, where fewer operations are fused and bfloat16 products take float32 copies: an estimate "
    "that errs on the high side. What an accelerator's runtime itself takes, a GB or two, is not counted."
)


def device_count(experiment: Experiment) -> int:
    """Returns the devices that the mesh takes."""
    return math.prod(dataclasses.asdict(experiment.mesh).values())


def on_devices(experiment: Experiment, count: int) -> Experiment:
    """Returns the experiment on `count` devices: fsdp takes what the other axes leave.

    The batch stays, cut into as many micro-batches as leave a device at most as many examples at once as before.

    Raises:
        UserError: the other axes do not divide the devices.
    """
    others = device_count(experiment) // experiment.mesh.fsdp
    if count < 1 or count % others:
        raise UserError(
            f"{count} devices are not divisible by the other axes of the mesh, {others}: give multiples to --devices."
        )
    return _with_mesh(experiment, fsdp=count // others)


def _with_mesh(experiment: Experiment, **sizes: int) -> Experiment:
    """Returns the experiment on another mesh, with the same examples on a device at once where that is possible."""
    mesh = dataclasses.replace(experiment.mesh, **sizes)
    at_once = max(1, experiment.batch_size // (_parts(experiment) * experiment.accumulate))
    accumulate = math.ceil(experiment.batch_size / (_parts(experiment, **sizes) * at_once))
    return dataclasses.replace(experiment, mesh=mesh, accumulate=accumulate)


def _parts(experiment: Experiment, **sizes: int) -> int:
    mesh = dataclasses.replace(experiment.mesh, **sizes)
    return math.prod(getattr(mesh, axis) for axis in BATCH_AXES)


def more_micro_batches(experiment: Experiment, memory: Memory, limit: float) -> Experiment:
    """One example on a device at a time."""
    accumulate = max(experiment.accumulate, experiment.batch_size // _parts(experiment))
    return dataclasses.replace(experiment, accumulate=accumulate)


def recomputation(experiment: Experiment, memory: Memory, limit: float) -> Experiment:
    """Activations computed again in the backward pass, where the model has the option."""
    if not hasattr(experiment.model, "remat"):
        return experiment
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, remat=True))


def tensor_parallel(experiment: Experiment, memory: Memory, limit: float) -> Experiment:
    """Up to a host's devices of the fsdp axis split the features instead."""
    mesh = experiment.mesh
    share = math.gcd(mesh.fsdp, max(1, HOST // mesh.tensor))
    return _with_mesh(experiment, fsdp=mesh.fsdp // share, tensor=mesh.tensor * share)


def more_devices(experiment: Experiment, memory: Memory, limit: float) -> Experiment:
    """As many times the fsdp axis as would fit if all but the working memory and activations shrank with it."""
    gradients = memory.parameters * (1 if experiment.accumulate == 1 else 2)
    shrinking = memory.parameters + memory.optimizer + memory.average + min(gradients, memory.working)
    fixed, mesh = memory.total - shrinking, experiment.mesh
    factors = [2**power for power in range(1, 10) if device_count(experiment) * 2**power <= jax.device_count()]
    factor = next((factor for factor in factors if fixed + shrinking / factor <= limit), 1)
    return _with_mesh(experiment, fsdp=mesh.fsdp * factor)


REMEDIES: tuple[Callable[[Experiment, Memory, float], Experiment], ...] = (
    more_micro_batches,
    recomputation,
    tensor_parallel,
    more_devices,
)


def remedies(experiment: Experiment, data: Data, memory: Memory, limit: float) -> list[tuple[str, Memory]]:
    """Returns (options, memory) of changes tried one on top of the other until the step takes at most `limit` bytes.

    A change that saves less than a hundredth is not kept.
    """
    tried: list[tuple[str, Memory]] = []
    best, least = experiment, memory
    for change in REMEDIES:
        changed = change(best, least, limit)
        if least.total <= limit or changed == best or changed.batch_size % (_parts(changed) * changed.accumulate):
            continue
        found = estimate(assemble(changed, data))
        if found.total < 0.99 * least.total:
            best, least = changed, found
            tried.append((_options(experiment, changed), found))
    return tried


def _options(before: Experiment, after: Experiment) -> str:
    """Names the options that turn one experiment into another."""
    changes = configs.differences(configs.to_json(before), configs.to_json(after))
    texts = (f"--{name.replace('_', '-')}" + ("" if new is True else f" {new}") for name, (_, new) in changes.items())
    return " ".join(texts)


def show_memory(experiments: Sequence[Experiment], data: Data, limit: float, console: Console) -> None:
    """Prints what a step of each experiment takes, whether that is at most `limit` bytes, and what helps if not."""
    memories = [estimate(assemble(experiment, data)) for experiment in experiments]
    console.print(_table(experiments, memories, limit))
    for experiment, memory in zip(experiments, memories, strict=True):
        if memory.total > limit:
            console.print(f"\nOn {_devices(experiment)}", style="bold")
            for text in _advice(experiment, data, memory, limit):
                console.print(text, soft_wrap=True)
    console.print(f"\n{NOTE}", style="dim")


def _table(experiments: Sequence[Experiment], memories: Sequence[Memory], limit: float) -> Table:
    table = Table("GB per device", title="Memory of a training step")
    for experiment in experiments:
        table.add_column(_heading(experiment), justify="right")
    for name, label in ROWS.items():
        sizes = [getattr(memory, name) for memory in memories]
        if any(sizes) or name != "average":
            table.add_row(label, *map(_gigabytes, sizes), end_section=name == "working")
    table.add_row("total", *(_gigabytes(memory.total) for memory in memories))
    fits = (Text("yes", "green") if memory.total <= limit else Text("no", "red") for memory in memories)
    table.add_row(f"fits {limit / 1e9:g} GB", *fits)
    return table


def _heading(experiment: Experiment) -> str:
    """The devices, the axes of their mesh, and how the batch reaches them."""
    sizes = dataclasses.asdict(experiment.mesh)
    axes = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)
    at_once = experiment.batch_size // (_parts(experiment) * experiment.accumulate)
    return "\n".join([_devices(experiment), *([axes] if axes else []), f"{experiment.accumulate} x {at_once} examples"])


def _devices(experiment: Experiment) -> str:
    count = device_count(experiment)
    return f"{count} device" + "s" * (count > 1)


def _advice(experiment: Experiment, data: Data, memory: Memory, limit: float) -> Iterator[str]:
    """Yields the largest temporaries, and the remedies with what they come to."""
    largest = "; ".join(f"{layer} {_gigabytes(size)} GB ({array})" for size, array, layer in memory.largest)
    yield f"largest temporaries: {largest}"
    tried = remedies(experiment, data, memory, limit)
    for options, found in tried:
        yield f"with {options}: {_gigabytes(found.total)} GB, " + ("fits" if found.total <= limit else "too much")
    if not tried or tried[-1][1].total > limit:
        yield "no change tried here makes it fit: take more devices, a shorter sequence or a smaller model"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e7 else f"{size / 1e9:.1g}"
