"""The tokenizer of a Marian model: one SentencePiece model for each language, and one list of their pieces.

A text is cut by the model of its language; `vocab.json` numbers the pieces of both, and what it lacks is unknown. A
multilingual model is told the language to write by a code at the beginning of the text, such as `>>fr<<`.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from research.core.errors import UserError, quoted
from research.core.files import write_atomic
from research.data.text.tokenizers import Subwords
from research.hub.sentencepiece import (
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    read_sentencepiece,
    trained_of,
    write_sentencepiece,
)
from research.hub.weights import read_json

FILES = ("source.spm", "target.spm", "vocab.json")
SPECIAL = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


def marian_tokenizer(folder: Path, settings: Mapping[str, Any], special: Mapping[str, str]) -> Subwords:
    """Returns the tokenizer of what the model reads, which knows that of what it writes.

    Args:
        folder: of the model.
        settings: tokenizer_config.json.
        special: the special token of each role.

    Raises:
        UserError: a file is damaged, lacks a special token, or is of a model with two lists of pieces.
    """
    if settings.get("separate_vocabs"):
        raise UserError(f"{folder} has a list of pieces for each language ('separate_vocabs'), which is not read here.")
    pieces = read_json(folder / FILES[2])
    if not all(type(number) is int and 0 <= number < 2**31 for number in pieces.values()):
        raise UserError(f"{folder / FILES[2]} has a piece without a number: fetch it again.")
    if missing := [token for token in special.values() if token not in pieces]:
        raise UserError(f"{folder / FILES[2]} lacks the special token {quoted(missing[0])}: fetch it again.")
    codes = [piece for piece in pieces if piece.startswith(">>") and piece.endswith("<<")]
    source, target = (_cut_by(folder / name, special, codes) for name in FILES[:2])
    reads = Subwords("pretrained", source, special, pieces=pieces)
    return dataclasses.replace(reads, target=dataclasses.replace(reads, trained=target))


def save_marian(folder: Path, tokenizer: Subwords) -> None:
    """Writes the files of a tokenizer that `marian_tokenizer` made."""
    assert tokenizer.target is not None
    write_sentencepiece(folder / FILES[0], tokenizer.trained)
    write_sentencepiece(folder / FILES[1], tokenizer.target.trained)
    named = {f"{role}_token": token for role, token in tokenizer.special.items() if role in SPECIAL}
    settings = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": False, **named}
    for name, content in ((FILES[2], tokenizer.pieces), ("tokenizer_config.json", settings)):
        write_atomic(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _cut_by(path: Path, special: Mapping[str, str], codes: Iterable[str]) -> tokenizers.Tokenizer:
    """Returns what cuts texts by a SentencePiece model; its numbers of the pieces mean nothing."""
    model = read_sentencepiece(path)
    known = [piece for piece in model.pieces if piece[2] in (NORMAL, USER_DEFINED) and piece[0] != special["unk"]]
    trained = trained_of(model._replace(pieces=[(special["unk"], 0.0, UNKNOWN), *known], unknown=0))
    trained.add_special_tokens(list(special.values()))
    trained.add_tokens([AddedToken(code, normalized=False) for code in codes])
    end = special["eos"]
    trained.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, trained.token_to_id(end))]
    )
    return trained
