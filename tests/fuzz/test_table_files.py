"""Damaged tables and JSON lines give data or one sentence, in bounded time and memory, and no data a peer refuses."""

import contextlib
import json
import random
import resource
import time

import pyarrow
import pytest
from pyarrow import csv as arrow_csv

from research.core.errors import UserError
from research.data.sources import read_documents, read_records
from research.data.tables import TableData

MUTATIONS = 2000
CSV = "age,city,note,label\n" + "".join(
    f'{n},{"" if n % 7 == 0 else "xyz"[n % 3]},"say ""{n}"", twice\nand on",{"yes" if n % 2 else "no"}\n'
    for n in range(30)
)
LINES = "".join(
    json.dumps({"text": f"some words \u00e9 {n}", "label": n % 2, "more": [n, None, {"a": 1.5e3}]}) + "\n"
    for n in range(30)
)
PIECES = [b'"', b'""', b",", b";", b"\t", b"\n", b"\r", b"\0", b"\xff", b"{", b"[", b"]}", b"\\", b"\\ud800", b"NaN"]
PIECES += [b"1e999", b"-", b"9" * 5000, b"[" * 5000, b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1", b"\xff\xff\xff\xff", b" "]


def mutated(content: bytes, source: random.Random) -> bytes:
    """Up to four changes: bytes replaced, pieces put in, parts taken out or repeated."""
    data = bytearray(content)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(data) + 1)
        end = min(len(data), place + source.randint(1, 40))
        match source.randrange(4):
            case 0 if place < len(data):
                data[place] = source.randrange(256)
            case 1:
                data[place:place] = source.choice(PIECES)
            case 2:
                del data[place:end]
            case _:
                data[place:place] = data[place:end] * source.randint(1, 3)
    return bytes(data)


def refused_by_json(data: bytes) -> bool:
    """Whether a line is no JSON for the standard library, which allows more than the standard."""
    try:
        for line in data.decode("utf-8-sig").split("\n"):
            if line.strip():
                json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def refused_by_arrow(data: bytes) -> bool:
    """Whether pyarrow finds rows of unequal lengths, or bytes that are no UTF-8."""
    try:
        options = arrow_csv.ParseOptions(newlines_in_values=True)
        arrow_csv.read_csv(pyarrow.BufferReader(data), parse_options=options)
    except (pyarrow.ArrowException, ValueError):
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "peer"), [("t.csv", CSV, refused_by_arrow), ("t.jsonl", LINES, refused_by_json)]
)
def test_damaged_files_are_data_or_one_sentence(tmp_path, capsys, name, content, peer):
    """2,000 mutations: no other exception, at most 5 s and 1 GB each, and nothing is read that a peer refuses."""
    source, before = random.Random(0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / name
    readable = 0
    for number in range(MUTATIONS):
        data = mutated(content.encode(), source)
        path.write_bytes(data)
        begun = time.process_time()
        try:
            records = read_records([str(path)])
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 2000
        else:
            readable += 1
            first = next((line for line in data.decode("utf-8-sig").splitlines() if line.strip()), "")
            if first.count(",") == 3 or name == "t.jsonl":  # else a table by another separator
                assert not peer(data), f"mutation {number} is read as {len(records)} records"
        for read in (lambda: read_documents([str(path)]), lambda: TableData(train=str(path)).build()):
            with contextlib.suppress(UserError):
                read()
        assert time.process_time() - begun < 5
        capsys.readouterr()  # what is left out is said each time
    assert readable > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB
