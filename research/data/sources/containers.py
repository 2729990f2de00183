"""The bytes of a file, decompressed where it is gzip, bzip2, xz or Zstandard, as its first bytes say.

`chunks` streams them. A small file can expand to more than any memory holds, so a file may expand to 256 MiB, or to 100
times its size where that is more; text and tables compress to a tenth or so.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from research.core.errors import UserError
from research.core.files import regular_size, shown

CHUNK = 2**20
MAX_EXPANSION = 100
ALWAYS_ALLOWED = 256 * 2**20  # bytes
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")  # left off to find the suffix of what is inside


def max_expanded(size: int) -> int:
    """Returns to how many bytes a file of this size may expand."""
    return max(ALWAYS_ALLOWED, MAX_EXPANSION * size)


def suffix_of(path: Path) -> str:
    """Returns a file's suffix in lower case, without that of a compression.

    >>> suffix_of(Path("people.TSV.gz"))
    '.tsv'
    """
    name = path.name.lower()
    for ending in SUFFIXES:
        name = name.removesuffix(ending)
    return Path(name).suffix


def compression(path: Path) -> str:
    """Returns "gzip", "bzip2", "xz" or "zstd" as the first bytes say, or "" for any other file."""
    start = next(_raw_chunks(path, 8), b"")
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), "")


def chunks(path: Path, size: int = CHUNK) -> Iterator[bytes]:
    """Yields the content of a regular file, decompressed, in pieces of at most `size` bytes.

    Raises:
        UserError: the file cannot be read, is damaged or cut short, or expands beyond all measure.
    """
    kind = compression(path)
    if not kind:
        yield from _raw_chunks(path, size)
        return
    limit, total = max_expanded(regular_size(path)), 0
    try:
        with path.open("rb") as file, _decompressed(file, kind) as stream:
            while chunk := stream.read(size):
                if not total and any(chunk.startswith(magic) for magic in MAGIC):
                    raise UserError(f"{shown(path)} is compressed twice; decompress it once.")
                total += len(chunk)
                check_expanded(path, total, limit)
                yield bytes(chunk)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UserError(f"{shown(path)} is damaged or cut short ({error}): copy or compress it again.") from None


def check_expanded(path: Path, total: int, limit: int) -> None:
    """Raises UserError where a file has expanded to more bytes than it may."""
    if total > limit:
        raise UserError(
            f"{shown(path)} expands to more than {limit >> 20:,} MiB, over {MAX_EXPANSION} times its size: where it is "
            "no mistake, write it uncompressed, in several files."
        )


def _raw_chunks(path: Path, size: int) -> Iterator[bytes]:
    regular_size(path)
    try:
        with path.open("rb") as file:
            while chunk := file.read(size):
                yield chunk
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}); check its permissions.") from None


def _decompressed(file: BinaryIO, kind: str) -> Any:
    match kind:
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bzip2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case _:
            import pyarrow  # half a second, so only where it is needed

            return pyarrow.CompressedInputStream(pyarrow.PythonFile(cast(io.IOBase, file), mode="r"), "zstd")
