"""Texts as a model reads them: token ids with the special tokens around them, of one text or of two.

The work is done by the Hugging Face tokenizers library; `library_errors` makes sentences of what it raises.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int32

from research.core.errors import UserError, visible
from research.runtime.native_messages import panics_hidden


class Encoded(NamedTuple):
    """Token ids with the special tokens around them, and where each token comes from.

    Attributes:
        ids: token ids.
        token_types: the kind of each token, 0 or (for most models, in the second text) 1.
        sources: 0 for tokens of the first text, 1 for those of the second, -1 for special tokens.
        offsets: the characters of its text that a token stands for, first and one past the last.
    """

    ids: Int32[np.ndarray, " length"]
    token_types: Int32[np.ndarray, " length"]
    sources: Int32[np.ndarray, " length"]
    offsets: Int32[np.ndarray, "length 2"]


@contextmanager
def library_errors(wrong: str = "The tokenizer's file does not fit its own rules") -> Iterator[None]:
    """Turns what the library raises for a file that it cannot work with into a UserError.

    Where it panics it raises what is no `Exception`, by the name of PanicException.

    Args:
        wrong: what the sentence begins with.
    """
    try:
        with panics_hidden():
            yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = visible(error).partition("\n")[0][:200]
        raise UserError(f"{wrong} ({reason}): take it from where it is whole.")  # noqa: B904


def encode_framed(
    trained: tokenizers.Tokenizer,
    text: str,
    other: str | None,
    length: int | None,
    ids_of: Callable[[tokenizers.Encoding], Sequence[int]],
) -> Encoded:
    """Returns a text, or two, with the special tokens that `trained` puts around them, numbered by `ids_of`.

    Where they are more than `length` tokens, the longer text loses its end until both are equally long or all fits.

    Raises:
        UserError: `length` has no room for the special tokens.
    """
    parts = [trained.encode(part, add_special_tokens=False) for part in (text, other) if part is not None]
    if length is not None:
        room = length - trained.num_special_tokens_to_add(other is not None)
        if room < len(parts):
            raise UserError(f"A length of {length} tokens has no room for text: set --data.length to more.")
        for part, kept in zip(parts, _sizes_within([len(part) for part in parts], room), strict=True):
            part.truncate(kept)
    encoded = trained.post_process(parts[0], parts[1] if len(parts) == 2 else None)
    of_text = np.array(encoded.special_tokens_mask) == 0
    sources = np.where(of_text, np.cumsum(of_text) > len(parts[0]), -1).astype(np.int32)
    offsets = np.array(encoded.offsets, np.int32).reshape(-1, 2)
    return Encoded(np.array(ids_of(encoded), np.int32), np.array(encoded.type_ids, np.int32), sources, offsets)


def _sizes_within(sizes: Sequence[int], room: int) -> list[int]:
    """Shortens one or two sizes, the larger first, so that they sum to at most `room`."""
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    first = min(sizes[0], max(room - sizes[1], room - room // 2))
    return [first, min(sizes[1], room - first)]
