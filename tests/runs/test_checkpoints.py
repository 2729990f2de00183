"""Checkpoints: exact to the bit, written behind the scenes, verified, pruned, and never lost by one failure."""

import json
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.mesh import MeshConfig, replicated
from research.core.trees import abstract_like, digest
from research.runs import checkpoints
from research.runs.checkpoints import Saver, best, load, load_fixed, newest_good, save_fixed
from research.train.optimizers import Optimizer
from research.train.state import Parts, new_state

MESH = MeshConfig().build(jax.devices()[:1])


def state_of(seed: int, width: int = 3) -> dict[str, Any]:
    """What is saved of a state: moments, an average, and a leaf in bfloat16; with bits that no short text has."""
    kernel = jax.random.normal(jax.random.key(seed), (width, 4))
    params = {
        "block": {"kernel": kernel, "bias": jnp.float32([1e-40, -0.0, np.inf, 3e38])},
        "half": kernel.astype("bfloat16"),
    }
    rules = ((r"", 0.0),)
    optimizer = Optimizer("adam", weight_decay_multipliers=rules).build(1, params)
    state = new_state(Parts(params, {}, {}), optimizer, averaged=True)
    return {**state.changing, "step": jnp.int32(seed)}


def with_param(state: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**state, "params": {**state["params"], **changed}}


def abstract(state: dict[str, Any]):
    return abstract_like(state, jax.tree.map(lambda _: replicated(MESH), state))


def saved(folder: Path, *steps: int, scores: dict[int, float | None] | None = None, keep_last: int = 9) -> list[str]:
    """Saves a state for each step, which its seed is; returns what was reported."""
    messages: list[str] = []
    saver = Saver(folder, keep_last=keep_last, report=messages.append)
    for step in steps:
        saver.save(step, state_of(step), {"score": (scores or {}).get(step), "chain": f"head {step}"})
    saver.wait()
    return messages


def steps_in(folder: Path) -> list[int]:
    return [int(path.name) for path in sorted(folder.iterdir()) if path.is_dir()]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    assert saved(folder, 1, 2) == []
    return folder


@pytest.fixture
def copy(two_checkpoints, tmp_path) -> Path:
    """Checkpoints of steps 1 and 2 that a test may damage."""
    return Path(shutil.copytree(two_checkpoints, tmp_path / "checkpoints"))


def files_of(folder: Path, step: int) -> list[Path]:
    found = [path for path in (folder / f"{step:08d}").rglob("*") if path.is_file()]
    return sorted([*found, folder / f"{step:08d}.json"])


def test_a_state_comes_back_to_the_bit(two_checkpoints):
    """Parameters, bfloat16, subnormal and infinite values, moments, average and step: same digest, types, and facts."""
    state, facts = load(two_checkpoints, 2, abstract(state_of(0)))
    assert digest(state) == digest(state_of(2))
    assert state["params"]["half"].dtype == jnp.bfloat16
    assert (facts["step"], facts["chain"]) == (2, "head 2")
    assert jax.tree.leaves(state)[0].sharding == replicated(MESH)


def test_saving_does_not_wait_and_copies_first(tmp_path, monkeypatch):
    """`save` returns while the files are still being written, and the next step may overwrite the state."""
    may_finish = threading.Event()
    digests = checkpoints._file_digests

    def slow(path):
        assert may_finish.wait(30)
        return digests(path)

    monkeypatch.setattr(checkpoints, "_file_digests", slow)
    saver, state = Saver(tmp_path, keep_last=2, report=pytest.fail), state_of(1)
    expected = digest(state)
    saver.save(1, state, {})
    jax.tree.map(lambda leaf: leaf.delete(), state)
    messages: list[str] = []
    monkeypatch.setattr(checkpoints, "_file_digests", digests)
    assert newest_good(tmp_path, messages.append) is None  # not complete: not used
    may_finish.set()
    saver.wait()
    assert newest_good(tmp_path, pytest.fail) == 1
    assert digest(load(tmp_path, 1, abstract(state_of(0)))[0]) == expected


def test_the_newest_and_the_best_are_kept(tmp_path):
    """The last two and the one with the lowest score stay; scores that are no numbers never win."""
    scores = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: float("nan")}
    assert saved(tmp_path, 1, 2, 3, 4, 5, scores=scores, keep_last=2) == []
    assert steps_in(tmp_path) == [2, 4, 5]
    assert best(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["00000002.json", "00000004.json", "00000005.json"]


def test_without_scores_only_the_newest_are_kept(tmp_path):
    """There is no best then."""
    saved(tmp_path, 1, 2, 3, keep_last=1)
    assert (steps_in(tmp_path), best(tmp_path)) == ([3], None)
    assert best(tmp_path / "missing") is None


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_one_flipped_bit_anywhere_is_detected(two_checkpoints, seed):
    """Any bit of any file of a checkpoint, its manifest included; the older one is used, with a message."""
    dice = random.Random(seed)
    path = dice.choice([file for file in files_of(two_checkpoints, 2) if file.stat().st_size])
    right = path.read_bytes()
    wrong = bytearray(right)
    wrong[dice.randrange(len(wrong))] ^= 1 << dice.randrange(8)
    messages: list[str] = []
    try:
        path.write_bytes(wrong)
        assert newest_good(two_checkpoints, messages.append) == 1
        with pytest.raises(UserError, match=r"00000002 cannot be used: .*; choose another step"):
            load(two_checkpoints, 2, abstract(state_of(0)))
    finally:
        path.write_bytes(right)
    assert len(messages) == 1
    assert messages[0].startswith("checkpoint of step 2 is not used: ")


def test_a_missing_or_an_extra_file_is_detected(copy):
    """Each file is needed, and none may be added."""
    messages: list[str] = []
    for path in files_of(copy, 2):
        right = path.read_bytes()
        path.unlink()
        assert newest_good(copy, messages.append) == 1
        path.write_bytes(right)
    assert newest_good(copy, pytest.fail) == 2
    (copy / "00000002" / "more").write_text("")
    assert newest_good(copy, messages.append) == 1
    assert any("is missing" in message for message in messages)


def test_no_good_checkpoint_is_none(tmp_path):
    """An empty or a missing folder has nothing to resume from."""
    assert newest_good(tmp_path, pytest.fail) is None
    assert newest_good(tmp_path / "missing", pytest.fail) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: state_of(0, width=5),
            r"'params/block/kernel' is float32 of shape \[3, 4\] there and .* \[5, 4\] in",
        ),
        (
            lambda s: {name: part for name, part in s.items() if name != "average"},
            r"'average/.*' is float32 of shape .* there and absent in",
        ),
        (lambda s: with_param(s, new=jnp.zeros(2)), r"'params/new' is absent there"),
        (
            lambda s: {**s, "params": {**s["params"], "half": jnp.zeros((3, 4))}},
            r"'params/half' is bfloat16 .* float32",
        ),
    ],
)
def test_a_checkpoint_of_another_model_names_the_first_difference(two_checkpoints, change, message):
    """Another shape, another type, a parameter more or less: by path, with both forms."""
    with pytest.raises(UserError, match=message):
        load(two_checkpoints, 2, abstract(change(state_of(0))))


def test_a_save_that_fails_at_once_is_reported_and_the_next_works(tmp_path, monkeypatch):
    """A folder that cannot be written costs one checkpoint and a message."""
    right = checkpoints.orbax.save_async

    def full(*_):
        monkeypatch.setattr(checkpoints.orbax, "save_async", right)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.orbax, "save_async", full)
    messages = saved(tmp_path, 1, 2)
    assert messages == ["checkpoint of step 1 failed ([Errno 28] No space left on device); training goes on"]
    assert newest_good(tmp_path, pytest.fail) == 2


def test_a_save_that_fails_behind_the_scenes_is_reported_and_the_next_works(tmp_path, monkeypatch):
    """A disk that fills up while the save is written: a message at the next save, which is good."""
    right = checkpoints.orbax.save_async

    class Failing:
        def result(self):
            raise OSError(28, "No space left on device")

    def full(path, _):
        monkeypatch.setattr(checkpoints.orbax, "save_async", right)
        path.mkdir()
        return Failing()

    monkeypatch.setattr(checkpoints.orbax, "save_async", full)
    messages = saved(tmp_path, 1, 2)
    assert len(messages) == 1
    assert "No space left on device" in messages[0]
    assert newest_good(tmp_path, pytest.fail) == 2


def test_a_step_saved_again_replaces_what_was_left_of_it(copy):
    """A resumed run may pass the step of a damaged checkpoint again."""
    (copy / "00000002.json").unlink()
    assert saved(copy, 2) == []
    assert newest_good(copy, pytest.fail) == 2
    manifest = json.loads((copy / "00000002.json").read_text().split("\n")[0])
    assert set(manifest["files"]) == {str(file.relative_to(copy / "00000002")) for file in files_of(copy, 2)[:-1]}


def test_a_save_that_cannot_be_says_its_own_cause(tmp_path):
    """A leaf that is no array, which an optimizer of one's own may keep, is no full disk."""
    messages: list[str] = []
    saver = Saver(tmp_path, keep_last=1, report=messages.append)
    saver.save(1, {"params": np.ones(3, np.float32), "optimizer": np.array(["a"], object)}, {"score": None})
    saver.wait()
    assert saver.saved is None and saver.cause and "\n" not in saver.cause
    assert len(messages) == 1 and saver.cause in messages[0] and "space" not in messages[0]


def test_an_array_without_numbers_may_be_fixed(tmp_path):
    """It is not stored, as there is nothing to store, and comes back in its shape."""
    tree = {"kernel": jnp.ones(3), "empty": jnp.zeros((0, 3))}
    save_fixed(tmp_path, tree)
    loaded = load_fixed(tmp_path, tree)
    assert loaded["empty"].shape == (0, 3) and loaded["kernel"].tolist() == [1, 1, 1]
