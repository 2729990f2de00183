"""What the training loop asks of an evaluator: results by metric, and which metric decides.

The kinds of evaluators are in `research/evaluate`, one a file; they know a task's predictions and the data, and nothing
of the loop that calls them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from research.core.configs import config_protocol
from research.core.errors import UserError
from research.core.shapes import Params
from research.data.dataset import Data
from research.tasks.task import Task

Best = tuple[str, Literal["min", "max"]]  # a metric, and which of its values is the best


class Evaluation(NamedTuple):
    """An evaluator, built.

    Attributes:
        name: what the results are called: the split, or one of `evaluation_names`.
        measure: (params, between) to the results by metric. `between()`, which may be left out, is called before every
            batch, and may raise to cut the evaluation short.
        baselines: () to the results of what the model has to beat, by name of the baseline and metric.
        importance: (params) to how much worse the metric that decides gets without a column of a table, by column;
            nothing for other data. Like the baselines it is asked for once, at the end of a run.
    """

    name: str
    measure: Callable[..., dict[str, Any]]
    baselines: Callable[[], dict[str, dict[str, float]]]
    importance: Callable[[Params], dict[str, float]] = lambda params: {}


@config_protocol
@runtime_checkable
class EvaluatorConfig(Protocol):
    """What an experiment asks of an evaluator."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def split(self) -> str:
        """The split that is evaluated, which names the evaluation; of several on a split the others have a `name`."""

    @property
    def best(self) -> Best:
        """The metric that decides which checkpoint, or run of a sweep, is the best, and whether "min" or "max" is."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation, its batches split over the mesh; `seed` is the experiment's."""


def evaluation_names(evaluators: Iterable[EvaluatorConfig]) -> list[str]:
    """Returns what the results of each evaluator are called: its split, and of the others of a split their names too.

    The first evaluator of a split that has no name of its own is called as the split is, and any other "SPLIT/NAME".

    Raises:
        UserError: two would be called the same.
    """
    names: list[str] = []
    for number, evaluator in enumerate(evaluators):
        own = getattr(evaluator, "name", None)
        name = f"{evaluator.split}/{own}" if own else evaluator.split
        if name in names:
            raise UserError(
                f"Two evaluators are called {name!r}: give each of a split a name, such as --evaluators.{number}.name "
                "second."
            )
        names.append(name)
    return names


def plain(results: Any) -> Any:
    """Returns results with the numbers of Python for those of NumPy and JAX, so that any record can hold them.

    Raises:
        TypeError: there is something else than numbers, texts, and lists and mappings of them.
    """
    if isinstance(results, Mapping):
        return {str(name): plain(value) for name, value in results.items()}
    if isinstance(results, list | tuple):
        return [plain(value) for value in results]
    if isinstance(results, np.generic | np.ndarray | jax.Array):
        return plain(np.asarray(results).tolist())
    if results is None or isinstance(results, bool | int | float | str):
        return results
    raise TypeError(f"a result is a number, a text or a list, not {type(results).__name__}")


def judged_split(splits: Iterable[str]) -> str | None:
    """Returns the split whose results decide: "validation", else the first; a test split is no place to choose."""
    names = list(splits)
    return "validation" if "validation" in names else next(iter(names), None)


def judged_metric(
    evaluators: Sequence[EvaluatorConfig], measured: Callable[[str], bool] = lambda name: True
) -> tuple[str, str, str] | None:
    """Returns the evaluation that decides, its metric, and "min" or "max"; None without any that is `measured`."""
    named = zip(evaluation_names(evaluators), evaluators, strict=True)
    best = {name: evaluator.best for name, evaluator in named if measured(name)}
    split = judged_split(best)
    return None if split is None else (split, *best[split])


def score(evaluators: Sequence[EvaluatorConfig], results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Returns how good results by name are, by `best` of the split that decides: the lower, the better.

    A metric whose highest value is the best counts negative. None where nothing was measured.
    """
    judged = judged_metric(evaluators, lambda name: bool(results.get(name)))
    if judged is None:
        return None
    name, metric, direction = judged
    value = results[name].get(metric)
    return -value if value is not None and direction == "max" else value
