"""Metrics with mergeable state: measured on the device batch by batch, summed exactly on the host, computed once.

A `Metric` knows predictions and batches, nothing of models or trainers, so the same object runs inside training and
alone. A bundle such as `language_metrics(...)` fits a task; `make_evaluate(bundle, task.predict)` gives the evaluator.

Every batch carries `mask`, 1 where an example (or a token) counts and 0 for padding; whatever stands under a zero is
ignored. A result that the data leave undefined (the ROC-AUC of a single class) is NaN, except that precision, recall
and F1 are 0 where nothing was predicted or nothing was there.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from itertools import chain, pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int, Integer

from research.core.errors import UserError
from research.core.shapes import Batch, Params, Tree

Arrays = Mapping[str, Array]
Results = dict[str, Any]  # float, or (nested) list of numbers, by name of the metric


def add(first: Tree, second: Tree) -> Tree:
    """Merges two states that are sums: leaf by leaf."""
    return jax.tree.map(np.add, first, second)


class Metric(NamedTuple):
    """One pass over the data, as three pure functions.

    Attributes:
        measure: (predictions, batch) to the state of that batch, a pytree of arrays; traced by `jax.jit`.
        compute: merged state to JSON-able results by name.
        merge: two states, as `to_host` returns them, to the state of both; associative, and commutative.
    """

    measure: Callable[[Arrays, Arrays], Tree]
    compute: Callable[[Tree], Results]
    merge: Callable[[Tree, Tree], Tree] = add


def to_host(state: Tree) -> Tree:
    """Fetches a state as NumPy arrays of 64 bits, in which sums over any number of batches keep their digits."""

    def widen(leaf: Any) -> np.ndarray:
        return np.asarray(leaf, np.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else np.int64)

    return jax.tree.map(widen, jax.device_get(state))


def make_evaluate(
    metrics: Sequence[Metric], predict: Callable[[Params, Batch], Arrays], sharding: Sharding | None = None
) -> Callable[[Params, Iterable[Batch]], Results]:
    """Returns `evaluate(params, batches)`, which compiles prediction and measurement together, once per batch shape.

    Keep the evaluator and call it with the parameters of the day: they are arguments, not constants, of its program.
    It raises UserError where `batches` is empty. `sharding` is where the measured sums live: on every device, where
    several processes are to read them.
    """

    @partial(jax.jit, out_shardings=sharding)
    def measure(params: Params, batch: Arrays) -> list[Tree]:
        predictions = predict(params, batch)
        return [metric.measure(predictions, batch) for metric in metrics]

    def merge(first: list[Tree], second: list[Tree]) -> list[Tree]:
        return [metric.merge(*states) for metric, *states in zip(metrics, first, second, strict=True)]

    def evaluate(params: Params, batches: Iterable[Batch]) -> Results:
        states = (measure(params, batch) for batch in batches)
        # In pairs, so that the next batch is already on its way to the device when the host waits for this one.
        fetched = (to_host(state) for state, _ in pairwise(chain(states, [None])))
        first = next(fetched, None)
        if first is None:
            raise UserError("The split to evaluate gave no batch: give it more examples, or make the batch smaller.")
        total = reduce(merge, fetched, first)
        results = [metric.compute(state) for metric, state in zip(metrics, total, strict=True)]
        return {name: value for result in results for name, value in result.items()}

    return evaluate


def evaluate(metrics: Sequence[Metric], predict: Callable[[Batch], Arrays], batches: Iterable[Batch]) -> Results:
    """Evaluates a prediction function that needs no parameters, or holds them, once; raises as `make_evaluate`."""
    return make_evaluate(metrics, lambda _, batch: predict(batch))({}, batches)


def language_metrics(characters_per_token: float | None) -> tuple[Metric, ...]:
    """Loss in nats per token, perplexity, bits per character and token accuracy of a language model.

    Reads predictions["logits"] [batch length vocabulary], batch["targets"] and batch["mask"] [batch length].

    Args:
        characters_per_token: characters of the evaluated split divided by its tokens; 1 for character tokens. Without
            it there are no bits per character.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, counted = predictions["logits"], batch["mask"] > 0
        return {
            "count": jnp.sum(counted),
            "nats": jnp.sum(cross_entropy(logits, batch["targets"]), where=counted),
            "hits": jnp.sum(jnp.argmax(logits, -1) == batch["targets"], where=counted),
        }

    def compute(state: Tree) -> Results:
        return {
            **language_results(_ratio(state["nats"], state["count"], np.nan), characters_per_token),
            "accuracy": float(_ratio(state["hits"], state["count"], np.nan)),
        }

    return (Metric(measure, compute),)


def language_results(nats_per_token: float | np.ndarray, characters_per_token: float | None) -> Results:
    """Loss, perplexity and, of tokens whose length is known, bits per character: one number, told in three ways."""
    with np.errstate(over="ignore"):
        results = {"loss": float(nats_per_token), "perplexity": float(np.exp(nats_per_token))}
    if characters_per_token is None:
        return results
    return {**results, "bits_per_character": float(nats_per_token / characters_per_token / np.log(2))}


def classification_metrics(classes: int, top_k: Sequence[int] = (5,)) -> tuple[Metric, ...]:
    """Loss, accuracy, top-k accuracy, confusion matrix, and precision, recall and F1 (macro, micro, per class).

    Reads predictions["logits"] [batch classes], batch["labels"] (integers) and batch["mask"] [batch]. Rows of the
    confusion matrix are true classes, columns predicted ones. Macro averages run over all classes, absent ones too.

    Args:
        classes: number of classes.
        top_k: the k to report; those not below `classes` are left out, as they are always 1.
    """
    kept = [k for k in top_k if k < classes]

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, labels, counted = predictions["logits"], batch["labels"], batch["mask"] > 0
        _, ranked = jax.lax.top_k(logits, max([1, *kept]))
        return {
            "nats": jnp.sum(cross_entropy(logits, labels), where=counted),
            "hits_by_rank": jnp.sum(ranked == labels[:, None], axis=0, where=counted[:, None]),
            "confusion": _confusion(labels, ranked[:, 0], counted, classes),
        }

    def compute(state: Tree) -> Results:
        confusion, count = state["confusion"], state["confusion"].sum()
        hits, predicted, actual = np.diag(confusion), confusion.sum(0), confusion.sum(1)
        results = {
            "loss": float(_ratio(state["nats"], count, np.nan)),
            "accuracy": float(_ratio(hits.sum(), count, np.nan)),
            **{f"top_{k}_accuracy": float(_ratio(state["hits_by_rank"][:k].sum(), count, np.nan)) for k in kept},
        }
        micro = _precision_recall_f1(hits.sum(), predicted.sum(), actual.sum())
        for name, values in _precision_recall_f1(hits, predicted, actual).items():
            results[f"{name}_macro"] = float(values.mean())
            results[f"{name}_micro"] = float(micro[name])
            results[f"{name}_per_class"] = values.tolist()
        return {**results, "confusion_matrix": confusion.tolist()}

    return (Metric(measure, compute),)


def ranking_metrics() -> tuple[Metric, ...]:
    """Loss, mean reciprocal rank and share of the first ten, where one of very many candidates is right.

    Reads predictions["logits"] [batch candidates], batch["targets"] (integers) and batch["mask"] [batch]. The rank of
    the right candidate is 1 where none scores above it; those that tie with it count half.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, targets, counted = predictions["logits"], batch["targets"], batch["mask"] > 0
        right = jnp.take_along_axis(logits, targets[:, None], axis=1)
        ranks = 0.5 + (logits > right).sum(-1) + 0.5 * (logits == right).sum(-1)
        return {
            "count": jnp.sum(counted),
            "nats": jnp.sum(cross_entropy(logits, targets), where=counted),
            "reciprocal": jnp.sum(1 / ranks, where=counted),
            "first_ten": jnp.sum(ranks <= 10, where=counted),
        }

    def compute(state: Tree) -> Results:
        sums = state["nats"], state["reciprocal"], state["first_ten"]
        names = "loss", "mean_reciprocal_rank", "top_10_accuracy"
        return {name: float(_ratio(total, state["count"], np.nan)) for name, total in zip(names, sums, strict=True)}

    return (Metric(measure, compute),)


def binary_metrics() -> tuple[Metric, ...]:
    """Loss, accuracy, precision, recall and F1 of class 1 at probability one half, and the ROC-AUC.

    Reads predictions["logits"], batch["labels"] (0 or 1) and batch["mask"], all [batch]; raises ValueError where the
    shapes of logits and labels differ.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        logits, labels, counted = predictions["logits"].astype(jnp.float32), batch["labels"], batch["mask"] > 0
        _check_shapes(logits, labels)
        return {
            "nats": jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, labels), where=counted),
            "confusion": _confusion(labels.astype(jnp.int32), (logits > 0).astype(jnp.int32), counted, 2),
        }

    def compute(state: Tree) -> Results:
        confusion, count = state["confusion"], state["confusion"].sum()
        scores = _precision_recall_f1(confusion[1, 1], confusion[:, 1].sum(), confusion[1].sum())
        return {
            "loss": float(_ratio(state["nats"], count, np.nan)),
            "accuracy": float(_ratio(np.trace(confusion), count, np.nan)),
            **{name: float(value) for name, value in scores.items()},
        }

    def gather(predictions: Arrays, batch: Arrays) -> Tree:
        labels = jnp.where(batch["mask"] > 0, batch["labels"], -1)
        return ((predictions["logits"], labels),)

    def compute_auc(chunks: Tree) -> Results:
        scores, labels = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
        return {"roc_auc": roc_auc(scores[labels >= 0], labels[labels >= 0] == 1)}

    # The state of the ROC-AUC is a tuple of chunks, so that merging never copies what was gathered before.
    return Metric(measure, compute), Metric(gather, compute_auc, merge=operator.add)


def roc_auc(scores: Float[np.ndarray, " batch"], positive: Bool[np.ndarray, " batch"]) -> float:
    """Probability that a positive example scores above a negative one, a tie counting half; exact.

    The Mann-Whitney statistic from mid-ranks (Hanley and McNeil, 1982); NaN unless both classes are there.
    """
    _, inverse, ties = np.unique(scores, return_inverse=True, return_counts=True)
    rank_sum = (np.cumsum(ties) - (ties - 1) / 2)[inverse][positive].sum()
    positives, negatives = positive.sum(), (~positive).sum()
    return float(_ratio(rank_sum - positives * (positives + 1) / 2, positives * negatives, np.nan))


def regression_metrics() -> tuple[Metric, ...]:
    """Mean squared error (the loss), mean absolute error and R2, each averaged over the outputs.

    Reads predictions["outputs"] and batch["targets"] [batch outputs], batch["mask"] [batch]. R2 is NaN where the
    targets are constant. Raises ValueError where the shapes of outputs and targets differ.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        targets, counted = batch["targets"].astype(jnp.float32), batch["mask"] > 0
        outputs, rows = predictions["outputs"].astype(jnp.float32), counted[:, None]
        _check_shapes(outputs, targets)
        errors = outputs - targets
        return {
            "squared": jnp.sum(errors**2, axis=0, where=rows),
            "absolute": jnp.sum(jnp.abs(errors), axis=0, where=rows),
            "targets": Deviations.of(targets, counted),
        }

    def merge(first: Tree, second: Tree) -> Tree:
        sums = {name: first[name] + second[name] for name in ("squared", "absolute")}
        return {**sums, "targets": first["targets"].merge(second["targets"])}

    def compute(state: Tree) -> Results:
        count, variation = state["targets"].count, state["targets"].variation()
        return {
            "loss": float(np.mean(_ratio(state["squared"], count, np.nan))),
            "mean_absolute_error": float(np.mean(_ratio(state["absolute"], count, np.nan))),
            "r2": float(np.mean(1 - _ratio(state["squared"], variation, np.nan))),
        }

    return (Metric(measure, compute, merge),)


class Deviations(NamedTuple):
    """Spread of values as sums of deviations from a shift close to them, whatever their distance from zero.

    The two-pass algorithm with a correction for the rounding of the mean, and its parallel form (Chan, Golub and
    LeVeque, "Algorithms for computing the sample variance", 1983). All but `count` are [outputs].
    """

    count: Any
    shift: Any
    sum: Any
    squares: Any

    @classmethod
    def of(cls, values: Float[Array, "batch outputs"], counted: Bool[Array, " batch"]) -> "Deviations":
        """Measures the rows that count."""
        count, rows = jnp.sum(counted), counted[:, None]
        shift = jnp.sum(values, axis=0, where=rows) / jnp.maximum(count, 1)
        rest = values - shift
        return cls(count, shift, jnp.sum(rest, axis=0, where=rows), jnp.sum(rest**2, axis=0, where=rows))

    def merge(self, other: "Deviations") -> "Deviations":
        """Moves the smaller part to the shift of the larger, which the values of an empty part cannot spoil."""
        large, small = (self, other) if self.count >= other.count else (other, self)
        move = small.shift - large.shift
        return Deviations(
            count=large.count + small.count,
            shift=large.shift,
            sum=large.sum + small.sum + small.count * move,
            squares=large.squares + small.squares + 2 * move * small.sum + small.count * move**2,
        )

    def variation(self) -> Float[np.ndarray, " outputs"]:
        """Sum of squared deviations from the mean."""
        return self.squares - self.sum**2 / np.maximum(self.count, 1)


def cross_entropy(logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Nats per example or token, with the log-softmax in float32."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def _check_shapes(predicted: Array, true: Array) -> None:
    # Without this, [batch 1] against [batch] would broadcast to every pair of examples, and measure nonsense.
    if predicted.shape != true.shape:
        raise ValueError(f"predictions of shape {predicted.shape} do not match what is true, {true.shape}")


def _confusion(
    labels: Int[Array, " batch"], predicted: Int[Array, " batch"], counted: Bool[Array, " batch"], classes: int
) -> Int[Array, "classes classes"]:
    return jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(counted.astype(jnp.int32))


def _precision_recall_f1(hits: Any, predicted: Any, actual: Any) -> dict[str, np.ndarray]:
    return {
        "precision": _ratio(hits, predicted, 0.0),
        "recall": _ratio(hits, actual, 0.0),
        "f1": _ratio(2 * hits, predicted + actual, 0.0),
    }


def _ratio(numerator: Any, denominator: Any, undefined: float) -> np.ndarray:
    """Divides, and gives `undefined` where the denominator is not positive."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), undefined)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
