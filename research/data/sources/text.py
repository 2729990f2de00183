"""Text files: decoded as UTF-8, and divided into sections that a split can hold apart."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from research.core.errors import UserError
from research.core.files import shown
from research.data.sources.containers import chunks

SECTION = 4000  # characters


def text_of(path: Path) -> str:
    """Returns the text of a file, compressed or not, without a byte order mark.

    Raises:
        UserError: the file is unreadable, empty, binary or not UTF-8; what is binary is found at its first zero byte,
            before the rest is read.
    """
    parts: list[bytes] = []
    size = 0
    for chunk in chunks(path):
        if not parts and chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{shown(path)} is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {shown(path)}.")
        if (offset := chunk.find(b"\0")) >= 0:
            raise UserError(
                f"{shown(path)} is binary, not text (a zero byte at offset {size + offset}); give a UTF-8 text file, a "
                "table, JSON, Parquet or Arrow."
            )
        parts.append(chunk)
        size += len(chunk)
    data = b"".join(parts)
    del parts
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
        line = data.count(b"\n", 0, start) + 1
        raise UserError(
            f"{shown(path)} is not UTF-8 (byte 0x{data[start]:02x} at offset {start}, line {line}); "
            f"convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 {shown(path)}."
        ) from None
    if not text.strip():
        raise UserError(f"{shown(path)} is empty; give a file with text.")
    return text


def sections(text: str) -> Iterator[str]:
    """Yields the sections of a text, so that one file can be split too; joined they are the text.

    A section ends at the first blank line after 4,000 characters, or at a line end after 8,000. Text added at the end
    leaves the earlier sections, and so their side of a split, as they are.
    """
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= 2 * SECTION or (size >= SECTION and not line.strip()):
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)
