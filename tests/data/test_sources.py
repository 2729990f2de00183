"""A user's own files are read exactly, and bad ones are refused with file, place and remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.sources import read_documents, read_records, read_table
from research.data.sources.text import SECTION, sections


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_a_glob_gives_every_file_once(tmp_path: Path) -> None:
    """Files of a glob come in order of name, each once, without a byte order mark, and go by content."""
    second, first = written(tmp_path / "b.txt", "zwei"), written(tmp_path / "a.txt", "\ufeffeins\r\n")
    found = read_documents([str(tmp_path / "*.txt"), second])
    assert [(document.key, document.text) for document in found] == [
        (f"{first}:section 00001", "eins\r\n"),
        (f"{second}:section 00001", "zwei"),
    ]
    moved = read_documents([written(tmp_path / "c.txt", "zwei")])
    assert moved[0].group == found[1].group != found[0].group


def test_one_file_is_divided_and_grows_without_moving(tmp_path: Path) -> None:
    """A single file gives sections that join to it; text added later leaves all but the last as they were."""
    paragraphs = [f"Paragraph {number}. " + "word " * 100 + "\n\n" for number in range(60)]
    path = written(tmp_path / "book.txt", "".join(paragraphs))
    before = read_documents([path])
    assert "".join(document.text for document in before) == "".join(paragraphs)
    assert len({document.group for document in before}) == len(before) > 5
    assert all(document.text.endswith("\n\n") for document in before)
    assert all(len(document.text) >= SECTION for document in before[:-1])
    written(tmp_path / "book.txt", "".join(paragraphs) + "A new end.")
    assert read_documents([path])[: len(before) - 1] == before[:-1]


@given(st.text(alphabet="ab \n\r", max_size=200).map(lambda text: text * 300))
def test_sections_lose_nothing(text: str) -> None:
    """Sections join to the text, and each stops at the first line end past twice the usual size."""
    parts = list(sections(text))
    assert "".join(parts) == text
    longest = max((len(line) for line in text.splitlines(keepends=True)), default=0)
    assert all(len(part) < 2 * SECTION + longest for part in parts)


def test_json_lines_give_text_and_group(tmp_path: Path) -> None:
    """Each line is a document; a group field keeps lines together."""
    lines = [{"body": "one", "book": 1}, {"body": "two\n", "book": 1}]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    found = read_documents([path], text="body", group="book")
    assert [(document.key, document.group, document.text) for document in found] == [
        (f"{path}:1", "1", "one"),
        (f"{path}:2", "1", "two\n"),
    ]


def test_tables_keep_columns_and_quoted_values(tmp_path: Path) -> None:
    """Quoted commas, quotes and line breaks belong to the value; tabs separate in a .tsv file."""
    path = written(tmp_path / "a.csv", 'name,text\nx,"a, ""b""\nc"\ny,d\n')
    assert read_table(path) == {"name": ["x", "y"], "text": ['a, "b"\nc', "d"]}
    assert [(document.group, document.text) for document in read_documents([path], group="name")] == [
        ("x", 'a, "b"\nc'),
        ("y", "d"),
    ]
    assert read_table(written(tmp_path / "a.tsv", "a\tb\n1,5\t2\n")) == {"a": ["1,5"], "b": ["2"]}


Case = Callable[[Path], object]
BAD: dict[str, tuple[Case, str]] = {
    "no path": (lambda folder: read_documents([]), "No data files were named"),
    "missing": (lambda folder: read_documents([str(folder / "none.txt")]), r"none.txt matches no file"),
    "empty glob": (lambda folder: read_documents([str(folder / "*.txt")]), r"\*.txt matches no file"),
    "folder": (lambda folder: read_documents([str(folder)]), "is a folder"),
    "empty": (lambda folder: read_documents([written(folder / "a.txt", " \n")]), "a.txt is empty"),
    "binary": (lambda folder: read_documents([written(folder / "a.txt", b"ab\0c")]), "binary.*offset 2"),
    "latin": (
        lambda folder: read_documents([written(folder / "a.txt", "one\ncaf\xe9\n".encode("latin-1"))]),
        r"not UTF-8 \(byte 0xe9 at offset 7, line 2\); convert",
    ),
    "utf-16": (lambda folder: read_documents([written(folder / "a.txt", "one".encode("utf-16"))]), "is UTF-16"),
    "not json": (
        lambda folder: read_documents([written(folder / "a.jsonl", '{"text": "a"}\n{oops\n')]),
        "a.jsonl:2: not JSON",
    ),
    "not an object": (lambda folder: read_documents([written(folder / "a.jsonl", "[1]")]), "a.jsonl:1: found list"),
    "no field": (
        lambda folder: read_documents([written(folder / "a.jsonl", '{"body": "x"}')]),
        "no field 'text'; it has body",
    ),
    "no string": (lambda folder: read_documents([written(folder / "a.jsonl", '{"text": 3}')]), "'text' is int"),
    "surrogate": (lambda folder: read_documents([written(folder / "a.jsonl", '{"text": "\\ud800"}')]), "surrogate"),
    "ragged": (
        lambda folder: read_table(written(folder / "a.csv", 'a,b\n"1\n",2\n3\n')),
        "a.csv, line 4: found 1 values where the header has 2",
    ),
    "open quote": (lambda folder: read_table(written(folder / "a.csv", 'a,b\n1,"2\n')), "line 2: unexpected end"),
    "header only": (lambda folder: read_table(written(folder / "a.csv", "a,b\n")), "a header but no rows"),
    "twin columns": (lambda folder: read_table(written(folder / "a.csv", "a,a\n1,2\n")), "names 'a' more than once"),
    "no column": (
        lambda folder: read_documents([written(folder / "a.csv", "a,b\n1,2\n")]),
        "row 1: no field 'text'; it has a, b",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, tmp_path: Path) -> None:
    """Each kind of bad file is the user's mistake, named with its place."""
    case, message = BAD[name]
    with pytest.raises(UserError, match=message):
        case(tmp_path)


def test_records_come_from_tables_and_json_lines(tmp_path):
    """One after another, each with its place; the values of a table are strings."""
    table = written(tmp_path / "a.tsv", "text\tlabel\nhello\t1\n")
    lines = written(tmp_path / "b.jsonl", '{"text": "there", "label": 2}\n\n')
    assert read_records([table, lines]) == [
        (f"{table}:row 1", {"text": "hello", "label": "1"}),
        (f"{lines}:1", {"text": "there", "label": 2}),
    ]
    with pytest.raises(UserError, match=r"e.jsonl:2: the text holds half of a surrogate pair"):
        read_records([written(tmp_path / "e.jsonl", '{"a": "\\ud83d\\ude00"}\n{"a": [{"b": "\\ud83d"}]}')])
    with pytest.raises(UserError, match=r"d.jsonl:1: found list, not an object"):
        read_records([written(tmp_path / "d.jsonl", "[1]")])
