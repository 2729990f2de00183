"""Evaluators: a bundle of metrics on a split, built from a frozen configuration.

The training loop calls the built function on its own period, `python -m research.evaluate RUN` calls the same one on a
checkpoint, so both print the same numbers. An evaluator knows a task's predictions and the data, never the trainer.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from research.core.errors import UserError
from research.core.mesh import batch_parts, local_rows, place, replicated
from research.core.shapes import Batch, Params
from research.data.dataset import Data, Records
from research.data.pipeline import evaluation_batches, gather
from research.evaluate import baselines
from research.evaluate.metrics import (
    Metric,
    Results,
    binary_metrics,
    classification_metrics,
    language_metrics,
    make_evaluate,
    ranking_metrics,
    regression_metrics,
)
from research.evaluate.text_bundles import TextKind, flattened, text_metrics_of
from research.tasks.task import Task, evaluation_context

MOST_RANKED = 100_000  # examples of each split that the baseline of a ranking is fitted and measured on


class Evaluation(NamedTuple):
    """A built evaluator: `measure(params, between) -> results` and `baselines() -> {name: results}`.

    `between()` is called before every batch, and may raise to cut the evaluation short.
    """

    name: str
    measure: Any
    baselines: Any


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Which metrics on which split."""

    metrics: Literal["language", "classification", "ranking", "binary", "regression"] | TextKind
    """what is measured; for text, see `research/evaluate/text_bundles.py`"""
    split: str = "validation"
    batch_size: int = 128
    limit: int = 0
    """examples evaluated, from the start of the split (0: all)"""

    def build(self, task: Task, data: Data, mesh: Mesh, *, seed: int = 0) -> Evaluation:
        """Builds the evaluation, its batches split over the mesh; raises UserError where the data have no such split.

        A batch that the mesh does not divide is padded.
        """
        if self.split not in data.splits:
            raise UserError(f"There is no split {self.split!r} to evaluate: the data have {', '.join(data.splits)}.")
        records = data.splits[self.split]

        def predict(params: Params, batch: Batch) -> dict[str, Array]:
            return task.predict(params, batch, evaluation_context(seed))

        evaluate = make_evaluate(self._bundle(data), predict, replicated(mesh) if mesh.size > 1 else None)
        size = -(-self.batch_size // batch_parts(mesh)) * batch_parts(mesh)
        rows = local_rows(mesh, size)

        def measure(params: Params, between: Callable[[], None] = lambda: None) -> Results:
            def batches() -> Iterator[Batch]:
                for batch in evaluation_batches(records, size, self.limit or None, rows):
                    between()
                    yield place(mesh, batch, size, rows)

            return evaluate(params, batches())

        return Evaluation(self.split, measure, lambda: self._baselines(data))

    def _bundle(self, data: Data) -> tuple[Metric, ...]:
        match self.metrics:
            case "language":
                return language_metrics(data.characters_per_token.get(self.split))
            case "classification":
                return tuple(flattened(metric) for metric in classification_metrics(data.outputs))
            case "ranking":
                return ranking_metrics()
            case "binary":
                return binary_metrics()
            case "regression":
                return regression_metrics()
            case kind:
                return text_metrics_of(kind, data, self.split)

    def _baselines(self, data: Data) -> baselines.Table:
        # Here, as it takes scipy along, which would cost every start half a second.
        from research.evaluate import text_baselines

        if self.metrics == "language" and data.tokens:
            train, tokens = data.tokens["train"], data.tokens[self.split]
            return baselines.language_baselines(train, tokens, data.outputs, data.characters_per_token[self.split])
        name = "targets" if self.metrics in ("regression", "ranking", "language") else "labels"
        most = MOST_RANKED if self.metrics == "ranking" else None
        match self.metrics:
            case "translation" | "summarisation":
                summaries, most = self.metrics == "summarisation", self.limit or None
                return text_baselines.pairs_baselines(data, self.split, summaries=summaries, most=most)
            case "masked" if data.tokens:
                return baselines.token_baseline(data.tokens["train"], data.tokens[self.split], data.outputs)
            case "masked" | "answers" | "retrieval":
                return {}
            case "preference":
                return {"indifference": {"loss": math.log(2), "accuracy": 0.5, "margin": 0.0}}
        train, labels = (_column(data.splits[split], name, most) for split in ("train", self.split))
        match self.metrics:
            case "language":  # conversations, of which only the answers count: no run of tokens to count n-grams in
                return baselines.token_baseline(train, labels, data.outputs)
            case "classification" | "entities":
                table = baselines.classification_baseline(train, labels, data.outputs)
                return {**table, **text_baselines.classes_baselines(data, self.split)}
            case "ranking":
                return baselines.ranking_baseline(train, labels, data.outputs)
            case "binary":
                return baselines.binary_baseline(train, labels)
            case "correlation":
                return baselines.regression_baseline(train[:, None], labels[:, None])
            case _:
                return baselines.regression_baseline(train, labels)


def _column(records: Records, name: str, most: int | None) -> np.ndarray:
    """Returns what the records hold, without what stands under a zero of their mask."""
    batch = gather(records, np.arange(len(records))[:most])
    return batch[name][batch["mask"] > 0] if "mask" in batch else batch[name]
