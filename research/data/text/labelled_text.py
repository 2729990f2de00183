"""Labelled text: read, label, divide by group, tokenise, pack into rows; a data set or your own files.

For classes, scores made into two classes, numbers, labels of words, answers in a context, and pairs of texts that
belong together. Your own table takes `--data.train my.csv --data.text review --data.label sentiment`.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from research.core.errors import UserError, listed
from research.core.ranges import AtLeast0, Below1, Finite, Length
from research.data.cells import class_names, is_number, meaning, number_of
from research.data.dataset import Data, Rows
from research.data.text.text_examples import Example, encode_answer, encode_text, encode_words, rows_of
from research.data.text.text_records import (
    Record,
    Splits,
    check_columns,
    divide,
    read_splits,
    without_repeats,
    write_splits,
)
from research.data.text.tokenizers import PairTokenizer, TokenizerConfig

TWO_CLASSES = ("negative", "positive")


@dataclasses.dataclass(frozen=True)
class LabelledText:
    """Which text, which labels, and how they become rows of tokens."""

    dataset: str = "sentences"
    """a data set of the catalogue; not read where files are given"""
    train: tuple[str, ...] = ()
    """your own files or globs: CSV, JSON, Parquet or Arrow, also compressed"""
    validation: tuple[str, ...] = ()
    """your own files to validate on; without them a fraction of the groups is held out"""
    test: tuple[str, ...] = ()
    """your own files to test on; likewise"""
    text: str = "text"
    """the column that holds the text (words: the words, a list or divided by spaces; answers: the question)"""
    other: str = ""
    """the column of a second text, read together with the first (answers: the context; pairs: its partner)"""
    label: str = "score"
    """the column to predict (pairs: how alike the two are, where that is known)"""
    kind: Literal["classes", "threshold", "numbers", "words", "answers", "pairs"] = "threshold"
    """what the label is: a class; a score, to be divided into two classes; a number; a class for each word; an answer
    in the context, the first place with these words; or nothing but that the two texts of a pair belong together"""
    threshold: Finite = 0.0
    """scores above it are positive; labels that are no scores, or take only two values, are classes as they are"""
    margin: AtLeast0 = 0.0
    """scores no further than this from the threshold are left out"""
    group: tuple[str, ...] = ("document",)
    """the columns that name the group which a split never divides; without them each text is by itself"""
    validation_fraction: Below1 = 0.1
    test_fraction: Below1 = 0.1
    salt: str = ""
    """another salt gives another split of the same groups"""
    tokenizer: Any = TokenizerConfig("wordpiece", vocabulary_size=8192)
    """has `train(texts)`, which gives a tokenizer with special tokens: trained on the training texts, or taken ready"""
    length: Length = 128
    """tokens in a row, and the most of an example, which loses the rest"""
    packing: bool = True
    """several examples in a row, which nothing crosses, instead of one"""

    def build(self) -> Data:
        """Reads and prepares; raises UserError for files, columns, labels and sizes that cannot work."""
        splits, facts = self._records()
        splits, names, facts["left_out"] = self._labelled(splits)
        tokenizer = self._tokenizer(splits["train"])
        rows, facts["splits"] = {}, {}
        for split, records in splits.items():
            examples = [self._encode(tokenizer, record, names) for record in records]
            lost = [self.kind == "answers" and example.label is None for example in examples]
            if split == "train":
                examples, splits[split] = _without(examples, lost), _without(records, lost)
            else:  # they count as answers that were not found: an evaluator knows the texts
                examples = [
                    Example(each.parts, (0, 0)) if out else each for each, out in zip(examples, lost, strict=True)
                ]
            if not examples:
                raise UserError(f"No answer stands in the first {self.length} tokens: set --data.length to more.")
            rows[split], padding = rows_of(examples, self.length, packing=self.packing)
            counts = {"examples": len(examples), "rows": len(rows[split]), "padding": round(padding, 4)}
            facts["splits"][split] = {**counts, "answers_lost": sum(lost)} if self.kind == "answers" else counts
        facts["class_names"] = list(names)
        facts["tokenizer"] = {"kind": type(tokenizer).__name__, "vocabulary": tokenizer.vocabulary_size}
        outputs = {"numbers": 1, "answers": tokenizer.vocabulary_size, "pairs": tokenizer.vocabulary_size}
        named = {"text": self.text, "other": self.other, "label": self.label}
        records = list(itertools.chain.from_iterable(splits.values()))
        columns = {name: column for name, column in named.items() if all(column in record for record in records)}
        return Data(
            splits=rows,
            outputs=outputs.get(self.kind, len(names)),
            class_names=names,
            tokenizer=tokenizer,
            texts={
                split: {name: [record[column] for record in records] for name, column in columns.items()}
                for split, records in splits.items()
            },
            summary=facts,
            encode=partial(self._encode_raw, tokenizer),
        )

    def _records(self) -> tuple[Splits, dict[str, Any]]:
        """Reads and divides; no text is in two splits."""
        if self.kind in ("answers", "pairs") and not self.other:
            raise UserError(f"For {self.kind} a second text is needed: name its column with --data.other.")
        splits, facts = read_splits(
            self.dataset, {"train": self.train, "validation": self.validation, "test": self.test}
        )
        needed = {"text": self.text, "other": self.other, "label": "" if self.kind == "pairs" else self.label}
        texts = {"words": ("other",), "answers": ("text", "other", "label")}.get(self.kind, ("text", "other"))
        filled = () if self.kind == "answers" else ("label",)
        check_columns(splits, {option: column for option, column in needed.items() if column}, texts, filled)
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        splits = divide(splits, fractions, self.group, self.salt, self._whole_text)
        splits, facts["repeats_removed"] = without_repeats(splits, self._whole_text)
        return splits, facts

    def _whole_text(self, record: Record) -> str:
        return f"{record[self.text]}\n{record[self.other]}" if self.other else str(record[self.text])

    def _labelled(self, splits: Splits) -> tuple[Splits, tuple[str, ...], int]:
        """Returns the records with labels as they are learned, the names of the classes, and how many are left out."""
        train: list[Any] = [record.get(self.label) for record in splits["train"]]
        if self.kind == "answers":
            return splits, (), 0
        if self.kind == "pairs" and None in train:
            return {split: list(map(self._without_label, of)) for split, of in splits.items()}, (), 0
        if self.kind in ("numbers", "pairs"):
            return self._relabelled(splits, self._number), (), 0
        if self.kind != "words":
            self._check_single(splits)
        if self.kind == "threshold":
            if not all(map(_is_finite, train)) or len({float(value) for value in train}) <= 2:
                found = listed(_names(class_names(train).values()), 5)
                print(f"the labels {self.label!r} are no scores, and taken as classes: {found}", file=sys.stderr)
            else:
                before = sum(map(len, splits.values()))
                splits = {split: [each for each in of if self._is_clear(each)] for split, of in splits.items()}
                splits = self._relabelled(splits, lambda value: int(self._number(value) > self.threshold))
                if missing := {0, 1} - {record[self.label] for record in splits["train"]}:
                    raise UserError(
                        f"No score is {TWO_CLASSES[min(missing)]} by the threshold {self.threshold:g} and the margin "
                        f"{self.margin:g}: set --data.threshold, or --data.kind classes or numbers."
                    )
                if empty := [split for split, records in splits.items() if not records]:
                    raise UserError(
                        f"No score of the {empty[0]} split is further than {self.margin:g} from the threshold "
                        f"{self.threshold:g}: set --data.margin to less, or give that split more texts."
                    )
                return splits, TWO_CLASSES, before - sum(map(len, splits.values()))
        classes = class_names([tag for tags in train for tag in _words(tags)] if self.kind == "words" else train)
        names = _names(classes.values())
        if len(names) < 2:
            raise UserError(f"All training labels {self.label!r} are {names[0]!r}: name another column.")
        numbers = {name: number for number, name in enumerate(names)}

        def number(label: Any) -> int:
            if meaning(label) not in classes:
                raise UserError(f"The label {label!r} is not among the training labels, {listed(names)}.")
            return numbers[classes[meaning(label)]]

        if self.kind == "words":
            return self._relabelled(splits, lambda tags: [number(tag) for tag in _words(tags)]), names, 0
        return self._relabelled(splits, number), names, 0

    def _check_single(self, splits: Splits) -> None:
        for split, records in splits.items():
            for number, record in enumerate(records, start=1):
                if isinstance(label := record.get(self.label), list | dict):
                    raise UserError(
                        f"Record {number} of the {split} split has {str(label)[:80]!r} in {self.label!r}, a "
                        f"{type(label).__name__}: give one class, or set --data.kind words where each word has one."
                    )

    def _relabelled(self, splits: Splits, change: Any) -> Splits:
        return {
            split: [{**record, self.label: change(record.get(self.label))} for record in records]
            for split, records in splits.items()
        }

    def _without_label(self, record: Record) -> Record:
        return {column: value for column, value in record.items() if column != self.label}

    def _number(self, value: Any) -> float:
        if not _is_finite(value):
            raise UserError(f"The label {value!r} in {self.label!r} is no finite number: fix it, or set --data.kind.")
        return float(value)

    def _is_clear(self, record: Record) -> bool:
        return abs(self._number(record[self.label]) - self.threshold) > self.margin

    def _tokenizer(self, train: Sequence[Record]) -> PairTokenizer:
        texts = [" ".join(_words(record[self.text])) if self.kind == "words" else record[self.text] for record in train]
        tokenizer = self.tokenizer.train([*texts, *(record[self.other] for record in train if self.other)])
        if not isinstance(tokenizer, PairTokenizer):
            raise UserError(
                "Labelled text needs a tokenizer of subwords: set --data.tokenizer.kind wordpiece, or bpe with "
                "--data.tokenizer.special bert."
            )
        return tokenizer

    def _encode(self, tokenizer: PairTokenizer, record: Record, names: Sequence[str]) -> Example:
        text, other = record[self.text], record[self.other] if self.other else None
        match self.kind:
            case "words":
                words, labels = _words(text), record[self.label]
                if len(words) != len(labels):
                    raise UserError(f"There are {len(words)} words and {len(labels)} labels in {' '.join(words)!r}.")
                return encode_words(tokenizer, words, labels, self.length)
            case "answers":
                return encode_answer(tokenizer, text, str(other), str(record[self.label]), self.length)
            case "pairs":
                parts = [encode_text(tokenizer, each, None, self.length // 2) for each in (text, str(other))]
                return Example(tuple(parts), record.get(self.label))
            case _:
                return Example((encode_text(tokenizer, text, other, self.length),), record[self.label])

    def _encode_raw(self, tokenizer: PairTokenizer, raw: Sequence[Any]) -> Rows:
        """Returns the rows of texts, or of pairs of texts, one a row."""
        records = [self._raw_record(number, each) for number, each in enumerate(raw, start=1)]
        rows, _ = rows_of([self._encode(tokenizer, record, ()) for record in records], self.length, packing=False)
        return Rows({name: array for name, array in rows.arrays.items() if name != "labels"})

    def _raw_record(self, number: int, raw: Any) -> Record:
        """Returns a record as the columns of the data have it, with a label that means nothing."""
        wanted, texts = ("a pair of texts" if self.other else "one text"), [raw]
        if self.other and isinstance(raw, Sequence) and not isinstance(raw, str) and len(raw) == 2:
            texts = list(raw)
        if len(texts) != 1 + bool(self.other) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"Each example of these data is {wanted}, and input {number} is not: give {wanted}.")
        label: Any = {"words": [0] * len(_words(texts[0])), "answers": ""}.get(self.kind)
        return {self.text: texts[0], self.label: label} | ({self.other: texts[1]} if self.other else {})

    def small(self, folder: Path) -> "LabelledText":
        """Returns the same of short texts that it writes into the folder, with labels of the same kind."""

        def record(number: int, text: str) -> Record:
            words = text.split()
            side = 1 if number % 2 else -1
            labels = {
                "classes": f"class {number % 3}",
                "words": " ".join("number" if word.isdigit() else "word" for word in words),
                "answers": words[1],
            }
            label = labels.get(self.kind, self.threshold + side * (self.margin + 1 + number % 3))
            question = "Which number?" if self.kind == "answers" else text
            columns = {self.text: question, self.other: text, self.label: label}
            return {column: value for column, value in columns.items() if column}

        train, validation, test = write_splits(folder, record).values()
        return dataclasses.replace(self, dataset="", train=train, validation=validation, test=test)


def _without(values: Sequence[Any], out: Sequence[bool]) -> list[Any]:
    return [value for value, is_out in zip(values, out, strict=True) if not is_out]


def _words(value: Any) -> list[str]:
    if not isinstance(value, str | Sequence | np.ndarray):
        raise UserError(f"Found {value!r} where words, or their labels, should be: give a list, or text with spaces.")
    return value.split() if isinstance(value, str) else [str(word) for word in value]


def _names(labels: Iterable[Any]) -> tuple[str, ...]:
    """Returns the names of classes in order: of their numbers where all are numbers, else of their letters."""
    names = {str(label) for label in labels}
    return tuple(sorted(names, key=float) if all(map(_is_finite, names)) else sorted(names))


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(number_of(value))
