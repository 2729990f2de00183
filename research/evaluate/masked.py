"""Evaluation of hidden tokens (masked language modelling): loss, perplexity, accuracy; beside token frequencies."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, token_baseline
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, cross_entropy
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class MaskedEvaluator(EvaluatedSplit):
    """The tokens of a split that the task hides."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            return token_baseline(data.tokens["train"], data.tokens[self.split], data.outputs) if data.tokens else {}

        return build_evaluation(self, token_metrics(), baselines, task, data, mesh, seed)


def token_metrics() -> tuple[Metric, ...]:
    """Loss in nats per token, perplexity and accuracy of the tokens that a task asks for.

    Reads logits [batch length vocabulary] of the predictions, and `targets` and `mask` [batch length] from where the
    task makes them: the predictions (masked language modelling) or the batch (translation).
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        source = predictions if "targets" in predictions else batch
        counted, targets = source["mask"] > 0, source["targets"]
        return {
            "count": jnp.sum(counted),
            "nats": jnp.sum(cross_entropy(predictions["logits"], targets), where=counted),
            "hits": jnp.sum(jnp.argmax(predictions["logits"], -1) == targets, where=counted),
        }

    def compute(state: Tree) -> Results:
        nats, hits = (float(state[name] / state["count"]) if state["count"] else np.nan for name in ("nats", "hits"))
        with np.errstate(over="ignore"):
            return {"loss": nats, "perplexity": float(np.exp(nats)), "accuracy": hits}

    return (Metric(("loss", "perplexity", "accuracy"), measure, compute),)
