"""Mixture of experts: an MLP of which each token passes through the few parts that a router chooses for it.

Every row of the batch is routed by itself, its tokens in order, so that neither other rows, nor how a mesh splits the
batch, nor what follows a token decides where it goes. Where a mesh has an `expert` axis, each device keeps some of the
experts, and the tokens travel to them and back in two all-to-alls.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from research.core.errors import UserError
from research.core.mesh import BATCH_AXES, axis_size, constrain, multiply
from research.models.layers.dense import COLUMNS, ROWS, WHOLE, Dense, Split
from research.models.layers.feed_forward import ActivationKind, widened
from research.models.model import LOSSES, METRICS

OTHERS = tuple(axis for axis in BATCH_AXES if axis != "expert")
# Where the tokens in the experts' places live, [batch experts places width]: with their rows; after one all-to-all with
# their experts; and there spread over the devices that shared the positions of a row.
HOME = (BATCH_AXES, None, None, None)
AWAY = (OTHERS, "expert", None, None)
SPREAD = (OTHERS, "expert", "context", None)


class Experts(nn.Module):
    """Top-k routing with a capacity (Lepikhin et al. 2021, GShard) over experts that are `FeedForward`s.

    The router's softmax runs in float32. With `top` > 1 the weights of a token's experts are made to sum to one; with
    `top` 1 the weight is the router's probability, from which the router learns (Fedus et al. 2021). An expert takes
    `capacity` times an even share of a row's choices; a choice beyond that adds nothing to the residual stream.
    Documents packed into one row share its places.

    In training it sows the load-balancing loss of each row, times `balance`, and the share of choices dropped.

    Raises:
        UserError: the mesh cannot divide the experts.
    """

    experts: int
    top: int
    capacity: float
    balance: float
    hidden: int
    activation: ActivationKind
    bias: bool
    dropout: float
    kernel_init: Initializer
    output_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "batch length width"], train: bool) -> Float[Array, "batch length width"]:
        if self.experts % axis_size("expert"):
            raise UserError(
                f"{self.experts} experts cannot be shared evenly by {axis_size('expert')} devices: make --mesh.expert "
                "a divisor of --model.experts."
            )
        batch, length, width = x.shape
        x = constrain(x, BATCH_AXES, None, None)  # a row is routed as a whole
        scores = Dense(self.experts, False, self.kernel_init, WHOLE, name="router")(x.astype(jnp.float32))
        probabilities = constrain(jax.nn.softmax(scores), BATCH_AXES, None, None)
        # Not top_k, which XLA cannot split over the batch.
        chosen = jnp.argsort(probabilities, descending=True)[..., : self.top]
        weights = (jax.nn.one_hot(chosen, self.experts) * probabilities[:, :, None]).sum(-1)
        if self.top > 1:
            weights /= weights.sum(-1, keepdims=True)
        places = min(length, math.ceil(self.capacity * self.top * length / self.experts))
        there, back = assign(chosen.reshape(batch, length * self.top), self.experts, places)
        if train:
            self._sow(LOSSES, "balance", self.balance * imbalance(probabilities, chosen))
            self._sow(METRICS, "dropped", (there == self.experts * places).mean(-1, dtype=jnp.float32))
        routed = self._exchange(jnp.repeat(x, self.top, axis=1), back, there)
        routed = self._mlp(routed.reshape(batch, self.experts, places, width))
        returned = self._exchange(routed.reshape(batch, self.experts * places, width), there, back)
        output = (returned.reshape(batch, length, self.top, width) * weights[..., None].astype(x.dtype)).sum(2)
        return nn.Dropout(self.dropout, deterministic=not train)(output)

    def _mlp(self, x: Float[Array, "batch experts places width"]) -> Float[Array, "batch experts places width"]:
        for place in (HOME, AWAY, SPREAD):
            x = constrain(x, *place)
        x, width = x.swapaxes(0, 1), x.shape[-1]
        hidden = widened(partial(ExpertDense, self.hidden, self.bias, self.kernel_init), x, self.activation)
        hidden = constrain(hidden, "expert", OTHERS, "context", "tensor")
        output = ExpertDense(width, self.bias, self.output_init, ROWS, name="down")(hidden).swapaxes(0, 1)
        for place in (SPREAD, AWAY, HOME):
            output = constrain(output, *place)
        return output

    def _exchange(
        self,
        x: Float[Array, "batch before width"],
        source: Int[Array, "batch after"],
        target: Int[Array, "batch before"],
    ) -> Float[Array, "batch after width"]:
        # Said on both sides, for the sake of the gradient: every row stays on its device.
        rows = (BATCH_AXES, None, None)
        return constrain(exchange(constrain(x, *rows), source, target), *rows)

    def _sow(self, collection: str, name: str, value: Float[Array, "batch"]) -> None:
        self.sow(collection, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)


class ExpertDense(nn.Module):
    """One linear layer an expert: `kernel` [experts inputs outputs] and, where `bias`, `bias` [experts outputs]."""

    outputs: int
    bias: bool
    kernel_init: Initializer
    split: Split = COLUMNS

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "experts batch places inputs"]
    ) -> Float[Array, "experts batch places outputs"]:
        experts, width = inputs.shape[0], inputs.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (experts, width, self.outputs), jnp.float32)
        product = partial(jnp.einsum, "ebcw,ewf->ebcf")
        result = multiply(product, inputs, kernel.astype(inputs.dtype), "expert", *self.split)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (experts, self.outputs), jnp.float32)
            result += bias.astype(inputs.dtype)[:, None, None]
        return result


def imbalance(
    probabilities: Float[Array, "batch length experts"], chosen: Int[Array, "batch length top"]
) -> Float[Array, "batch"]:
    """The load-balancing loss of each row (Fedus et al. 2021, eq. 4 to 6): 1 where all experts are used alike.

    It is the number of experts times the sum over experts of the share of choices that an expert gets and the mean
    probability that it is given; the gradient flows through the probabilities.
    """
    experts = probabilities.shape[-1]
    shares = (chosen[..., None] == jnp.arange(experts)).mean((1, 2), dtype=jnp.float32)
    return experts * (shares * probabilities.mean(1)).sum(-1)


def assign(
    chosen: Int[Array, "batch choices"], experts: int, places: int
) -> tuple[Int[Array, "batch choices"], Int[Array, "batch slots"]]:
    """Gives each choice of an expert the next of the expert's places, in order, while there are any.

    Returns the slot of each choice, of experts x places in all, and the choice in each slot: two partial permutations,
    inverse to each other. A choice without slot has one past the last slot, a slot without choice one past the last.
    """
    choices = chosen.shape[1]
    mine = (chosen[..., None] == jnp.arange(experts)).astype(jnp.int32)
    rank = (mine * (jnp.cumsum(mine, axis=1) - 1)).sum(-1)
    slots = jnp.where(rank < places, chosen * places + rank, experts * places)
    empty = jnp.full((experts * places,), choices, jnp.int32)
    taken = jax.vmap(lambda slots: empty.at[slots].set(jnp.arange(choices, dtype=jnp.int32), mode="drop"))(slots)
    return slots, taken


@jax.custom_vjp
def exchange(
    x: Float[Array, "batch before width"], source: Int[Array, "batch after"], target: Int[Array, "batch before"]
) -> Float[Array, "batch after width"]:
    """Returns the rows of `x` at `source`, zeros where it is out of bounds; `target` is the inverse of `source`.

    The gradient gathers, too, by the inverse: scattering would add up in an order that a device may choose.
    """
    return jnp.take_along_axis(x, source[..., None], axis=1, mode="fill", fill_value=0)


def _exchange_forward(
    x: Float[Array, "batch before width"], source: Int[Array, "batch after"], target: Int[Array, "batch before"]
) -> tuple[Float[Array, "batch after width"], tuple[Int[Array, "batch after"], Int[Array, "batch before"]]]:
    return exchange(x, source, target), (source, target)


def _exchange_backward(
    indices: tuple[Int[Array, "batch after"], Int[Array, "batch before"]], gradient: Float[Array, "batch after width"]
) -> tuple[Float[Array, "batch before width"], None, None]:
    source, target = indices
    return exchange(gradient, target, source), None, None


exchange.defvjp(_exchange_forward, _exchange_backward)
