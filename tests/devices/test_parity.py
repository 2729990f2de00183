"""Parallel strategies change neither loss nor gradients, and the compiled step talks as expected and no more."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parity import CASES, STRATEGIES

ROOT = Path(__file__).parents[2]
QUICK = {  # every axis of the mesh, and every model of a kind; the others are as sure and take as long again
    ("Llama", "fsdp"),
    ("Llama, packed documents", "data x context"),
    ("GPT-2, scanned, recomputed", "fsdp x context x tensor"),
    ("Llama, experts", "data x expert x tensor"),
    ("ResNet", "data x fsdp x tensor"),
}
PAIRS = [
    pytest.param(model, strategy, marks=() if (model, strategy) in QUICK else pytest.mark.slow)
    for model, (_, strategies) in CASES.items()
    for strategy in strategies
]
# What the devices along an axis may say to each other, and must. On CPU, XLA writes the reduce-scatter of gradients
# over fsdp and context as an all-reduce of which each device keeps its part.
EXPECTED = {
    "data": {"all-reduce"},  # sums over the batch: gradients, loss, batch norm
    "fsdp": {"all-reduce", "all-gather"},  # and parameters, where they are used
    "tensor": {"all-reduce", "all-gather"},  # products split by rows; the likeliest token, for the accuracy
    "context": {"all-reduce", "all-gather"},  # keys and values
    "expert": {"all-reduce", "all-to-all"},  # tokens to their experts and back
}


def pairs_where(condition: Callable[[str, str], bool]) -> list[Any]:
    """The pairs of which a condition holds."""
    return [pair for pair in PAIRS if condition(*map(str, pair.values))]


@pytest.fixture(scope="session")
def parity(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The entries of parity.py by (model, strategy), and what XLA wrote to stderr under "warnings".

    Of the pairs that the chosen tests name, and those that one test needs without naming them.
    """
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    named = {(call.params["model"], call.params["strategy"]) for call in calls if call and "strategy" in call.params}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "0"}
    command = [
        sys.executable,
        str(Path(__file__).with_name("parity.py")),
        "--json",
        json.dumps(sorted(named | {("Llama", "fsdp")})),
    ]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-4000:]
    entries = {(entry["model"], entry["strategy"]): entry for entry in json.loads(ended.stdout)}
    return {"entries": entries, "warnings": ended.stderr}


def talk(parity: dict[str, Any], model: str, strategy: str) -> list[dict[str, Any]]:
    """The collectives of an entry."""
    return parity["entries"][model, strategy]["collectives"]


@pytest.mark.parametrize(("model", "strategy"), PAIRS)
def test_a_step_is_that_of_one_device(parity, model, strategy):
    """Loss, every gradient and every updated parameter, dropout included, within 1e-5 of one device in float32."""
    errors = parity["entries"][model, strategy]["errors"]
    assert errors.keys() == {"loss", "gradients", "parameters"}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize(("model", "strategy"), PAIRS)
def test_devices_talk_as_expected_and_no_more(parity, model, strategy):
    """Each axis of the mesh has exactly its own kinds of collectives; what is gathered or sent goes along one axis."""
    found: dict[str, set[str]] = {}
    for collective in talk(parity, model, strategy):
        assert len(collective["axes"]) == 1 or collective["kind"] == "all-reduce", collective
        for axis in collective["axes"]:
            found.setdefault(axis, set()).add(collective["kind"])
    assert found == {axis: EXPECTED[axis] for axis in strategy.split(" x ")}


@pytest.mark.parametrize(("model", "strategy"), pairs_where(lambda model, _: model.startswith(("GPT", "Llama"))))
def test_the_vocabulary_is_never_gathered(parity, model, strategy):
    """The embedding look-up needs nothing, or one sum over `tensor`; the loss gathers each device's likeliest token."""
    lookup = [c for c in talk(parity, model, strategy) if re.search(r"/jvp\(GPTModule\)/gather$", c["scope"])]
    assert [(c["kind"], c["axes"]) for c in lookup] == [("all-reduce", ["tensor"])] * ("tensor" in strategy)
    size = math.prod(c for c in (8, 16, STRATEGIES[strategy].tensor))
    for collective in talk(parity, model, strategy):
        if collective["kind"] == "all-gather" and collective["axes"] == ["tensor"]:
            shape = re.match(r"\w+\[([\d,]+)\]", collective["result"])
            assert shape and math.prod(map(int, shape[1].split(","))) <= size, collective


def test_gathered_kernels_are_not_kept_for_the_gradient(parity):
    """Under fsdp each kernel is gathered for its use and again for its gradient; else only the embedding, once."""
    scopes = [c["scope"] for c in talk(parity, "Llama", "fsdp") if c["kind"] == "all-gather"]
    layers = ("query_key_value", "attention/output", "up", "gate", "down", "head")
    backward = [scope for scope in scopes if "transpose(" in scope]
    forward = [scope for scope in scopes if "transpose(" not in scope]
    for found in (forward, backward):
        assert [sum(f"/{layer}/" in scope for scope in found) for layer in layers] == [1] * len(layers)
    assert (len(forward), len(backward)) == (len(layers) + 1, len(layers))


@pytest.mark.parametrize(("model", "strategy"), pairs_where(lambda _, strategy: "context" in strategy))
def test_only_keys_values_and_routed_rows_are_gathered_over_the_positions(parity, model, strategy):
    """Queries, MLP, norms, embedding and loss stay with their positions."""
    gathers = [c for c in talk(parity, model, strategy) if c["kind"] == "all-gather" and c["axes"] == ["context"]]
    layers = "attention|mlp_norm|experts" if "experts" in model else "attention"  # the norm before the experts
    assert gathers and not [c for c in gathers if not re.search(rf"/({layers})/", c["scope"])]


@pytest.mark.parametrize(("model", "strategy"), pairs_where(lambda _, strategy: "expert" in strategy))
def test_tokens_travel_to_their_experts_and_back(parity, model, strategy):
    """Two all-to-alls forward and two backward in each layer (a recomputed layer repeats those of the forward pass)."""
    count = sum(c["kind"] == "all-to-all" for c in talk(parity, model, strategy))
    assert count == (6 if "scanned" in model else 4)


def test_nothing_is_gathered_for_want_of_a_better_plan(parity):
    """XLA reports no array that it had to copy to every device on the way from one sharding to another."""
    assert "rematerialization" not in parity["warnings"], parity["warnings"][-4000:]
