"""Text for language models: read, clean, divide by group, tokenise, cut into rows; a data set or your own files."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int32

from research.core.errors import UserError, listed
from research.core.ranges import Below1, Length, Range
from research.data import catalogue, sources, splitting
from research.data.cleaning.cleaning import Cleaning, Document, StepReport, clean, content_group
from research.data.dataset import Data, Records, Tokenizer
from research.data.sources.formats import Format, format_of
from research.data.synthetic import made_up_sentences
from research.data.text.packing import Windows, pack_documents
from research.data.text.tokenizers import TokenizerConfig, load

Tokens = Int32[np.ndarray, " _tokens"]
SEPARATOR = "\n\n"  # between the documents of a stream
RECORDS = 10_000  # of a data set, read at once
SUMMARY, TOKENIZER = "summary.json", "tokenizer.json"  # in a folder of prepared data


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the sources, read at once: a file, or some records of a split of a data set."""

    side: str
    """the side of the split it was given for"""
    source: str
    """the file's path, or the split's name"""
    records: range | None = None

    def digest(self) -> str:
        """Returns the SHA-256 of a file, "" for records, whose data set has its own."""
        return "" if self.records is not None else sources.digests([Path(self.source)])[self.source]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Documents cleaned, divided and tokenised, before they are cut into rows."""

    tokenizer: Tokenizer
    tokens: Mapping[str, Sequence[Tokens]]
    """of each document, by split"""
    facts: Mapping[str, Any]
    """JSON values for the record: sources, cleaning, splits, tokenizer"""


@dataclasses.dataclass(frozen=True)
class TextData:
    """Which text, and how it becomes rows of tokens."""

    dataset: str = "austen"
    """a data set of the catalogue; not read where files are given"""
    prepared: str = ""
    """a folder that research.data.text.prepare_beam wrote; only `length` and `packing` are read beside it"""
    train: tuple[str, ...] = ()
    """your own files or globs: text, JSON, CSV, Parquet or Arrow, also compressed"""
    validation: tuple[str, ...] = ()
    """your own files to validate on; without them a fraction of the training files' groups is held out"""
    text: str = "text"
    """the field or column that holds the text"""
    group: tuple[str, ...] = ("book", "chapter")
    """the fields that name the group which a split never divides (one for your own files); none: each by itself"""
    validation_fraction: Below1 = 0.1
    salt: str = ""
    """another salt gives another split of the same groups"""
    leak_threshold: Annotated[float, Range(0, 1, above=True)] = 0.8
    """the similarity from which two documents may not stand on both sides of the split"""
    near_duplicates: Literal["unite", "refuse"] = "unite"
    """such documents go to one side as one group, or stop the run; where you give validation files they stop it"""
    cleaning: Cleaning = Cleaning()
    tokenizer: Any = TokenizerConfig()
    """has `train(texts)`, which gives a tokenizer: trained on the training texts, or taken ready"""
    length: Length = 64
    """tokens in a row"""
    packing: Literal["stream", "documents"] = "stream"
    """one stream cut anywhere, or rows in which no attention or loss crosses from a document to the next"""

    def build(self) -> Data:
        """Reads and prepares; raises UserError for files, splits and sizes that cannot work."""
        prepared = read_prepared(Path(self.prepared)) if self.prepared else self.prepare()
        tokenizer, facts = prepared.tokenizer, dict(prepared.facts)
        separator = tokenizer.encode(f"a{SEPARATOR}a")[1:-1]  # as it is between two words
        streams = {name: _joined(documents, separator) for name, documents in prepared.tokens.items()}
        counts = facts["splits"]
        facts["splits"] = {name: {**counts[name], "tokens": len(stream)} for name, stream in streams.items()}
        characters = {
            name: count["characters"] + len(SEPARATOR) * (count["documents"] - 1) for name, count in counts.items()
        }
        return Data(
            splits={name: self._rows(name, prepared.tokens[name], stream) for name, stream in streams.items()},
            outputs=tokenizer.vocabulary_size,
            tokenizer=tokenizer,
            tokens=streams,
            characters_per_token={name: characters[name] / len(stream) for name, stream in streams.items()},
            summary=facts,
        )

    def prepare(self) -> Prepared:
        """Reads, cleans, divides and tokenises; `research.data.text.prepare_beam` does the same on many machines."""
        parts = self.parts()
        sources: dict[str, list[Document]] = {part.side: [] for part in parts}
        for part in parts:
            sources[part.side] += self.read(part)
        cleaned = {side: clean(documents, self.cleaning.steps()) for side, documents in sources.items()}
        documents = {side: kept for side, (kept, _) in cleaned.items()}
        united = 0
        if self.unites:
            documents, united = splitting.split_united(
                documents["train"], self.fractions(), self.salt, self.leak_threshold
            )
            splitting.say_united(united)
        else:
            if not self.validation:
                documents = splitting.split(documents["train"], self.fractions(), self.salt)
            splitting.check_no_leak(documents, self.leak_threshold)
        tokenizer = self.tokenizer.train([*(document.text for document in documents["train"]), SEPARATOR])
        reports = [report for _, of_side in cleaned.values() for report in of_side]
        digests = {part.source: part.digest() for part in parts}
        facts = self.facts(digests, reports, splitting.summary(documents), tokenizer, united)
        # By themselves, so that many machines can share the work and the tokens do not depend on what stands beside.
        tokens = {
            name: [tokenizer.encode(document.text) for document in members] for name, members in documents.items()
        }
        return Prepared(tokenizer, tokens, facts)

    @property
    def unites(self) -> bool:
        """Whether near-duplicates across the split are put on one side."""
        return self.near_duplicates == "unite" and not self.validation

    def fractions(self) -> dict[str, float]:
        """Returns the fraction of each split where we divide the documents; raises UserError where out of range."""
        fractions = {"train": 1 - self.validation_fraction, "validation": self.validation_fraction}
        splitting.check_fractions(fractions)
        return fractions

    def parts(self) -> list[Part]:
        """Returns the pieces of the sources in their order; raises UserError where files or a data set are missing."""
        if self.validation and not self.train:
            raise UserError("Validation files need training files beside them: give --data.train as well.")
        if not self.train:
            return [
                Part("train", split, range(start, min(start + RECORDS, len(records))))
                for split, records in catalogue.load(self.dataset).items()
                for start in range(0, len(records), RECORDS)
            ]
        sides = {"train": self.train, "validation": self.validation}
        return [
            Part(side, str(path))
            for side, paths in sides.items()
            if paths
            for path in sorted(sources.matching_files(paths), key=self._rank)
        ]

    def facts(
        self,
        digests: Mapping[str, str],
        reports: Sequence[StepReport],
        splits: Mapping[str, Any],
        tokenizer: Tokenizer,
        united: int,
    ) -> dict[str, Any]:
        """Returns what the record says of prepared data, as JSON values.

        Args:
            digests: those of the parts by source.
            reports: of the cleaning.
            splits: their counts by name.
            tokenizer: the trained one.
            united: groups that joined another, so that near-duplicates are on one side of the split.
        """
        return {
            **({"name": "your files", "files": dict(digests)} if self.train else catalogue.info(self.dataset)),
            "cleaning": [dataclasses.asdict(report) for report in reports],
            "splits": splits,
            "tokenizer": {
                "kind": getattr(self.tokenizer, "kind", "pretrained"),
                "vocabulary": tokenizer.vocabulary_size,
            },
            **({"united_groups": united} if united else {}),
        }

    def read(self, part: Part) -> list[Document]:
        """Reads a part's documents; raises UserError for what cannot be read."""
        if part.records is not None:
            records = catalogue.load(self.dataset)[part.source]
            found = zip(part.records, catalogue.read(records, part.records), strict=True)
            return [self._document(part.source, index, record) for index, record in found]
        group = self.group[0] if len(self.group) == 1 else ""
        return sources.read_documents([part.source], self.text, group)

    def _rank(self, path: Path) -> int:
        """Returns the place of a file's format in the order of the documents: JSON, tables, any other text."""
        match format_of(path, (self.text,)):
            case Format.JSON_LINES | Format.JSON_ARRAY:
                return 0
            case Format.TEXT:
                return 2
            case _:
                return 1

    def _document(self, split: str, index: int, record: Mapping[str, Any]) -> Document:
        missing = [field for field in (self.text, *self.group) if field not in record]
        if missing:
            raise UserError(
                f"The records of {self.dataset!r} have no field {missing[0]!r}, they have {listed(record)}: name "
                "the right ones with --data.text and --data.group."
            )
        text = _string(record[self.text])
        group = "/".join(_string(record[field]) for field in self.group) or content_group(text)
        return Document(f"{split}/{index}", group, text)

    def _rows(self, split: str, documents: Sequence[Tokens], stream: Tokens) -> Records:
        if self.packing == "documents":
            return pack_documents(documents, self.length)
        if len(stream) <= self.length:
            raise UserError(
                f"The {split} split has {len(stream)} tokens, too few for one row of {self.length}: give more text or "
                f"a shorter row, for example --data.length {max(1, len(stream) // 2)}."
            )
        return Windows(stream, self.length, stride=1 if split == "train" else self.length)

    def small(self, folder: Path) -> "TextData":
        """Returns the same of two short texts that it writes into the folder, whatever the source was."""
        train, validation = folder / "train.txt", folder / "validation.txt"
        characters = "".join(map(chr, range(33, 127)))  # a vocabulary of characters is then no smaller than real ones
        train.write_text("\n".join([*made_up_sentences(400, seed=0), characters]), encoding="utf-8")
        validation.write_text("\n".join(made_up_sentences(100, seed=1)), encoding="utf-8")
        own = (str(train),), (str(validation),)
        return dataclasses.replace(self, dataset="", prepared="", train=own[0], validation=own[1])


def prepared_line(document: Document, tokens: Tokens) -> str:
    """Returns a document as a line of a folder of prepared data."""
    return json.dumps({**dataclasses.asdict(document), "tokens": tokens.tolist()}, ensure_ascii=False) + "\n"


def read_prepared(folder: Path) -> Prepared:
    """Reads what `python -m research.data.text.prepare_beam --output FOLDER` wrote.

    Raises:
        UserError: the folder holds no finished preparation, or a file of it is missing or changed.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        tokens = {
            split: [ids for name, digest in shards.items() for ids in _tokens_in(folder / name, digest)]
            for split, shards in summary["shards"].items()
        }
        return Prepared(load(folder / TOKENIZER), tokens, summary["facts"])
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no finished preparation ({error.filename} is missing): make it with 'python -m "
            f"research.data.text.prepare_beam ... --output {folder}'."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / SUMMARY} is damaged ({type(error).__name__}: {error}): prepare the data again."
        ) from None


def _tokens_in(path: Path, digest: str) -> list[Tokens]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path} is not as it was written: restore it from a copy, or prepare the data again.")
    return [np.array(json.loads(line)["tokens"], dtype=np.int32) for line in content.split(b"\n")[:-1]]


def _joined(documents: Sequence[Tokens], separator: Tokens) -> Tokens:
    return np.concatenate([ids for document in documents for ids in (separator, document)][1:])


def _string(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
