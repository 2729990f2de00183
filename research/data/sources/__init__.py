"""One way to open a user's own files: text, JSON, tables, Parquet and Arrow, compressed or not, known by their content.

A file passes three steps, one module each: a container (`containers.py`: plain or compressed), a format (`formats.py`),
and what it holds, as documents or as records (`records.py`) or columns (`columns.py`). What cannot be read is refused
with one sentence that names the file, the place in it and the remedy.
"""

from research.data.sources.columns import read_table
from research.data.sources.files import digests, matching_files
from research.data.sources.records import read_documents, read_records

__all__ = [
    "digests",
    "matching_files",
    "read_documents",
    "read_records",
    "read_table",
]
