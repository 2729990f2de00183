"""Evaluation where one of very many candidates is right: mean reciprocal rank; beside the candidates' frequencies."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer

from research.core.shapes import Batch, Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, cross_entropy, evaluate, ratio
from research.tasks.task import Task
from research.train.evaluation import Best, Evaluation

MAX_RANKED = 100_000  # examples of each split that the baseline is fitted and measured on
RANKED = 1024  # examples that the baseline ranks at once


@dataclasses.dataclass(frozen=True)
class RankingEvaluator(EvaluatedSplit):
    """The right one of all candidates (`data.outputs`) for each example of a split."""

    best: Best = ("mean_reciprocal_rank", "max")

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            return ranking_baseline(*columns(data, self.split, "targets", MAX_RANKED), data.outputs)

        return build_evaluation(self, ranking_metrics(), baselines, task, data, mesh, seed)


def ranking_metrics() -> tuple[Metric, ...]:
    """Loss, mean reciprocal rank and the rate of ranks up to ten, where one of very many candidates is right.

    Reads predictions["logits"] [batch candidates], batch["targets"] (integers) and batch["mask"] [batch]. The rank of
    the right candidate is 1 where none scores above it; those that tie with it count half.
    """
    names = "loss", "mean_reciprocal_rank", "top_10_accuracy"

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
        return {name: float(ratio(total, state["count"], np.nan)) for name, total in zip(names, sums, strict=True)}

    return (Metric(names, measure, compute),)


def ranking_baseline(
    train_targets: Integer[np.ndarray, " train"], targets: Integer[np.ndarray, " batch"], candidates: int
) -> Table:
    """The frequencies of the candidates in training (plus one), whatever the input."""
    logits = jnp.log(jnp.asarray(np.bincount(train_targets, minlength=candidates) + 1, jnp.float32))

    def predict(batch: Batch) -> Arrays:
        return {"logits": jnp.broadcast_to(logits, (len(batch["targets"]), candidates))}

    parts = np.split(targets, range(RANKED, len(targets), RANKED))  # all at once would be too large
    batches = [{"targets": part, "mask": np.ones(len(part), np.float32)} for part in parts]
    return {"frequency": evaluate(ranking_metrics(), predict, batches)}
