"""Tables: columns of numbers and of categories to one row of features, and a column to predict."""

import csv
import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from research.core.errors import UserError
from research.data import catalogue, sources
from research.data.dataset import Data, Rows
from research.data.splitting import split_of

Table = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class TableData:
    """Which table, and what to predict from it.

    Numbers are standardised, categories become one feature each, both by the training rows alone; a category that
    they do not have is all zeros.
    """

    dataset: str = "adult"
    """a data set of the catalogue; not read where a file is given"""
    train: str = ""
    """your own table, .csv or .tsv with a header"""
    test: str = ""
    """your own table to test on"""
    target: str = "label"
    """the column to predict"""
    kind: Literal["binary", "classes", "numbers"] = "binary"
    """what the target is: one of two classes, one of several, or a number"""
    ignore: tuple[str, ...] = ()
    """columns not to use; names that your own table does not have are passed over"""
    logarithm: tuple[str, ...] = ()
    """columns of numbers above -1 that span orders of magnitude, taken as log(1 + x); names as above"""
    validation_fraction: float = 0.1
    """fraction of the training rows held out, by a hash of their content"""

    def build(self) -> Data:
        """Reads, splits, encodes; raises UserError for columns and values that cannot work."""
        tables, facts = self._read()
        tables = {**self._divide(tables["train"]), **{name: t for name, t in tables.items() if name != "train"}}
        train = tables["train"]
        self._check_columns(tables)
        columns = [name for name in train if name != self.target and name not in self.ignore]
        categories = {name: _categories(name, train[name]) for name in columns}
        numbers = [name for name in columns if categories[name] is None]
        scales = {name: self._scale(name, train[name]) for name in numbers}
        classes = () if self.kind == "numbers" else tuple(sorted(set(map(str, train[self.target]))))
        if self.kind == "binary" and len(classes) != 2:
            raise UserError(f"The target {self.target!r} has {len(classes)} values, not 2: set --data.kind classes.")
        features = partial(self._features, categories, scales)
        splits = {
            split: Rows({"inputs": features(table), **self._targets(split, table[self.target], classes)})
            for split, table in tables.items()
        }
        facts["splits"] = {name: {"examples": len(rows)} for name, rows in splits.items()}
        facts["columns"] = {name: "number" if kinds is None else len(kinds) for name, kinds in categories.items()}
        facts["class_names"] = list(classes)
        outputs = len(classes) if self.kind == "classes" else 1

        def encode(raw: Sequence[Any]) -> Rows:
            return Rows({"inputs": features(_table_of(raw, categories))})

        return Data(splits=splits, outputs=outputs, class_names=classes, summary=facts, encode=encode)

    def _read(self) -> tuple[dict[str, Table], dict[str, Any]]:
        if self.train:
            paths = {"train": self.train, **({"test": self.test} if self.test else {})}
            own: dict[str, Table] = {name: sources.read_table(path) for name, path in paths.items()}
            digests = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths.values()}
            return own, {"name": "your files", "files": digests}
        tables: dict[str, Table] = {}
        for split, source in catalogue.load(self.dataset).items():
            records = catalogue.read(source, range(len(source)))
            tables[split] = {name: [_plain(record[name]) for record in records] for name in records[0]}
        return tables, catalogue.info(self.dataset)

    def _divide(self, table: Table) -> dict[str, Table]:
        """Holds rows out by their content, so that equal rows are never on both sides."""
        if not self.validation_fraction:
            return {"train": table}
        fractions = {"train": 1 - self.validation_fraction, "validation": self.validation_fraction}
        rows = list(zip(*table.values(), strict=True))
        sides = [split_of(repr(row), fractions) for row in rows]
        if missing := set(fractions) - set(sides):
            raise UserError(f"The {min(missing)} split of {len(rows)} rows is empty: give more rows.")
        chosen = {side: [row for row, its in zip(rows, sides, strict=True) if its == side] for side in fractions}
        return {side: dict(zip(table, zip(*members, strict=True), strict=True)) for side, members in chosen.items()}

    def _check_columns(self, tables: Mapping[str, Table]) -> None:
        absent = [name for name in (*self.ignore, *self.logarithm) if name not in tables["train"]]
        if absent and self.train:  # as in an experiment whose own table has them
            print(f"{self.train} has no column {', '.join(map(repr, absent))}, passed over", file=sys.stderr)
        for name in (self.target, *(() if self.train else absent)):
            if name not in tables["train"]:
                raise UserError(f"There is no column {name!r}: the table has {', '.join(tables['train'])}.")
        for split, table in tables.items():
            if missing := [name for name in tables["train"] if name not in table and name not in self.ignore]:
                raise UserError(f"The {split} rows have no column {missing[0]!r}: they have {', '.join(table)}.")

    def _scale(self, name: str, values: Sequence[Any]) -> tuple[float, float]:
        numbers = self._numbers(name, values)
        return float(numbers.mean()), float(numbers.std()) or 1.0

    def _numbers(self, name: str, values: Sequence[Any]) -> np.ndarray:
        try:
            numbers = np.array(values, np.float64)
        except ValueError as error:
            raise UserError(f"The column {name!r} holds numbers in the training rows, elsewhere: {error}.") from None
        if name in self.logarithm:
            with np.errstate(divide="ignore", invalid="ignore"):
                numbers = np.log1p(numbers)
        if not np.isfinite(numbers).all():
            raise UserError(
                f"The column {name!r} has values that are not finite numbers, or not above -1 for --data.logarithm: "
                "fix them, or leave the column out with --data.ignore."
            )
        return numbers

    def _features(
        self,
        categories: Mapping[str, Sequence[str] | None],
        scales: Mapping[str, tuple[float, float]],
        table: Table,
    ) -> np.ndarray:
        """Returns the features [rows features] of all columns."""
        parts = [self._encode(name, table[name], kinds, scales.get(name)) for name, kinds in categories.items()]
        return np.concatenate(parts, 1)

    def _encode(
        self, name: str, values: Sequence[Any], kinds: Sequence[str] | None, scale: tuple[float, float] | None
    ) -> np.ndarray:
        """Returns the features [rows features] of one column."""
        if scale is not None:
            return ((self._numbers(name, values)[:, None] - scale[0]) / scale[1]).astype(np.float32)
        return (np.array(values, str)[:, None] == np.array(kinds, str)).astype(np.float32)

    def _targets(self, split: str, values: Sequence[Any], classes: Sequence[str]) -> dict[str, np.ndarray]:
        if self.kind == "numbers":
            return {"targets": self._numbers(self.target, values)[:, None].astype(np.float32)}
        unknown = sorted(set(map(str, values)) - set(classes))
        if unknown:
            raise UserError(f"The {split} rows have the class {unknown[0]!r}, which the training rows do not have.")
        return {"labels": np.array([classes.index(str(value)) for value in values], np.int32)}

    def small(self, folder: Path) -> "TableData":
        """Returns the same of short tables that it writes into the folder: numbers, a category, and the target."""
        random = np.random.default_rng(0)
        classes = 3 if self.kind == "classes" else 2
        for split, count in {"train": 300, "test": 60}.items():
            numbers = random.integers(0, 100, count)
            targets = numbers if self.kind == "numbers" else [f"class {number % classes}" for number in numbers]
            table = {
                "number": numbers,
                "category": random.choice(["red", "green", "blue"], count),
                **{name: random.integers(0, 10_000, count) for name in (*self.ignore, *self.logarithm)},
                self.target: targets,
            }
            with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])
        return dataclasses.replace(self, train=str(folder / "train.csv"), test=str(folder / "test.csv"))


def _categories(name: str, values: Sequence[Any]) -> tuple[str, ...] | None:
    """The distinct values of a column, or None where all are numbers; raises UserError where nearly all are."""
    others = [value for value in values if not _is_number(value)]
    if not others:
        return None
    if len(others) < len(values) / 2:
        raise UserError(
            f"The column {name!r} holds numbers but for {len(others)} values such as {others[0]!r}: fill them in, "
            f"or add --data.ignore {name}."
        )
    return tuple(sorted(set(map(str, values))))


def _table_of(raw: Sequence[Any], categories: Mapping[str, Sequence[str] | None]) -> Table:
    """Returns the columns of rows given one by one; raises UserError where a row cannot be one of these data."""
    for number, row in enumerate(raw, start=1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"These data are rows of a table, and input {number} is not: give the value of every column, by name."
            )
        for name, kinds in categories.items():
            if name not in row:
                raise UserError(f"Row {number} has no column {name!r}: it needs {', '.join(categories)}.")
            if kinds is None and not _is_number(row[name]):
                raise UserError(f"Row {number} has {row[name]!r} in the column {name!r}: give a number.")
            if kinds is not None and str(row[name]) not in kinds:
                known = ", ".join(kinds[:10]) + (", ..." if len(kinds) > 10 else "")
                raise UserError(
                    f"Row {number} has {row[name]!r} in the column {name!r}, which no training row has: give one of "
                    f"{known}."
                )
    return {name: [row[name] for row in raw] for name in categories}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
