"""Recurrent layers: a plain RNN, LSTM or GRU along a sequence, in one direction.

The products with the inputs are one large product for all time steps; what is left for the scan is the product with
the state. The gradient is written by hand for the same reason: the backward scan has one product a step, too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from research.core.mesh import BATCH_AXES, constrain
from research.models.layers.cache import CACHE, CachePositions
from research.models.layers.dense import Dense

CellKind = Literal["rnn", "lstm", "gru"]
State = tuple[Float[Array, "batch width"], ...]


class Cell(NamedTuple):
    """A recurrent cell: the number of its gates and of the arrays of its state, the first of them its output.

    `step(from_input, from_state, state) -> state` gets the two halves of the gates, [batch gates x width], one after
    the other as in PyTorch and cuDNN: input, forget, cell, output of an LSTM; reset, update, new of a GRU.
    """

    gates: int
    states: int
    step: Callable[[Float[Array, "batch gates"], Float[Array, "batch gates"], State], State]


def _rnn(from_input: Float[Array, "batch gates"], from_state: Float[Array, "batch gates"], state: State) -> State:
    return (jnp.tanh(from_input + from_state),)


def _lstm(from_input: Float[Array, "batch gates"], from_state: Float[Array, "batch gates"], state: State) -> State:
    input_gate, forget_gate, new, output_gate = jnp.split(from_input + from_state, 4, axis=-1)
    memory = jax.nn.sigmoid(forget_gate) * state[1] + jax.nn.sigmoid(input_gate) * jnp.tanh(new)
    return jax.nn.sigmoid(output_gate) * jnp.tanh(memory), memory


def _gru(from_input: Float[Array, "batch gates"], from_state: Float[Array, "batch gates"], state: State) -> State:
    (reset, update, new), (reset_2, update_2, new_2) = (jnp.split(x, 3, axis=-1) for x in (from_input, from_state))
    update = jax.nn.sigmoid(update + update_2)
    new = jnp.tanh(new + jax.nn.sigmoid(reset + reset_2) * new_2)
    return ((1 - update) * new + update * state[0],)


CELLS = {"rnn": Cell(1, 1, _rnn), "lstm": Cell(4, 2, _lstm), "gru": Cell(3, 1, _gru)}


class RecurrentLayer(nn.Module):
    """A plain RNN with tanh (Elman 1990), an LSTM (Gers et al. 2000) or a GRU (Cho et al. 2014) along a sequence.

    The GRU is that of PyTorch and cuDNN: its reset gate acts on the product with the state, not on the state. The
    parameters, [inputs gates x width] and [width gates x width], are PyTorch's transposed: `input/kernel` is
    `weight_ih`, `input/bias` `bias_ih`, `recurrent_kernel` `weight_hh`, `recurrent_bias` `bias_hh`. Each gate's
    recurrent kernel starts orthogonal (Saxe et al. 2014), the forget gate's bias at 1 (Jozefowicz et al. 2015).

    Where `resets` is set the state is zero before that position; with `reverse` the sequence is read from its end.
    Where `cache_positions` are given the state continues from the cache. On a mesh every device has the full state of
    its rows and the full recurrent kernel, since devices would otherwise have to communicate at every time step.
    """

    cell: CellKind
    width: int
    reverse: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length inputs"],
        resets: Bool[Array, "batch length"],
        cache_positions: CachePositions | None = None,
    ) -> Float[Array, "batch length width"]:
        cell, batch = CELLS[self.cell], x.shape[0]
        from_input = constrain(Dense(cell.gates * self.width, name="input")(x), BATCH_AXES, None, None).swapaxes(0, 1)
        kernel, bias = recurrent_parameters(self, self.cell, self.width, x.dtype)
        zero = (jnp.zeros((batch, self.width), x.dtype),) * cell.states
        stored = None if cache_positions is None else self.variable(CACHE, "state", lambda: zero)
        state = zero if stored is None else stored.value
        outputs, state = scan_cell(self.cell, self.reverse, from_input, kernel, bias, resets.T, state)
        if stored is not None:
            stored.value = state
        return constrain(outputs.swapaxes(0, 1), BATCH_AXES, None, None)


class RecurrentStack(nn.Module):
    """Layers whose inputs are the outputs of the layer below: `forward_i` and, if wanted, `backward_i`.

    Dropout falls on what goes into a layer, never on the state (Zaremba et al. 2014).
    """

    cell: CellKind
    depth: int
    width: int
    bidirectional: bool
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length inputs"],
        segments: Int[Array, "batch length"] | None,
        train: bool,
        cache_positions: CachePositions | None = None,
    ) -> list[Float[Array, "batch length width"]]:
        """Returns the outputs of the last layer: one array per direction."""
        resets = beginnings(x, segments, cache_positions)
        read = [x]
        for index in range(self.depth):
            x = nn.Dropout(self.dropout, deterministic=not train)(jnp.concatenate(read, axis=-1))
            read = [RecurrentLayer(self.cell, self.width, name=f"forward_{index}")(x, resets, cache_positions)]
            if self.bidirectional:
                layer = RecurrentLayer(self.cell, self.width, reverse=True, name=f"backward_{index}")
                read.append(layer(x, beginnings(x, segments, reverse=True)))
        return read


def beginnings(
    x: Float[Array, "batch length width"],
    segments: Int[Array, "batch length"] | None,
    cache_positions: CachePositions | None = None,
    reverse: bool = False,
) -> Bool[Array, "batch length"]:
    """Marks where the state is reset: where a segment begins in the direction of reading, and before a cached text."""
    batch, length, _ = x.shape
    if cache_positions is not None:
        return cache_positions.start + jnp.arange(length) <= cache_positions.first[:, None]
    segments = jnp.ones((batch, length), jnp.int32) if segments is None else segments
    changed = segments[:, 1:] != segments[:, :-1]
    return jnp.pad(changed, ((0, 0), (0, 1) if reverse else (1, 0)), constant_values=True)


def recurrent_parameters(
    module: nn.Module, kind: CellKind, width: int, dtype: Any
) -> tuple[Float[Array, "width gates"], Float[Array, "gates"]]:
    """Makes a module's parameters `recurrent_kernel` and `recurrent_bias` of a cell, gathered from the mesh."""
    gates = CELLS[kind].gates

    def orthogonal(key: Key[Array, ""], _: Any, dtype: Any) -> Float[Array, "width gates"]:
        gate = partial(nn.initializers.orthogonal(), shape=(width, width), dtype=dtype)
        return jax.vmap(gate, out_axes=1)(jax.random.split(key, gates)).reshape(width, gates * width)

    def open_memory(_: Key[Array, ""], shape: Any, dtype: Any) -> Float[Array, "gates"]:
        bias = jnp.zeros(shape, dtype)
        return bias.at[width : 2 * width].set(1) if kind == "lstm" else bias

    kernel = module.param("recurrent_kernel", orthogonal, (width, gates * width), jnp.float32)
    bias = module.param("recurrent_bias", open_memory, (gates * width,), jnp.float32)
    return constrain(kernel, None, None).astype(dtype), constrain(bias, None).astype(dtype)


class Residuals(NamedTuple):
    """What the backward scan needs; `before` are the states at the beginning of each time step."""

    from_input: Float[Array, "length batch gates"]
    kernel: Float[Array, "width gates"]
    bias: Float[Array, "gates"]
    resets: Bool[Array, "length batch"]
    before: tuple[Float[Array, "length batch width"], ...]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def scan_cell(
    kind: CellKind,
    reverse: bool,
    from_input: Float[Array, "length batch gates"],
    kernel: Float[Array, "width gates"],
    bias: Float[Array, "gates"],
    resets: Bool[Array, "length batch"],
    state: State,
) -> tuple[Float[Array, "length batch width"], State]:
    """Returns the outputs of all time steps and the last state; the state is zero before a step that `resets`."""
    return _forward(kind, reverse, from_input, kernel, bias, resets, state)[0]


def _forward(
    kind: CellKind,
    reverse: bool,
    from_input: Float[Array, "length batch gates"],
    kernel: Float[Array, "width gates"],
    bias: Float[Array, "gates"],
    resets: Bool[Array, "length batch"],
    state: State,
) -> tuple[tuple[Float[Array, "length batch width"], State], Residuals]:
    def step(state: State, inputs: tuple[Array, Array]) -> tuple[State, tuple[Array, State]]:
        from_input, reset = inputs
        state = _cleared(state, reset)
        after = CELLS[kind].step(from_input, state[0] @ kernel + bias, state)
        return after, (after[0], state)

    last, (outputs, before) = jax.lax.scan(step, state, (from_input, resets), reverse=reverse)
    return (outputs, last), Residuals(from_input, kernel, bias, resets, before)


def _backward(
    kind: CellKind, reverse: bool, saved: Residuals, gradients: tuple[Float[Array, "length batch width"], State]
) -> tuple[Array, Array, Array, None, State]:
    """Autodiff would add up the kernel's gradient step by step; here it is one product, as are the gates again."""
    from_input, kernel, bias, resets, before = saved
    length, batch, width = before[0].shape
    states = before[0].reshape(-1, width)
    from_state = (states @ kernel + bias).reshape(from_input.shape)

    def step(gradient: State, inputs: Any) -> tuple[State, tuple[Array, Array]]:
        output_gradient, from_input, from_state, before, reset = inputs
        _, pull = jax.vjp(CELLS[kind].step, from_input, from_state, before)
        from_input, from_state, before = pull((gradient[0] + output_gradient, *gradient[1:]))
        gradient = (before[0] + from_state @ kernel.T, *before[1:])
        return _cleared(gradient, reset), (from_input, from_state)

    outputs, last = gradients
    scanned = (outputs, from_input, from_state, before, resets)
    first, (from_input, from_state) = jax.lax.scan(step, last, scanned, reverse=not reverse)
    from_state = from_state.reshape(length * batch, -1)
    return from_input, states.T @ from_state, from_state.sum(0), None, first


def _cleared(state: State, reset: Bool[Array, "batch"]) -> State:
    return tuple(jnp.where(reset[:, None], 0, part) for part in state)


scan_cell.defvjp(_forward, _backward)
