"""An experiment: one frozen dataclass that says everything a run does, composed of the parts' configurations.

A module in `experiments/` defines one as `CONFIG`; a variant is `dataclasses.replace` of a parent. `assemble` builds
the pure functions and the abstract state from it, the same for training, evaluation and reproduction.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import optax
from jax.sharding import Mesh, PartitionSpec

from research.core import configs, ranges, trees
from research.core.errors import UserError
from research.core.mesh import MeshConfig, bytes_per_device, check_batch, on_mesh, replicated
from research.core.precision import ComputeType
from research.core.ranges import Count, Fraction, Period, Range, Rows, Seed
from research.core.shapes import Params, Spec
from research.core.streams import stream
from research.data.dataset import Data, DataConfig
from research.models.model import Model, ModelConfig
from research.runtime import device_memory
from research.tasks.task import Task, TaskConfig
from research.train import exact
from research.train.evaluation import EvaluatorConfig
from research.train.gradients import GradientFunctions, Gradients
from research.train.optimizers import Optimizer, OptimizerConfig
from research.train.pretrained import LoadReport, combined
from research.train.profiling import traced_steps
from research.train.recovery import Recovery
from research.train.schedules import Schedule
from research.train.state import Parts, State, new_state, partition, state_sharding
from research.train.step import Step, make_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to learn, from what, with what, how long, and how it is watched."""

    data: DataConfig
    model: ModelConfig
    task: TaskConfig
    optimizer: OptimizerConfig = Optimizer()
    schedule: Schedule = Schedule()
    gradients: Gradients = Gradients()
    recovery: Recovery = Recovery()
    mesh: MeshConfig = MeshConfig()
    evaluators: tuple[EvaluatorConfig, ...] = ()
    steps: Count = 1000
    batch_size: Rows = 32
    """examples per step, over all devices and micro-batches"""
    accumulate: Rows = 1
    """micro-batches that a step's batch is cut into"""
    compute: ComputeType = "float32"
    """type of the forward and backward pass; parameters and sums stay float32"""
    statistics_decay: Fraction = 0.9
    """decay of running statistics (batch normalisation) per step"""
    exact: bool = False
    """the same bits on 1, 2, 4 or 8 devices and in several processes, at a price; see research/train/exact.py"""
    seed: Seed = 0
    log_every: Period = 10
    evaluate_every: Period = 250
    checkpoint_every: Period = 250
    """steps between checkpoints, and the most that a kill makes a run repeat (but for those during a long save)"""
    digest_every: Period = 250
    """steps between digests of the parameters in the hash chain"""
    norms_every: Period = 0
    """steps between norms of each layer's gradient and parameters in the log (0: none)"""
    sample_every: Period = 0
    """steps between samples of generated text (0: none)"""
    patience: Period = 0
    """evaluations in a row without a better result, by the metric that decides, after which training ends (0: never)"""
    keep_last: Annotated[int, Range(1, 10_000)] = 2
    """newest checkpoints kept; the best is kept besides"""
    profile: str = ""
    """steps to trace for XProf or Perfetto, such as 10..15"""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """where metrics go besides metrics.jsonl"""


class Assembly(NamedTuple):
    """An experiment made executable."""

    experiment: Experiment
    data: Data
    model: Model
    task: Task
    mesh: Mesh
    learning_rates: Mapping[str, optax.Schedule]
    """functions of the step (0 is the first), by the name in the log"""
    optimizer: optax.GradientTransformation
    gradients: GradientFunctions
    step: Step
    parts: Callable[[Params], Parts]
    """divides the task's parameters into those that learn, those that are fixed, and variables"""
    state: State
    """abstract: shapes and types only"""
    shardings: State

    @property
    def evaluators(self) -> list[EvaluatorConfig]:
        """The evaluators whose split the data have: one's own data may lack the test split of an experiment."""
        return [evaluator for evaluator in self.experiment.evaluators if evaluator.split in self.data.splits]

    @property
    def sharding_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
        """The rules (pattern, specification) that give every parameter its place on the mesh."""
        return _sharding_rules(self.model, self.task)

    def compiled_step(self) -> Step:
        """Returns the step, compiled at its first call; it takes over the state's memory."""
        if self.experiment.exact:
            settings = _settings(self.experiment)
            return exact.make_exact_step(self.task, self.gradients, self.optimizer, self.mesh, **settings)
        outputs = (self.shardings, replicated(self.mesh))
        return jax.jit(self.step, donate_argnums=0, out_shardings=outputs)

    def check_memory(self) -> None:
        """Raises UserError where a device has less memory free than its part of the state takes."""
        device_memory.check(bytes_per_device(trees.abstract_like(self.state, self.shardings)), "The state of a run")

    def initial_state(self, report: Callable[[LoadReport], None] = lambda loaded: None) -> State:
        """Returns the state before the first step, made on the devices where it lives.

        A pretrained model starts with its own parameters, which do not include what the task adds; then a task may
        take some from elsewhere. Where either does `report` is called with what was loaded.
        """
        seed, averaged = self.experiment.seed, self.state.average is not None
        self.check_memory()
        shardings = self.shardings.merged
        params = jax.jit(lambda: self.task.init(stream(seed, "init")), out_shardings=shardings)()
        reports = []
        if isinstance(model := self.experiment.model, StartsFromElsewhere):
            own = trees.flatten(jax.eval_shape(self.model.init, stream(seed, "init"), self.data.spec.batch))
            mine, places = (trees.select(tree, own.__contains__) for tree in (params, shardings))
            loaded = model.start(mine, places, self.mesh, self.data.spec)
            params = trees.merge(loaded.params, trees.select(params, lambda path: path not in own))
            reports.append(loaded)
        if isinstance(task := self.experiment.task, StartsFromElsewhere):
            reports.append(task.start(params, shardings, self.mesh, self.data.spec))
            params = _unshared(reports[-1].params)
        if reports:
            report(combined(params, reports))

        def make(params: Params) -> State:
            return new_state(self.parts(params), self.optimizer, averaged=averaged)

        return jax.jit(make, out_shardings=self.shardings, donate_argnums=0)(params)


def _unshared(params: Params) -> Params:
    """Returns the parameters with a copy of each array that is there a second time: none can be donated twice."""
    seen: set[int] = set()

    def own(leaf: jax.Array) -> jax.Array:
        shared = id(leaf) in seen
        seen.add(id(leaf))
        return leaf.copy() if shared else leaf

    return jax.tree.map(own, params)


@runtime_checkable
class StartsFromElsewhere(Protocol):
    """The configuration of a model, or of a task, whose parameters are not all drawn: pretrained ones, a teacher's."""

    def start(self, params: Params, shardings: Any, mesh: Mesh, spec: Spec) -> LoadReport:
        """Returns `params`, initial ones on their devices, with those from elsewhere in their places.

        `spec` is what the model was built for.
        """
        ...


def check(experiment: Experiment) -> Mesh:
    """Checks all that can be said of an experiment before its data are read, and returns its mesh.

    Raises:
        UserError: a value of the wrong type or out of its range; devices, batch, steps and schedule that do not fit.
    """
    if not isinstance(experiment, Experiment):
        raise UserError(f"A {type(experiment).__name__} is no experiment: give an Experiment, or restore its record.")
    if not isinstance(experiment.optimizer, OptimizerConfig):
        raise UserError(
            f"{type(experiment.optimizer).__name__} is no optimizer: let the class inherit from "
            "research.train.optimizers.OptimizerConfig, which shows how to use any optax transformation."
        )
    for evaluator in experiment.evaluators:
        if missing := [name for name in ("split", "best", "build") if not hasattr(evaluator, name)]:
            raise UserError(
                f"{type(evaluator).__name__} is no evaluator, without {' and '.join(missing)}: let the class inherit "
                "from research.evaluate.evaluator.EvaluatedSplit."
            )
    ranges.check(experiment)
    # Both refuse a warm-up that is too long; an optimizer of one's own may name no learning rates.
    if not experiment.optimizer.learning_rates(experiment.steps, experiment.schedule):
        experiment.schedule.build(experiment.steps)
    traced_steps(experiment.profile, experiment.steps)
    mesh = experiment.mesh.build()
    check_batch(mesh, experiment.batch_size, experiment.accumulate)
    if experiment.exact:
        exact.check(mesh, experiment.batch_size, experiment.accumulate)
    return mesh


def assemble(experiment: Experiment, data: Data) -> Assembly:
    """Builds every pure function of an experiment; allocates nothing.

    Raises:
        UserError: what `check` finds; parts that do not fit one another or the data: sizes, rules; a batch would be cut
            whose rows depend on one another.
    """
    mesh = check(experiment)
    model = configs.built(experiment.model, Model, data.spec)
    task = configs.built(experiment.task, Task, experiment.model, data)
    _check_coupling(experiment, task)
    task = _on_mesh(mesh, task)
    params = jax.eval_shape(task.init, stream(experiment.seed, "init"))
    parts = _parts(experiment, model, task, params)
    optimizer = experiment.optimizer.build(experiment.steps, parts(params).params, experiment.schedule)
    learning_rates = experiment.optimizer.learning_rates(experiment.steps, experiment.schedule)
    gradients = experiment.gradients.build(task, experiment.compute)
    averaged = experiment.optimizer.average_decay() > 0
    state = jax.eval_shape(lambda params: new_state(parts(params), optimizer, averaged=averaged), params)
    shardings = state_sharding(mesh, _sharding_rules(model, task), state)
    step = make_step(task, gradients, optimizer, accumulate=experiment.accumulate, **_settings(experiment))
    functions = (learning_rates, optimizer, gradients, step, parts)
    return Assembly(experiment, data, model, task, mesh, *functions, state, shardings)


def _sharding_rules(model: Model, task: Task) -> Sequence[tuple[str, PartitionSpec]]:
    """Returns the model's rules, or those of a task that has parameters besides."""
    return model.sharding if task.sharding is None else task.sharding


def _on_mesh(mesh: Mesh, task: Task) -> Task:
    return task._replace(
        init=on_mesh(mesh, task.init),
        loss=on_mesh(mesh, task.loss),
        predict=on_mesh(mesh, task.predict),
        sample=task.sample and on_mesh(mesh, task.sample),
        after=task.after and on_mesh(mesh, task.after),
    )


def _parts(experiment: Experiment, model: Model, task: Task, params: Params) -> Callable[[Params], Parts]:
    """Returns what divides the parameters: a multiplier of 0 of the learning rate freezes, as a model or task may."""

    def variables(path: str) -> bool:
        return model.variables(path) or task.variables(path)

    def frozen(path: str) -> bool:
        return model.fixed(path) or task.fixed(path)

    learning = trees.select(params, lambda path: not (variables(path) or frozen(path)))
    multipliers = trees.flatten(experiment.optimizer.multipliers(learning))

    def fixed(path: str) -> bool:
        return frozen(path) or multipliers.get(path) == 0

    return partial(partition, fixed=fixed, variables=variables)


def _check_coupling(experiment: Experiment, task: Task) -> None:
    """Raises UserError where a batch would be cut whose rows depend on one another."""
    if task.coupled and (experiment.exact or experiment.accumulate > 1):
        option = "--exact" if experiment.exact else f"--accumulate {experiment.accumulate}"
        raise UserError(
            f"{option} cuts each batch into parts, which changes what is learned where its rows depend on one another "
            f"({task.coupled}): leave it out."
        )


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Returns what an ordinary step and an exact one both need to know."""
    return {
        "seed": experiment.seed,
        "average_decay": experiment.optimizer.average_decay(),
        "statistics_decay": experiment.statistics_decay,
        "norms_every": experiment.norms_every,
    }
