"""Every parallel strategy against one device, on eight virtual ones: loss, gradients, a whole step, collectives.

    PYTHONPATH=. python tests/devices/parity.py [MODEL ...]

prints the table of the README; `--json PAIRS`, a list of [model, strategy], what test_parity.py judges. The step is
compiled once for each pair; AdamW's first moment after it, a tenth of the gradient, shows the gradient itself.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from collectives import collectives

from research.core import trees
from research.core.mesh import MeshConfig, batch_sharding
from research.data.dataset import Data, Rows
from research.data.pipeline import training_batches
from research.data.text.packing import Windows, pack_documents
from research.models.gpt import GPT
from research.models.mlp import MLP
from research.models.resnet import ResNet
from research.tasks.classification import Classification
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Assembly, Experiment, assemble
from research.train.optimizers import Optimizer
from research.train.state import State

BATCH, LENGTH, VOCABULARY = 8, 16, 32
STRATEGIES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(data=1, tensor=4),
    "context": MeshConfig(data=1, context=8),
    "expert": MeshConfig(data=1, expert=4),
    "data x context": MeshConfig(data=2, context=4),
    "data x fsdp x tensor": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp x context x tensor": MeshConfig(fsdp=2, context=2, tensor=2),
    "data x expert x tensor": MeshConfig(data=2, expert=2, tensor=2),
    "fsdp x expert x context": MeshConfig(fsdp=2, expert=2, context=2),
}
GPT_2 = GPT(depth=1, width=32, heads=4, context=LENGTH, dropout=0.1)
LLAMA = GPT(
    depth=1,
    width=32,
    heads=8,
    num_kv_heads=4,
    mlp_dim=64,
    context=LENGTH,
    positions="rotary",
    activation="swiglu",
    norm="rms",
    tied=False,
    bias=False,
)
CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "GPT-2, dropout": (GPT_2, ("data", "tensor", "context", "data x fsdp x tensor")),
    "Llama": (LLAMA, ("fsdp", "tensor", "data x fsdp x tensor", "fsdp x context x tensor")),
    "Llama, packed documents": (LLAMA, ("data x context",)),
    "GPT-2, scanned, recomputed": (
        dataclasses.replace(GPT_2, depth=2, scan=True, remat=True),
        ("fsdp", "data x fsdp x tensor", "fsdp x context x tensor"),
    ),
    "Llama, experts": (
        dataclasses.replace(LLAMA, experts=4),
        ("expert", "data x expert x tensor", "fsdp x expert x context"),
    ),
    "GPT-2, scanned experts": (
        dataclasses.replace(GPT_2, depth=2, scan=True, remat=True, experts=8),
        ("data x expert x tensor",),
    ),
    "MLP": (MLP((64, 32), dropout=0.1), ("fsdp", "data x fsdp x tensor")),
    "ResNet": (ResNet(stages=(1, 1), width=8), ("data", "fsdp", "data x fsdp x tensor")),
}


def experiment(name: str, mesh: MeshConfig) -> tuple[Experiment, Data]:
    """Returns an experiment and random data for it."""
    model, random = CASES[name][0], np.random.default_rng(0)
    task: Any = LanguageModelling() if isinstance(model, GPT) else Classification()
    if "packed" in name:
        documents = [random.integers(0, VOCABULARY, size) for size in random.integers(3, 15, 60)]
        data = Data({"train": pack_documents(documents, LENGTH)}, VOCABULARY)
    elif isinstance(model, GPT):
        data = Data({"train": Windows(random.integers(0, VOCABULARY, 400), LENGTH, 1)}, VOCABULARY)
    else:
        inputs = random.normal(size=(40, 8, 8, 4)).astype(np.float32)
        labels = random.integers(0, 8, 40).astype(np.int32)
        data = Data({"train": Rows({"inputs": inputs, "labels": labels})}, 8)
    optimizer = Optimizer("adamw", epsilon=1e-2, weight_decay=0.1, clip=1.0)
    return Experiment(data, model, task, optimizer, mesh=mesh, batch_size=BATCH, seed=1), data


def first_step(assembly: Assembly, state: State) -> tuple[dict[str, Any], str]:
    """Returns {"loss", "gradients", "parameters"} of a step, and its program."""
    batch = dict(training_batches(assembly.data.splits["train"], batch_size=BATCH, seed=1)(0))
    batch = jax.device_put(batch, batch_sharding(assembly.mesh))
    state = jax.device_put(state, assembly.shardings)
    compiled = assembly.compiled_step().lower(state, batch).compile()
    after, metrics = jax.device_get(compiled(state, batch))
    moments = {path: leaf for path, leaf in trees.flatten(after.optimizer).items() if "/mu/" in path}
    results = {"loss": metrics["loss"], "gradients": moments, "parameters": trees.flatten(after.merged)}
    return results, compiled.as_text()


def distance(found: Any, expected: Any) -> float:
    """Returns the largest relative error of any array: the norm of the difference by the norm of what is expected."""
    errors = jax.tree.map(lambda x, y: np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-30), found, expected)
    return float(max(jax.tree.leaves(errors)))


def entries(pairs: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yields one entry for each pair of model and strategy, those of a model after another."""
    for model, strategies in itertools.groupby(pairs, key=lambda pair: pair[0]):
        alone = assemble(*experiment(model, MeshConfig(data=1)))
        state = jax.device_get(alone.initial_state())
        expected, _ = first_step(alone, state)
        for _, strategy in strategies:
            assembly = assemble(*experiment(model, STRATEGIES[strategy]))
            found, program = first_step(assembly, state)
            errors = {name: distance(found[name], expected[name]) for name in expected}
            talk = [collective._asdict() for collective in collectives(program, assembly.mesh)]
            yield {"model": model, "strategy": strategy, "errors": errors, "collectives": talk}


def row(entry: dict[str, Any]) -> str:
    """Returns a row of the table; axes joined by + talk together."""
    kinds: dict[str, set[str]] = {}
    for collective in entry["collectives"]:
        kinds.setdefault(collective["kind"], set()).add("+".join(collective["axes"]))
    talk = ", ".join(f"{kind} ({', '.join(sorted(axes))})" for kind, axes in sorted(kinds.items()))
    loss, gradients, parameters = (f"{entry['errors'][name]:.0e}" for name in ("loss", "gradients", "parameters"))
    return f"| {entry['strategy']} | {entry['model']} | {loss} | {gradients} | {parameters} | {talk} |"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)  # of the machine code: the collectives stay
    if sys.argv[1:2] == ["--json"]:
        print(json.dumps(list(entries(json.loads(sys.argv[2])))))
    else:
        print("| strategy | model | loss | gradients | parameters | collectives |\n|---|---|---|---|---|---|")
        for entry in entries((model, strategy) for model in sys.argv[1:] or CASES for strategy in CASES[model][1]):
            print(row(entry), flush=True)
