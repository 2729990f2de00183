"""SentencePiece models, whose files some published models bring alone: read here, run by the tokenizers library.

The file is a protocol buffer (https://github.com/google/sentencepiece, `sentencepiece_model.proto`), of which a dozen
fields matter. `read_sentencepiece` gives them; `trained_of` makes the tokenizer that the transformers library makes.
"""

import base64
import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from research.core.errors import UserError, quoted
from research.core.files import read_bytes, writing

UNIGRAM, BPE = 1, 2  # kinds of models
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # kinds of pieces
SPACE = "▁"  # what SentencePiece writes for a space
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")  # a line of a file of tiktoken: a token in base 64, and its number
LARGEST = 1 << 26  # bytes; published ones have at most some 5 million


class SentencePiece(NamedTuple):
    """What a file says."""

    pieces: list[tuple[str, float, int]]
    """text, score and kind of each, by id"""
    kind: int
    unknown: int
    """id of the unknown token"""
    byte_fallback: bool
    """whether unknown characters become their bytes"""
    characters: bytes
    """how characters are normalised, as SentencePiece has compiled it; empty for not at all"""
    prefix: bool
    """whether a space is put before the text"""


def read_sentencepiece(path: Path) -> SentencePiece:
    """Reads a file; raises UserError where it is none of SentencePiece."""
    content = memoryview(read_bytes(path, LARGEST))
    if TIKTOKEN.match(content):
        raise not_tiktoken(path)
    try:
        pieces, trainer, normalizer = [], dict[int, Any](), dict[int, Any]()
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(value))
                pieces.append((bytes(piece[1]).decode(), float(piece.get(2, 0.0)), int(piece.get(3, 1))))
            elif number in (2, 3):
                (trainer if number == 2 else normalizer).update(_fields(value))
        if not pieces or len({text for text, _, _ in pieces}) < len(pieces):
            raise ValueError("it has no pieces, or one twice")
        unknown = int(trainer.get(40, 0))
        if not 0 <= unknown < len(pieces):
            raise ValueError(f"its unknown token, {unknown}, is none of its pieces")
        return SentencePiece(
            pieces,
            int(trainer.get(3, UNIGRAM)),
            unknown,
            bool(trainer.get(35, 0)),
            bytes(normalizer.get(2, b"")),
            bool(normalizer.get(3, 1)),
        )
    except (ValueError, KeyError, TypeError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged or no file of SentencePiece ({quoted(error, 200)}): fetch it again."
        ) from None


def not_tiktoken(path: Path) -> UserError:
    """Returns what is wrong with a file of the library tiktoken, which has none of its rules of cutting a text."""
    return UserError(
        f"{path} is a vocabulary of tiktoken, which is not read here: take a copy of the model with a tokenizer.json, "
        "or make one by save_pretrained of a fast tokenizer of the transformers library."
    )


def write_sentencepiece(path: Path, trained: tokenizers.Tokenizer) -> None:
    """Writes the file that a tokenizer of `trained_of` was made from, as far as it matters."""
    described = json.loads(trained.to_str())
    model, characters = described["model"], (described["normalizer"] or {}).get("precompiled_charsmap", "")
    parts = []
    for index, (text, score) in enumerate(model["vocab"]):
        kind = UNKNOWN if index == model["unk_id"] else NORMAL
        parts.append(_field(1, _field(1, text.encode()) + _field(2, score) + _field(3, kind)))
    parts.append(_field(2, _field(3, UNIGRAM) + _field(40, model["unk_id"])))
    parts.append(_field(3, _field(2, base64.b64decode(characters))))
    with writing(path):
        path.write_bytes(b"".join(parts))


def _field(number: int, value: bytes | int | float) -> bytes:
    """Returns a field of a protocol buffer, as `_fields` reads it."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + _varint(value >> 7) if value > 127 else bytes([value])


def _fields(content: memoryview) -> Iterator[tuple[int, Any]]:
    """Yields (number, value) of a protocol buffer: whole numbers, floats of 32 bits, and bytes."""
    place = 0
    value: Any
    while place < len(content):
        tag, place = _number(content, place)
        match tag & 7:
            case 0:
                value, place = _number(content, place)
            case 1:
                value, place = content[place : place + 8], place + 8
            case 2:
                size, place = _number(content, place)
                if place + size > len(content):
                    raise ValueError("a field is longer than the file")
                value, place = content[place : place + size], place + size
            case 5:
                (value,), place = struct.unpack_from("<f", content, place), place + 4
            case other:
                raise ValueError(f"a field has the unknown type {other}")
        yield tag >> 3, value


def _number(content: memoryview, place: int) -> tuple[int, int]:
    """Returns the number of seven bits a byte that begins at a place, and the place after it."""
    found = 0
    for shift in range(0, 64, 7):
        byte = content[place]
        found |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return found, place
    raise ValueError("a number has more than 64 bits")


def trained_of(model: SentencePiece) -> tokenizers.Tokenizer:
    """Returns a unigram tokenizer, as T5 and XLM-RoBERTa have it; raises UserError for another kind."""
    if model.kind != UNIGRAM:
        raise UserError("The SentencePiece model is none of unigrams, which models of this class have.")
    vocabulary = [(text, score) for text, score, _ in model.pieces]
    trained = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=model.unknown, byte_fallback=False))
    if model.characters:
        trained.normalizer = normalizers.Precompiled(model.characters)
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")]
    )
    trained.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return trained


def pairs_of(model: SentencePiece) -> tokenizers.Tokenizer:
    """Returns a byte-pair tokenizer, as Llama 2 and Mistral have it; raises UserError for another kind."""
    if model.kind != BPE:
        raise UserError("The SentencePiece model is none of byte pairs, which models of this class have.")
    vocabulary = {text: index for index, (text, _, _) in enumerate(model.pieces)}
    plain = {text: score for text, score, kind in model.pieces if kind not in (CONTROL, USER_DEFINED)}
    unknown = model.pieces[model.unknown][0]
    return byte_pairs(vocabulary, plain, unknown=unknown, byte_fallback=model.byte_fallback, prefix=model.prefix)


def byte_pairs(
    vocabulary: Mapping[str, int],
    scores: Mapping[str, float],
    *,
    unknown: str | None,
    byte_fallback: bool,
    prefix: bool,
) -> tokenizers.Tokenizer:
    """Returns the byte-pair tokenizer of SentencePiece.

    Args:
        vocabulary: ids of tokens.
        scores: of those that are made by merging; not control and user-defined tokens.
        unknown: the unknown token, None for none.
        byte_fallback: whether unknown characters become their bytes.
        prefix: whether a space is put before the text.
    """
    options: dict[str, Any] = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": byte_fallback}
    trained = tokenizers.Tokenizer(models.BPE(dict(vocabulary), _merges(vocabulary, scores), **options))
    spaces: list[Any] = [normalizers.Replace(" ", SPACE)]
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        spaces.insert(0, normalizers.Prepend(SPACE))
        back.append(decoders.Strip(" ", 1, 0))
    trained.normalizer, trained.decoder = normalizers.Sequence(spaces), decoders.Sequence(back)
    return trained


def _merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Returns every pair of tokens that makes another, the pairs of the best token first.

    SentencePiece merges whatever becomes the token of the best score.
    """
    pairs, lengths = [], {len(token) for token in vocabulary} - {0}  # few, so that a token of megabytes takes no longer
    for token, score in scores.items():
        for cut in (length for length in lengths if len(token) - length in lengths):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                pairs.append((-score, left, right, (token[:cut], token[cut:])))
    return [pair for _, _, _, pair in sorted(pairs)]


def added_of(model: SentencePiece) -> list[AddedToken]:
    """Returns the control and user-defined pieces, which are never cut."""
    kinds = ((text, kind) for text, _, kind in model.pieces if kind in (CONTROL, USER_DEFINED))
    return [AddedToken(text, normalized=False, special=kind == CONTROL) for text, kind in kinds]
