"""What the tests of the explanation compare, worked out on eight virtual devices and printed as JSON.

A program of its own, since the number of devices is fixed when JAX starts.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from research.core.mesh import MeshConfig
from research.data.pipeline import training_batches
from research.data.synthetic import TokenData
from research.models.gpt import GPT
from research.plan.diagrams import draw_blocks, draw_mesh
from research.plan.fit import remedies
from research.plan.memory import abstract_batch, estimate
from research.plan.options import imitate_devices
from research.plan.sharding import sharding_lines
from research.runs.chain import ROW_DIGESTS, row_digests
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Assembly, Experiment, assemble
from research.train.optimizers import Optimizer

EXPERIMENT = Experiment(
    data=TokenData(vocabulary=48, length=32),
    model=GPT(depth=2, width=64, heads=4, context=32, positions="rotary", scan=True, remat=True),
    task=LanguageModelling(),
    optimizer=Optimizer("adamw", ema=0.9),
    mesh=MeshConfig(data=1, fsdp=4, tensor=2),
    batch_size=16,
)
DATA = EXPERIMENT.data.build()


def varied(**changes: Any) -> Assembly:
    """Assembles the experiment with some fields of its model or its own changed."""
    model = {name: changes.pop(name) for name in ("depth", "scan", "remat") if name in changes}
    changed = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, **model), **changes)
    return assemble(changed, DATA)


def bytes_held(tree: Any) -> list[int]:
    """Returns the bytes that each device holds of a tree of arrays."""
    held = dict.fromkeys(jax.devices()[:8], 0)
    for leaf in jax.tree.leaves(tree):
        for part in leaf.addressable_shards:
            held[part.device] += part.data.nbytes
    return list(held.values())


def measured(assembly: Assembly) -> dict[str, list[int]]:
    """Runs a step for real; returns the bytes on each device of what the explanation states exactly."""
    batch = dict(training_batches(DATA.splits["train"], batch_size=EXPERIMENT.batch_size, seed=0)(0))
    batch[ROW_DIGESTS] = row_digests(batch)
    placed = jax.device_put(batch, {name: leaf.sharding for name, leaf in abstract_batch(assembly).items()})
    state, _ = assembly.compiled_step()(assembly.initial_state(), placed)
    parts = {"parameters": state.merged, "optimizer": state.optimizer, "average": state.average, "batch": placed}
    return {name: bytes_held(tree) for name, tree in parts.items()}


def pictures(mesh: Any) -> dict[str, str]:
    """Returns drawings of the mesh, and of an array split along none, either or both of its axes."""
    shapes = {"both": ((8, 8), ("fsdp", "tensor")), "rows": ((8, 8), ("fsdp",)), "columns": ((3, 8), (None, "tensor"))}
    shapes |= {"whole": ((3, 3), ()), "vector": ((8,), ("fsdp",)), "stacked": ((5, 8, 8), (None, "fsdp", "tensor"))}
    shapes |= {"stacked rows": ((5, 8, 8), (None, "fsdp", None))}
    drawn = {
        name: draw_blocks(shape, NamedSharding(mesh, PartitionSpec(*spec))) for name, (shape, spec) in shapes.items()
    }
    return {"mesh": draw_mesh(mesh), **drawn}


def main() -> None:
    imitate_devices(8)
    assembly, deep, wide = varied(), varied(depth=4), varied(batch_size=64)
    memory, before = estimate(assembly), estimate(wide)
    tried = remedies(wide.experiment, DATA, before, limit=0.9 * before.total)
    explained = {
        "memory": dataclasses.asdict(memory),
        "activations of two more layers": estimate(deep).activations - memory.activations,
        "before": before.total,
        "tried": [(options, found.total) for options, found in tried],
        "lines": [dataclasses.asdict(line) | {"sharding": None} for line in sharding_lines(assembly)],
        "indivisible": [
            (line.path, line.count, line.replicated_axes)
            for line in sharding_lines(varied(scan=False, mesh=MeshConfig(data=1, tensor=5)))
        ],
        "pictures": pictures(assembly.mesh),
        "allocated": sum(array.nbytes for array in jax.live_arrays()),
    }
    json.dump({**explained, "measured": measured(assembly)}, sys.stdout)


if __name__ == "__main__":
    main()
