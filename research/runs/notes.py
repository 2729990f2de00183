"""Notes and tags: what a person writes about a run into its record, for the list of runs and the report.

`python -m research.runs note RUN TEXT` and `tag RUN NAME` call this. A run that is being trained is refused, since its
trainer writes the record.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research.core.errors import UserError
from research.runs.directory import read_record, write_record
from research.runs.record import lock_run, now
from research.runs.schema import is_plain_name

LONGEST_NOTE = 10_000  # characters


def change_note(run: Path, text: str, *, remove: bool = False) -> None:
    """Adds a note to a run, with the time; or removes the notes of that text.

    Raises:
        UserError: there is no such note to remove, the text is empty or too long, or the record cannot be changed.
    """
    if not text.strip() or len(text) > LONGEST_NOTE:
        raise UserError(f"A note has 1 to {LONGEST_NOTE:,} characters, and this one {len(text.strip()):,}.")
    with _editing(run) as record:
        notes = record.get("notes", [])
        if not remove:
            record["notes"] = [*notes, {"time": now(), "text": text}]
            return
        record["notes"] = [note for note in notes if note["text"] != text]
        if len(record["notes"]) == len(notes):
            raise UserError(f"{run} has no note {text!r}: give the text of one as it is.")


def change_tag(run: Path, tag: str, *, remove: bool = False) -> None:
    """Adds a tag to a run, or removes it.

    Raises:
        UserError: there is no such tag to remove, it is no plain name, or the record cannot be changed.
    """
    if not is_plain_name(tag) or not tag.strip():
        raise UserError(f"{tag!r} is no tag: give a plain name without '/'.")
    with _editing(run) as record:
        tags = record.get("tags", [])
        if remove and tag not in tags:
            raise UserError(f"{run} has no tag {tag!r}: it has {', '.join(tags) or 'none'}.")
        kept = [each for each in tags if each != tag]
        record["tags"] = kept if remove else [*kept, tag]


@contextmanager
def _editing(run: Path) -> Iterator[dict[str, Any]]:
    """Holds the lock of a run while its record is changed; writes the record, unless the change fails."""
    read_record(run)  # first: what is no run gets no lock file
    lock = lock_run(run)
    try:
        record = read_record(run)
        yield record
        write_record(run, record)
    finally:
        os.close(lock)
