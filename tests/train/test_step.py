"""The training step: exact sums over unequal micro-batches, running statistics, moving average, reproducible bits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.precision import ComputeType, cast
from research.core.streams import stream
from research.data.dataset import Data, Rows
from research.models.gpt import GPT
from research.runs.chain import ROW_DIGESTS, row_digests
from research.tasks.language_modelling import LanguageModelling
from research.tasks.task import Context, Loss, Task, WeightedSum
from research.train.gradients import Gradients, accumulated, whole_batch
from research.train.optimizer_groups import OptimizerGroup, OptimizerGroups
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule
from research.train.state import State, new_state, partition
from research.train.step import make_step, update_statistics

ROWS = 8
SGD = optax.sgd(1.0)


def batch_with(weights: list[int], length: int = 6) -> dict[str, np.ndarray]:
    """Rows of random tokens of which the first `weights` count."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 11, (len(weights), length + 1)).astype(np.int32)
    mask = (np.arange(length) < np.array(weights)[:, None]).astype(np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "mask": mask}


def language_task(**options) -> Task:
    example = Rows(batch_with([6]))
    return LanguageModelling().build(
        GPT(depth=1, width=16, heads=2, context=6, **options), Data({"train": example}, 11)
    )


def linear_task() -> Task:
    """Squared error of `w x`, with the mean of x as a running statistic, and its batch's random number as a metric."""

    def loss(params, batch, context):
        errors = params["w"] * batch["inputs"] - batch["targets"]
        weight = batch["mask"].sum()
        statistics = {"norm": {"mean": WeightedSum(batch["inputs"].sum(), jnp.float32(batch["inputs"].size))}}
        draw = WeightedSum(jax.random.uniform(context.key) * weight, weight)
        return Loss((errors**2 * batch["mask"]).sum(), weight, {"draw": draw}, statistics)

    def init(_):
        return {"w": jnp.float32(0.5), "norm": {"mean": jnp.float32(0.0), "scale": jnp.float32(1.0)}}

    return Task(init, loss, None, variables=lambda path: path == "norm/mean")


def linear_batch() -> dict[str, np.ndarray]:
    return {
        "inputs": np.array([1.0, 2.0, 3.0, 4.0], np.float32),
        "targets": np.array([1.0, 1.0, 1.0, 9.0], np.float32),
        "mask": np.array([1.0, 1.0, 1.0, 0.0], np.float32),
    }


def one_step(task: Task, batch, optimizer=SGD, averaged: bool = False, **options):
    return jax.jit(step_of(task, optimizer, **options))(state_of(task, optimizer, averaged=averaged), batch)


def step_of(task: Task, optimizer=SGD, seed: int = 0, compute: ComputeType = "float32", **options):
    return make_step(task, Gradients().build(task, compute), optimizer, seed=seed, **options)


def state_of(task: Task, optimizer=SGD, averaged: bool = False) -> State:
    parts = partition(jax.jit(task.init)(jax.random.key(0)), fixed=task.fixed, variables=task.variables)
    return new_state(parts, optimizer, averaged=averaged)


@functools.partial(jax.jit, static_argnums=1)
def sums_in_parts(batch, parts: int):
    """The sums over a batch, cut into so many parts; compiled once for each number."""
    task = language_task()
    sums, context = whole_batch(task, "float32"), Context(jax.random.key(1), 0, train=True)
    return accumulated(sums, task.init(jax.random.key(0)), {}, batch, context, parts)


@settings(max_examples=10)
@given(weights=st.lists(st.integers(0, 6), min_size=ROWS, max_size=ROWS).filter(any), parts=st.sampled_from([2, 4]))
def test_micro_batches_of_unequal_weight_add_up_to_the_whole_batch(weights, parts):
    """Loss, weight and gradient of the accumulated batch are those of the undivided one, whatever the masks."""
    batch = batch_with(weights)
    batch[ROW_DIGESTS] = row_digests(batch)
    whole, divisor, whole_loss, whole_digest = jax.device_get(sums_in_parts(batch, 1))
    total, same_divisor, loss, digest = jax.device_get(sums_in_parts(batch, parts))
    assert divisor == same_divisor == sum(weights)
    assert digest.tolist() == whole_digest.tolist() == batch[ROW_DIGESTS].sum(0, dtype=np.uint32).tolist()
    np.testing.assert_allclose(loss.sum, whole_loss.sum, rtol=1e-6)
    assert loss.weight == whole_loss.weight == sum(weights)
    assert loss.metrics["accuracy"].sum == whole_loss.metrics["accuracy"].sum
    scale = float(optax.global_norm(whole))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * scale), total, whole)


def test_means_of_means_would_not_pass_the_parity_test():
    """The masks above are unequal enough: averaging the parts' means gives another gradient."""
    task, batch = linear_task(), linear_batch()
    batch["mask"] = np.array([1.0, 1.0, 0.0, 1.0], np.float32)
    whole = one_step(task, batch)[1]["loss"]
    halves = [one_step(task, {name: rows[part::2] for name, rows in batch.items()})[1]["loss"] for part in (0, 1)]
    assert abs(np.mean(halves) - whole) > 0.1


def test_a_step_is_the_gradient_of_the_mean_over_what_counts():
    """By hand: d/dw of mean((w x - y)^2) over the three examples with weight."""
    state, metrics = one_step(linear_task(), linear_batch())
    errors = np.array([0.5 - 1, 1.0 - 1, 1.5 - 1])
    np.testing.assert_allclose(metrics["loss"], (errors**2).mean(), rtol=1e-6)
    slope = (2 * errors * np.array([1, 2, 3])).mean()
    np.testing.assert_allclose(state.params["w"], 0.5 - slope, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], abs(slope), rtol=1e-6)
    assert metrics["weight"] == 3
    assert set(metrics) == {"loss", "weight", "gradient_norm", "skipped", "batch", "random", "draw"}
    assert state.step == 1


def test_a_batch_without_weight_changes_nothing():
    """All padding: the loss is 0 and no parameter moves."""
    batch = {**linear_batch(), "mask": np.zeros(4, np.float32)}
    state, metrics = one_step(linear_task(), batch)
    assert (metrics["loss"], state.params["w"]) == (0, 0.5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_running_statistics_move_by_the_whole_batchs_mean(parts):
    """decay x old + (1 - decay) x mean, also where the batch is cut; nothing else under its path moves."""
    state, _ = one_step(linear_task(), linear_batch(), accumulate=parts, statistics_decay=0.75)
    np.testing.assert_allclose(state.variables["norm"]["mean"], 0.25 * 2.5, rtol=1e-6)
    assert state.params["norm"]["scale"] == 1


def test_statistics_of_a_part_of_the_tree_leave_the_rest():
    """Models without running statistics, and layers beside those with them, are untouched."""
    params = {"a": {"mean": jnp.float32(2), "kernel": jnp.float32(3)}, "b": jnp.float32(4)}
    assert update_statistics(params, {}, 0.9) is params
    found = update_statistics(params, {"a": {"mean": WeightedSum(jnp.float32(6), jnp.float32(2))}}, 0.5)
    assert found == {"a": {"mean": 2.5, "kernel": 3}, "b": 4}


def test_the_moving_average_follows_the_parameters():
    """average <- decay average + (1 - decay) params, and evaluation uses it."""
    state, _ = one_step(linear_task(), linear_batch(), averaged=True, average_decay=0.9)
    expected = 0.9 * 0.5 + 0.1 * state.params["w"]
    np.testing.assert_allclose(state.evaluated["w"], expected, rtol=1e-6)
    assert one_step(linear_task(), linear_batch())[0].average is None


def test_sums_are_float32_under_bfloat16():
    """More tokens than bfloat16 can count are counted; parameters, gradients and moments stay float32."""
    task, batch = language_task(), batch_with([6] * 50)
    state, metrics = one_step(task, batch, optax.adam(1e-3), compute="bfloat16")
    assert metrics["weight"] == 300  # bfloat16 has no 300 + 1: its next number is 302
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim} == {jnp.dtype("float32")}
    exact = one_step(task, batch)[1]["loss"]
    np.testing.assert_allclose(metrics["loss"], exact, rtol=1e-2)
    assert metrics["loss"] != exact


def test_accumulation_sums_small_gradients_without_rounding_them_away():
    """Sixty-four micro-batches in bfloat16 give the mean gradient, which a bfloat16 sum would miss by per cents."""

    def loss(params, batch, context):
        return Loss((params["w"] * batch["inputs"]).sum(), batch["mask"].sum())

    task = Task(lambda _: {"w": jnp.float32(1)}, loss, None)
    inputs = np.asarray(cast(jnp.asarray(np.linspace(1, 1.3, 64, dtype=np.float32)), "bfloat16"), np.float32)
    state, _ = one_step(task, {"inputs": inputs, "mask": np.ones(64, np.float32)}, compute="bfloat16", accumulate=64)
    np.testing.assert_allclose(1 - state.params["w"], inputs.mean(), rtol=1e-5)


def test_micro_batches_draw_apart():
    """Each part of a batch has its own key: dropout does not repeat."""
    whole, parts = (one_step(linear_task(), linear_batch(), accumulate=count)[1]["draw"] for count in (1, 2))
    keys = [jax.random.fold_in(stream(0, "train", 0), index) for index in range(2)]
    draws = [float(jax.random.uniform(key)) for key in keys]
    np.testing.assert_allclose(whole, jax.random.uniform(stream(0, "train", 0)), rtol=1e-6)
    np.testing.assert_allclose(parts, (draws[0] * 2 + draws[1]) / 3, rtol=1e-5)  # weights 2 and 1


def test_dropout_follows_the_step_and_the_seed():
    """The same state steps to the same bits; another step number draws another mask."""
    task, batch = language_task(dropout=0.5), batch_with([6] * 4)
    step, state = jax.jit(step_of(task, seed=3)), state_of(task)
    first, again, later = step(state, batch), step(state, batch), step(state.replace(step=jnp.int32(1)), batch)
    assert first[1]["loss"] == again[1]["loss"] != later[1]["loss"]
    jax.tree.map(np.testing.assert_array_equal, first[0].params, again[0].params)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_without_a_finite_loss_and_gradient_changes_nothing_but_what_follows_the_step(bad, parts):
    """Parameters, statistics, moments, Adam's count and the average stay to the bit; step and schedule go on."""
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lambda step: 0.1 / (step + 1)))
    task, batch = linear_task(), linear_batch()
    step = jax.jit(step_of(task, optimizer, average_decay=0.9, accumulate=parts))
    state, healthy = step(state_of(task, optimizer, averaged=True), batch)
    after, metrics = step(state, {**batch, "targets": np.array([1, bad, 1, 9], np.float32)})
    assert (healthy["skipped"], metrics["skipped"]) == (0, 1)
    kept = [(each.params, each.variables, each.average) for each in (after, state)]
    jax.tree.map(np.testing.assert_array_equal, *kept)
    (adam, (schedule,)), (adam_before, (schedule_before,)) = map(schedule_apart, (after.optimizer, state.optimizer))
    jax.tree.map(np.testing.assert_array_equal, adam, adam_before)
    assert (schedule_before.count, schedule.count, after.step) == (1, 2, 2)
    later, metrics = step(after, batch)
    assert metrics["skipped"] == 0
    assert later.params["w"] != after.params["w"]


def test_a_skipped_step_keeps_the_periods_of_optimizer_groups_in_step_with_the_run():
    """The group of period 2 stays to the bit, and moves at step 4 although step 3 was skipped."""
    undecayed = {"weight_decay_multipliers": (("", 0.0),)}
    scaled, steady = Optimizer("momentum", 0.1, **undecayed), Optimizer("sgd", 0.1, **undecayed)
    groups = OptimizerGroups((OptimizerGroup("slow", "^w", scaled, period=2), OptimizerGroup("rest", "^norm/", steady)))
    task, batch, bad = linear_task(), linear_batch(), {"targets": np.array([1, np.nan, 1, 9], np.float32)}
    optimizer = groups.build(8, {"w": jnp.float32(0), "norm": {"scale": jnp.float32(1)}}, Schedule("linear"))
    step, states = jax.jit(step_of(task, optimizer)), [state_of(task, optimizer)]
    for number in range(4):
        state, metrics = step(states[-1], {**batch, **(bad if number == 2 else {})})
        assert metrics["skipped"] == (number == 2)
        states.append(state)
    moved = [bool(after.params["w"] != before.params["w"]) for before, after in itertools.pairwise(states)]
    assert moved == [False, True, False, True]
    (moments, _), (moments_before, _) = schedule_apart(states[3].optimizer), schedule_apart(states[2].optimizer)
    changed = [leaf.dtype for leaf, old in zip(moments, moments_before, strict=True) if not np.array_equal(leaf, old)]
    assert changed == [jnp.int32], "only the count of the steps goes on"


def schedule_apart(optimizer):
    """An optimizer's state as (all else, the schedules' own)."""
    kind = optax.ScaleByScheduleState
    leaves = jax.tree.leaves(optimizer, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if not isinstance(leaf, kind)], [leaf for leaf in leaves if isinstance(leaf, kind)]


def test_a_transformation_may_follow_the_loss():
    """Polyak's step size is the loss over the squared gradient (Loizou et al. 2021): optax asks for the loss."""
    state, metrics = one_step(linear_task(), linear_batch(), optax.polyak_sgd())
    np.testing.assert_allclose(0.5 - state.params["w"], metrics["loss"] / metrics["gradient_norm"], rtol=1e-4)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_line_search_evaluates_the_loss_of_the_whole_batch(parts):
    """L-BFGS is at the minimum of a parabola after two steps, also in micro-batches; its own rate is a metric."""
    task, batch = linear_task(), linear_batch()
    state, step = state_of(task, optax.lbfgs()), jax.jit(step_of(task, optax.lbfgs(), accumulate=parts))
    for _ in range(2):
        state, metrics = step(state, batch)
    np.testing.assert_allclose(
        state.params["w"], 6 / 14, rtol=1e-5
    )  # sum of x y over sum of x^2, of the rows that count
    assert metrics["optimizer/learning_rate"] > 0


def test_a_transformation_may_ask_for_the_curvature_of_the_loss():
    """Sophia, which differentiates the loss twice, moves as it does when it is given the loss written by hand."""
    sophia, batch = optax.contrib.sophia(0.1), linear_batch()

    def mean_loss(params):
        return jnp.sum((params["w"] * batch["inputs"] - batch["targets"]) ** 2 * batch["mask"]) / 3

    before = state_of(linear_task(), sophia)
    updates, _ = sophia.update(jax.grad(mean_loss)(before.params), before.optimizer, before.params, obj_fn=mean_loss)
    state, _ = one_step(linear_task(), batch, sophia)
    np.testing.assert_allclose(state.params["w"], before.params["w"] + updates["w"], rtol=1e-6)
    assert updates["w"] != 0


def test_the_state_is_given_to_the_step():
    """Donated buffers are reused, also where the moving average starts as a copy of the parameters."""
    task, batch = linear_task(), linear_batch()
    step = jax.jit(step_of(task, average_decay=0.9), donate_argnums=0)
    before = jax.jit(lambda: state_of(task, averaged=True))()
    after, _ = step(before, batch)
    assert before.params["w"].is_deleted()
    assert float(step(after, batch)[0].step) == 2
