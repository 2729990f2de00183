"""Metrics with mergeable state: measured on the device batch by batch, summed exactly on the host, computed once.

A `Metric` knows predictions and batches, nothing of models or trainers, so the same object runs inside training and
alone. A metric set such as `language_metrics(...)` fits a task: `make_evaluate(metrics, task.predict)` runs it. The
kinds of evaluation, one a file beside this one, define the sets; this is what they share.

Every batch carries `mask`, 1 where an example (or a token) counts and 0 for padding; whatever stands under a zero is
ignored. A result that the data leave undefined (the ROC-AUC of a single class) is NaN, except that precision, recall
and F1 are 0 where nothing was predicted or nothing was there.
"""

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
        names: the single numbers among its results, any of which may decide which checkpoint is the best.
        measure: (predictions, batch) to the state of that batch, a pytree of arrays; traced by `jax.jit`.
        compute: merged state to JSON-able results by name.
        merge: two states, as `to_host` returns them, to the state of both; associative, and commutative.
    """

    names: tuple[str, ...]
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

    Keep it and call it with any parameters: they are arguments, not constants, of its program. It raises UserError
    where `batches` is empty. `sharding` is where the measured sums live: on every device, where several processes are
    to read them.
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


def flattened(metric: Metric) -> Metric:
    """Returns a metric of examples as one of rows: what has the mask's axes first, [batch any], becomes [examples]."""

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        shape = batch["mask"].shape

        def flat(arrays: Arrays) -> Arrays:
            kept = {name: array for name, array in arrays.items() if array.shape[: len(shape)] == shape}
            return {name: array.reshape(-1, *array.shape[len(shape) :]) for name, array in kept.items()}

        return metric.measure(flat(predictions), flat(batch))

    return metric._replace(measure=measure)


def f1(hits: int, found: int, wanted: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing was found and nothing there."""
    return 2 * hits / (found + wanted) if found + wanted else 0.0


def cross_entropy(logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Nats per example or token, with the log-softmax in float32."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def check_shapes(predicted: Array, true: Array) -> None:
    """Raises ValueError where the shapes of predictions and of what is true differ."""
    # Without this, [batch 1] against [batch] would broadcast to every pair of examples, and measure nonsense.
    if predicted.shape != true.shape:
        raise ValueError(f"predictions of shape {predicted.shape} do not match what is true, {true.shape}")


def confusion_counts(
    labels: Int[Array, " batch"], predicted: Int[Array, " batch"], counted: Bool[Array, " batch"], classes: int
) -> Int[Array, "classes classes"]:
    """How often each class (rows) was predicted as each class (columns)."""
    return jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(counted.astype(jnp.int32))


def precision_recall_f1(hits: Any, predicted: Any, actual: Any) -> dict[str, np.ndarray]:
    """Precision, recall and F1 from counts; 0 where nothing was predicted or nothing was there."""
    return {
        "precision": ratio(hits, predicted, 0.0),
        "recall": ratio(hits, actual, 0.0),
        "f1": ratio(2 * hits, predicted + actual, 0.0),
    }


def ratio(numerator: Any, denominator: Any, undefined: float) -> np.ndarray:
    """Divides, and gives `undefined` where the denominator is not positive."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), undefined)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
