"""The vocabulary in a GGUF file's metadata, made into a tokenizer of the Hugging Face library.

Two kinds are read: "llama", byte pairs of SentencePiece, merged by the score of what they become (Llama 2, Gemma), and
"gpt2", byte-level byte pairs with their merges (Llama 3, Qwen).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from research.core.errors import UserError, quoted
from research.data.text.tokenizers import Subwords
from research.hub.sentencepiece import CONTROL, USER_DEFINED, byte_pairs
from research.hub.tokenizer_classes import WORDS, byte_level, cut_by

ROLES = {
    "bos": "bos",
    "eos": "eos",
    "unknown": "unk",
    "padding": "pad",
    "seperator": "sep",
    "cls": "cls",
    "mask": "mask",
}
# How the text is cut into words before byte pairs are merged, by the name that llama.cpp gives to it.
PRE_TOKENIZERS = {"llama-bpe": WORDS.replace("DIGITS", r"\p{N}{1,3}"), "qwen2": WORDS.replace("DIGITS", r"\p{N}")}


def tokenizer_of(metadata: Mapping[str, Any]) -> Subwords | None:
    """Returns the tokenizer, None where the file has none; raises UserError for one of another kind.

    Where the metadata are odd in other ways, any error may come.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        return None
    tokens = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens) or not tokens:
        raise UserError("The vocabulary in the GGUF file is empty or has a token twice: fetch the file again.")
    special = _special(metadata, tokens)
    if kind == "llama":
        trained = _sentencepiece(metadata, vocabulary, special.get("unk"))
    elif kind == "gpt2":
        trained = _byte_level(metadata, vocabulary)
    else:
        raise UserError(f"The tokenizer of the GGUF file is of the kind {quoted(kind)}; known here are llama and gpt2.")
    types = metadata.get("tokenizer.ggml.token_type", [])
    control = [token for token, each in zip(tokens, types, strict=False) if each == CONTROL]
    defined = [token for token, each in zip(tokens, types, strict=False) if each == USER_DEFINED]
    trained.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    trained.add_tokens([AddedToken(token, normalized=kind == "llama", special=False) for token in defined])
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and "bos" in special:
        begin = special["bos"]
        trained.post_processor = processors.TemplateProcessing(
            single=f"{begin}:0 $A:0", pair=f"{begin}:0 $A:0 {begin}:1 $B:1", special_tokens=[(begin, vocabulary[begin])]
        )
    return Subwords("pretrained", trained, special, metadata.get("tokenizer.chat_template"))


def _special(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, str]:
    found = {}
    for name, role in ROLES.items():
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if index is not None and 0 <= index < len(tokens):
            found[role] = tokens[index]
    return found


def _sentencepiece(
    metadata: Mapping[str, Any], vocabulary: Mapping[str, int], unknown: str | None
) -> tokenizers.Tokenizer:
    scores, types = metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    merged = {token: scores[id] for token, id in vocabulary.items() if types[id] not in (CONTROL, USER_DEFINED)}
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    return byte_pairs(vocabulary, merged, unknown=unknown, byte_fallback=True, prefix=prefix)


def _byte_level(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> tokenizers.Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    trained = byte_level(vocabulary, merges)
    cut = metadata.get("tokenizer.ggml.pre", "default")
    if cut in PRE_TOKENIZERS:
        trained.pre_tokenizer = cut_by(PRE_TOKENIZERS[cut])
    elif cut not in ("default", "gpt-2"):
        raise UserError(
            f"The GGUF file cuts text in the way {quoted(cut)}, unknown; known are {', '.join(PRE_TOKENIZERS)} and "
            "gpt-2."
        )
    return trained
