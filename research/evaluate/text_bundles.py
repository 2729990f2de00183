"""Bundles of metrics for the tasks on text: hidden tokens, written texts, answers, entities, scores, preferences.

What needs words or the whole split is gathered as ids, and computed on the host at the end. Labels of packed rows,
[batch examples], are flattened: a metric for single examples measures them as they are.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from research.core.shapes import Tree
from research.data.dataset import Data
from research.data.text.paired_text import boundary_ids, text_before
from research.evaluate import text_metrics
from research.evaluate.metrics import Arrays, Metric, Results, classification_metrics, cross_entropy

Ids = Integer[np.ndarray, " _tokens"]
# The bundles of this module by name: of hidden tokens, classes of words, answers, scores, partners, preferences, and
# written texts.
TextKind = Literal[
    "masked", "entities", "answers", "correlation", "retrieval", "preference", "translation", "summarisation"
]


def text_metrics_of(kind: TextKind, data: Data, split: str) -> tuple[Metric, ...]:
    """Returns the bundle of a kind for a split; raises UserError where written texts have no tokenizer with an end."""
    match kind:
        case "masked":
            return token_metrics()
        case "entities":
            classes = classification_metrics(data.outputs)
            return (*(flattened(metric) for metric in classes), *entity_metrics(data.class_names))
        case "answers":
            return answer_metrics(data, split)
        case "correlation":
            return correlation_metrics()
        case "retrieval":
            return retrieval_metrics()
        case "preference":
            return preference_metrics()
        case "translation":
            return (*token_metrics(), written_metric(data, translation_scores))
        case "summarisation":
            return (*token_metrics(), written_metric(data, text_metrics.rouge))


def flattened(metric: Metric) -> Metric:
    """Returns a metric of examples as one of rows: what has the mask's axes first, [batch any], becomes [examples]."""

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        shape = batch["mask"].shape

        def flat(arrays: Arrays) -> Arrays:
            kept = {name: array for name, array in arrays.items() if array.shape[: len(shape)] == shape}
            return {name: array.reshape(-1, *array.shape[len(shape) :]) for name, array in kept.items()}

        return metric.measure(flat(predictions), flat(batch))

    return metric._replace(measure=measure)


def token_metrics() -> tuple[Metric, ...]:
    """Loss in nats per token, perplexity and accuracy of the tokens that a task asks for.

    Reads logits [batch length vocabulary] of the predictions, and `targets` and `mask` [batch length] from where the
    task makes them: the predictions (masked language modelling) or the batch (translation).
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        asked = predictions if "targets" in predictions else batch
        counted, targets = asked["mask"] > 0, asked["targets"]
        return {
            "count": jnp.sum(counted),
            "nats": jnp.sum(cross_entropy(predictions["logits"], targets), where=counted),
            "hits": jnp.sum(jnp.argmax(predictions["logits"], -1) == targets, where=counted),
        }

    def compute(state: Tree) -> Results:
        nats, hits = (float(state[name] / state["count"]) if state["count"] else np.nan for name in ("nats", "hits"))
        with np.errstate(over="ignore"):
            return {"loss": nats, "perplexity": float(np.exp(nats)), "accuracy": hits}

    return (Metric(measure, compute),)


def translation_scores(written: Sequence[str], expected: Sequence[str]) -> Results:
    """BLEU and chrF."""
    return {"bleu": text_metrics.bleu(written, expected), "chrf": text_metrics.chrf(written, expected)}


def written_metric(data: Data, scores: Callable[[Sequence[str], Sequence[str]], Results]) -> Metric:
    """Scores of the texts that a model writes, rows of one pair each.

    Reads predictions["tokens"], batch["targets"] and batch["mask"] [batch length].
    """
    _, end = boundary_ids(data.tokenizer)

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        counted = (batch["mask"] > 0).any(1)[:, None]
        return ((jnp.where(counted, predictions["tokens"], -1), jnp.where(counted, batch["targets"], -1)),)

    def compute(chunks: Tree) -> Results:
        rows = [pair for chunk in chunks for pair in zip(*chunk, strict=True) if pair[1][0] >= 0]
        written, expected = ([text_before(data, pair[side], end) for pair in rows] for side in (0, 1))
        return scores(written, expected)

    return Metric(measure, compute, operator.add)


def answer_metrics(data: Data, split: str) -> tuple[Metric, ...]:
    """Exact match and F1 of answers, both as the tokenizer writes them; no answer is the example's first token.

    The right ones are the split's texts, also where the row has no room for them. Reads predictions["spans"]
    [batch examples 2]; batch["starts"], batch["indices"] and batch["mask"] [batch examples]; batch["inputs"]
    [batch length].
    """
    answers = data.texts[split]["label"]

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        asked = (batch[name] for name in ("inputs", "starts", "mask", "indices"))
        return ((*asked, predictions["spans"]),)

    def compute(chunks: Tree) -> Results:
        written, right = [], []
        for inputs, starts, mask, indices, spans in (row for chunk in chunks for row in zip(*chunk, strict=True)):
            for example in np.flatnonzero(mask > 0):
                written.append(_span(data, inputs, spans[example], int(starts[example])))
                answer = answers[indices[example]]
                right.append([data.tokenizer.decode(data.tokenizer.encode(answer)) if data.tokenizer else answer])
        return text_metrics.answer_scores(written, right)

    return (Metric(measure, compute, operator.add),)


def _span(data: Data, inputs: Ids, span: Ids, start: int) -> str:
    first, last = span
    return data.tokenizer.decode(inputs[first : last + 1]) if data.tokenizer and first > start else ""


def entity_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Precision, recall and F1 of entities; `names` are the tags by class number.

    Reads predictions["logits"] [batch length classes], and batch["labels"], batch["mask"] and batch["segments"]
    [batch length].
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        segments = jnp.where(batch["mask"] > 0, batch["segments"], 0)
        return ((predictions["logits"].argmax(-1), batch["labels"], segments),)

    def compute(chunks: Tree) -> Results:
        written, expected = [], []
        for found, labels, segments in (row for chunk in chunks for row in zip(*chunk, strict=True)):
            for segment in range(1, segments.max() + 1):
                written.append([names[label] for label in found[segments == segment]])
                expected.append([names[label] for label in labels[segments == segment]])
        return text_metrics.entity_scores(written, expected)

    return (Metric(measure, compute, operator.add),)


def correlation_metrics() -> tuple[Metric, ...]:
    """Mean squared error (the loss), mean absolute error, and Pearson's and Spearman's correlation.

    Reads predictions["outputs"], batch["labels"] and batch["mask"], all [batch examples].
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        return ((predictions["outputs"], batch["labels"].astype(jnp.float32), batch["mask"]),)

    def compute(chunks: Tree) -> Results:
        outputs, labels, mask = (
            np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*chunks, strict=True)
        )
        outputs, labels = outputs[mask > 0], labels[mask > 0]
        return {
            "loss": float(np.mean((outputs - labels) ** 2)),
            "mean_absolute_error": float(np.mean(np.abs(outputs - labels))),
            "pearson": pearson(outputs, labels),
            "spearman": spearman(outputs, labels),
        }

    return (Metric(measure, compute, operator.add),)


def pearson(left: Float[np.ndarray, " examples"], right: Float[np.ndarray, " examples"]) -> float:
    """Pearson's correlation; NaN where one of them is constant."""
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / scale) if scale > 0 else float("nan")


def spearman(left: Float[np.ndarray, " examples"], right: Float[np.ndarray, " examples"]) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank."""
    return pearson(_mean_ranks(left), _mean_ranks(right))


def _mean_ranks(values: Float[np.ndarray, " examples"]) -> Float[np.ndarray, " examples"]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def retrieval_metrics() -> tuple[Metric, ...]:
    """How often the nearest text, or one of the 10 nearest, of all second texts of the split is the partner; and MRR.

    Reads predictions["first"] and predictions["second"] [batch examples width], and batch["mask"] [batch examples].
    MRR is the mean of 1 / rank.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        return ((predictions["first"], predictions["second"], batch["mask"]),)

    def compute(chunks: Tree) -> Results:
        first, second, mask = (
            np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts]) for parts in zip(*chunks, strict=True)
        )
        first, second = first[mask > 0], second[mask > 0]
        ranks: Any = np.concatenate([_ranks(first, second, start) for start in range(0, len(first), 256)])
        return {
            "mean_reciprocal_rank": float((1 / ranks).mean()),
            "accuracy": float((ranks == 1).mean()),
            "top_10_accuracy": float((ranks <= 10).mean()),
        }

    return (Metric(measure, compute, operator.add),)


def preference_metrics() -> tuple[Metric, ...]:
    """Loss in nats per pair, how often the chosen answer is preferred, a tie counting half, and the mean margin.

    Reads predictions["logits"], by how much the chosen answer is preferred, and batch["mask"], both [batch pairs]
    (Rafailov et al. 2023, eq. 7).
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        margins, counted = predictions["logits"].astype(jnp.float32), batch["mask"] > 0
        return {
            "count": jnp.sum(counted),
            "loss": jnp.sum(-jax.nn.log_sigmoid(margins), where=counted),
            "accuracy": jnp.sum((jnp.sign(margins) + 1) / 2, where=counted),
            "margin": jnp.sum(margins, where=counted),
        }

    def compute(state: Tree) -> Results:
        count = state["count"]
        return {name: float(state[name] / count) if count else np.nan for name in ("loss", "accuracy", "margin")}

    return (Metric(measure, compute),)


def _ranks(first: np.ndarray, second: np.ndarray, start: int) -> np.ndarray:
    """Returns the ranks of the partners of 256 first texts, of equal ones the worst."""
    scores = first[start : start + 256] @ second.T
    own = scores[np.arange(len(scores)), start + np.arange(len(scores))]
    return (scores >= own[:, None]).sum(1)
