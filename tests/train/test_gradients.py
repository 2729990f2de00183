"""Gradients of single examples: clipped, summed in parts, with noise; and refused where rows have none of their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core import trees
from research.core.errors import UserError
from research.core.streams import stream
from research.data.dataset import Data, Rows
from research.data.pipeline import make_batch
from research.models.mlp import MLP
from research.models.resnet import ResNet
from research.tasks.classification import Classification
from research.tasks.task import Context
from research.train.gradients import Gradients, Sums, accumulated, per_example, whole_batch, with_noise
from research.train.run import train

CLIP = 0.7
DRAW = np.random.default_rng(0)
RECORDS = Rows(
    {"inputs": DRAW.standard_normal((40, 3)).astype(np.float32), "labels": DRAW.integers(0, 4, 40).astype(np.int32)}
)
TASK = Classification().build(MLP((8,), dropout=0.2), Data({"train": RECORDS}, 4))
PARAMS = jax.tree.map(lambda leaf: 3 * leaf, TASK.init(jax.random.key(0)))  # some gradients are longer than CLIP
CONTEXT = Context(stream(0, "train", 0), 0, train=True)
MICROBATCHES = {size: jax.jit(per_example(TASK, "float32", CLIP, size)) for size in (0, 2)}


def batch(rows: list[int]) -> dict[str, np.ndarray]:
    return make_batch(RECORDS, np.asarray(rows), len(RECORDS))


def sums(rows: list[int], microbatch: int = 0) -> Sums:
    return MICROBATCHES[microbatch](PARAMS, {}, batch(rows), CONTEXT)


def norm_of_difference(left: Sums, right: Sums) -> float:
    return float(optax.global_norm(jax.tree.map(jnp.subtract, left.gradients, right.gradients)))


def test_one_and_four_micro_batches_agree() -> None:
    """To 1e-7 of the sum, dropout included: the key of an example is its own, wherever it stands."""
    whole, parts = sums(list(range(8))), sums(list(range(8)), microbatch=2)
    assert norm_of_difference(whole, parts) < 1e-7 * float(optax.global_norm(whole.gradients)) * 8
    np.testing.assert_allclose(whole.loss.sum, parts.loss.sum, rtol=1e-6)
    assert whole.divisor == parts.divisor == 8


@settings(max_examples=20)
@given(rows=st.lists(st.integers(0, 39), min_size=9, max_size=9, unique=True), place=st.integers(0, 7))
def test_one_replaced_row_moves_the_sum_by_two_clips_at_most(rows, place) -> None:
    """And a row of padding adds nothing (Abadi et al. 2016)."""
    replaced = [*rows[:place], rows[8], *rows[place + 1 : 8]]
    assert norm_of_difference(sums(rows[:8]), sums(replaced)) <= 2 * CLIP * (1 + 1e-5)


def test_without_a_limit_that_matters_the_sum_is_the_gradient_of_the_batch() -> None:
    """Each example weighs one, as in the mean of the batch."""
    task = Classification().build(MLP((8,)), Data({"train": RECORDS}, 4))
    examples = per_example(task, "float32", 1e9, 0)(PARAMS, {}, batch([1, 2, 3, 4]), CONTEXT)
    whole = whole_batch(task, "float32")(PARAMS, {}, batch([1, 2, 3, 4]), CONTEXT)
    for path, leaf in trees.flatten(whole.gradients).items():
        found = trees.flatten(examples.gradients)[path]
        np.testing.assert_allclose(found / examples.divisor, leaf / whole.divisor, rtol=1e-5, atol=1e-6)


def test_no_example_adds_more_than_the_clip_and_padding_nothing() -> None:
    """The clip is reached by some, and a row that does not exist counts neither in the sum nor in the divisor."""
    norms = [float(optax.global_norm(sums([row] * 8).gradients)) / 8 for row in range(8)]
    assert max(norms) <= CLIP * (1 + 1e-5) and max(norms) > 0.99 * CLIP > min(norms)
    padded = make_batch(RECORDS, np.arange(36, 44), len(RECORDS))
    assert MICROBATCHES[0](PARAMS, {}, padded, CONTEXT).divisor == 4


def test_a_batch_cut_by_accumulation_gives_the_same_sum_without_dropout() -> None:
    """Examples are independent of one another, so any parts of them add up."""
    task = Classification().build(MLP((8,)), Data({"train": RECORDS}, 4))
    functions, rows = per_example(task, "float32", CLIP, 0), batch(list(range(8)))
    whole, parts = (accumulated(functions, PARAMS, {}, rows, CONTEXT, count) for count in (1, 4))
    assert norm_of_difference(whole, parts) < 1e-6


def test_noise_is_added_once_with_the_deviation_asked_for() -> None:
    """std is noise times clip for each number of the sum, whatever the batch; 0 adds none."""
    zeros = Sums({"a": jnp.zeros(20_000), "b": jnp.zeros(20_000)}, *[None] * 3)
    noisy = with_noise(zeros, jax.random.key(0), std=0.5).gradients
    assert [round(float(leaf.std()), 2) for leaf in noisy.values()] == [0.5, 0.5]
    assert abs(float(jnp.corrcoef(noisy["a"], noisy["b"])[0, 1])) < 0.03
    assert with_noise(zeros, jax.random.key(0), std=0.0) is zeros


def test_a_run_trains_with_clipped_noisy_gradients_and_reproduces_them(tiny_line_run, tmp_path) -> None:
    """As any other run: the same seed gives the same bits, and noise changes them."""
    gradients = Gradients(clip=0.5, noise=1.0, microbatch=4)
    private = dataclasses.replace(tiny_line_run, gradients=gradients, accumulate=2, steps=3)
    first, again = (train(private, name="private", root=tmp_path / root) for root in ("first", "again"))
    assert first.record["params_sha256"] == again.record["params_sha256"]
    quiet = dataclasses.replace(private, gradients=dataclasses.replace(gradients, noise=0.0))
    assert train(quiet, name="quiet", root=tmp_path).record["params_sha256"] != first.record["params_sha256"]


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (Gradients(noise=1.0), r"both need a --gradients\.clip above 0"),
        (Gradients(microbatch=2), r"both need a --gradients\.clip above 0"),
        (Gradients(clip=-1.0), r"--gradients\.clip is -1.0"),
        (Gradients(1.0, noise=-1.0), r"--gradients\.noise is -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(gradients, message) -> None:
    """In one sentence with what was given."""
    with pytest.raises(UserError, match=message):
        gradients.build(TASK, "float32")


def test_a_loss_that_is_no_sum_is_refused() -> None:
    """A task of one's own that returns a mean, or forgets to return, is named before anything is trained."""
    task = TASK._replace(loss=lambda params, batch, context: None)
    with pytest.raises(UserError, match=r"gives NoneType: let it return a research\.tasks\.task\.Loss"):
        whole_batch(task, "float32")(PARAMS, {}, batch([0, 1]), CONTEXT)


def test_rows_that_have_no_gradient_of_their_own_are_refused() -> None:
    """Mixed examples, statistics of the batch, and a batch that the parts do not divide."""
    with pytest.raises(UserError, match="mixup mixes"):
        Gradients(clip=1.0).build(TASK._replace(coupled="mixup mixes each row with the next one"), "float32")
    with pytest.raises(UserError, match="cannot be divided by 3"):
        per_example(TASK, "float32", CLIP, 3)(PARAMS, {}, batch([0, 1, 2, 3]), CONTEXT)
    images = Rows({"inputs": np.zeros((2, 8, 8, 1), np.uint8), "labels": np.zeros(2, np.int32)})
    task = Classification().build(ResNet(stages=(1,), width=4), Data({"train": images}, 2))
    with pytest.raises(UserError, match="statistics of the batch"):
        per_example(task, "float32", CLIP, 0)(
            task.init(jax.random.key(0)), {}, make_batch(images, np.arange(2), 2), CONTEXT
        )
