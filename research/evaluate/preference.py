"""Evaluation of preferences between two answers: how often the chosen one is preferred, and by what margin."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class PreferenceEvaluator(EvaluatedSplit):
    """Pairs of a chosen and a rejected answer of a split, beside a model that prefers neither."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        return build_evaluation(self, preference_metrics(), indifference, task, data, mesh, seed)


def preference_metrics() -> tuple[Metric, ...]:
    """Loss in nats per pair, how often the chosen answer is preferred, a tie counting half, and the mean margin.

    Reads predictions["logits"], by how much the chosen answer is preferred, and batch["mask"], both [batch pairs]
    (Rafailov et al. 2023, eq. 7).
    """
    names = ("loss", "accuracy", "margin")

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
        return {name: float(state[name] / count) if count else np.nan for name in names}

    return (Metric(names, measure, compute),)


def indifference() -> Table:
    """What margins of zero get: every pair a tie."""
    return {"indifference": {"loss": math.log(2), "accuracy": 0.5, "margin": 0.0}}
