"""Causal language modelling: predict each next token; and sample from what was learned."""

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key

from research.core.errors import UserError
from research.core.ranges import Range
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.models.change_layer import fastest
from research.models.model import Cache, Decoding, Sown
from research.tasks.task import Context, Loss, Task, WeightedSum, with_sown


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
    """Next-token prediction with cross entropy, in nats per token."""

    sample_tokens: Annotated[int, Range(1, 2**20)] = 240
    """tokens of each sample written while training"""
    temperature: Annotated[float, Range(1e-6, 1000)] = 0.8

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task; raises UserError where the rows are longer than the model's context."""
        example = data.splits["train"][0]["inputs"]
        length = example.shape[0]
        context = getattr(model, "context", length)  # a recurrent network reads rows of any length
        if length > context:
            raise UserError(
                f"The rows of {length} tokens are longer than the model's context of {context}: "
                f"set --model.context {length} or --data.length {context}."
            )
        functions = model.build(data.spec)

        def init(key: Key[Array, ""]) -> Params:
            return functions.init(key, data.spec.batch)

        def apply(params: Params, batch: Batch, context: Context) -> tuple[Array, Sown]:
            return functions.apply(params, batch, train=context.train, key=context.key)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            logits, sown = apply(params, batch, context)
            scores = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["targets"])
            correct = (scores.argmax(-1) == batch["targets"]) * batch["mask"]
            weight = batch["mask"].sum()
            total = Loss((losses * batch["mask"]).sum(), weight, {"accuracy": WeightedSum(correct.sum(), weight)})
            return with_sown(total, sown, batch["mask"].sum(-1))

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Any]:
            return {"logits": apply(params, batch, context)[0]}

        tokenizer, decoding = data.tokenizer, functions.decoding
        if tokenizer is None or decoding is None:
            return Task(init, loss, predict)
        sizes = {"length": length, "tokens": self.sample_tokens, "temperature": self.temperature}
        generate = jax.jit(partial(sample, **sizes), static_argnums=0)
        prompt = jnp.asarray(data.splits.get("validation", data.splits["train"])[0]["inputs"][:1])

        def write(params: Params, context: Context) -> str:
            ids = np.asarray(generate(fastest(decoding, params), params, context.key, prompt))
            ends = np.flatnonzero(np.isin(ids, decoding.rules.end))
            return tokenizer.decode(ids[: ends[0]] if ends.size else ids)

        return Task(init, loss, predict, write)


def sample(
    decoding: Decoding,
    params: Params,
    key: Key[Array, ""],
    prompt: Int[Array, "prompt"],
    *,
    length: int,
    tokens: int,
    temperature: float,
) -> Int[Array, "tokens"]:
    """Continues `prompt`, of at most `length` tokens, by `tokens` tokens, each drawn given those before it.

    Where there are more than `length` of them, as often as the cache is full, the last half is encoded again.
    """
    known, half, first = prompt.shape[0], -(-length // 2), jnp.zeros(1, jnp.int32)

    def read(cache: Cache, text: Int[Array, "text"], slot: Any) -> tuple[Array, Cache, Array]:
        logits, cache = decoding.decode_step(params, cache, text[None], jnp.int32(slot), first)
        return logits[0, -1].astype(jnp.float32), cache, jnp.int32(slot + text.shape[0])

    def step(carry: Any, key: Key[Array, ""]) -> tuple[Any, Array]:
        cache, slot, recent = carry  # of the recent tokens the cache lacks the last
        further, anew = (lambda: read(cache, recent[-1:], slot)), (lambda: read(empty, recent, 0))
        fits = known + tokens - 1 <= length
        logits, cache, slot = further() if fits else jax.lax.cond(slot < length, further, anew)
        allowed = decoding.rules.restricted(logits, slot)  # after a prompt, so that none of them is the first
        token = jax.random.categorical(key, allowed / temperature).astype(jnp.int32)
        return (cache, slot, jnp.append(recent[1:], token)), token

    cache = empty = decoding.init_cache(params, 1, length)
    if known > 1:
        _, cache, _ = read(empty, prompt[:-1], 0)
    recent = jnp.zeros(half, jnp.int32).at[-min(half, known) :].set(prompt[-half:])
    _, drawn = jax.lax.scan(step, (cache, jnp.int32(known - 1), recent), jax.random.split(key, tokens))
    return drawn
