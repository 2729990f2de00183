"""How a published model writes, read from its files: generation_config.json, or config.json where that is missing.

As the transformers library has it, generation_config.json counts alone where it is there. What changes a text and is
not obeyed here is kept by name, and refused where a text is written.
"""

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from research.core.errors import UserError, quoted
from research.data.dataset import Tokenizer
from research.data.text.paired_text import boundary_ids
from research.data.text.tokenizers import PairTokenizer
from research.hub.family import stated
from research.models.generation_rules import GenerationRules

GENERATION = "generation_config.json"
# Fields that change what greedy decoding writes, with the values that change nothing.
UNKNOWN: Mapping[str, tuple[Any, ...]] = {
    "encoder_repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
    "forced_decoder_ids": (None, []),
    "guidance_scale": (None, 1, 1.0),
    "watermarking_config": (None,),
    "stop_strings": (None, []),
}


def read_rules(described: Mapping[str, Any], generation: Mapping[str, Any] | None) -> GenerationRules:
    """Returns how the model writes.

    Args:
        described: config.json.
        generation: generation_config.json, None where there is none.

    Raises:
        UserError: a field holds no token ids.
    """
    source = generation
    if source is None:  # older models, whose text model may be one of several parts
        inner = described.get("text_config")
        source = {**(inner if isinstance(inner, Mapping) else {}), **described}
    name = GENERATION if generation is not None else "config.json"

    def ids(field: str) -> tuple[int, ...]:
        found = source.get(field)
        several = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(each) is int for each in several):
            raise UserError(f"{name} sets {field!r} to {quoted(found)}, which is no token id: correct it.")
        return tuple(each for each in several if each >= 0)  # some files have -1 for none

    def one(field: str) -> int | None:
        found = ids(field)
        if len(found) > 1:
            raise UserError(f"{name} sets {field!r} to several tokens, {quoted(list(found))}: one is known here.")
        return found[0] if found else None

    single, phrases = _bad_words(source.get("bad_words_ids"), name)
    unknown = [field for field, plain in UNKNOWN.items() if source.get(field) not in plain]
    unknown += ["bad_words_ids"] if phrases else []
    penalty = stated(source, "repetition_penalty", 1.0)
    if not isinstance(penalty, int | float) or not 0 < penalty < float("inf"):
        raise UserError(f"{name} sets 'repetition_penalty' to {quoted(penalty)}, which is no number above 0.")
    encoder, start = described.get("is_encoder_decoder"), one("decoder_start_token_id")
    return GenerationRules(
        end=ids("eos_token_id"),
        start=None if not encoder else one("bos_token_id") if start is None else start,
        never=tuple(sorted({*ids("suppress_tokens"), *single})),
        never_first=ids("begin_suppress_tokens"),
        first=one("forced_bos_token_id") if encoder else None,  # elsewhere the prompt is there before
        last=one("forced_eos_token_id"),
        repetition_penalty=float(penalty),
        unknown=tuple((field, json.dumps(source[field])) for field in unknown),
    )


def _bad_words(value: Any, name: str) -> tuple[list[int], bool]:
    """Returns the forbidden single tokens, and whether there are forbidden sequences of tokens."""
    if value is None:
        return [], False
    if not (
        isinstance(value, list)
        and all(isinstance(word, list) and word and all(type(each) is int for each in word) for word in value)
    ):
        raise UserError(f"{name} sets 'bad_words_ids' to what is no list of lists of token ids: correct it.")
    return [word[0] for word in value if len(word) == 1], any(len(word) > 1 for word in value)


def within(rules: GenerationRules, vocabulary: int) -> GenerationRules:
    """Returns the rules for the tokens that a model has.

    Ends and forbidden tokens that it lacks never occur. One that must be written, but is none of its tokens, cannot be
    obeyed: it is among the `unknown`, which are refused where a text is written.
    """
    end, never, never_first = (
        tuple(token for token in tokens if token < vocabulary) for tokens in (rules.end, rules.never, rules.never_first)
    )
    forced = (
        ("decoder_start_token_id", rules.start),
        ("forced_bos_token_id", rules.first),
        ("forced_eos_token_id", rules.last),
    )
    beyond = {name: token for name, token in forced if token is not None and token >= vocabulary}
    start, first, last = (None if name in beyond else token for name, token in forced)
    unknown = (*rules.unknown, *((name, str(token)) for name, token in beyond.items()))
    return dataclasses.replace(
        rules, end=end, start=start, never=never, never_first=never_first, first=first, last=last, unknown=unknown
    )


def described_rules(rules: GenerationRules) -> dict[str, Any]:
    """Returns every field of generation_config.json, null where the rules have none.

    config.json has to have them too: where it says nothing, the transformers library has ends of its own.
    """
    ends = list(rules.end)
    return {
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "bos_token_id": None,
        "decoder_start_token_id": rules.start,
        "suppress_tokens": list(rules.never) or None,
        "begin_suppress_tokens": list(rules.never_first) or None,
        "forced_bos_token_id": rules.first,
        "forced_eos_token_id": rules.last,
        "repetition_penalty": None if rules.repetition_penalty == 1 else rules.repetition_penalty,
        **{field: json.loads(value) for field, value in rules.unknown},
    }


def rules_of(tokenizer: Tokenizer | None, described: Mapping[str, Any]) -> GenerationRules:
    """Returns how a model writes whose files say nothing: by the special tokens of its tokenizer.

    Args:
        tokenizer: what the model was trained with, where it is known.
        described: config.json, whose fields count where the tokenizer has no such tokens.
    """
    if isinstance(tokenizer, PairTokenizer):
        if not described.get("is_encoder_decoder"):
            end = tokenizer.special_id("eos")
            return GenerationRules(end=() if end is None else (end,))
        with suppress(UserError):  # no such tokens
            start, end = boundary_ids(tokenizer)
            return GenerationRules(end=(end,), start=start)
    return read_rules(described, None)
