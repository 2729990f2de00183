"""Pairs of source and target text, for translation and summarisation: a data set or your own files with two columns.

Pairs whose lengths do not match are dropped, whole groups are held out, one tokenizer is trained on both sides, and
the training pairs are packed: source and target of a pair share a row and a segment number.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from research.core.errors import UserError
from research.core.ranges import AtLeast0, Below1, Length
from research.data.dataset import Data, Rows
from research.data.text.packing import best_fit_of_pairs, pack
from research.data.text.text_records import Record, check_columns, divide, read_splits, without_repeats, write_splits
from research.data.text.tokenizers import PairTokenizer, Subwords, TokenizerConfig

Ids = Int32[np.ndarray, " _tokens"]


@dataclasses.dataclass(frozen=True)
class PairedText:
    """Which pairs of texts, and how they become rows of tokens."""

    dataset: str = "bible_en_es"
    """a data set of the catalogue; not read where files are given"""
    train: tuple[str, ...] = ()
    """your own files or globs: CSV, JSON, Parquet or Arrow, also compressed"""
    validation: tuple[str, ...] = ()
    """your own files to validate on; without them a fraction of the groups is held out"""
    test: tuple[str, ...] = ()
    """your own files to test on; likewise"""
    source: str = "en"
    """the column of the text to read"""
    target: str = "es"
    """the column of the text to write"""
    group: tuple[str, ...] = ("book",)
    """the columns that name the group which a split never divides; without them each pair is by itself"""
    validation_fraction: Below1 = 0.05
    test_fraction: Below1 = 0.05
    salt: str = ""
    """another salt gives another split of the same groups"""
    ratio: AtLeast0 = 2.0
    """pairs are dropped where one side is longer than the other by more than this factor, measured against the median
    factor of the training pairs, and by 20 characters (0: none; set it so for summaries)"""
    tokenizer: Any = TokenizerConfig("bpe", vocabulary_size=8192, special="bert")
    """has `train(texts)`, which gives a tokenizer with special tokens: trained on both sides, or taken ready"""
    length: Length = 128
    """tokens of a source and of a target in a row; longer pairs are dropped"""
    cut: bool = False
    """whether a source that is too long loses the rest instead, as for summaries"""
    packing: bool = True
    """several training pairs in a row, which nothing crosses; other splits have one pair a row, to be written anew"""

    def build(self) -> Data:
        """Reads and prepares; raises UserError for files, columns and sizes that cannot work."""
        own = {"train": self.train, "validation": self.validation, "test": self.test}
        splits, facts = read_splits(self.dataset, own)
        check_columns(splits, {"source": self.source, "target": self.target}, texts=("source", "target"))
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        splits = divide(splits, fractions, self.group, self.salt, lambda record: str(record[self.source]))
        splits, facts["repeats_removed"] = without_repeats(splits, lambda record: str(record[self.source]))
        splits, misaligned = self._aligned(splits)
        sides = (self.source, self.target)
        tokenizer = self.tokenizer.train(str(record[side]) for record in splits["train"] for side in sides)
        start, end = boundary_ids(tokenizer)
        rows, facts["splits"], texts = {}, {}, {}
        for split, records in splits.items():
            pairs = [self._encode(tokenizer, record, end) for record in records]
            fit = [max(map(len, pair)) <= self.length for pair in pairs]
            if not any(fit):
                raise UserError(
                    f"No pair of the {split} split fits in {self.length} tokens: set --data.length to more."
                )
            pairs = [pair for pair, fits in zip(pairs, fit, strict=True) if fits]
            rows[split] = self._rows(pairs, start, packing=self.packing and split == "train")
            texts[split] = {
                name: [str(record[side]) for record, fits in zip(records, fit, strict=True) if fits]
                for name, side in (("source", self.source), ("target", self.target))
            }
            facts["splits"][split] = {
                "examples": len(pairs),
                "rows": len(rows[split]),
                "misaligned": misaligned[split],
                "too_long": len(fit) - len(pairs),
                "padding": round(_padding(rows[split]), 4),
            }
        facts["tokenizer"] = {"kind": type(tokenizer).__name__, "vocabulary": tokenizer.vocabulary_size}
        return Data(splits=rows, outputs=tokenizer.vocabulary_size, tokenizer=tokenizer, texts=texts, summary=facts)

    def _aligned(self, splits: dict[str, list[Record]]) -> tuple[dict[str, list[Record]], dict[str, int]]:
        """Drops pairs whose lengths do not match, and counts them by split."""
        if not self.ratio:
            return splits, dict.fromkeys(splits, 0)
        if self.ratio < 1:
            raise UserError(f"The ratio of lengths is {self.ratio:g}: give --data.ratio above 1, or 0 for none.")
        sizes = [(len(str(each[self.source])), len(str(each[self.target]))) for each in splits["train"]]
        median = float(np.median([(source + 1) / (target + 1) for source, target in sizes]))
        matches = functools.partial(_match, median=median, ratio=self.ratio)
        kept = {
            split: [each for each in of if matches(len(str(each[self.source])), len(str(each[self.target])))]
            for split, of in splits.items()
        }
        if empty := [split for split, records in kept.items() if not records]:
            raise UserError(
                f"No pair of the {empty[0]} split has sides of matching lengths by the ratio {self.ratio:g}: set "
                "--data.ratio to more, or to 0 for any."
            )
        return kept, {split: len(splits[split]) - len(kept[split]) for split in splits}

    def _encode(self, tokenizer: PairTokenizer, record: Record, end: int) -> tuple[Ids, Ids]:
        """Returns source and target, each with its end."""
        of_target = tokenizer.target if isinstance(tokenizer, Subwords) and tokenizer.target else tokenizer
        source, target = tokenizer.encode(str(record[self.source])), of_target.encode(str(record[self.target]))
        source = source[: self.length - 1] if self.cut else source
        return np.append(source, np.int32(end)), np.append(target, np.int32(end))

    def _rows(self, pairs: Sequence[tuple[Ids, Ids]], start: int, *, packing: bool) -> Rows:
        sizes = np.array([[len(source), len(target)] for source, target in pairs])
        # Unpacked rows are no longer than they must be; both sides are equally long for models that want them so.
        length = self.length if packing else int(sizes.max())
        members = best_fit_of_pairs(sizes, length) if packing else [[index] for index in range(len(pairs))]
        sources, _ = pack([{"inputs": source} for source, _ in pairs], members, length)
        targets, _ = pack(
            [{"decoder_inputs": np.insert(target[:-1], 0, np.int32(start)), "targets": target} for _, target in pairs],
            members,
            length,
        )
        targets.update({f"decoder_{name}": targets.pop(name) for name in ("segments", "positions")})
        return Rows({**sources, **targets, "mask": (targets["decoder_segments"] > 0).astype(np.float32)})

    def small(self, folder: Path) -> "PairedText":
        """Returns the same of short pairs that it writes into the folder: a few words, and they in upper case."""

        def record(number: int, text: str) -> Record:
            return {self.source: " ".join(text.split()[:4]), self.target: " ".join(text.split()[:4]).upper()}

        train, validation, test = write_splits(folder, record).values()
        return dataclasses.replace(self, dataset="", train=train, validation=validation, test=test, ratio=0.0)


def boundary_ids(tokenizer: Any) -> tuple[int, int]:
    """Returns the ids that begin and end a target: by the special tokens that there are, as the models expect them.

    A published model may name the token that it begins with; T5 and Marian begin with padding, others with a token for
    it.

    Raises:
        UserError: the tokenizer has no special tokens for it.
    """
    if isinstance(tokenizer, PairTokenizer):
        starts = (tokenizer.special_id(role) for role in ("start", "bos", "cls", "pad"))
        ends = (tokenizer.special_id(role) for role in ("eos", "sep"))
        start, end = (next((each for each in ids if each is not None), None) for ids in (starts, ends))
        if start is not None and end is not None:
            return start, end
    raise UserError(
        "Pairs of texts need a tokenizer with special tokens: set --data.tokenizer.kind bpe and "
        "--data.tokenizer.special bert."
    )


def text_before(data: Data, ids: Int32[np.ndarray, " length"] | Int64[np.ndarray, " length"], end: int) -> str:
    """Returns the text of the ids before the first `end`."""
    stops = np.flatnonzero(ids == end)
    return data.tokenizer.decode(ids[: stops[0]] if stops.size else ids) if data.tokenizer else ""


def _match(source: int, target: int, *, median: float, ratio: float) -> bool:
    """Whether these numbers of characters may belong to one pair."""
    larger, smaller = sorted((source, target * median), reverse=True)
    return larger <= smaller * ratio or larger - smaller <= 20


def _padding(rows: Rows) -> float:
    """Returns the fraction of positions of both sides that hold nothing."""
    sides = [rows.arrays[name] for name in ("segments", "decoder_segments")]
    return 1 - sum(int((side > 0).sum()) for side in sides) / sum(side.size for side in sides)
