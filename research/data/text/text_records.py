"""Records of text before they are tokenised: read from a data set or your own files, divided, freed of repeats.

`LabelledText` and `PairedText` share these steps. A record is a mapping from column to value; a text that stands in
two splits stays only in the one that measures.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError, listed
from research.data import catalogue, sources, splitting
from research.data.cleaning.cleaning import Document, content_group
from research.data.synthetic import made_up_sentences

Record = Mapping[str, Any]
Splits = dict[str, list[Record]]


def read_splits(dataset: str, own: Mapping[str, Sequence[str]]) -> tuple[Splits, dict[str, Any]]:
    """Reads every split, and what the run's record says of the source.

    Args:
        dataset: a data set of the catalogue, read where no training files are given.
        own: one's own files by split; those of a split may be empty.

    Raises:
        UserError: files or the data set are missing or damaged, or there are no training files beside others.
    """
    given = {split: paths for split, paths in own.items() if paths}
    if not given:
        facts = catalogue.info(dataset)
        source = catalogue.load(dataset)
        return {
            split: [_plain(record, facts) for record in catalogue.read(records, range(len(records)))]
            for split, records in source.items()
        }, facts
    if "train" not in given:
        raise UserError("Files to validate or test on need training files beside them: give --data.train as well.")
    digests = sources.digests([path for paths in given.values() for path in sources.matching_files(paths)])
    splits: Splits = {split: [record for _, record in sources.read_records(paths)] for split, paths in given.items()}
    return splits, {"name": "your files", "files": digests}


def _plain(record: Record, facts: Mapping[str, Any]) -> Record:
    """Text as strings, and classes by their names."""
    names = facts["labels"]

    def plain(column: str, value: Any) -> Any:
        if column in names:
            return names[column][int(value)]
        return value.decode() if isinstance(value, bytes) else value

    return {column: plain(column, value) for column, value in record.items()}


def check_columns(
    splits: Splits, columns: Mapping[str, str], texts: Sequence[str] = (), filled: Sequence[str] = ()
) -> None:
    """Checks that every record has something in each of the columns.

    Args:
        splits: the records.
        columns: the columns by the option that names each.
        texts: the options of those that must hold text.
        filled: the options of those that may not be empty.

    Raises:
        UserError: names the first record that has not.
    """
    for split, records in splits.items():
        for number, record in enumerate(records, start=1):
            for option, column in columns.items():
                if record.get(column) is None:
                    raise UserError(
                        f"Record {number} of the {split} split has no {column!r}, it has {listed(record)}: name the "
                        f"right column with --data.{option}."
                    )
                value = record[column]
                if option in texts and not isinstance(value, str):
                    raise UserError(
                        f"Record {number} of the {split} split has {str(value)[:80]!r} in {column!r}, which is "
                        f"{type(value).__name__}, not text: fix it, or name another column with --data.{option}."
                    )
                if option in filled and isinstance(value, str | list) and not value:
                    raise UserError(
                        f"Record {number} of the {split} split has an empty {column!r}: fill it, or drop the record."
                    )


def divide(
    splits: Splits, fractions: Mapping[str, float], group: Sequence[str], salt: str, text: Callable[[Record], str]
) -> Splits:
    """Holds out a fraction of the training records for each split that has none yet, whole groups at a time.

    Columns in `group` that the records lack are passed over, and said; without any, equal texts are a group.

    Raises:
        UserError: fractions that leave nothing for a split, or a record without a group that others have.
    """
    wanted = {split: fraction for split, fraction in fractions.items() if split not in splits and fraction > 0}
    if not wanted:
        return splits
    present = [column for column in group if any(column in record for record in splits["train"])]
    for column in present:
        check_columns({"train": splits["train"]}, {"group": column})
    if absent := [column for column in group if column not in present]:
        print(f"the records have no column {', '.join(map(repr, absent))} to keep together", file=sys.stderr)
    documents = []
    for index, record in enumerate(splits["train"]):
        name = "/".join(str(record[column]) for column in present) or content_group(text(record))
        documents.append(Document(str(index), name, ""))
    divided = splitting.split(documents, {"train": 1 - sum(wanted.values()), **wanted}, salt)
    chosen = {split: [splits["train"][int(each.key)] for each in members] for split, members in divided.items()}
    return {**splits, **chosen}


def without_repeats(splits: Splits, text: Callable[[Record], str]) -> tuple[Splits, int]:
    """Drops training records whose text, but for case and white space, stands in another split too; and counts them."""

    def key(record: Record) -> str:
        return " ".join(text(record).lower().split())

    measured = {key(record) for split, records in splits.items() if split != "train" for record in records}
    kept = [record for record in splits["train"] if key(record) not in measured]
    if not kept:
        raise UserError("Every training text stands in another split as well: give different files for each split.")
    return {**splits, "train": kept}, len(splits["train"]) - len(kept)


def write_splits(folder: Path, record: Callable[[int, str], Record]) -> dict[str, tuple[str, ...]]:
    """Writes small splits, one record a line, as JSON; returns the files of each, as one's own are given.

    Args:
        folder: where the files go.
        record: (number, text) to the record of a made-up sentence.
    """
    files: dict[str, tuple[str, ...]] = {}
    for seed, (split, count) in enumerate({"train": 200, "validation": 40, "test": 40}.items()):
        path, texts = folder / f"{split}.jsonl", made_up_sentences(count, seed)
        lines = (json.dumps(record(number, text)) + "\n" for number, text in enumerate(texts))
        path.write_text("".join(lines), encoding="utf-8")
        files[split] = (str(path),)
    return files
