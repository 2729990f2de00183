"""What the evaluators of all kinds share: their contract, their options, and running metrics over a split.

An evaluator is a frozen configuration, one kind a file: `language.py`, `classification.py`, ... Its `build` gives an
`Evaluation`, which the training loop calls on its own period and `python -m research.evaluate RUN` on a checkpoint, so
that both print the same numbers. It knows a task's predictions and the data, never the trainer.

A new kind is one new file, here or in an experiment:

    @dataclasses.dataclass(frozen=True)
    class ErrorEvaluator(EvaluatedSplit):
        best: Best = ("absolute_error", "min")

        def build(self, task, data, mesh, seed):
            return build_evaluation(self, (absolute_error(),), dict, task, data, mesh, seed)
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jax.sharding import Mesh

from research.core.errors import UserError
from research.core.mesh import batch_parts, local_rows, place, replicated
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.pipeline import evaluation_batches
from research.evaluate.baselines import Table
from research.evaluate.metrics import Arrays, Metric, Results, make_evaluate
from research.tasks.task import Task, evaluation_context

Best = tuple[str, Literal["min", "max"]]  # a metric, and which of its values is the best


class Evaluation(NamedTuple):
    """An evaluator, built.

    Attributes:
        name: the split.
        measure: (params, between) to the results by metric. `between()`, which may be left out, is called before every
            batch, and may raise to cut the evaluation short.
        baselines: () to the results of what the model has to beat, by name of the baseline and metric.
    """

    name: str
    measure: Callable[..., Results]
    baselines: Callable[[], Table]


@runtime_checkable
class EvaluatorConfig(Protocol):
    """What an experiment asks of an evaluator."""

    @property
    def split(self) -> str:
        """The split that is evaluated, which names the evaluation."""

    @property
    def best(self) -> Best:
        """The metric that decides which checkpoint, or run of a sweep, is the best, and whether "min" or "max" is."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation, its batches split over the mesh; `seed` is the experiment's."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # The command line makes options of a field whose value has a subclass of the field's type, and a protocol with
        # members other than methods has no subclasses unless it says which.
        return {"split", "best", "build"} <= {*dir(other), *getattr(other, "__dataclass_fields__", ())}


@dataclasses.dataclass(frozen=True)
class EvaluatedSplit:
    """The options of every kind: which examples, and which metric decides."""

    split: str = "validation"
    batch_size: int = 128
    limit: int = 0
    """examples evaluated, from the start of the split (0: all)"""
    best: Best = ("loss", "min")
    """the metric that decides which checkpoint is the best, and whether its lowest (min) or highest (max) value is"""


def build_evaluation(
    config: EvaluatedSplit,
    metrics: Sequence[Metric],
    baselines: Callable[[], Table],
    task: Task,
    data: Data,
    mesh: Mesh,
    seed: int,
) -> Evaluation:
    """Returns the evaluation that runs metrics over a split; a batch that the mesh does not divide is padded.

    Raises:
        UserError: the data have no such split, or `config.best` names none of the metrics.
    """
    if config.split not in data.splits:
        raise UserError(f"There is no split {config.split!r} to evaluate: the data have {', '.join(data.splits)}.")
    _check_best(config, metrics)
    records = data.splits[config.split]
    evaluate = make_evaluate(metrics, _prediction(task, seed), replicated(mesh) if mesh.size > 1 else None)
    size = -(-config.batch_size // batch_parts(mesh)) * batch_parts(mesh)
    rows = local_rows(mesh, size)

    def measure(params: Params, between: Callable[[], None] = lambda: None) -> Results:
        def batches() -> Iterator[Batch]:
            for batch in evaluation_batches(records, size, config.limit or None, rows):
                between()
                yield place(mesh, batch, size, rows)

        return evaluate(params, batches())

    return Evaluation(config.split, measure, baselines)


def judged_split(splits: Iterable[str]) -> str | None:
    """Returns the split whose results decide: "validation", else the first; a test split is no place to choose."""
    names = list(splits)
    return "validation" if "validation" in names else next(iter(names), None)


def score(evaluators: Iterable[EvaluatorConfig], results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Returns how good results by split are, by `best` of the split that decides: the lower, the better.

    A metric whose highest value is the best counts negative. None where nothing was measured.
    """
    best = {evaluator.split: evaluator.best for evaluator in evaluators if results.get(evaluator.split)}
    split = judged_split(best)
    if split is None:
        return None
    metric, direction = best[split]
    value = results[split].get(metric)
    return -value if value is not None and direction == "max" else value


def _prediction(task: Task, seed: int) -> Callable[[Params, Batch], Arrays]:
    """Returns the predictions of a batch, as evaluation asks a task for them."""
    context = evaluation_context(seed)
    return lambda params, batch: task.predict(params, batch, context)


def _check_best(config: EvaluatedSplit, metrics: Sequence[Metric]) -> None:
    (metric, direction), names = config.best, [name for each in metrics for name in each.names]
    if metric not in names:
        raise UserError(
            f"The best checkpoint cannot be chosen by {metric!r}, which {type(config).__name__} does not measure: give "
            f"one of {', '.join(names)} with --evaluators.0.best."
        )
    if direction not in ("min", "max"):
        raise UserError(
            f"The best {metric} is chosen by 'min' or 'max', not {direction!r}: give one of them in `best`."
        )
