"""Tokenizers: bytes, characters, and byte-pair encoding or WordPiece trained on the data.

All satisfy `research.data.dataset.Tokenizer`. `TokenizerConfig(kind).train(texts)` makes one, `save` stores it with
the run as JSON, `load` brings it back.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from research.core.errors import UserError
from research.core.run_directory import write_atomic
from research.data.dataset import Tokenizer

UNKNOWN = "\ufffd"  # the Unicode replacement character
WORDPIECE_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

Ids = Int32[np.ndarray, " length"]


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8; ids that are no valid UTF-8 decode to U+FFFD."""

    @property
    def vocabulary_size(self) -> int:
        return 256

    def encode(self, text: str) -> Ids:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Any) -> str:
        return np.asarray(ids).astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def save(self, path: Path) -> None:
        _write(path, {"kind": "bytes"})


@dataclasses.dataclass(frozen=True)
class Characters:
    """The characters of an alphabet, in order of code point, as ids from 1; id 0 stands for any other character.

    Id 0 decodes to U+FFFD, so a character unseen in training shows as such and nothing else is lost.
    """

    alphabet: str

    @property
    def vocabulary_size(self) -> int:
        return len(self.alphabet) + 1

    @functools.cached_property
    def _ids_by_code_point(self) -> Ids:
        code_points = _code_points(self.alphabet)
        table = np.zeros(int(code_points.max(initial=0)) + 2, dtype=np.int32)
        table[code_points] = np.arange(1, code_points.size + 1)
        return table

    def encode(self, text: str) -> Ids:
        table = self._ids_by_code_point
        return table[np.minimum(_code_points(text), table.size - 1)]

    def decode(self, ids: Any) -> str:
        code_points = _code_points(UNKNOWN + self.alphabet)
        return code_points[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le")

    def save(self, path: Path) -> None:
        _write(path, {"kind": "characters", "alphabet": self.alphabet})


@dataclasses.dataclass(frozen=True)
class Subwords:
    """A trained byte-pair encoding or WordPiece, run by the Hugging Face tokenizers library."""

    kind: Literal["bpe", "wordpiece"]
    trained: tokenizers.Tokenizer

    @property
    def vocabulary_size(self) -> int:
        return self.trained.get_vocab_size()

    def encode(self, text: str) -> Ids:
        return np.array(self.trained.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def decode(self, ids: Any) -> str:
        return self.trained.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def save(self, path: Path) -> None:
        _write(path, {"kind": self.kind, "trained": json.loads(self.trained.to_str())})


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer to train.

    Attributes:
        kind: `bytes`; `characters` (those of the training text); `bpe`, byte-level byte-pair encoding as of GPT-2
            (Radford et al. 2019), lossless for every text; `wordpiece` as of cased BERT (Devlin et al. 2019), which
            keeps words and punctuation but neither white space nor unknown characters.
        vocabulary_size: the most token ids that `bpe` and `wordpiece` may use; a small text yields fewer.
    """

    kind: Literal["bytes", "characters", "bpe", "wordpiece"] = "characters"
    vocabulary_size: int = 4096

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Trains on the texts of the training split; the same texts give the same tokenizer.

        Raises:
            UserError: `vocabulary_size` is too small for the kind.
        """
        match self.kind:
            case "bytes":
                return Bytes()
            case "characters":
                return Characters("".join(sorted(set().union(*texts))))
            case "bpe":
                return _train_bpe(texts, self.vocabulary_size)
            case "wordpiece":
                return _train_wordpiece(texts, self.vocabulary_size)


def load(path: Path) -> Tokenizer:
    """Reads a tokenizer that `save` wrote; raises UserError where the file is missing or is no tokenizer."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        match saved["kind"]:
            case "bytes":
                return Bytes()
            case "characters":
                return Characters(saved["alphabet"])
            case "bpe" | "wordpiece" as kind:
                return Subwords(kind, tokenizers.Tokenizer.from_str(json.dumps(saved["trained"])))
            case other:
                raise ValueError(f"unknown kind {other!r}")
    except FileNotFoundError:
        raise UserError(f"There is no tokenizer at {path}: name the file that a run saved.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no tokenizer of this project ({type(error).__name__}: {error}); restore it from a copy."
        ) from None


def _check_vocabulary_size(vocabulary_size: int, least: int, what: str) -> None:
    if vocabulary_size < least:
        raise UserError(
            f"vocabulary_size is {vocabulary_size}, but this tokenizer needs at least {least} ({what}); "
            "raise it, or choose the tokenizer 'characters' or 'bytes'."
        )


def _train_bpe(texts: Iterable[str], vocabulary_size: int) -> Subwords:
    _check_vocabulary_size(vocabulary_size, 257, "the 256 bytes and a merge")
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    return Subwords("bpe", trained)


def _train_wordpiece(texts: Iterable[str], vocabulary_size: int) -> Subwords:
    every = list(texts)
    # The trainer numbers the pieces that continue a word ("##e") in the order of a randomly seeded hash table, and ties
    # between merges follow the numbers. So it first finds these pieces, with no merges, and then gets them in order.
    found = _wordpiece_vocabulary(every, WORDPIECE_SPECIAL, vocabulary_size=0)
    _check_vocabulary_size(vocabulary_size, len(found) + 1, "the characters of this text and a merge")
    continuing = sorted(piece for piece in found if len(piece) == 3 and piece.startswith("##"))
    vocabulary = _wordpiece_vocabulary(every, WORDPIECE_SPECIAL + continuing, vocabulary_size)
    trained = _wordpiece(vocabulary)
    trained.add_special_tokens(WORDPIECE_SPECIAL)
    return Subwords("wordpiece", trained)


def _wordpiece_vocabulary(texts: Sequence[str], first: Sequence[str], vocabulary_size: int) -> dict[str, int]:
    trained = _wordpiece({})
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary_size, special_tokens=list(first), show_progress=False)
    trained.train_from_iterator(texts, trainer)
    return trained.get_vocab()


def _wordpiece(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _write(path: Path, saved: dict[str, Any]) -> None:
    write_atomic(Path(path), json.dumps(saved, ensure_ascii=False) + "\n")
