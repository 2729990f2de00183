"""Evaluation of predicted numbers: mean squared and absolute error, R2; beside the mean of the training targets."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns, constant_results
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, check_shapes, ratio
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class RegressionEvaluator(EvaluatedSplit):
    """One number or more for each example of a split."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""

        def baselines() -> Table:
            return regression_baseline(*columns(data, self.split, "targets"))

        return build_evaluation(self, regression_metrics(), baselines, task, data, mesh, seed)


def regression_metrics() -> tuple[Metric, ...]:
    """Mean squared error (the loss), mean absolute error and R2, each averaged over the outputs.

    Reads predictions["outputs"] and batch["targets"] [batch outputs], batch["mask"] [batch]. R2 is NaN where the
    targets are constant. Raises ValueError where the shapes of outputs and targets differ.
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        targets, counted = batch["targets"].astype(jnp.float32), batch["mask"] > 0
        outputs, rows = predictions["outputs"].astype(jnp.float32), counted[:, None]
        check_shapes(outputs, targets)
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
            "loss": float(np.mean(ratio(state["squared"], count, np.nan))),
            "mean_absolute_error": float(np.mean(ratio(state["absolute"], count, np.nan))),
            "r2": float(np.mean(1 - ratio(state["squared"], variation, np.nan))),
        }

    return (Metric(("loss", "mean_absolute_error", "r2"), measure, compute, merge),)


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


def regression_baseline(
    train_targets: Float[np.ndarray, "train outputs"], targets: Float[np.ndarray, "batch outputs"]
) -> Table:
    """The mean of the training targets."""
    mean = train_targets.mean(axis=0, dtype=np.float64)
    return {"mean": constant_results(regression_metrics(), "outputs", mean, {"targets": targets})}
