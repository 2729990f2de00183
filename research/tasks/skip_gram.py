"""Word embeddings by the skip-gram with negative sampling (Mikolov et al. 2013): tell neighbours from random words."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from research.core.errors import UserError
from research.core.ranges import Range
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.text.word_pairs import word_counts
from research.tasks.task import Context, Loss, Task, WeightedSum, with_sown


@dataclasses.dataclass(frozen=True)
class SkipGram:
    """Binary cross entropy, in nats a pair, of a pair found in the text against pairs with random words.

    Random words are drawn by their count to the power 3/4; one that is the true neighbour does not count. The best
    scores are log(p(neighbour | word) / (negatives q(neighbour))), where q are the probabilities of the draw (Levy &
    Goldberg 2014), so that `predict` can return logits of p: scores + log q.
    """

    negatives: Annotated[int, Range(1, 2**16)] = 5
    """random words for each pair"""
    words: tuple[str, ...] = ()
    """whose nearest neighbours a sample shows (none: those of the most frequent words); unknown words are left out"""
    neighbours: Annotated[int, Range(1, 2**16)] = 6
    """how many of them"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for a model configuration and data of word pairs."""
        tokenizer = data.tokenizer
        if tokenizer is None:
            raise UserError("The skip-gram needs words: take data of text, such as SkipGramData.")
        functions = model.build(data.spec)
        noise = word_counts(data) ** 0.75
        noise = noise / noise.sum()
        thresholds = jnp.asarray(np.cumsum(noise), jnp.float32)
        log_noise = jnp.asarray(np.log(np.maximum(noise, 1e-30)), jnp.float32)

        def init(key: Key[Array, ""]) -> Params:
            return functions.init(key, data.spec.batch)

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            inputs, targets, mask = (jnp.asarray(batch[name]) for name in ("inputs", "targets", "mask"))
            draws = jax.random.uniform(context.key, (len(inputs), self.negatives))
            negatives = jnp.searchsorted(thresholds, draws, side="right").clip(max=data.outputs - 1)
            candidates = jnp.concatenate([targets[:, None], negatives.astype(jnp.int32)], axis=1)
            scores, sown = functions.apply(params, {**batch, "candidates": candidates}, train=context.train)
            scores = scores.astype(jnp.float32)
            wrong = (candidates[:, 1:] != targets[:, None]) * jax.nn.softplus(scores[:, 1:])
            losses = jax.nn.softplus(-scores[:, 0]) + wrong.sum(-1)
            better = (scores[:, :1] > scores[:, 1:]).mean(-1)
            metrics = {"accuracy": WeightedSum((better * mask).sum(), mask.sum())}
            return with_sown(Loss((losses * mask).sum(), mask.sum(), metrics), sown, mask)

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Float[Array, "batch vocabulary"]]:
            return {"logits": functions.apply(params, batch)[0].astype(jnp.float32) + log_noise}

        known = [int(tokenizer.encode(word)[0]) for word in self.words]
        shown = jnp.asarray([word for word in known if word] or range(1, min(13, data.outputs)), jnp.int32)

        @jax.jit
        def nearest(params: Params) -> tuple[Int[Array, "shown neighbours"], Float[Array, "shown neighbours"]]:
            return nearest_words(params["word_embedding"], shown, self.neighbours)

        def sample(params: Params, context: Context) -> str:
            def line(word: int, ids: np.ndarray, similarities: np.ndarray) -> str:
                named = (f"{tokenizer.decode([n])} {s:.2f}" for n, s in zip(ids, similarities, strict=True))
                return f"{tokenizer.decode([word]):>12}: {', '.join(named)}"

            return "\n".join(map(line, shown.tolist(), *map(np.asarray, nearest(params))))

        return Task(init, loss, predict, sample)


def nearest_words(
    vectors: Float[Array, "vocabulary width"], words: Int[Array, "words"], count: int
) -> tuple[Int[Array, "words neighbours"], Float[Array, "words neighbours"]]:
    """Returns the words whose vectors have the largest cosines with those of `words`, and the cosines.

    A word is no neighbour of itself, and word 0, which stands for the unknown ones, of none.
    """
    unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = (unit[words] @ unit.T).at[:, 0].set(-1)
    cosines = jnp.where(jnp.arange(len(vectors)) == words[:, None], -1, cosines)
    similarities, ids = jax.lax.top_k(cosines, min(count, len(vectors)))
    return ids, similarities
