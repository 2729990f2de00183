"""Metrics, however the examples are cut into batches, padded and ordered."""

import json
import warnings
from collections.abc import Iterator
from functools import reduce

import jax.numpy as jnp
import numpy as np
import pytest
from batches import CLASSES, SIZE, assert_equal, flat, measure, padded_batches, random_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from research.core.errors import UserError
from research.evaluate.binary import binary_metrics, roc_auc
from research.evaluate.classification import classification_metrics
from research.evaluate.metrics import evaluate, flattened, make_evaluate
from research.evaluate.regression import regression_metrics

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)

METRICS = {
    "classification": classification_metrics(CLASSES, top_k=(1, 2, 3, 9)),
    "binary": binary_metrics(),
    "regression": regression_metrics(),
}
EVALUATE = {name: make_evaluate(metrics, lambda _, batch: batch) for name, metrics in METRICS.items()}


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
@quick
@given(seed=seeds)
def test_batches_merge_in_any_order_and_grouping(kind: str, seed: int) -> None:
    """The same results come from batches in any order, merged left to right or in a tree."""
    rng = np.random.default_rng(seed)
    batches = padded_batches(random_examples(kind, 40, rng), rng)
    for metric in METRICS[kind]:
        states = [measure(metric, batch) for batch in batches]
        expected = flat(metric.compute(reduce(metric.merge, states)))
        shuffled = [states[index] for index in rng.permutation(len(states))]
        while len(shuffled) > 1:
            left, right = shuffled.pop(int(rng.integers(len(shuffled)))), shuffled.pop()
            shuffled.append(metric.merge(left, right))
        results = flat(metric.compute(shuffled[0]))
        for name, value in expected.items():
            np.testing.assert_allclose(results[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
def test_padding_never_counts_whatever_it_holds(kind: str) -> None:
    """NaN and impossible labels under a zero of the mask change nothing."""
    rng = np.random.default_rng(0)
    examples = random_examples(kind, SIZE - 2, rng)
    expected = EVALUATE[kind]({}, [{**examples, "mask": np.ones(SIZE - 2)}])
    padded = {
        name: np.concatenate([values, np.full((2, *values.shape[1:]), np.nan if values.dtype.kind == "f" else -1)])
        for name, values in examples.items()
    }
    padded = {name: values.astype(examples[name].dtype) for name, values in padded.items()}
    assert_equal(EVALUATE[kind]({}, [{**padded, "mask": np.arange(SIZE) < SIZE - 2}]), expected, rtol=1e-6)


def test_a_batch_of_nothing_but_padding_does_not_spoil_the_next() -> None:
    """R2 keeps its digits when the first batch, whose rows count for nothing, lies far from the second."""
    rng = np.random.default_rng(3)
    padding = {**random_examples("regression", SIZE, rng), "mask": np.zeros(SIZE)}
    distant = {name: values + np.float32(1e6) for name, values in random_examples("regression", SIZE, rng).items()}
    results = EVALUATE["regression"]({}, [padding, {**distant, "mask": np.ones(SIZE)}])
    expected = sklearn_metrics.r2_score(*(distant[name].astype(np.float64) for name in ("targets", "outputs")))
    assert results["r2"] == pytest.approx(expected, rel=1e-6)


def test_counts_stay_exact_beyond_float32() -> None:
    """Merging counts past 2**24, where float32 stops counting, and 2**31, where int32 does, loses nothing."""
    (metric,) = classification_metrics(2)
    batch = {"logits": np.eye(2, dtype=np.float32), "labels": np.array([0, 1]), "mask": np.ones(2)}
    state = measure(metric, batch)
    large = {**state, "confusion": state["confusion"] + 2**40}
    assert metric.compute(metric.merge(large, state))["confusion_matrix"][0] == [2**40 + 2, 2**40]


def test_one_compile_serves_all_batches_and_parameters() -> None:
    """An evaluator traces once per batch shape, also when the parameters change between calls."""
    traces = []

    def predict(params: dict, batch: dict) -> dict:
        traces.append(None)
        return {"outputs": batch["targets"] * params["scale"]}

    evaluate = make_evaluate(regression_metrics(), predict)
    batch = {"targets": np.ones((SIZE, 1), np.float32), "mask": np.ones(SIZE, np.float32)}
    assert evaluate({"scale": jnp.float32(2)}, [batch] * 3)["loss"] == 1
    assert evaluate({"scale": jnp.float32(4)}, [batch] * 2)["loss"] == 9
    assert len(traces) == 1


def test_the_next_batch_is_dispatched_before_the_last_is_fetched() -> None:
    """The host reads batch n + 1 before it waits for the result of batch n."""
    events = []

    def batches() -> Iterator[dict]:
        for index in range(3):
            events.append(f"dispatch {index}")
            yield {"targets": np.ones((1, 1), np.float32), "mask": np.ones(1)}

    (metric,) = regression_metrics()

    def merge(first: dict, second: dict) -> dict:
        events.append("merge")
        return metric.merge(first, second)

    evaluate([metric._replace(merge=merge)], lambda batch: {"outputs": batch["targets"]}, batches())
    assert events == ["dispatch 0", "dispatch 1", "dispatch 2", "merge", "merge"]


def test_results_are_json() -> None:
    """Every result survives a trip through JSON unchanged."""
    for kind in ("classification", "binary", "regression"):
        examples = random_examples(kind, SIZE, np.random.default_rng(1))
        results = EVALUATE[kind]({}, [{**examples, "mask": np.ones(SIZE)}])
        assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_what_the_data_leave_undefined_is_nan_without_a_warning() -> None:
    """ROC-AUC of one class, R2 of constant targets, anything of no examples: NaN; precision of nothing: 0."""
    constant = np.full((100, 1), 0.1, np.float32)  # its mean in float32 is not 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(roc_auc(np.array([0.1, 0.2]), np.array([True, True])))
        batch = {"outputs": constant + 1, "targets": constant, "mask": np.ones(100)}
        assert np.isnan(EVALUATE["regression"]({}, [batch, {**batch, "mask": np.arange(100) < 13}])["r2"])
        examples = random_examples("classification", SIZE, np.random.default_rng(2))
        empty = EVALUATE["classification"]({}, [{**examples, "mask": np.zeros(SIZE)}])
        assert np.isnan(empty["loss"]) and empty["precision_macro"] == 0


def test_an_empty_split_is_refused_in_a_sentence() -> None:
    """No batches is the user's mistake, and the message says what to do."""
    with pytest.raises(UserError, match="no batch: give it more examples"):
        EVALUATE["regression"]({}, [])


def test_predictions_of_another_shape_are_refused() -> None:
    """A trailing axis of one is not broadcast into all pairs of examples."""
    batch = {"outputs": np.ones((SIZE, 1)), "targets": np.ones(SIZE), "mask": np.ones(SIZE)}
    with pytest.raises(ValueError, match=r"\(8, 1\) do not match .* \(8,\)"):
        EVALUATE["regression"]({}, [batch])
    batch = {"logits": np.ones((SIZE, 1)), "labels": np.ones(SIZE), "mask": np.ones(SIZE)}
    with pytest.raises(ValueError, match=r"\(8, 1\) do not match .* \(8,\)"):
        EVALUATE["binary"]({}, [batch])


def test_labels_of_packed_rows_are_measured_like_single_ones():
    """[batch examples] is flattened, what has other axes is left to itself."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5, 3)).astype(np.float32), rng.integers(0, 3, (4, 5))
    mask = (rng.random((4, 5)) < 0.7).astype(np.float32)
    metrics = classification_metrics(3)
    packed = {"labels": labels, "mask": mask, "inputs": np.zeros((4, 9))}
    single = {"labels": labels.reshape(-1), "mask": mask.reshape(-1)}
    found = evaluate([flattened(m) for m in metrics], lambda _: {"logits": jnp.asarray(logits)}, [packed])
    assert found == evaluate(metrics, lambda _: {"logits": jnp.asarray(logits.reshape(-1, 3))}, [single])
