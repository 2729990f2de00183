"""Metrics against scikit-learn, however the examples are cut into batches, padded and ordered."""

import json
import warnings
from collections.abc import Iterator
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as sklearn_metrics

from research.core.errors import UserError
from research.evaluate.metrics import (
    Metric,
    binary_metrics,
    classification_metrics,
    evaluate,
    language_metrics,
    make_evaluate,
    ranking_metrics,
    regression_metrics,
    roc_auc,
    to_host,
)

SIZE = 8  # one batch size, so that each metric compiles once for all random examples
CLASSES = 4
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(2, 40)
quick = settings(max_examples=25, deadline=None)

EVALUATE = {
    name: make_evaluate(bundle, lambda _, batch: batch)
    for name, bundle in {
        "language": language_metrics(characters_per_token=2.5),
        "classification": classification_metrics(CLASSES, top_k=(1, 2, 3, 9)),
        "binary": binary_metrics(),
        "regression": regression_metrics(),
    }.items()
}


def padded_batches(examples: dict, rng: np.random.Generator) -> list[dict]:
    """Cuts examples into batches of SIZE, each with a random number of rows of padding full of rubbish."""
    batches, start, total = [], 0, len(next(iter(examples.values())))
    while start < total:
        rows = int(rng.integers(0, SIZE + 1))
        mask = np.zeros(SIZE, np.float32)
        positions = rng.permutation(SIZE)[: min(rows, total - start)]
        mask[positions] = 1
        batch = {"mask": mask}
        for name, values in examples.items():
            rubbish = np.full((SIZE, *values.shape[1:]), 3, values.dtype)
            rubbish[positions] = values[start : start + len(positions)]
            batch[name] = rubbish
        batches.append(batch)
        start += len(positions)
    return batches


def measure(metric: Metric, batch: dict) -> dict:
    """The state of one batch, on the host; the batch is its own prediction."""
    arrays = jax.tree.map(jnp.asarray, batch)
    return to_host(metric.measure(arrays, arrays))


def flat(results: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in results.items()}


def assert_equal(results: dict, expected: dict, rtol: float = 1e-5) -> None:
    assert results.keys() >= expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=rtol, atol=1e-6, err_msg=name)


def random_examples(kind: str, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if kind == "classification":
        return {
            "logits": rng.normal(size=(count, CLASSES)).astype(np.float32),
            "labels": rng.integers(0, CLASSES, count),
        }
    if kind == "binary":  # rounded, so that scores tie
        return {
            "logits": rng.normal(size=count).round(1).astype(np.float32),
            "labels": rng.permutation(np.arange(count) % 2),
        }
    targets = rng.normal(size=(count, 3)).astype(np.float32)
    targets[0] = targets[1] + 1  # constant targets, whose R2 is not defined, have their own test
    noise = rng.normal(size=(count, 3)).astype(np.float32)
    return {"outputs": targets + noise, "targets": targets}


@quick
@given(seed=seeds, count=counts)
def test_classification_metrics_equal_scikit_learn(seed: int, count: int) -> None:
    """Every classification metric equals scikit-learn's on the examples that count."""
    rng = np.random.default_rng(seed)
    examples = random_examples("classification", count, rng)
    results = EVALUATE["classification"]({}, padded_batches(examples, rng))

    logits, labels, classes = examples["logits"].astype(np.float64), examples["labels"], list(range(CLASSES))
    predicted = logits.argmax(-1)
    expected = {
        "loss": sklearn_metrics.log_loss(labels, softmax(logits, axis=-1), labels=classes),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "confusion_matrix": sklearn_metrics.confusion_matrix(labels, predicted, labels=classes),
    }
    for k in (1, 2, 3):
        expected[f"top_{k}_accuracy"] = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=classes)
    for suffix, average in (("macro", "macro"), ("micro", "micro"), ("per_class", None)):
        scores = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=classes, average=average, zero_division=0
        )
        expected |= {
            f"{name}_{suffix}": score for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True)
        }
    assert_equal(results, expected)
    assert results.keys() == expected.keys(), "a k that is not below the number of classes is left out"


@quick
@given(seed=seeds, count=counts)
def test_binary_metrics_equal_scikit_learn(seed: int, count: int) -> None:
    """Every binary metric equals scikit-learn's, the ROC-AUC to the last digits in spite of ties."""
    rng = np.random.default_rng(seed)
    examples = random_examples("binary", count, rng)
    results = EVALUATE["binary"]({}, padded_batches(examples, rng))

    logits, labels = examples["logits"].astype(np.float64), examples["labels"]
    predicted = (logits > 0).astype(int)
    scores = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="binary", zero_division=0)
    expected = {
        "loss": sklearn_metrics.log_loss(labels, expit(logits)),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        **dict(zip(("precision", "recall", "f1"), scores[:3], strict=True)),
    }
    assert_equal(results, expected)
    assert_equal(results, {"roc_auc": sklearn_metrics.roc_auc_score(labels, logits)}, rtol=1e-13)


@quick
@given(seed=seeds, count=counts, offset=st.sampled_from([0.0, -50.0, 1e4, 1e6]))
def test_regression_metrics_equal_scikit_learn(seed: int, count: int, offset: float) -> None:
    """MSE, MAE and R2 equal scikit-learn's, also for targets far from zero, where plain sums of squares fail."""
    rng = np.random.default_rng(seed)
    examples = {name: values + np.float32(offset) for name, values in random_examples("", count, rng).items()}
    results = EVALUATE["regression"]({}, padded_batches(examples, rng))

    outputs, targets = (examples[name].astype(np.float64) for name in ("outputs", "targets"))
    expected = {
        "loss": sklearn_metrics.mean_squared_error(targets, outputs),
        "mean_absolute_error": sklearn_metrics.mean_absolute_error(targets, outputs),
        "r2": sklearn_metrics.r2_score(targets, outputs),
    }
    assert_equal(results, expected)


@quick
@given(seed=seeds)
def test_language_metrics_weigh_every_counted_token_alike(seed: int) -> None:
    """Loss is the mean over counted tokens of all batches, not a mean of means; the rest follows from it."""
    rng = np.random.default_rng(seed)
    batches = [
        {
            "logits": rng.normal(size=(SIZE, 5, 7), scale=3).astype(np.float32),
            "targets": rng.integers(0, 7, (SIZE, 5)),
            "mask": (rng.random((SIZE, 5)) < rng.random()).astype(np.float32),
        }
        for _ in range(3)
    ]
    batches[0]["mask"][0, 0] = 1
    results = EVALUATE["language"]({}, batches)

    logits, targets, mask = (np.concatenate([batch[name] for batch in batches]) for name in batches[0])
    logits, targets = logits[mask > 0].astype(np.float64), targets[mask > 0]
    loss = sklearn_metrics.log_loss(targets, softmax(logits, axis=-1), labels=range(7))
    assert_equal(
        results,
        {
            "loss": loss,
            "perplexity": np.exp(loss),
            "bits_per_character": loss / np.log(2) / 2.5,
            "accuracy": sklearn_metrics.accuracy_score(targets, logits.argmax(-1)),
        },
    )


def test_language_metrics_of_a_uniform_prediction() -> None:
    """Knowing nothing about 16 tokens of 2 characters costs ln 16 nats, perplexity 16, and 2 bits per character."""
    batch = {"targets": np.zeros((1, 3), int), "mask": np.ones((1, 3))}
    results = evaluate(language_metrics(2.0), lambda batch: {"logits": jnp.zeros((1, 3, 16), jnp.bfloat16)}, [batch])
    assert_equal(results, {"loss": np.log(16), "perplexity": 16, "bits_per_character": 2, "accuracy": 1})


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
@quick
@given(seed=seeds)
def test_batches_merge_in_any_order_and_grouping(kind: str, seed: int) -> None:
    """The same results come from batches in any order, merged left to right or in a tree."""
    rng = np.random.default_rng(seed)
    bundle = {"classification": classification_metrics(CLASSES), "binary": binary_metrics()}.get(
        kind, regression_metrics()
    )
    batches = padded_batches(random_examples(kind, 40, rng), rng)
    for metric in bundle:
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


def test_ranking_metrics_by_hand() -> None:
    """Ranks 1, 3 and, of three that tie, 2; a row of padding does not count."""
    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.1, 0.8]]))
    batch = {"targets": np.int32([0, 2, 1, 0]), "mask": np.float32([1, 1, 1, 0])}
    found = evaluate(ranking_metrics(), lambda _: {"logits": jnp.asarray(logits)}, [batch])
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.2, 1 / 3]).mean(), rel=1e-5)
    assert found["mean_reciprocal_rank"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3, rel=1e-5)
    assert found["top_10_accuracy"] == 1


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
