"""Optimizers as optax transformations: what an experiment's optimizer offers, and one composed of named parts.

`Optimizer` covers the usual kinds: penalise, clip, scale, decay, follow the schedule. `OptimizerGroups`, in
optimizer_groups.py, has one optimizer for each pattern of parameter paths. Any other optax transformation is a frozen
dataclass that inherits from `OptimizerConfig` and gives `build`.
"""

import dataclasses
import math
import operator
import re
from functools import partial
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from research.core import trees
from research.core.errors import UserError
from research.core.ranges import AtLeast0, Below1, Epsilon, Range, Regex
from research.core.shapes import Params
from research.train.schedules import Schedule

WEIGHT_DECAY_MULTIPLIERS = ((r"(kernel|embedding)$", 1.0), (r"(bias|scale|mean|variance)$", 0.0))
LEARNING_RATE = "learning_rate"  # the name in the log; that of a group follows after a slash
# Fields of optax's states: of line searches and injected hyperparameters, of estimates (Prodigy), of a plateau.
OWN_RATES = ("learning_rate", "estim_lr", "scale")


@runtime_checkable
class OptimizerConfig(Protocol):
    """What the optimizer of an experiment offers. Inherit from it and give `build`; the rest has defaults.

    Define the class in a module of `experiments/` (or `research/`), so that `run.json` can be read back. Prodigy, AdamW
    that estimates its learning rate (Mishchenko & Defazio 2023), as one's own optimizer:

        >>> @dataclasses.dataclass(frozen=True)
        ... class Prodigy(OptimizerConfig):
        ...     weight_decay: float = 0.0
        ...
        ...     def build(self, steps, params, schedule):
        ...         return optax.contrib.prodigy(schedule.build(steps), weight_decay=self.weight_decay)
        >>> optimizer = Prodigy().build(100, {"kernel": jnp.ones(2)}, Schedule("cosine", warmup=10))

    `experiments/mlp_schedule_free.py` is a whole experiment with an optimizer of its own.
    """

    def build(self, steps: int, params: Params, schedule: Schedule) -> optax.GradientTransformation:
        """Returns the transformation of gradients to updates.

        Args:
            steps: how many updates there will be: over these the schedule runs.
            params: the (abstract) parameters that learn.
            schedule: the experiment's schedule of the learning rate, for those that follow one.
        """
        ...

    def learning_rates(self, steps: int, schedule: Schedule) -> dict[str, optax.Schedule]:
        """Returns the learning rates to log, functions of the step (0 is the first), computed on the host.

        The name is "learning_rate", in a group "learning_rate/GROUP"; by default none is logged, but what the state of
        the optimizer holds itself; see `own_rates`.
        """
        return {}

    def multipliers(self, params: Params) -> Any:
        """Returns each parameter's factor of the learning rate; a parameter of factor 0 does not learn."""
        return jax.tree.map(lambda _: 1.0, params)

    def average_decay(self) -> float:
        """Returns the decay of the moving average of the parameters that evaluation uses, 0 for none."""
        return 0.0


@dataclasses.dataclass(frozen=True)
class Optimizer(OptimizerConfig):
    """An optimizer and its regularisation."""

    kind: Literal["gradient_descent", "sgd", "momentum", "adam", "adamw", "lion", "muon"] = "adamw"
    """gradient_descent and sgd are the same step, over the whole data or over batches of it; so are adam and adamw, as
    weight_decay is decoupled and l2 is not; muon takes optax's own momentum of 0.95 for matrices, Adam for the rest"""
    learning_rate: Annotated[float, Range(0, 1e30)] = 1e-3
    """the highest, which the schedule scales"""
    b1: Below1 = 0.9
    """decay of the first moment, and of momentum"""
    b2: Below1 = 0.999
    epsilon: Epsilon = 1e-8
    weight_decay: AtLeast0 = 0.0
    """decoupled: the rate times this much of each weight is subtracted (Loshchilov & Hutter 2019)"""
    l1: AtLeast0 = 0.0
    """this times the weights' absolute values is added to the loss"""
    l2: AtLeast0 = 0.0
    """this times half the weights' squares is added to the loss"""
    clip: AtLeast0 = 0.0
    """the largest global norm of the gradient (0: no clipping)"""
    ema: Below1 = 0.0
    """decay of the moving average of the weights that evaluation uses (0: none)"""
    weight_decay_multipliers: tuple[tuple[Regex, AtLeast0], ...] = WEIGHT_DECAY_MULTIPLIERS
    """which weights l1, l2 and weight_decay act on, as factors by path"""
    lr_multipliers: tuple[tuple[Regex, AtLeast0], ...] = (("", 1.0),)
    """factors of the learning rate by path; a parameter of factor 0 is fixed, and never reaches the optimizer"""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """for fine-tuning: factor of the learning rate from each block that learns to the one below it, down to the
    embeddings (Clark et al. 2020, ELECTRA, appendix A)"""

    def build(
        self, steps: int, params: Params, schedule: Schedule = Schedule("constant")
    ) -> optax.GradientTransformation:
        """Composes the transformation; raises UserError where the patterns do not fit the parameters."""
        decay = trees.match_rules(
            self.weight_decay_multipliers, params, what="weight decay (--optimizer.weight-decay-multipliers)"
        )
        multipliers = self.multipliers(params)
        parts = [
            _penalty(self.l1, self.l2, decay) if self.l1 or self.l2 else optax.identity(),
            optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(),
            self._direction(),
            _scaled_decay(self.weight_decay, decay) if self.weight_decay else optax.identity(),
            _scale(multipliers),
            optax.scale_by_learning_rate(self.learning_rates(steps, schedule)[LEARNING_RATE]),
        ]
        return optax.chain(*parts)

    def learning_rates(self, steps: int, schedule: Schedule) -> dict[str, optax.Schedule]:
        """Returns the one learning rate; that of a parameter is this times its multiplier."""
        factor = schedule.build(steps)
        return {LEARNING_RATE: lambda step: self.learning_rate * factor(step)}

    def multipliers(self, params: Params) -> Any:
        """Returns each parameter's factor of the learning rate; raises UserError where the patterns do not fit."""
        factors = trees.match_rules(self.lr_multipliers, params, what="the learning rate (--optimizer.lr-multipliers)")
        if self.layer_decay == 1:
            return factors
        return jax.tree.map(operator.mul, factors, _layerwise(self.layer_decay, params))

    def average_decay(self) -> float:
        """Returns `ema`."""
        return self.ema

    def _direction(self) -> optax.GradientTransformation:
        match self.kind:
            case "gradient_descent" | "sgd":
                return optax.identity()
            case "momentum":
                return optax.trace(self.b1)
            case "adam" | "adamw":
                return optax.scale_by_adam(self.b1, self.b2, self.epsilon)
            case "lion":
                return optax.scale_by_lion(self.b1, self.b2)
            case "muon":
                return _muon(self.b1, self.b2, self.epsilon)


def own_rates(state: Any) -> dict[str, jax.Array]:
    """Returns the learning rates that an optimizer's state holds, as a line search or an estimate has found them.

    Args:
        state: of the optimizer, which may be composed of several.

    Returns:
        {"optimizer/NAME": []}, the first of each name, where there are any.
    """

    def held(node: Any) -> dict[str, Any]:
        fields = node._asdict() if hasattr(node, "_asdict") else {}
        return {name: value for name, value in {**fields, **fields.get("hyperparams", {})}.items() if name in OWN_RATES}

    found: dict[str, jax.Array] = {}
    for node in filter(held, jax.tree.leaves(state, is_leaf=lambda node: bool(held(node)))):
        found = {**{f"optimizer/{name}": jnp.asarray(value) for name, value in held(node).items()}, **found}
    return found


def evaluation_params(state: Any, params: Params) -> Params:
    """Returns the parameters that evaluation uses: `params`, but the average x where an optimizer is schedule-free.

    Schedule-free optimizers take gradients at y, which `params` are, and evaluate at x (Defazio et al. 2024, eq. 1-3).

    Args:
        state: of the optimizer, which may be composed of several.
        params: as training has them.
    """

    def is_schedule_free(node: Any) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    def averaged(free: Any, leaf: Any, z: Any) -> Any:
        of_another = isinstance(z, optax.MaskedNode)
        return leaf if of_another else optax.contrib.schedule_free_eval_params(free._replace(z=z), leaf)

    for node in filter(is_schedule_free, jax.tree.leaves(state, is_leaf=is_schedule_free)):
        params = jax.tree.map(partial(averaged, node), params, node.z)
    return params


def _layerwise(decay: float, params: Params) -> Any:
    """Returns `decay` to the power of the blocks above a parameter's own in its stack; 1 above all blocks.

    Raises:
        UserError: there are no blocks in the paths.
    """
    numbers: dict[str, tuple[str, tuple[int, ...]]] = {}  # the stack, and the place in it, of a path in a block
    for path in trees.flatten(params):
        if block := next((part for part in path.split("/") if re.search(r"_\d+$", part)), None):
            numbers[path] = re.sub(r"\d+", "", block), tuple(int(number) for number in re.findall(r"\d+", block))
    stacks = {
        stack: sorted({place for name, place in numbers.values() if name == stack}) for stack, _ in numbers.values()
    }
    if not stacks:
        raise UserError(
            f"--optimizer.layer-decay {decay} needs numbered blocks in the parameters' paths, and there are none: "
            "leave it, or --model.scan, out."
        )
    below = max(len(places) for places in stacks.values())

    def factor(path: str, _: Any) -> float:
        if path in numbers:
            stack, place = numbers[path]
            return decay ** (len(stacks[stack]) - 1 - stacks[stack].index(place))
        return decay**below if re.search("embedding|stem", path) else 1.0

    return trees.map_with_path(factor, params)


def _muon(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the kernels inside a model, Adam for embeddings, norms, biases and the head."""

    def labels(params: Params) -> Any:
        return trees.map_with_path(
            lambda path, _: "muon" if re.search(r"(?<!^head)(?<!^output)/kernel$", path) else "adam", params
        )

    muon = optax.contrib.scale_by_muon(
        weight_dimension_numbers=lambda kernels: trees.map_with_path(_matrix_axes, kernels)
    )
    scaled = optax.chain(muon, optax.stateless(lambda updates, _: trees.map_with_path(_like_adam, updates)))
    return optax.partition({"muon": scaled, "adam": optax.scale_by_adam(b1, b2, epsilon)}, labels)


def _matrix_axes(path: str, kernel: Any) -> optax.contrib.MuonDimensionNumbers:
    """The axes of a kernel as a matrix: [inputs outputs] of each layer or expert, or [rows columns inputs outputs]."""
    last = kernel.ndim - 1
    convolution = kernel.ndim == 4 and "experts/" not in path
    return optax.contrib.MuonDimensionNumbers(tuple(range(0 if convolution else last - 1, last)), (last,))


def _like_adam(path: str, update: Any) -> Any:
    """Gives Muon's update the size of Adam's, so that one learning rate serves both (Liu et al. 2025, eq. 4)."""
    axes = _matrix_axes(path, update)
    inputs = math.prod(update.shape[axis] for axis in axes.reduction_axis)
    return 0.2 * max(inputs, update.shape[-1]) ** 0.5 * update


def _scale(rate: Any) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda g, factor: g if factor == 1 else factor * g, updates, rate)
    )


def _penalty(l1: float, l2: float, decay: Any) -> optax.GradientTransformation:
    """Adds the gradient of `l1 |w| + l2/2 w^2`."""

    def update(gradients: Any, params: Any) -> Any:
        return jax.tree.map(lambda g, w, factor: g + factor * (l1 * jnp.sign(w) + l2 * w), gradients, params, decay)

    return optax.stateless(update)


def _scaled_decay(weight_decay: float, decay: Any) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda g, w, factor: g + weight_decay * factor * w, updates, params, decay)
    )
