"""An experiment: one frozen dataclass that says everything a run does, composed of the parts' configurations.

A module in `experiments/` defines one as `CONFIG`; a variant is `dataclasses.replace` of a parent. `assemble` builds
the pure functions and the abstract state from it, the same for training, evaluation and reproduction.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from research.core.errors import UserError
from research.core.mesh import MeshConfig, check_batch, on_mesh, replicated
from research.core.precision import ComputeType
from research.core.shapes import Params
from research.core.streams import stream
from research.data.dataset import Data
from research.models.model import Model
from research.models.wrappers.lora import check_rates
from research.tasks.task import Loss, Task
from research.train import exact
from research.train.optimizers import Optimizer, OptimizerConfig
from research.train.pretrained import PretrainedModel, Started
from research.train.recovery import Recovery
from research.train.schedules import Schedule
from research.train.state import State, new_state, state_sharding
from research.train.step import Step, make_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to learn, from what, with what, how long, and how it is watched."""

    data: Any
    model: Any
    task: Any
    optimizer: OptimizerConfig = Optimizer()
    schedule: Schedule = Schedule()
    recovery: Recovery = Recovery()
    mesh: MeshConfig = MeshConfig()
    evaluators: tuple[Any, ...] = ()
    steps: int = 1000
    batch_size: int = 32
    """examples per step, over all devices and micro-batches"""
    accumulate: int = 1
    """micro-batches that a step's batch is cut into"""
    compute: ComputeType = "float32"
    """type of the forward and backward pass; parameters and sums stay float32"""
    statistics_decay: float = 0.9
    """decay of running statistics (batch normalisation) per step"""
    exact: bool = False
    """the same bits on 1, 2, 4 or 8 devices and in several processes, at a price; see research/train/exact.py"""
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 250
    checkpoint_every: int = 250
    """steps between checkpoints, and the most that a kill makes a run repeat (but for those during a long save)"""
    digest_every: int = 250
    """steps between digests of the parameters in the hash chain"""
    sample_every: int = 0
    """steps between samples of generated text (0: none)"""
    keep_last: int = 2
    """newest checkpoints kept; the best is kept besides"""
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
    step: Step
    state: State
    """abstract: shapes and types only"""
    shardings: State

    @property
    def evaluators(self) -> list[Any]:
        """The evaluators whose split the data have: one's own data may lack the test split of an experiment."""
        return [evaluator for evaluator in self.experiment.evaluators if evaluator.split in self.data.splits]

    def compiled_step(self) -> Step:
        """Returns the step, compiled at its first call; it takes over the state's memory."""
        experiment = self.experiment
        if experiment.exact:
            return exact.make_exact_step(self.task, self.optimizer, self.mesh, **_settings(experiment))
        outputs = (self.shardings, replicated(self.mesh))
        return jax.jit(self.step, donate_argnums=0, out_shardings=outputs)

    def initial_state(self, note: Callable[[Started], None] = lambda started: None) -> State:
        """Returns the state before the first step, made on the devices where it lives.

        Where the model is a pretrained one `note` is told what was loaded.
        """
        state = jax.jit(_init(self.experiment, self.task, self.optimizer), out_shardings=self.shardings)()
        if not isinstance(self.experiment.model, PretrainedModel):
            return state
        started = self.experiment.model.start(state.params, self.shardings.params, self.mesh)
        note(started)
        average = None if state.average is None else jax.tree.map(jnp.copy, started.params)
        return state.replace(params=started.params, average=average)


def assemble(experiment: Experiment, data: Data) -> Assembly:
    """Builds every pure function of an experiment; allocates nothing.

    Raises:
        UserError: parts that do not fit one another: sizes, rules, mesh, schedule.
    """
    if experiment.keep_last < 1:
        raise UserError(f"A run cannot keep {experiment.keep_last} checkpoints: give --keep-last 1 or more.")
    experiment.recovery.check()
    if not isinstance(experiment.optimizer, OptimizerConfig):
        raise UserError(
            f"{type(experiment.optimizer).__name__} is no optimizer: let the class inherit from "
            "research.train.optimizers.OptimizerConfig, which shows how to use any optax transformation."
        )
    mesh = experiment.mesh.build()
    check_batch(mesh, experiment.batch_size, experiment.accumulate)
    if experiment.exact:
        exact.check(mesh, experiment.batch_size, experiment.accumulate)
    task = experiment.task.build(experiment.model, data)
    task = Task(*(function and on_mesh(mesh, function) for function in task))
    model = experiment.model.build(data.outputs)
    params = jax.eval_shape(task.init, stream(experiment.seed, "init"))
    multipliers = experiment.optimizer.multipliers(params)
    check_rates(multipliers, params)
    optimizer = _optimizer(experiment, params, multipliers)
    learning_rates = experiment.optimizer.learning_rates(experiment.steps, experiment.schedule)
    task = task._replace(loss=_of_what_learns(task.loss, multipliers))
    state = jax.eval_shape(_init(experiment, task, optimizer))
    shardings = state_sharding(mesh, model.sharding, state)
    step = make_step(task, optimizer, accumulate=experiment.accumulate, **_settings(experiment))
    return Assembly(experiment, data, model, task, mesh, learning_rates, optimizer, step, state, shardings)


def _of_what_learns(loss: Callable[..., Loss], multipliers: Any) -> Callable[..., Loss]:
    """Returns the loss without gradients for frozen parameters, so that none are computed."""

    def frozen(params: Params, *arguments: Any) -> Loss:
        stopped = jax.tree.map(lambda leaf, rate: leaf if rate else jax.lax.stop_gradient(leaf), params, multipliers)
        return loss(stopped, *arguments)

    return loss if all(jax.tree.leaves(multipliers)) else frozen


def _optimizer(experiment: Experiment, params: Params, multipliers: Any) -> optax.GradientTransformation:
    """Returns the transformation of gradients to updates; frozen parameters never reach the optimizer."""
    learning = jax.tree.map(lambda leaf, factor: leaf if factor else optax.MaskedNode(), params, multipliers)
    optimizer = experiment.optimizer.build(experiment.steps, learning, experiment.schedule)
    if all(jax.tree.leaves(multipliers)):
        return optimizer
    labels = jax.tree.map(lambda factor: "learning" if factor else "frozen", multipliers)
    return optax.partition({"learning": optimizer, "frozen": optax.set_to_zero()}, labels)


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Returns what an ordinary step and an exact one both need to know."""
    return {
        "seed": experiment.seed,
        "compute": experiment.compute,
        "average_decay": experiment.optimizer.average_decay(),
        "statistics_decay": experiment.statistics_decay,
    }


def _init(experiment: Experiment, task: Task, optimizer: optax.GradientTransformation) -> Any:
    def init() -> State:
        params = task.init(stream(experiment.seed, "init"))
        return new_state(params, optimizer, averaged=experiment.optimizer.average_decay() > 0)

    return init
