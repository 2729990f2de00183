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
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from jax.sharding import Mesh

from research.core.errors import UserError
from research.core.mesh import batch_parts, local_rows, place, replicated
from research.core.ranges import Count, Rows
from research.core.shapes import Batch, Params
from research.data.dataset import Data, Records
from research.data.pipeline import evaluation_batches
from research.evaluate.baselines import Table
from research.evaluate.importance import column_importance
from research.evaluate.metrics import Arrays, Metric, Results, make_evaluate
from research.tasks.task import Task, evaluation_context
from research.train.evaluation import Best, Evaluation


@dataclasses.dataclass(frozen=True)
class EvaluatedSplit:
    """The options of every kind: which examples, and which metric decides."""

    split: str = "validation"
    batch_size: Rows = 128
    limit: Count | None = None
    """examples evaluated, from the start of the split (None: all)"""
    best: Best = ("loss", "min")
    """the metric that decides which checkpoint is the best, and whether its lowest (min) or highest (max) value is"""
    name: str | None = dataclasses.field(default=None, kw_only=True)
    """where a split has several evaluators: what this one's results are called, after the split"""


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

    On the validation split of a table it can tell the importance of each column too.

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

    def measured_on(params: Params, records: Records, limit: int | None, between: Callable[[], None]) -> Results:
        def batches() -> Iterator[Batch]:
            for batch in evaluation_batches(records, size, limit, rows):
                between()
                yield place(mesh, batch, size, rows)

        return evaluate(params, batches())

    def measure(params: Params, between: Callable[[], None] = lambda: None) -> Results:
        return measured_on(params, records, config.limit, between)

    def importance(params: Params) -> dict[str, float]:
        of_table = data.columns if config.split == "validation" else {}
        with_columns = partial(measured_on, params, between=lambda: None)
        return column_importance(with_columns, records, of_table, config.best)

    return Evaluation(config.split, measure, baselines, importance)


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
