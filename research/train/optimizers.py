"""Optimizers by composition: penalise, clip, scale, decay, follow the schedule; each part one optax transformation.

Rules (pattern, factor) give every parameter, by its path, exactly one factor of the learning rate (0 freezes it) and
one of the weight decay.
"""

import dataclasses
import math
import operator
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from research.core import trees
from research.core.errors import UserError
from research.core.shapes import Params

DECAY_RULES = ((r"(kernel|embedding)$", 1.0), (r"(bias|scale|mean|variance)$", 0.0))


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer and its regularisation."""

    kind: Literal["gradient_descent", "sgd", "momentum", "adam", "adamw", "lion", "muon"] = "adamw"
    """gradient_descent and sgd are the same step, over the whole data or over batches of it; so are adam and adamw, as
    weight_decay is decoupled and l2 is not; muon takes optax's own momentum of 0.95 for matrices, Adam for the rest"""
    peak: float = 1e-3
    """the highest learning rate, which the schedule scales"""
    b1: float = 0.9
    """decay of the first moment, and of momentum"""
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    """decoupled: the rate times this much of each weight is subtracted (Loshchilov & Hutter 2019)"""
    l1: float = 0.0
    """this times the weights' absolute values is added to the loss"""
    l2: float = 0.0
    """this times half the weights' squares is added to the loss"""
    clip: float = 0.0
    """the largest global norm of the gradient (0: no clipping)"""
    ema: float = 0.0
    """decay of the moving average of the weights that evaluation uses (0: none)"""
    decay_rules: tuple[tuple[str, float], ...] = DECAY_RULES
    """which weights l1, l2 and weight_decay act on, as factors by path"""
    rate_rules: tuple[tuple[str, float], ...] = (("", 1.0),)
    """factors of the learning rate by path; 0 freezes"""
    layer_decay: float = 1.0
    """for fine-tuning: factor of the learning rate from each block to the one below it, down to the embeddings (Clark
    et al. 2020, ELECTRA, appendix A)"""

    def build(self, schedule: optax.Schedule, params: Params) -> optax.GradientTransformation:
        """Composes the transformation for (abstract) `params`; raises UserError where the rules do not fit them."""
        decay = trees.match_rules(self.decay_rules, params, what="weight decay")
        rate = self.rates(params)
        parts = [
            _penalty(self.l1, self.l2, decay) if self.l1 or self.l2 else optax.identity(),
            _freeze(rate),
            optax.clip_by_global_norm(self.clip) if self.clip else optax.identity(),
            _unless_frozen(self._direction(), rate),
            _scaled_decay(self.weight_decay, decay) if self.weight_decay else optax.identity(),
            _scale(rate),
            optax.scale_by_learning_rate(lambda step: self.peak * schedule(step)),
        ]
        return optax.chain(*parts)

    def rates(self, params: Params) -> Any:
        """Returns each parameter's factor of the learning rate; raises UserError where the rules do not fit."""
        rate = trees.match_rules(self.rate_rules, params, what="the learning rate")
        return rate if self.layer_decay == 1 else jax.tree.map(operator.mul, rate, _layerwise(self.layer_decay, params))

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
    """Gives Muon's update the size of Adam's, so that one peak rate serves both (Liu et al. 2025, eq. 4)."""
    axes = _matrix_axes(path, update)
    inputs = math.prod(update.shape[axis] for axis in axes.reduction_axis)
    return 0.2 * max(inputs, update.shape[-1]) ** 0.5 * update


def _unless_frozen(direction: optax.GradientTransformation, rate: Any) -> optax.GradientTransformation:
    """Spares frozen parameters, whose gradients are zero by now, the optimizer's moments."""
    trained = jax.tree.map(bool, rate)
    return direction if all(jax.tree.leaves(trained)) else optax.masked(direction, trained)


def _freeze(rate: Any) -> optax.GradientTransformation:
    """Zeroes the gradients of frozen parameters, so that they count neither for the norm nor for the moments."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda g, factor: g if factor else jnp.zeros_like(g), updates, rate)
    )


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
