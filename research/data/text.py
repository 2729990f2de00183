"""Text for language models: read, clean, divide by group, tokenise, cut into rows; a data set or your own files."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from research.core.errors import UserError
from research.data import catalogue, files, splitting
from research.data.cleaning import Cleaning, Document, clean, content_group
from research.data.dataset import Data, Records, Tokenizer
from research.data.packing import Windows, pack_documents
from research.data.tokenizers import TokenizerConfig

SEPARATOR = "\n\n"  # between the documents of a stream


@dataclasses.dataclass(frozen=True)
class TextData:
    """Which text, and how it becomes rows of tokens."""

    dataset: str = "austen"
    """a data set of the catalogue; not read where files are given"""
    train: tuple[str, ...] = ()
    """your own files or globs: text, .jsonl, .csv or .tsv"""
    validation: tuple[str, ...] = ()
    """your own files to validate on; without them a share of the training files' groups is held out"""
    text: str = "text"
    """the field or column that holds the text"""
    group: tuple[str, ...] = ("book", "chapter")
    """the fields that name the group which a split never divides (one for your own files); none: each by itself"""
    validation_share: float = 0.1
    salt: str = ""
    """another salt gives another split of the same groups"""
    leak_threshold: float = 0.8
    """the similarity from which two documents may not stand on both sides of the split"""
    cleaning: Cleaning = Cleaning()
    tokenizer: TokenizerConfig = TokenizerConfig()
    length: int = 64
    """tokens in a row"""
    packing: Literal["stream", "documents"] = "stream"
    """one stream cut anywhere, or rows in which no attention or loss crosses from a document to the next"""

    def build(self) -> Data:
        """Reads and prepares; raises UserError for files, splits and sizes that cannot work."""
        sources, facts = self._read()
        cleaned = {name: clean(documents, self.cleaning.steps()) for name, documents in sources.items()}
        documents = {name: kept for name, (kept, _) in cleaned.items()}
        if "validation" not in documents:
            share = self.validation_share
            documents = splitting.split(documents["train"], {"train": 1 - share, "validation": share}, self.salt)
        splitting.check_no_leak(documents, self.leak_threshold)
        tokenizer = self.tokenizer.train([*(document.text for document in documents["train"]), SEPARATOR])
        texts = {name: SEPARATOR.join(document.text for document in members) for name, members in documents.items()}
        streams = {name: tokenizer.encode(text) for name, text in texts.items()}
        splits = {name: self._rows(name, members, streams[name], tokenizer) for name, members in documents.items()}
        facts["cleaning"] = [dataclasses.asdict(report) for _, reports in cleaned.values() for report in reports]
        facts["splits"] = splitting.summary(documents)
        for name, stream in streams.items():
            facts["splits"][name]["tokens"] = len(stream)
        facts["tokenizer"] = {"kind": self.tokenizer.kind, "vocabulary": tokenizer.vocabulary_size}
        return Data(
            splits=splits,
            outputs=tokenizer.vocabulary_size,
            tokenizer=tokenizer,
            tokens=streams,
            characters_per_token={name: len(texts[name]) / len(streams[name]) for name in streams},
            summary=facts,
        )

    def _read(self) -> tuple[dict[str, list[Document]], dict[str, Any]]:
        """Returns documents by side of the split (one side where we divide them), and what is known of them."""
        if self.validation and not self.train:
            raise UserError("Validation files need training files beside them: give --data.train as well.")
        if not self.train:
            return {"train": self._documents_of(self.dataset)}, catalogue.info(self.dataset)
        sides = {"train": self.train, "validation": self.validation} if self.validation else {"train": self.train}
        found = {side: files.matching_files(paths) for side, paths in sides.items()}
        digests = {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest() for paths in found.values() for path in paths
        }
        sources = {side: self._documents_in(paths) for side, paths in found.items()}
        return sources, {"name": "your files", "files": digests}

    def _documents_in(self, paths: Sequence[Path]) -> list[Document]:
        group = self.group[0] if len(self.group) == 1 else ""
        kinds = {path: path.suffix.lower() for path in paths}
        lines = [str(path) for path in paths if kinds[path] in (".jsonl", ".ndjson")]
        tables = [str(path) for path in paths if kinds[path] in (".csv", ".tsv")]
        texts = [str(path) for path in paths if str(path) not in (*lines, *tables)]
        documents = files.read_json_lines(lines, self.text, group) if lines else []
        documents += [document for table in tables for document in files.read_table_text(table, self.text, group)]
        return documents + (files.read_text(texts) if texts else [])

    def _documents_of(self, name: str) -> list[Document]:
        documents = []
        for split, records in catalogue.load(name).items():
            for index in range(len(records)):
                record = records[index]
                missing = [field for field in (self.text, *self.group) if field not in record]
                if missing:
                    raise UserError(
                        f"The records of {name!r} have no field {missing[0]!r}, they have {', '.join(record)}: name "
                        "the right ones with --data.text and --data.group."
                    )
                text = _string(record[self.text])
                group = "/".join(_string(record[field]) for field in self.group) or content_group(text)
                documents.append(Document(f"{split}/{index}", group, text))
        return documents

    def _rows(self, split: str, documents: Sequence[Document], stream: np.ndarray, tokenizer: Tokenizer) -> Records:
        if self.packing == "documents":
            return pack_documents([tokenizer.encode(document.text) for document in documents], self.length)
        if len(stream) <= self.length:
            raise UserError(
                f"The {split} split has {len(stream)} tokens, too few for one row of {self.length}: give more text or "
                f"a shorter row, for example --data.length {max(1, len(stream) // 2)}."
            )
        return Windows(stream, self.length, stride=1 if split == "train" else self.length)


def _string(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
