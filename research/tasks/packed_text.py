"""What the tasks on rows of text share: a model applied to a batch, sizes that fit, and the loss of tokens.

A row may hold several examples, kept apart by `segments`; `research/data/text/text_examples.py` says
what a batch holds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from research.core.errors import UserError
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.text.tokenizers import PairTokenizer
from research.models.model import Model, Sown
from research.tasks.task import Context, Loss, WeightedSum, with_sown

ROLES = ("pad", "unk", "cls", "sep", "bos", "eos", "mask")


def built(model: Any, data: Data) -> Model:
    """Builds a model for rows of text; raises UserError where they are longer, or their ids more, than it takes."""
    length = data.splits["train"][0]["inputs"].shape[-1]
    context = getattr(model, "context", 0)
    if context and length > context:
        raise UserError(
            f"The rows of {length} tokens are longer than the model's context of {context}: set --model.context "
            f"{length} or --data.length {context}."
        )
    needed = data.tokenizer.vocabulary_size if data.tokenizer else 0
    vocabulary = getattr(model, "vocabulary", 0)
    if vocabulary and vocabulary < needed:
        raise UserError(
            f"The tokenizer has {needed} ids and the model takes {vocabulary}: set --model.vocabulary {needed}, or "
            "for a pretrained model its own tokenizer with --data.tokenizer.source."
        )
    functions: Model = model.build(data.spec)
    return functions


def initial(functions: Model, data: Data, key: Key[Array, ""]) -> Params:
    """Draws the parameters of a model for rows like the data's."""
    return functions.init(key, data.spec.batch)


def applied(functions: Model, params: Params, batch: Batch, context: Context) -> tuple[Float[Array, "batch ..."], Sown]:
    """Applies a model to a batch; returns what comes out in float32, and what layers sowed."""
    outputs, sown = functions.apply(params, batch, train=context.train, key=context.key)
    return outputs.astype(jnp.float32), sown


def special_id(data: Data, role: str) -> int:
    """Returns the id of a special token; raises UserError where the data's tokenizer has none."""
    found = special_ids(data, (role,))
    if not found:
        raise UserError(
            f"The task needs a tokenizer with a special token {role!r}: set --data.tokenizer.kind bpe and "
            "--data.tokenizer.special bert, or t5 for spans."
        )
    return found[0]


def special_ids(data: Data, roles: Sequence[str] = ROLES) -> list[int]:
    """Returns the ids of those of the special tokens that the data's tokenizer has."""
    tokenizer = data.tokenizer
    if not isinstance(tokenizer, PairTokenizer):
        return []
    return [found for role in roles if (found := tokenizer.special_id(role)) is not None]


def entropy_loss(
    logits: Float[Array, "batch any classes"],
    labels: Integer[Array, "batch any"] | Integer[np.ndarray, "batch any"],
    mask: Float[Array, "batch any"] | Float[np.ndarray, "batch any"],
    sown: Sown,
    smoothing: float = 0.0,
    weigh: Callable[[Float[Array, "batch any"]], Float[Array, "batch any"]] = lambda losses: losses,
) -> Loss:
    """Returns the cross entropy of the labels that count, those of examples or of tokens, with their accuracy.

    `weigh` changes the losses before they are added up, as by the weights of classes.
    """
    mask = jnp.asarray(mask)
    losses = weigh(smoothed_cross_entropy(logits, jnp.asarray(labels), smoothing))
    correct = (logits.argmax(-1) == labels) * mask
    weight = mask.sum()
    total = Loss((losses * mask).sum(), weight, {"accuracy": WeightedSum(correct.sum(), weight)})
    return with_sown(total, sown, mask.sum(-1))


def smoothed_cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"], smoothing: float
) -> Float[Array, "*batch"]:
    """Returns the nats of each label, of which `smoothing` is spread evenly over all classes (Szegedy et al. 2016).

    log sum exp z - (1 - smoothing) z[label] - smoothing mean(z): no array of targets as large as the logits is made.
    """
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    if smoothing:
        target = (1 - smoothing) * target + smoothing * logits.mean(-1)
    return jax.nn.logsumexp(logits, axis=-1) - target
