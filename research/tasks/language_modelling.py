"""Causal language modelling: predict each next token; and sample from what was learned."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from research.core.errors import UserError
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.models.model import Sown
from research.tasks.task import Loss, Mean, Task, with_sown

EXTRA = ("segments", "positions")  # batch entries of packed documents, handed to the model


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
    """Next-token prediction with cross entropy, in nats per token."""

    sample_tokens: int = 240
    """tokens of each sample written while training"""
    temperature: float = 0.8

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
        if self.temperature <= 0:
            raise UserError(f"The temperature is {self.temperature}, not above 0: set --task.temperature 0.8, or less.")
        functions = model.build(data.outputs)

        def init(key: Key[Array, ""]) -> Params:
            return functions.init(key, jnp.zeros((1, length), jnp.int32))

        def apply(params: Params, batch: Batch, train: bool, key: Any = None) -> tuple[Array, Sown]:
            extra = {name: batch[name] for name in EXTRA if name in batch}
            return functions.apply(params, batch["inputs"], train=train, key=key, **extra)

        def loss(params: Params, batch: Batch, key: Key[Array, ""], train: bool) -> Loss:
            logits, sown = apply(params, batch, train, key)
            scores = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["targets"])
            correct = (scores.argmax(-1) == batch["targets"]) * batch["mask"]
            weight = batch["mask"].sum()
            total = Loss((losses * batch["mask"]).sum(), weight, {"accuracy": Mean(correct.sum(), weight)})
            return with_sown(total, sown, batch["mask"].sum(-1))

        def predict(params: Params, batch: Batch) -> dict[str, Any]:
            return {"logits": apply(params, batch, train=False)[0]}

        generate = jax.jit(
            partial(sample, functions.apply, length=length, tokens=self.sample_tokens, temperature=self.temperature)
        )
        tokenizer = data.tokenizer
        if tokenizer is None:
            return Task(init, loss, predict)
        prompt = jnp.asarray(data.splits.get("validation", data.splits["train"])[0]["inputs"][:1])
        return Task(init, loss, predict, lambda params, key: tokenizer.decode(generate(params, key, prompt)))


def sample(
    apply: Any,
    params: Params,
    key: Key[Array, ""],
    prompt: Int[Array, "prompt"],
    *,
    length: int,
    tokens: int,
    temperature: float,
) -> Int[Array, "tokens"]:
    """Continues `prompt` by `tokens` tokens, each drawn given the last `length` ones at most.

    The window has a fixed size, so that one compilation serves every step: it fills from the left, then slides.
    """
    window = jnp.zeros((length,), jnp.int32).at[: prompt.shape[0]].set(prompt)

    def step(carry: Any, key: Any) -> Any:
        window, filled = carry
        logits = apply(params, window[None])[0][0, filled - 1].astype(jnp.float32)
        token = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
        full = filled == length
        window = jnp.where(full, jnp.roll(window, -1), window)
        filled = jnp.where(full, filled, filled + 1)
        return (window.at[filled - 1].set(token), filled), token

    _, drawn = jax.lax.scan(step, (window, jnp.int32(prompt.shape[0])), jax.random.split(key, tokens))
    return drawn
