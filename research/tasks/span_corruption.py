"""Span corruption: predict the text in the gaps of a text (Raffel et al. 2020, T5, section 3.1.4 and appendix D).

In the source, one sentinel token replaces each gap; the target is each sentinel followed by the tokens of its gap, and
the end. Of "Thank you for inviting me to your party" with the gaps "for inviting" and "party", the source is
"Thank you <0> me to your <1>" and the target "<0> for inviting <1> party </s>". The number of tokens in gaps and the
number of gaps are the same in every row, so that shapes are fixed.
"""

import dataclasses
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from research.core.errors import UserError
from research.core.ranges import Between0And1, Range
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.text.tokenizers import SENTINEL
from research.tasks.packed_text import applied, built, entropy_loss, initial, special_id
from research.tasks.task import Context, Loss, Task, row_keys


class Gaps(NamedTuple):
    """How rows of `length` tokens are corrupted: `hidden` tokens in so many gaps."""

    length: int
    hidden: int
    number: int

    @property
    def source_length(self) -> int:
        return self.length - self.hidden + self.number

    @property
    def target_length(self) -> int:
        return self.hidden + self.number + 1


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Cross entropy of the target, in nats per token, on rows of a stream of text.

    In training the gaps are drawn by the key of the step; otherwise by a key for each row of the split, so that every
    evaluation asks for the same.
    """

    mask_rate: Between0And1 = 0.15
    """fraction of the tokens that are in gaps"""
    gap: Annotated[float, Range(1, 1e6)] = 3.0
    """mean tokens of a gap"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task for an encoder-decoder; raises UserError for packed rows or a tokenizer without sentinels."""
        functions = built(model, data)
        example = data.splits["train"][0]
        if "segments" in example:
            raise UserError("Spans are cut from one stream of text: set --data.packing stream.")
        gaps = self._gaps(example["inputs"].shape[0])
        start, end = special_id(data, "pad"), special_id(data, "eos")
        sentinels = _sentinels(data, gaps.number)

        init = partial(initial, functions, data)

        def corrupted(batch: Batch, keys: Key[Array, "batch"]) -> dict[str, Array]:
            noise = jax.vmap(lambda key: noise_mask(key, gaps))(keys)
            return corrupt(
                jnp.asarray(batch["inputs"]), jnp.asarray(batch["mask"]) > 0, noise, gaps, sentinels, start, end
            )

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            key, drawn = jax.random.split(context.key)
            rows = batch["inputs"].shape[0]
            keys = jax.random.split(drawn, rows) if context.train else row_keys(context, batch)
            made = corrupted(batch, keys)
            logits, sown = applied(functions, params, made, dataclasses.replace(context, key=key))
            return entropy_loss(logits, made["targets"], made["mask"], sown)

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Array]:
            made = corrupted(batch, row_keys(context, batch))
            logits, _ = applied(functions, params, made, context)
            return {"logits": logits, "targets": made["targets"], "mask": made["mask"]}

        return Task(init, loss, predict)

    def _gaps(self, length: int) -> Gaps:
        tokens = round(length * self.mask_rate)
        count = max(1, round(tokens / self.gap))
        if not count <= min(tokens, length - tokens):
            raise UserError(
                f"Rows of {length} tokens cannot have a fraction of {self.mask_rate:g} in gaps of {self.gap:g}: give "
                "longer rows with --data.length, or set --task.mask-rate 0.15 --task.gap 3."
            )
        return Gaps(length, tokens, count)


def _sentinels(data: Data, count: int) -> Int[Array, "gaps"]:
    """Returns the ids of as many sentinels."""
    find = getattr(getattr(data.tokenizer, "trained", None), "token_to_id", lambda token: None)
    ids = [find(SENTINEL.format(number)) for number in range(count)]
    if None in ids:
        raise UserError(
            f"A row has {count} gaps, and the tokenizer {ids.index(None)} tokens to stand for them: set "
            "--data.tokenizer.kind bpe --data.tokenizer.special t5, and no more than 100 gaps a row by --data.length."
        )
    return jnp.array(ids, jnp.int32)


def noise_mask(key: Key[Array, ""], gaps: Gaps) -> Bool[Array, "length"]:
    """Draws which tokens are in gaps: text and gaps alternate, beginning with text, each of random size."""
    text_key, gap_key = jax.random.split(key)
    text = random_sizes(text_key, gaps.length - gaps.hidden, gaps.number)
    ends = jnp.cumsum(jnp.stack([text, random_sizes(gap_key, gaps.hidden, gaps.number)], 1).reshape(-1))
    return jnp.searchsorted(ends, jnp.arange(gaps.length), side="right") % 2 == 1


def random_sizes(key: Key[Array, ""], total: int, parts: int) -> Int[Array, "parts"]:
    """Divides `total` into `parts` of at least 1, all divisions alike."""
    first = jax.random.permutation(key, jnp.arange(total - 1) < parts - 1)
    part = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), first.astype(jnp.int32)]))
    return jnp.zeros(parts, jnp.int32).at[part].add(1)


def corrupt(
    tokens: Int[Array, "batch length"],
    real: Bool[Array, "batch length"],
    noise: Bool[Array, "batch length"],
    gaps: Gaps,
    sentinels: Int[Array, "gaps"],
    start: int,
    end: int,
) -> dict[str, Array]:
    """Returns the batch for an encoder-decoder: source, target so far, target, and which of its tokens count.

    Args:
        tokens: rows of text.
        real: which of them are not padding.
        noise: which of them are in gaps, as from `noise_mask`: a row begins with text and ends with a gap.
        gaps: the sizes.
        sentinels: the token of the first gap of a row, of the second, ...
        start: the token that the decoder begins with.
        end: the token that ends a target.

    A row of eight tokens with two gaps of two tokens each, replaced by 100 and 101:

        >>> tokens = jnp.array([[10, 11, 12, 13, 14, 15, 16, 17]])
        >>> noise = jnp.isin(tokens, jnp.array([12, 13, 16, 17]))
        >>> gaps, sentinels = Gaps(8, hidden=4, number=2), jnp.array([100, 101])
        >>> batch = corrupt(tokens, tokens > 0, noise, gaps, sentinels, start=0, end=1)
        >>> batch["inputs"].tolist()
        [[10, 11, 100, 14, 15, 101]]
        >>> batch["targets"].tolist()
        [[100, 12, 13, 101, 16, 17, 1]]
        >>> batch["decoder_inputs"].tolist()
        [[0, 100, 12, 13, 101, 16, 17]]
    """
    source, known = _with_sentinels(tokens, real, noise, sentinels, gaps.source_length)
    # The target is the opposite: there the text between the gaps is replaced by sentinels.
    targets, counts = _with_sentinels(tokens, real, ~noise, sentinels, gaps.target_length - 1)
    targets = jnp.pad(targets, ((0, 0), (0, 1)), constant_values=end)
    counts = jnp.pad(counts, ((0, 0), (0, 1))).at[:, -1].set(real.any(1))
    return {
        "inputs": source,
        "segments": known.astype(jnp.int32),
        "decoder_inputs": jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=start),
        "decoder_segments": jnp.ones_like(targets),
        "targets": targets,
        "mask": counts.astype(jnp.float32),
    }


def _with_sentinels(tokens: Any, real: Any, hidden: Any, sentinels: Any, length: int) -> tuple[Array, Array]:
    """Puts one sentinel for each run of hidden tokens; returns `length` tokens, and which of them are real."""
    begins = hidden & ~jnp.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    numbers = jnp.maximum(jnp.cumsum(begins, axis=1) - 1, 0)
    marked = jnp.where(begins, sentinels[numbers], tokens)
    kept = jnp.argsort(hidden & ~begins, axis=1, stable=True)[:, :length]
    return jnp.take_along_axis(marked, kept, 1), jnp.take_along_axis(real, kept, 1)
