"""What several kinds of evaluation have to beat: n-gram language models, and predictors that ignore their input.

Each is fitted on the training split alone, and measured with the metrics of the task it stands beside, so that its
numbers and the model's go into one table: {name of the baseline: {name of the metric: value}}.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int64, Integer

from research.data.dataset import Data, Records
from research.data.pipeline import gather
from research.evaluate.metrics import Metric, evaluate

Table = dict[str, dict[str, float]]


def columns(data: Data, split: str, name: str, max_examples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns an array of the training split and of `split`, without what stands under a zero of their mask.

    Of each the first `max_examples` examples.
    """

    def column(records: Records) -> np.ndarray:
        batch = gather(records, np.arange(len(records))[:max_examples])
        return batch[name][batch["mask"] > 0] if "mask" in batch else batch[name]

    return column(data.splits["train"]), column(data.splits[split])


class Counts(NamedTuple):
    """What the training tokens show of one length of n-gram; n-grams and contexts are numbers in base `vocabulary`.

    Attributes:
        grams: the n-grams seen, ascending.
        seen: how often each was seen.
        contexts: their first n - 1 tokens, ascending.
        total: how many tokens followed each context.
        kinds: how many different tokens followed each context.
    """

    grams: Int64[np.ndarray, " grams"]
    seen: Int64[np.ndarray, " grams"]
    contexts: Int64[np.ndarray, " contexts"]
    total: Int64[np.ndarray, " contexts"]
    kinds: Int64[np.ndarray, " contexts"]


def fit_ngrams(tokens: Integer[np.ndarray, " length"], order: int, vocabulary: int) -> tuple[Counts, ...]:
    """Counts the n-grams of every length from 1 to `order`; the first k of them are the model of order k.

    Memory and time grow with the different n-grams seen, not with `vocabulary**order`.

    Raises:
        ValueError: `vocabulary**order` exceeds 64 bits, or `tokens` are fewer than `order`.
    """
    if vocabulary**order >= 2**63 or len(tokens) < order:
        raise ValueError(f"order {order} needs at least as many tokens, and vocabulary**order below 2**63")
    model = []
    for length in range(1, order + 1):
        grams, seen = np.unique(_grams(tokens, length, vocabulary), return_counts=True)
        contexts, starts, kinds = np.unique(grams // vocabulary, return_index=True, return_counts=True)
        model.append(Counts(grams, seen, contexts, np.add.reduceat(seen, starts), kinds))
    return tuple(model)


def ngram_probabilities(
    model: Sequence[Counts], tokens: Integer[np.ndarray, " length"], vocabulary: int
) -> Float[np.ndarray, " length"]:
    """Probability of each token given the tokens before it, by Witten-Bell interpolation.

    The more kinds of token followed a context h in training, the more is left to the context h' without its oldest
    token: p(w | h) = (seen(hw) + kinds(h) p(w | h')) / (total(h) + kinds(h)), and below the empty context all of the
    vocabulary is alike (Witten and Bell, 1991; Chen and Goodman, 1999, section 2.5). A context never seen leaves
    everything to h'; the first tokens are predicted from as many as there are.
    """
    probability = np.full(len(tokens), 1 / vocabulary)
    for length, counts in enumerate(model[: len(tokens)], start=1):
        grams = _grams(tokens, length, vocabulary)
        contexts = grams // vocabulary
        seen = _look_up(counts.grams, grams, counts.seen)
        total = _look_up(counts.contexts, contexts, counts.total)
        kinds = _look_up(counts.contexts, contexts, counts.kinds)
        shorter = probability[length - 1 :]
        mixed = (seen + kinds * shorter) / np.maximum(total + kinds, 1)
        probability[length - 1 :] = np.where(total > 0, mixed, shorter)
    return probability


def token_baseline(
    train_tokens: Integer[np.ndarray, " length"], tokens: Integer[np.ndarray, " evaluated"], vocabulary: int
) -> Table:
    """The tokens' frequencies in training, for tokens that are masked: loss and perplexity."""
    probability = ngram_probabilities(fit_ngrams(train_tokens, 1, vocabulary), tokens, vocabulary)
    loss = float(-np.log(probability).mean())
    return {"1-gram": {"loss": loss, "perplexity": float(np.exp(loss))}}


def constant_results(
    metrics: Sequence[Metric],
    name: str,
    prediction: float | Float[np.ndarray, " outputs"],
    batch: dict[str, np.ndarray],
) -> dict[str, float]:
    """The metrics that are single numbers, where every example gets the same prediction."""
    (examples,) = {len(values) for values in batch.values()}
    return measured(metrics, name, np.broadcast_to(prediction, (examples, *np.shape(prediction))), batch)


def measured(
    metrics: Sequence[Metric], name: str, predictions: Float[np.ndarray, "examples ..."], batch: dict[str, np.ndarray]
) -> dict[str, float]:
    """The metrics that are single numbers, of predictions made outside JAX."""
    arrays = {**batch, name: predictions.astype(np.float32), "mask": np.ones(len(predictions), np.float32)}
    results = evaluate(metrics, lambda given: {name: jnp.asarray(given[name])}, [arrays])
    return {metric: value for metric, value in results.items() if isinstance(value, float)}


def linear_baseline(
    data: Data,
    split: str,
    metrics: Sequence[Metric],
    labels: Integer[np.ndarray, " examples"],
    read: Callable[[Float[np.ndarray, "examples classes"]], Float[np.ndarray, "examples ..."]] = lambda logits: logits,
) -> Table:
    """Logistic regression on the columns of a table, or on the pixels of images; else no baseline.

    `read` gives the logits as the metrics read them, of those of all classes.
    """
    from research.evaluate.logistic_regression import linear_logits  # scipy would cost every start half a second

    logits = linear_logits(data, split)
    if logits is None:
        return {}
    return {"logistic regression": measured(metrics, "logits", read(logits), {"labels": labels})}


def _grams(tokens: Integer[np.ndarray, " length"], length: int, vocabulary: int) -> Int64[np.ndarray, " grams"]:
    """The n-gram that ends at each token with enough tokens before it, as a number in base `vocabulary`."""
    grams = np.zeros(len(tokens) - length + 1, np.int64)
    for start in range(length):
        grams = grams * vocabulary + tokens[start : start + len(grams)]
    return grams


def _look_up(keys: np.ndarray, queries: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value beside each query in the sorted keys, 0 where it is not among them."""
    nearest = np.searchsorted(keys, queries).clip(max=len(keys) - 1)
    return np.where(keys[nearest] == queries, values[nearest], 0)
