"""What the training loop asks of an evaluator: results by metric, and which metric decides.

The kinds of evaluators are in `research/evaluate`, one a file; they know a task's predictions and the data, and nothing
of the loop that calls them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jax.sharding import Mesh

from research.core.configs import config_protocol
from research.data.dataset import Data
from research.tasks.task import Task

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
    measure: Callable[..., dict[str, Any]]
    baselines: Callable[[], dict[str, dict[str, float]]]


@config_protocol
@runtime_checkable
class EvaluatorConfig(Protocol):
    """What an experiment asks of an evaluator."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def split(self) -> str:
        """The split that is evaluated, which names the evaluation."""

    @property
    def best(self) -> Best:
        """The metric that decides which checkpoint, or run of a sweep, is the best, and whether "min" or "max" is."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation, its batches split over the mesh; `seed` is the experiment's."""


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
