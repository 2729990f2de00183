"""Another layer in a built model, without an edit of its file: `change_layer` tries an idea in a notebook.

A layer that looks at other positions cannot be replaced in the step-by-step form, whose inputs are single tokens. A
changed model therefore writes by whole passes of `apply`, unless `fastest` finds that its steps give the same.
"""

import difflib
import functools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from research.core.errors import UserError
from research.core.shapes import Batch, Params
from research.models.model import Cache, Decoding, Model

WHOLE = "whole_pass_tokens"  # in a cache of whole passes, the tokens so far
COMPARED = 4  # tokens for which both forms are compared; any vocabulary and context has so many


def change_layer(model: Model, pattern: str, change: Callable[..., Any]) -> Model:
    """Returns the model with `change(layer, *inputs)` in place of `layer(*inputs)`, wherever a layer's path matches.

    Args:
        model: what to alter; it stays as it is.
        pattern: a regular expression, searched for in paths such as `block_0/mlp` or `block_0/mlp/up`.
        change: a pure function; where it never calls the original layer, that layer's parameters do not exist.

    Raises:
        UserError: at `init`, where the model has no such layer.
    """
    paths: set[str] = set()

    def intercept(layer: Any, inputs: Any, options: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        paths.add(path)
        if context.method_name == "__call__" and re.search(pattern, path):
            return change(layer, *inputs, **options)
        return layer(*inputs, **options)

    def init(key: Key[Array, ""], batch: Batch) -> Params:
        with nn.intercept_methods(intercept):
            params = model.init(key, batch)
        if not any(re.search(pattern, path) for path in paths):
            nearest = ", ".join(difflib.get_close_matches(pattern, paths, n=3, cutoff=0))
            raise UserError(f"No layer's path matches {pattern!r}: the nearest are {nearest}.")
        return params

    def intercepted(function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with nn.intercept_methods(intercept):
                return function(*args, **options)

        return call

    apply, steps = intercepted(model.apply), model.decoding
    if steps is None:
        return model._replace(init=init, apply=apply)
    steps = steps.unproven or steps
    steps = steps._replace(init_cache=intercepted(steps.init_cache), decode_step=intercepted(steps.decode_step))
    changed = model._replace(init=init, apply=apply)
    return changed._replace(decoding=_whole_passes(changed, steps))


def _whole_passes(model: Model, steps: Decoding) -> Decoding:
    """Returns a step-by-step form of which each step is a whole pass over the text so far, which is its cache.

    Rows begin at the start of what `apply` reads, whatever their padding: a model of language sees nothing after a
    token, so that no mask is needed. The model's own `steps` become `unproven`.
    """

    def init_cache(params: Params, batch: int, capacity: int, **context: Any) -> Cache:
        length = min(capacity, steps.context or capacity)
        return {WHOLE: jnp.zeros((batch, length), jnp.int32), **context}

    def decode_step(
        params: Params,
        cache: Cache,
        tokens: Int[Array, "batch length"],
        start: Int[Array, ""],
        first: Int[Array, "batch"],
    ) -> tuple[Float[Array, "batch length vocabulary"], Cache]:
        slots = start + jnp.arange(tokens.shape[1]) - first[:, None]  # [batch length], negative in padding
        rows = jnp.arange(tokens.shape[0])[:, None]
        within = jnp.where(slots < 0, cache[WHOLE].shape[1], slots)
        text = cache[WHOLE].at[rows, within].set(tokens, mode="drop")
        context = {name: array for name, array in cache.items() if name != WHOLE}
        logits = model.apply(params, {steps.tokens: text, **context})[0]
        return logits[rows, jnp.maximum(slots, 0)], {WHOLE: text, **context}

    return steps._replace(init_cache=init_cache, decode_step=decode_step, unproven=steps)


def fastest(decoding: Decoding, params: Params) -> Decoding:
    """Returns the steps of a changed model where a few tokens show them to be right, else its whole passes.

    A model that was not changed is returned as it is. Where the steps are wrong a warning says so.

    Args:
        decoding: of the model.
        params: its parameters, which may not be traced.
    """
    if decoding.unproven is None:
        return decoding
    whole = _logits(decoding, params, (COMPARED,))
    try:
        steps = _logits(decoding.unproven, params, (COMPARED - 2, 1, 1))  # a prompt, and then a token at a time
    except Exception as error:  # of the changed layer, which may do anything
        found = f"a changed layer cannot be computed ({error})"
    else:
        difference, largest = float(jnp.abs(steps - whole).max()), float(jnp.abs(whole).max())
        if difference <= math.sqrt(jnp.finfo(whole.dtype).eps) * largest:
            return decoding.unproven
        found = f"a changed layer gives other logits (by {difference:.2g}, where the largest is {largest:.2g})"
    warnings.warn(f"Step by step {found} than in a whole pass: text is written by whole passes, slower.", stacklevel=2)
    return decoding


@functools.partial(jax.jit, static_argnums=(0, 2))
def _logits(decoding: Decoding, params: Params, sizes: tuple[int, ...]) -> Float[Array, "length vocabulary"]:
    """Returns the logits after each of a few tokens, which are read in parts of these sizes."""
    count = sum(sizes)
    context = {name: jnp.ones((1, count), jnp.int32) for name in ("inputs", "segments") if decoding.has_encoder}
    cache, start, parts = decoding.init_cache(params, 1, count, **context), 0, []
    for size in sizes:
        tokens = jnp.arange(start, start + size, dtype=jnp.int32)[None]
        logits, cache = decoding.decode_step(params, cache, tokens, jnp.int32(start), jnp.zeros(1, jnp.int32))
        parts.append(logits[0])
        start += size
    return jnp.concatenate(parts)
