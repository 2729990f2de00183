"""Fit before launch: the bytes of each device that a training step takes, from its compiled program; nothing runs.

`estimate` compiles the very step of an assembled experiment for shapes alone, on virtual devices, and takes the sizes
that the compiler assigned. Compiled for CPUs, whose buffers differ from an accelerator's: fewer operations are fused,
and products of bfloat16 are widened to float32, so that the working memory is an estimate that errs on the high side.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.core import trees
from research.core.mesh import batch_sharding, bytes_per_device, shard_bytes
from research.core.precision import cast
from research.core.shapes import Batch, Params
from research.data.pipeline import make_batch
from research.runs.chain import ROW_DIGESTS, row_digests
from research.train.experiment import Assembly
from research.train.state import State
from research.train.step import training_context

# Machine code that never runs need not be fast. The compiler for CPUs has no bfloat16 products, and would move the
# conversion of all layers' kept activations to float32 out of the loop over the layers, as no accelerator does.
COMPILER_OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_disable_hlo_passes": "while-loop-invariant-code-motion",
}
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%\S+ = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(.*op_name=\"([^\"]*)\"")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device during a step.

    Attributes:
        parameters: of this device's share, in float32.
        optimizer: moments and counters.
        average: the moving average of the parameters, 0 where none is kept.
        batch: this device's rows of the step's batch.
        activations: what the forward pass over one micro-batch leaves for the backward pass, besides parameters; no
            more than all temporaries, for the compiler of the whole step may compute some of it again.
        working: all other temporaries at their highest: gradients, parameters gathered or cast, a layer's inside.
        largest: (bytes, type and shape, layer) of the largest temporaries, one a layer.
    """

    parameters: int
    optimizer: int
    average: int
    batch: int
    activations: int
    working: int
    largest: tuple[tuple[int, str, str], ...]

    @property
    def total(self) -> int:
        """Returns the sum of all parts."""
        return self.parameters + self.optimizer + self.average + self.batch + self.activations + self.working


def estimate(assembly: Assembly) -> Memory:
    """Compiles the step for shapes alone and returns its memory on each device."""
    state = trees.abstract_like(assembly.state, assembly.shardings)
    batch = abstract_batch(assembly)
    step: Any = assembly.compiled_step()
    # Traced one after the other, since tracing shares its caches; only the compiler runs in two threads.
    lowered = step.lower(state, batch)
    kept, forward = _residuals(assembly, state, batch)
    with ThreadPoolExecutor() as pool:
        compiled, forward = pool.map(_compile, (lowered, forward))
    sizes = compiled.memory_analysis()
    # The new state takes the place of the old one: what is left of the outputs are the metrics.
    temporary = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    residuals = zip(kept, forward.output_shardings, strict=True)
    activations = sum(shard_bytes(leaf, sharding) for leaf, sharding in residuals if leaf is not None)
    activations = min(activations, temporary)
    return Memory(
        parameters=bytes_per_device(state.merged),
        optimizer=bytes_per_device(state.optimizer),
        average=bytes_per_device(state.average),
        batch=bytes_per_device(batch),
        activations=activations,
        working=temporary - activations,
        largest=_largest(compiled.as_text(), state.merged),
    )


def _compile(lowered: Any) -> Any:
    return lowered.compile(compiler_options=COMPILER_OPTIONS)


def abstract_batch(assembly: Assembly) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and shardings of a step's batch."""
    row = make_batch(assembly.data.splits["train"], np.zeros(1, np.int64), 1)
    sharding = batch_sharding(assembly.mesh)
    return {
        name: jax.ShapeDtypeStruct((assembly.experiment.batch_size, *leaf.shape[1:]), leaf.dtype, sharding=sharding)
        for name, leaf in {**row, ROW_DIGESTS: row_digests(row)}.items()
    }


def _residuals(
    assembly: Assembly, state: State, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[list[jax.ShapeDtypeStruct | None], Any]:
    """Returns what a micro-batch's forward pass keeps (None: the batch's size does not change it), and it, lowered."""
    experiment, task = assembly.experiment, assembly.task

    def residuals(params: Params, others: Params, batch: Batch) -> list[jax.Array]:
        def loss(params: Params) -> jax.Array:
            merged = cast(trees.merge(params, others), experiment.compute)
            return task.loss(merged, batch, training_context(jnp.int32(0), experiment.seed)).sum

        _, backward = jax.vjp(loss, params)
        return jax.tree.leaves(backward)

    def rows(count: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)
            for name, leaf in batch.items()
            if name != ROW_DIGESTS
        }

    count = experiment.batch_size // experiment.accumulate
    params, others = state.params, trees.merge(state.fixed, state.variables)
    kept, of_twice = (jax.eval_shape(residuals, params, others, rows(times * count)) for times in (1, 2))
    changing = [leaf if leaf.shape != other.shape else None for leaf, other in zip(kept, of_twice, strict=True)]
    return changing, jax.jit(residuals).lower(params, others, rows(count))


def _largest(program: str, params: Params, count: int = 3) -> tuple[tuple[int, str, str], ...]:
    """Returns (bytes, type and shape, layer) of the largest arrays in a compiled program's text, one a layer."""
    found: dict[str, tuple[int, str, str]] = {}
    inside = False  # a fused computation, whose arrays never reach memory
    for line in program.splitlines():
        if line.endswith("{"):
            inside = "fused" in line.split("(")[0] or "wrapped" in line.split("(")[0]
        match = INSTRUCTION.match(line)
        if inside or not match or match[1] not in SIZES or match[3] in ("parameter", "bitcast", "get-tuple-element"):
            continue
        size = SIZES[match[1]] * math.prod(map(int, match[2].split(",")))
        layer = _layer(match[4], params)
        if size > found.get(layer, (0,))[0]:
            found[layer] = (size, f"{match[1]} {match[2].replace(',', ' x ')}", layer)
    return tuple(sorted(found.values(), reverse=True)[:count])


def _layer(scope: str, params: Params) -> str:
    """Returns the path of the innermost module that an operation's name mentions, without the number of its block."""
    node: Any = params
    path = []
    for name in scope.split("/"):
        if isinstance(node, Mapping) and isinstance(node.get(name), Mapping):
            node = node[name]
            path.append(re.sub(r"_\d+$", "", name))
    return "/".join(path) or ("between the layers" if "jvp" in scope else "update")
