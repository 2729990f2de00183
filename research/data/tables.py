"""Tables: columns of numbers and of categories to one row of features, and a column to predict."""

import csv
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from research.core.errors import UserError, listed
from research.core.ranges import Below1
from research.data import catalogue, sources
from research.data.cells import class_names, is_date, is_missing, is_number, meaning
from research.data.dataset import Data, Rows
from research.data.splitting import split_of
from research.data.table_columns import (
    MAX_CATEGORIES,
    CategoryColumn,
    Column,
    LeftOut,
    encode,
    fit,
    kind_of,
    read_as,
    targets_of,
)

Table = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class TableData:
    """Which table, and what to predict from it.

    Numbers and dates are standardised, categories become one feature each, both by the training rows alone; a category
    that they do not have is all zeros. A missing number is the training rows' median, and where those lack some, a
    feature more says so; a missing category is a category. Columns of nearly as many categories as rows are left out.
    """

    dataset: str = "adult"
    """a data set of the catalogue; not read where a file is given"""
    train: str = ""
    """your own table: CSV, JSON, Parquet or Arrow, also compressed; or several by a pattern"""
    test: str = ""
    """your own table to test on, beside your own training rows or those of the data set"""
    target: str = "label"
    """the column to predict"""
    kind: Literal["binary", "classes", "numbers"] = "binary"
    """what the target is: one of two classes, one of several, or a number"""
    ignore: tuple[str, ...] = ()
    """columns not to use; names that your own table does not have are passed over"""
    logarithm: tuple[str, ...] = ()
    """columns of numbers above -1 that span orders of magnitude, taken as log(1 + x); names as above"""
    validation_fraction: Below1 = 0.1
    """fraction of the training rows held out, by a hash of their content"""

    def build(self) -> Data:
        """Reads, splits, encodes; raises UserError for columns and values that cannot work."""
        tables, facts = self._read()
        self._check_columns(tables)
        for split, table in tables.items():
            self._check_target(split, table[self.target])
        tables = {**self._divide(tables["train"]), **{name: t for name, t in tables.items() if name != "train"}}
        columns, left_out = self._fit(tables["train"])
        classes = self._classes(tables["train"][self.target])
        names = tuple(sorted(set(classes.values())))
        splits = {
            split: Rows({"inputs": _features(columns, table), **self._targets(split, table[self.target], classes)})
            for split, table in tables.items()
        }
        facts["splits"] = {name: {"examples": len(rows)} for name, rows in splits.items()}
        facts["columns"] = {column.name: _description(column) for column in columns}
        facts["class_names"] = list(names)
        if left_out:
            facts["left_out"] = left_out
        outputs = len(names) if self.kind == "classes" else 1

        def encode_rows(raw: Sequence[Any]) -> Rows:
            return Rows({"inputs": _features(columns, _table_of(raw, columns))})

        ends = np.cumsum([column.width for column in columns]).tolist()
        spans = {column.name: (end - column.width, end) for column, end in zip(columns, ends, strict=True)}
        return Data(
            splits,
            outputs,
            class_names=names,
            columns=spans,
            fitted=tuple(columns),
            summary=facts,
            encode=encode_rows,
        )

    def _read(self) -> tuple[dict[str, Table], dict[str, Any]]:
        paths = {name: path for name, path in {"train": self.train, "test": self.test}.items() if path}
        own: dict[str, Table] = {name: sources.read_table(path) for name, path in paths.items()}
        digests: dict[str, str] = {}
        for path in paths.values():
            found = sources.digests(sources.matching_files([path]))
            digests |= found if len(found) > 1 else {path: next(iter(found.values()))}
        if self.train:
            return own, {"name": "your files", "files": digests}
        tables: dict[str, Table] = {}
        for split, source in catalogue.load(self.dataset).items():
            records = catalogue.read(source, range(len(source)))
            tables[split] = {name: [_plain(record[name]) for record in records] for name in records[0]}
        facts = catalogue.info(self.dataset)
        return {**tables, **own}, {**facts, "files": {**facts["files"], **digests}} if own else facts

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
                raise UserError(f"There is no column {name!r}: the table has {listed(tables['train'])}.")
        for split, table in tables.items():
            if missing := [name for name in tables["train"] if name not in table and name not in self.ignore]:
                raise UserError(f"The {split} rows have no column {missing[0]!r}: they have {listed(table)}.")

    def _check_target(self, split: str, values: Sequence[Any]) -> None:
        for row, value in enumerate(values, start=1):
            if is_missing(value):
                raise UserError(
                    f"Row {row} of the {split} rows has {value!r} in the target {self.target!r}, which stands for no "
                    "value: fill it in (a class needs another name), or remove the row."
                )
            if self.kind == "numbers" and not is_number(value):
                raise UserError(
                    f"Row {row} of the {split} rows has {str(value)[:80]!r} in the target {self.target!r}, not a "
                    "number: fix it, or set --data.kind classes."
                )

    def _fit(self, train: Table) -> tuple[list[Column], dict[str, str]]:
        """Returns the columns that become features, and why others do not."""
        columns: list[Column] = []
        left_out: dict[str, str] = {}
        for name in train:
            if name == self.target or name in self.ignore:
                continue
            match fit(name, train[name], logarithm=name in self.logarithm):
                case LeftOut(name=name, reason=reason):
                    left_out[name] = reason
                    print(f"the column {name!r} is left out: it {reason}", file=sys.stderr)
                case column:
                    columns.append(column)
        if not columns:
            raise UserError(
                f"No column is left to predict {self.target!r} from: "
                + (
                    "; ".join(f"{name!r} {reason}" for name, reason in [*left_out.items()][:1])
                    or "ignore fewer columns."
                )
            )
        return columns, left_out

    def _classes(self, values: Sequence[Any]) -> dict[Any, str]:
        """Returns the names of the classes by their meaning; none where the target is a number."""
        if self.kind == "numbers":
            return {}
        classes = class_names(values)
        if len(classes) == 1:
            only = listed(classes.values())
            raise UserError(f"The target {self.target!r} has one value alone, {only}: give rows of others.")
        if self.kind == "binary" and len(classes) != 2:
            raise UserError(
                f"The target {self.target!r} has {len(classes)} values, not 2: experiments.mlp_classes takes such a "
                "table; where they are numbers to predict, write an experiment of your own with --data.kind numbers "
                "and the task Regression."
            )
        if len(classes) > MAX_CATEGORIES:
            raise UserError(
                f"The target {self.target!r} has {len(classes):,} classes, more than {MAX_CATEGORIES:,}: set "
                "--data.kind numbers where they are numbers, or join classes."
            )
        return classes

    def _targets(self, split: str, values: Sequence[Any], classes: Mapping[Any, str]) -> dict[str, np.ndarray]:
        if self.kind == "numbers":
            return {"targets": targets_of(self.target, values)}
        places = {name: place for place, name in enumerate(sorted(set(classes.values())))}
        if unknown := sorted(str(value) for value in values if meaning(value) not in classes):
            raise UserError(f"The {split} rows have the class {unknown[0]!r}, which the training rows do not have.")
        return {"labels": np.array([places[classes[meaning(value)]] for value in values], np.int32)}

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


def _features(columns: Sequence[Column], table: Table) -> np.ndarray:
    """Returns the features [rows features] of all columns."""
    return np.concatenate([encode(column, table[column.name]) for column in columns], 1)


def _description(column: Column) -> str | int:
    if isinstance(column, CategoryColumn):
        return len(column.kinds)
    return ("date" if column.dates else "number") + (", some missing" if column.has_missing else "")


def _table_of(raw: Sequence[Any], columns: Sequence[Column]) -> Table:
    """Returns the columns of rows given one by one; raises UserError where a row cannot be one of these data."""
    for number, row in enumerate(raw, start=1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"These data are rows of a table, and input {number} is not: give the value of every column, by name."
            )
        for column in columns:
            if column.name not in row:
                needed = listed(each.name for each in columns)
                raise UserError(f"Row {number} has no column {column.name!r}: it needs {needed}.")
            _check_value(number, column, row[column.name])
    return {column.name: [row[column.name] for row in raw] for column in columns}


def _check_value(row: int, column: Column, value: Any) -> None:
    if is_missing(value):
        return
    found = f"Row {row} has {str(value)[:80]!r} in the column {column.name!r}"
    if isinstance(column, CategoryColumn):
        if kind_of(column, value) not in column.kinds:
            raise UserError(f"{found}, which no training row has: give one of {listed(column.kinds)}.")
    elif not (is_date if column.dates else is_number)(read_as(column, value)):
        raise UserError(f"{found}: give {'a date such as 2024-05-31' if column.dates else 'a number'}.")


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
