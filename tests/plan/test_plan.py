"""Promises of the explanations before a launch: what they print is what a real step holds, and nothing is allocated."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
from tiny_run import ROOT, Program, run_module

from experiments import gpt_7b, gpt_70b
from research.core.errors import UserError
from research.core.streams import stream
from research.plan.fit import on_devices
from research.plan.sharding import bytes_text
from research.train.experiment import Experiment

TINY = ("--data.length", "16", "--data.vocabulary", "32", "--model.depth", "2", "--model.width", "32")
TINY += ("--model.heads", "4", "--model.num-kv-heads", "2", "--model.mlp-dim", "64", "--model.context", "16")


@pytest.fixture(scope="module")
def explained() -> dict[str, Any]:
    """The output of `on_eight_devices.py`."""
    program = [sys.executable, str(Path(__file__).with_name("on_eight_devices.py"))]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("part", ["parameters", "optimizer", "average", "batch"])
def test_bytes_are_those_that_a_real_step_leaves_on_each_device(explained: dict[str, Any], part: str) -> None:
    """Explained on shapes alone, then run: the very bytes, on each of eight devices."""
    assert explained["measured"][part] == [explained["memory"][part]] * 8
    assert explained["memory"][part] > 0


def test_bytes_are_those_worked_out_by_hand(explained: dict[str, Any]) -> None:
    """Adam's two moments and the moving average are as large as the parameters; kernels are cut in eight, or fewer."""
    width, hidden, vocabulary, depth, fsdp, tensor = 64, 256, 48, 2, 4, 2
    kernels = vocabulary * width + depth * (4 * width * width + 2 * width * hidden)
    split_biases = depth * (3 * width + hidden)
    whole = depth * (2 * width + 4 * width) + 2 * width  # biases of the projections back, and norms
    expected = 4 * (kernels // (fsdp * tensor) + split_biases // tensor + whole)
    memory = explained["memory"]
    assert memory["parameters"] == memory["average"] == expected
    assert 0 <= memory["optimizer"] - 2 * expected <= 16  # two counters
    assert sum(line["bytes_per_device"] for line in explained["lines"]) == expected


def test_recomputation_keeps_one_input_a_block(explained: dict[str, Any]) -> None:
    """Two more blocks with remat keep two more residual streams: rows on the device x length x width floats each."""
    rows, length, width = 16 // 4, 32, 64
    assert explained["activations of two more layers"] == 2 * 4 * rows * length * width


def test_explaining_allocates_nothing(explained: dict[str, Any]) -> None:
    """No array lives after all was explained."""
    assert explained["allocated"] == 0


def test_working_memory_has_room_for_the_gradients(explained: dict[str, Any]) -> None:
    """The gradients of all parameters are among the temporaries."""
    memory = explained["memory"]
    assert memory["working"] > memory["parameters"]
    size, array, layer = memory["largest"][0]
    assert size > 0 and re.fullmatch(r"\w+( x|( \d+))+", array) and layer


def test_what_would_fit_is_tried_and_named(explained: dict[str, Any]) -> None:
    """A step that takes more than the limit: smaller micro-batches come first, and nothing follows what fits."""
    ((options, total),) = explained["tried"]
    assert options == "--accumulate 16"
    assert total <= 0.9 * explained["before"]


def test_equal_parameters_share_a_line_and_indivisible_axes_are_named(explained: dict[str, Any]) -> None:
    """Blocks of one shape are one line; every axis that the rule splits and the mesh does not divide is told."""
    lines = {path: (count, whole) for path, count, whole in explained["indivisible"]}
    assert lines["block_0..1/mlp_norm/scale"] == (2, [])
    assert lines["block_0..1/mlp/up/kernel"] == (2, ["axis 1, of 256, stays whole: tensor 5 does not divide it"])
    assert lines["token_embedding"] == (1, ["axis 0, of 48, stays whole: tensor 5 does not divide it"])
    assert not [line for line in explained["lines"] if line["replicated_axes"]]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mesh", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("both", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("rows", [["0, 1"], ["2, 3"], ["4, 5"], ["6, 7"]]),
        ("columns", [["0, 2, … 6", "1, 3, … 7"]]),
        ("whole", [["0-7"]]),
        ("vector", [["0, 1", "2, 3", "4, 5", "6, 7"]]),
        ("stacked rows", [["0, 1"], ["2, 3"], ["4, 5"], ["6, 7"]]),
        ("stacked", [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ],
)
def test_pictures_show_which_devices_hold_a_block(explained: dict[str, Any], name: str, rows: list[list[Any]]) -> None:
    """A mesh of fsdp 4 x tensor 2, and arrays split along either axis, both or none; the lines are equally long."""
    lines = explained["pictures"][name].splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [[str(cell) for cell in row] for row in rows]
    assert len({len(line.rstrip()) for line in lines if "tensor" not in line}) == 1


@pytest.mark.parametrize(("config", "count"), [(gpt_7b.CONFIG, 6_738_415_616), (gpt_70b.CONFIG, 70_553_706_496)])
def test_the_large_models_have_the_published_sizes(config: Experiment, count: int) -> None:
    """Parameters of Llama-2-7b and Llama-3-70B, as their published weights count."""
    data = dataclasses.replace(config.data, examples=1).build()
    params = jax.eval_shape(config.task.build(config.model, data).init, stream(0, "init"))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_another_number_of_devices_keeps_the_batch_and_the_examples_at_once() -> None:
    """fsdp takes what the other axes leave; the micro-batches change so that a device sees as many rows at a time."""
    few, many = (on_devices(with_mesh(gpt_70b.CONFIG, data=1), count) for count in (8, 512))
    assert (few.mesh.fsdp, few.accumulate, many.mesh.fsdp, many.accumulate) == (1, 512, 64, 8)
    assert few.batch_size == many.batch_size == gpt_70b.CONFIG.batch_size
    with pytest.raises(UserError, match="12 devices are not divisible by the other axes of the mesh, 8"):
        on_devices(with_mesh(gpt_70b.CONFIG, data=1), 12)


def with_mesh(config: Experiment, **sizes: int) -> Experiment:
    """Returns the experiment with other sizes of its mesh."""
    return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **sizes))


def test_both_explanations_print_and_leave_no_run(tmp_path: Path) -> None:
    """The command for devices that are not here ends with 0, and nothing is written."""
    options = [*TINY, "--batch-size", "8", "--accumulate", "1", "--runs", str(tmp_path / "runs")]
    options += ["--plan-sharding", "--plan-memory", "--devices", "16", "--device-memory", "0.00001"]
    with Program("experiments.gpt_70b", *options, COLUMNS="100") as program:
        printed = program.output()
        assert program.returncode == 0, printed
    for text in ("blocks/mlp/up/kernel", "bytes per device", "The mesh: fsdp 2 x tensor 8", "kept activations"):
        assert text in printed
    assert re.search(r"fits 1e-05 GB\s+│\s+no │", printed)
    assert "no change tried here makes it fit" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mesh.fsdp", "64"], "JAX has started with"),
        (["--devices", "8", "100000"], "--devices has 100000: give a number from 1 to 4096"),
        (["--devices", "12"], "12 devices are not divisible"),
        (["--mesh.tensor", "1", "--mesh.fsdp", "1", "--accumulate", "3"], "not divisible by 1 data-parallel"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, no stack trace."""
    assert run_module("experiments.gpt_70b", *TINY, "--plan-memory", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and sentence in line


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (16384, "16.38 kB"), (25 * 10**11, "2.50 TB")])
def test_bytes_are_readable(count: int, text: str) -> None:
    """Decimal units, as memory is sold."""
    assert bytes_text(count) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt_7b", "gpt_70b"])
def test_large_models_are_explained_within_a_minute(name: str) -> None:
    """8, 64 and 512 devices, on whatever machine this is; at least the largest numbers fit 80 GB."""
    began = time.perf_counter()
    with Program(f"experiments.{name}", "--plan-memory", "--devices", "8", "64", "512") as program:
        printed = program.output()
        assert program.returncode == 0, printed
    assert time.perf_counter() - began < 60
    assert re.search(r"fits 80 GB\s+│\s+(yes|no) │\s+yes │\s+yes │", printed)
