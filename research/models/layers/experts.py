"""Mixture of experts: each token passes through only the few expert MLPs that a router chooses for it.

The steps and their names are those of GShard (Lepikhin et al. 2021, algorithm 1): the router gives each token a
probability for each expert; each token takes its top-k experts; each expert has a capacity for each row of the batch;
`dispatch` copies the tokens into the experts' buffers; the experts apply their MLPs; `combine` adds up, for each token,
the outputs of its experts by their gates. GShard's one-hot products over [length experts capacity] are gathers here,
which give the same result with less memory.

Each row of the batch is routed by itself, its tokens in order. So neither other rows, nor how a mesh splits the batch,
nor later tokens decide which expert a token gets. Where a mesh has an `expert` axis, each device keeps some of the
experts, and an all-to-all before the MLPs and one after them move the tokens.
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
from research.models.layers.dense import COLUMNS, REPLICATED, ROWS, Dense, Split
from research.models.layers.feed_forward import ActivationKind, widened
from research.models.model import LOSSES, METRICS

OTHERS = tuple(axis for axis in BATCH_AXES if axis != "expert")
# How a mesh splits the dispatched tokens, [batch experts capacity width]: first by rows, as the tokens came; after the
# all-to-all by experts, as the parameters are; then the capacity over the devices that split the positions of a row.
TOKENS_BY_BATCH = (BATCH_AXES, None, None, None)
BY_EXPERT = (OTHERS, "expert", None, None)
BY_EXPERT_AND_CONTEXT = (OTHERS, "expert", "context", None)


class Experts(nn.Module):
    """Top-k routing with a capacity (Lepikhin et al. 2021, GShard) over experts that are `FeedForward`s.

    The router's softmax runs in float32. With `top` > 1 the gates of a token are normalised to sum to one; with `top` 1
    the gate is the router's probability, from which the router learns (Fedus et al. 2021). A row of `length` tokens
    makes `length * top` choices; each expert takes at most its capacity, `capacity_factor` times an even division of
    the choices. A choice beyond the capacity is dropped: it adds nothing to the residual stream. Documents packed into
    one row share its capacity.

    In training it sows the load-balancing loss of each row, times `balance`, and the fraction of choices dropped.

    Raises:
        UserError: the mesh cannot divide the experts.
    """

    experts: int
    top: int
    capacity_factor: float
    balance: float
    mlp_dim: int
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
        batch, length, _ = x.shape
        x = constrain(x, BATCH_AXES, None, None)  # all tokens of a row on the same device
        # Router, in float32.
        router = Dense(self.experts, False, self.kernel_init, REPLICATED, name="router")
        scores = router(x.astype(jnp.float32))  # [batch length experts]
        probabilities = constrain(jax.nn.softmax(scores), BATCH_AXES, None, None)  # [batch length experts]
        # Top-k; not by `top_k`, which XLA cannot split over the batch.
        chosen = jnp.argsort(probabilities, descending=True)[..., : self.top]  # [batch length top]
        gates = (jax.nn.one_hot(chosen, self.experts) * probabilities[:, :, None]).sum(-1)  # [batch length top]
        if self.top > 1:
            gates /= gates.sum(-1, keepdims=True)
        # Capacity: a slot in the buffer of its expert for each choice, or none.
        capacity = min(length, math.ceil(self.capacity_factor * self.top * length / self.experts))
        choices = chosen.reshape(batch, length * self.top)  # [batch choices]
        slot_of_choice, choice_of_slot = assign(choices, self.experts, capacity)  # [batch choices], [batch slots]
        if train:
            self._sow(LOSSES, "balance", self.balance * load_balancing_loss(probabilities, chosen))
            dropped = slot_of_choice == self.experts * capacity  # [batch choices]
            self._sow(METRICS, "dropped", dropped.mean(-1, dtype=jnp.float32))
        dispatched = dispatch(x, chosen.shape[-1], slot_of_choice, choice_of_slot, self.experts)
        outputs = self._expert_mlp(dispatched)  # [batch experts capacity width]
        combined = combine(outputs, gates, slot_of_choice, choice_of_slot)  # [batch length width]
        return nn.Dropout(self.dropout, deterministic=not train)(combined)

    def _expert_mlp(
        self, x: Float[Array, "batch experts capacity width"]
    ) -> Float[Array, "batch experts capacity width"]:
        """Applies to each expert's buffer the MLP of that expert, on the device that has its parameters."""
        for layout in (TOKENS_BY_BATCH, BY_EXPERT, BY_EXPERT_AND_CONTEXT):  # the all-to-all to the experts
            x = constrain(x, *layout)
        x, width = x.swapaxes(0, 1), x.shape[-1]  # [experts batch capacity width]
        hidden = widened(partial(ExpertDense, self.mlp_dim, self.bias, self.kernel_init), x, self.activation)
        hidden = constrain(hidden, "expert", OTHERS, "context", "tensor")  # [experts batch capacity mlp_dim]
        output = ExpertDense(width, self.bias, self.output_init, ROWS, name="down")(hidden).swapaxes(0, 1)
        for layout in (BY_EXPERT_AND_CONTEXT, BY_EXPERT, TOKENS_BY_BATCH):  # the all-to-all back to the rows
            output = constrain(output, *layout)
        return output  # [batch experts capacity width]

    def _sow(self, collection: str, name: str, value: Float[Array, "batch"]) -> None:
        self.sow(collection, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)


class ExpertDense(nn.Module):
    """One linear layer per expert: `kernel` [experts inputs outputs] and, where `bias`, `bias` [experts outputs]."""

    outputs: int
    bias: bool
    kernel_init: Initializer
    split: Split = COLUMNS

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "experts batch capacity inputs"]
    ) -> Float[Array, "experts batch capacity outputs"]:
        experts, width = inputs.shape[0], inputs.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (experts, width, self.outputs), jnp.float32)
        product = partial(jnp.einsum, "ebcw,ewf->ebcf")
        result = multiply(product, inputs, kernel.astype(inputs.dtype), "expert", *self.split)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (experts, self.outputs), jnp.float32)
            result += bias.astype(inputs.dtype)[:, None, None]
        return result


def load_balancing_loss(
    probabilities: Float[Array, "batch length experts"], chosen: Int[Array, "batch length top"]
) -> Float[Array, "batch"]:
    """Returns the load-balancing loss of each row (Fedus et al. 2021, eq. 4 to 6): 1 where all experts are used alike.

    It is experts * sum over experts of (fraction of the choices that the expert gets) * (its mean probability). The
    gradient flows through the probabilities.
    """
    experts = probabilities.shape[-1]
    fractions = (chosen[..., None] == jnp.arange(experts)).mean((1, 2), dtype=jnp.float32)  # [batch experts]
    return experts * (fractions * probabilities.mean(1)).sum(-1)


def assign(
    choices: Int[Array, "batch choices"], experts: int, capacity: int
) -> tuple[Int[Array, "batch choices"], Int[Array, "batch slots"]]:
    """Gives each choice of an expert the next free slot in the buffer of that expert, in order, up to the capacity.

    A row has `experts * capacity` slots; those of expert e are e * capacity, e * capacity + 1, ... The results are two
    partial permutations, inverse to each other.

    Args:
        choices: the chosen expert of each choice, in the order of the tokens.
        experts: how many there are.
        capacity: slots of each expert.

    Returns:
        The slot of each choice, `experts * capacity` for a dropped one; and the choice in each slot, the number of
        choices for an empty one.

    Two experts with two slots each; expert 0 is chosen three times, so the last choice is dropped:

        >>> slot_of_choice, choice_of_slot = assign(jnp.array([[0, 1, 0, 0]]), experts=2, capacity=2)
        >>> slot_of_choice.tolist(), choice_of_slot.tolist()
        ([[0, 2, 1, 4]], [[0, 2, 1, 4]])
    """
    number = choices.shape[1]
    one_hot = (choices[..., None] == jnp.arange(experts)).astype(jnp.int32)  # [batch choices experts]
    rank = (one_hot * (jnp.cumsum(one_hot, axis=1) - 1)).sum(-1)  # [batch choices], among the choices of its expert
    slot_of_choice = jnp.where(rank < capacity, choices * capacity + rank, experts * capacity)  # [batch choices]
    empty = jnp.full((experts * capacity,), number, jnp.int32)  # [slots]
    choice_of_slot = jax.vmap(
        lambda slots: empty.at[slots].set(jnp.arange(number, dtype=jnp.int32), mode="drop")  # [slots]
    )(slot_of_choice)
    return slot_of_choice, choice_of_slot


def dispatch(
    x: Float[Array, "batch length width"],
    top: int,
    slot_of_choice: Int[Array, "batch choices"],
    choice_of_slot: Int[Array, "batch slots"],
    experts: int,
) -> Float[Array, "batch experts capacity width"]:
    """Copies the tokens into the buffers of the `top` experts that each chose; empty slots are zeros.

    It is GShard's `einsum("bsec,bsm->becm", dispatch_mask, x)` as a gather.
    """
    batch, _, width = x.shape
    copies = jnp.repeat(x, top, axis=1)  # [batch choices width], a copy of its token for each choice
    buffers = _on_rows(copies, choice_of_slot, slot_of_choice)  # [batch slots width]
    return buffers.reshape(batch, experts, -1, width)


def combine(
    outputs: Float[Array, "batch experts capacity width"],
    gates: Float[Array, "batch length top"],
    slot_of_choice: Int[Array, "batch choices"],
    choice_of_slot: Int[Array, "batch slots"],
) -> Float[Array, "batch length width"]:
    """Adds up, for each token, the outputs of its experts times their gates; a dropped choice adds zero.

    It is GShard's `einsum("bsec,becm->bsm", combine_weights, outputs)` as a gather.
    """
    batch, _, _, width = outputs.shape
    buffers = outputs.reshape(batch, -1, width)  # [batch slots width]
    chosen = _on_rows(buffers, slot_of_choice, choice_of_slot)  # [batch choices width]
    chosen = chosen.reshape(*gates.shape, width)  # [batch length top width]
    return (chosen * gates[..., None].astype(outputs.dtype)).sum(2)


def _on_rows(
    x: Float[Array, "batch before width"], source: Int[Array, "batch after"], inverse: Int[Array, "batch before"]
) -> Float[Array, "batch after width"]:
    """Applies `permute` to each row on the device that has the row; constrained on both sides for the gradient."""
    rows = (BATCH_AXES, None, None)
    return constrain(permute(constrain(x, *rows), source, inverse), *rows)


@jax.custom_vjp
def permute(
    x: Float[Array, "batch before width"], source: Int[Array, "batch after"], inverse: Int[Array, "batch before"]
) -> Float[Array, "batch after width"]:
    """Returns the vectors of `x` at `source`, zeros where it is out of bounds; `inverse` is the inverse of `source`.

    The gradient is a gather too, by the inverse: a scatter would add in an order that a device may choose.

        >>> permute(jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([[2, 0, 3]]), jnp.array([[1, 3, 0]])).tolist()
        [[[3.0], [1.0], [0.0]]]
    """
    return jnp.take_along_axis(x, source[..., None], axis=1, mode="fill", fill_value=0)


def _permute_forward(
    x: Float[Array, "batch before width"], source: Int[Array, "batch after"], inverse: Int[Array, "batch before"]
) -> tuple[Float[Array, "batch after width"], tuple[Int[Array, "batch after"], Int[Array, "batch before"]]]:
    return permute(x, source, inverse), (source, inverse)


def _permute_backward(
    indices: tuple[Int[Array, "batch after"], Int[Array, "batch before"]], gradient: Float[Array, "batch after width"]
) -> tuple[Float[Array, "batch before width"], None, None]:
    source, inverse = indices
    return permute(gradient, inverse, source), None, None


permute.defvjp(_permute_forward, _permute_backward)
