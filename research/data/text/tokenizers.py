"""Tokenizers: bytes, characters, words, and byte-pair encoding or WordPiece trained on the data.

All satisfy `research.data.dataset.Tokenizer`. `TokenizerConfig(kind).train(texts)` makes one, `save` stores it with
the run as JSON, `load` brings it back. One that has special tokens is a `PairTokenizer` as well: it knows how a text,
or two, are put before a model.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from research.core.errors import UserError
from research.core.files import write_atomic
from research.core.ranges import FilePath, Vocabulary
from research.data.dataset import Tokenizer
from research.data.text import words
from research.data.text.framing import Encoded, encode_framed, library_errors

UNKNOWN = "\ufffd"  # the Unicode replacement character
BERT_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
T5_SPECIAL = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
SENTINEL = "<extra_id_{}>"  # T5: what stands for the span of this number, from 0
SENTINELS = 100
WORDPIECE_SPECIAL = list(BERT_SPECIAL.values())

Ids = Int32[np.ndarray, " length"]
SpecialKind = Literal["none", "bert", "t5"]


@runtime_checkable
class PairTokenizer(Tokenizer, Protocol):
    """A tokenizer with special tokens."""

    def special_id(self, role: str) -> int | None:
        """Returns the id of the special token of a role ("pad", "cls", "sep", "eos", ...), None where it has none."""
        ...

    def encode_pair(self, text: str, other: str | None = None, *, length: int | None = None) -> Encoded:
        """Returns a text, or two, with special tokens, both cut at their ends to `length` tokens in all."""
        ...


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
    """A trained byte-pair encoding or WordPiece, or a published tokenizer, run by the Hugging Face tokenizers library.

    Attributes:
        kind: how it was made.
        trained: does the work.
        special: the special token of each role, of a published one ("bos", "eos", "pad", "cls", "sep", "mask", "unk").
        chat_template: the Jinja template of a conversation, of one made for that.
        rows: the tokens that the model has which it was published with (0: all), where it has others as well.
        pieces: ids by text, where they are not those of `trained`; a text that is not among them is unknown.
        target: the tokenizer of the texts that the model writes, where it is another.
    """

    kind: Literal["bpe", "wordpiece", "pretrained"]
    trained: tokenizers.Tokenizer
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)
    chat_template: str | None = None
    rows: int = 0
    pieces: Mapping[str, int] = dataclasses.field(default_factory=dict)
    target: "Subwords | None" = None

    @functools.cached_property
    def vocabulary_size(self) -> int:
        size = max((self.pieces or self.trained.get_vocab()).values(), default=-1) + 1  # which may leave ids out
        return min(size, self.rows or size)

    def special_id(self, role: str) -> int | None:
        """Returns the id of the special token of a role, None where it has none."""
        known = (self.special,) if self.kind == "pretrained" else (BERT_SPECIAL, T5_SPECIAL)
        names = [special[role] for special in known if role in special]
        return next((found for name in names if (found := self.id_of(name)) is not None), None)

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token, None where there is none of that text."""
        return self.pieces.get(token) if self.pieces else self.trained.token_to_id(token)

    def token_of(self, id: int) -> str | None:
        """Returns the text of a token, None where there is none of that id."""
        return self._texts.get(id) if self.pieces else self.trained.id_to_token(id)

    @functools.cached_property
    def _texts(self) -> dict[int, str]:
        return {id: text for text, id in self.pieces.items()}

    def _ids_of(self, encoding: tokenizers.Encoding) -> Sequence[int]:
        if not self.pieces:
            return encoding.ids
        unknown = self.pieces[self.special["unk"]]
        return [self.pieces.get(text, unknown) for text in encoding.tokens]

    def encode_pair(self, text: str, other: str | None = None, *, length: int | None = None) -> Encoded:
        """Returns a text, or two, with special tokens where it has some; see `PairTokenizer`."""
        with library_errors():
            found = encode_framed(self.trained, text, other, length, self._ids_of)
        self._check_rows(found.ids)
        return found

    def encode(self, text: str) -> Ids:
        with library_errors():
            ids = np.array(self._ids_of(self.trained.encode(text, add_special_tokens=False)), dtype=np.int32)
        self._check_rows(ids)
        return ids

    def _check_rows(self, ids: Ids) -> None:
        if self.rows and ids.size and (largest := int(ids.max())) >= self.rows:
            raise UserError(
                f"The text has the token {self.token_of(largest)!r}, whose id {largest} has no row in the "
                f"model, which has {self.rows}: take the tokenizer that the model was trained with, or another text."
            )

    def decode(self, ids: Any) -> str:
        with library_errors():
            if self.pieces:
                return self.trained.decoder.decode([self._texts.get(id, "") for id in np.asarray(ids).tolist()])
            return self.trained.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def save(self, path: Path) -> None:
        _write(path, self._saved())

    def _saved(self) -> dict[str, Any]:
        saved = {"kind": self.kind, "trained": json.loads(self.trained.to_str())}
        if self.kind == "pretrained":
            saved |= {"special": dict(self.special), "chat_template": self.chat_template, "rows": self.rows}
        if self.pieces:
            saved |= {"pieces": dict(self.pieces), "target": self.target and self.target._saved()}
        return saved


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer to train.

    Attributes:
        kind: `bytes`; `characters` (those of the training text); `words` (the most frequent ones, in lower case);
            `bpe`, byte-level byte-pair encoding as of GPT-2 (Radford et al. 2019), lossless for every text;
            `wordpiece` as of cased BERT (Devlin et al. 2019), which keeps words and punctuation but neither white space
            nor unknown characters.
        vocabulary_size: the most token ids that `words`, `bpe` and `wordpiece` may use; a small text yields fewer.
        special: special tokens of `bpe`, which take the first ids: those of BERT (padding, unknown, first, separator,
            mask), as `wordpiece` always has, or of T5 (padding, end, unknown, and 100 that stand for spans).
        file: a tokenizer that a run saved, taken as it is; the rest is not read.
    """

    kind: Literal["bytes", "characters", "words", "bpe", "wordpiece"] = "characters"
    vocabulary_size: Vocabulary = 4096
    special: SpecialKind = "none"
    file: FilePath = ""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Trains on the texts of the training split; the same texts give the same tokenizer.

        Raises:
            UserError: `vocabulary_size` is too small for the kind, the kind has no such special tokens, or a bad file.
        """
        if self.file:
            return load(Path(self.file))
        if self.special != "none" and (self.kind, self.special) not in {
            ("bpe", "bert"),
            ("bpe", "t5"),
            ("wordpiece", "bert"),
        }:
            raise UserError(
                f"The tokenizer {self.kind!r} cannot have the special tokens of {self.special}: choose another with "
                "--data.tokenizer.kind bpe."
            )
        match self.kind:
            case "bytes":
                return Bytes()
            case "characters":
                return Characters("".join(sorted(set().union(*texts))))
            case "words":
                _check_vocabulary_size(self.vocabulary_size, 2, "a word, and one id for all others")
                return words.most_frequent(texts, self.vocabulary_size - 1)
            case "bpe":
                return _train_bpe(texts, self.vocabulary_size, self.special)
            case "wordpiece":
                return _train_wordpiece(texts, self.vocabulary_size)


def load(path: Path) -> Tokenizer:
    """Reads a tokenizer that `save` wrote; raises UserError where the file is missing or is no tokenizer."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        for kind, name, form in (("characters", "alphabet", str), ("words", "words", list)):
            if saved["kind"] == kind and not (
                isinstance(saved[name], form) and all(isinstance(each, str) for each in saved[name])
            ):
                raise TypeError(f"{name!r} is no {form.__name__} of texts")
        match saved["kind"]:
            case "bytes":
                return Bytes()
            case "characters":
                return Characters(saved["alphabet"])
            case "words":
                return words.Words(tuple(saved["words"]))
            case "bpe" | "wordpiece" | "pretrained":
                return _subwords(saved)
            case other:
                raise ValueError(f"unknown kind {other!r}")
    except FileNotFoundError:
        raise UserError(f"There is no tokenizer at {path}: name the file that a run saved.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no tokenizer of this project ({type(error).__name__}: {error}); restore it from a copy."
        ) from None


def _subwords(saved: Mapping[str, Any]) -> Subwords:
    trained = tokenizers.Tokenizer.from_str(json.dumps(saved["trained"]))
    special, template, rows = saved.get("special", {}), saved.get("chat_template"), saved.get("rows", 0)
    target = saved.get("target") and _subwords(saved["target"])
    return Subwords(saved["kind"], trained, special, template, rows, saved.get("pieces", {}), target)


def _check_vocabulary_size(vocabulary_size: int, minimum: int, what: str) -> None:
    if vocabulary_size < minimum:
        raise UserError(
            f"vocabulary_size is {vocabulary_size}, but this tokenizer needs at least {minimum} ({what}); "
            "raise it, or choose the tokenizer 'characters' or 'bytes'."
        )


def _train_bpe(texts: Iterable[str], vocabulary_size: int, special: SpecialKind) -> Subwords:
    tokens = {
        "none": [],
        "bert": list(BERT_SPECIAL.values()),
        "t5": [*T5_SPECIAL.values(), *(SENTINEL.format(number) for number in range(SENTINELS))],
    }[special]
    _check_vocabulary_size(vocabulary_size, 257 + len(tokens), "the 256 bytes, the special tokens and a merge")
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    if special == "bert":
        trained.post_processor = _bert_frame(trained)
    elif special == "t5":
        end = T5_SPECIAL["eos"]
        trained.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, trained.token_to_id(end))]
        )
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
    trained.post_processor = _bert_frame(trained)
    return Subwords("wordpiece", trained)


def _bert_frame(trained: tokenizers.Tokenizer) -> processors.BertProcessing:
    """Returns what puts [CLS] text [SEP], and [CLS] text [SEP] other [SEP], before a model."""
    vocabulary = trained.get_vocab()
    separator, first = ((token, vocabulary[token]) for token in (BERT_SPECIAL["sep"], BERT_SPECIAL["cls"]))
    return processors.BertProcessing(separator, first)


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
