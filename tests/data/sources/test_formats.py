"""A file is opened by its content, whatever its name and compression, and what is no data is one sentence soon."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from research.core.errors import UserError
from research.data.sources import containers, digests, matching_files, read_documents, read_records, read_table
from research.data.sources.delimited import read_delimited
from research.data.text.text_data import TextData

ROWS = [{"text": f"line {n},\u2028two", "n": n, "x": n / 2 if n % 3 else None} for n in range(12)]


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


def csv_text(separator: str) -> bytes:
    lines = [separator.join((f'"{row["text"]}"', str(row["n"]), str(row["x"] or ""))) for row in ROWS]
    return "\n".join([separator.join(ROWS[0]), *lines, ""]).encode()


def arrow_bytes(write, table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    write(table, sink)
    return sink.getvalue().to_pybytes()


def stream(table: pa.Table, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def saved(folder: Path, table: pa.Table, parts: int = 2) -> Path:
    """Writes a folder as `datasets.save_to_disk` does: Arrow streams, named by state.json."""
    folder.mkdir()
    names = [f"data-{part:05d}-of-{parts:05d}.arrow" for part in range(parts)]
    size = -(-len(table) // parts)
    for part, name in enumerate(names):
        (folder / name).write_bytes(arrow_bytes(stream, table.slice(part * size, size)))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


TABLE = pa.Table.from_pylist(ROWS)
TYPED = {  # read with their types
    "lines": "\n".join(map(json.dumps, ROWS)).encode(),
    "array": json.dumps(ROWS, indent=1).encode(),
    "parquet": arrow_bytes(parquet.write_table, TABLE),
    "feather": arrow_bytes(feather.write_feather, TABLE),
    "stream": arrow_bytes(stream, TABLE),
}
STRINGS = {"comma": csv_text(","), "tab": csv_text("\t"), "semicolon": csv_text(";"), "bar": csv_text("|")}
PLAIN = {"plain": bytes, "gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.mark.parametrize("container", PLAIN)
@pytest.mark.parametrize("content", [*TYPED, *STRINGS])
@pytest.mark.parametrize("name", ["data", "data.csv.gz"])
def test_every_format_in_every_container_gives_the_same_rows(tmp_path, content, container, name):
    """As records, as columns and as documents; a name without a suffix, or with a wrong one, changes nothing."""
    path = tmp_path / name
    path.write_bytes(PLAIN[container]({**TYPED, **STRINGS}[content]))
    strings = [{**row, "n": str(row["n"]), "x": str(row["x"] or "")} for row in ROWS]
    rows = ROWS if content in TYPED else strings
    assert [record for _, record in read_records([str(path)])] == rows
    assert read_table(str(path)) == {key: [row[key] for row in rows] for key in ROWS[0]}
    assert [document.text for document in read_documents([str(path)])] == [row["text"] for row in ROWS]


def test_a_folder_saved_by_datasets_is_a_table(tmp_path):
    """Its parts in their order, classes by their names; of a folder of splits, one has to be named."""
    features = {"info": {"features": {"n": {"_type": "ClassLabel", "names": [f"class {n}" for n in range(11)]}}}}
    table = TABLE.replace_schema_metadata({"huggingface": json.dumps(features)})
    folder = saved(tmp_path / "train", table)
    records = [record for _, record in read_records([str(folder)])]
    assert [record["text"] for record in records] == [row["text"] for row in ROWS]
    assert [record["n"] for record in records] == [*features["info"]["features"]["n"]["names"], None]
    assert [document.text for document in read_documents([str(folder)])] == [row["text"] for row in ROWS]
    assert len(digests(matching_files([str(folder)]))[str(folder)]) == 64
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match=r"holds the splits train, test .* such as .*/train"):
        read_records([str(tmp_path)])
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../../passwd"}]}')
    with pytest.raises(UserError, match="no file of its folder"):
        read_records([str(folder)])


def test_language_models_train_on_tables_and_archives_as_on_text(tmp_path):
    """A compressed Parquet, JSON array, saved folder or text gives the documents of the plain one; text stays text."""
    text = "".join(f"Paragraph {n}, with text. " + "word " * 900 + "\n\n" for n in range(9))
    for name, content in {"a.txt": text.encode(), "b.txt.xz": lzma.compress(text.encode())}.items():
        (tmp_path / name).write_bytes(content)
    plain, packed = (read_documents([str(tmp_path / name)]) for name in ("a.txt", "b.txt.xz"))
    assert [(each.group, each.text) for each in plain] == [(each.group, each.text) for each in packed]
    (tmp_path / "prose").write_text("One, two\nthree, four\n")
    assert len(read_documents([str(tmp_path / "prose")])) == 1
    (tmp_path / "people.txt").write_text("id,text\n1,one\n2,two\n")
    assert [each.text for each in read_documents([str(tmp_path / "people.txt")])] == ["one", "two"]
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(TYPED["parquet"]))
    data = TextData(train=(str(tmp_path / "rows.parquet.gz"),), group=(), length=8, leak_threshold=1.0)
    documents = data.prepare().facts["splits"]
    assert sum(split["documents"] for split in documents.values()) == len(ROWS)


def test_dates_and_decimals_become_plain_values(tmp_path):
    """Nanoseconds too, which Python does not have, and text in dictionaries and in bytes."""
    table = pa.table(
        {
            "when": pa.array([1_000_000_000_000_000_001, None], pa.timestamp("ns")),
            "day": pa.array([1, 2], pa.date32()),
            "price": pa.array(["1.50", "2.25"]).cast(pa.decimal128(5, 2)),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "raw": pa.array([b"caf\xc3\xa9", b"x"]),
            "nan": [float("nan"), 1.0],
            "list": [[{"role": "user"}], []],
        }
    )
    parquet.write_table(table, tmp_path / "t")
    (_, first), (_, second) = read_records([str(tmp_path / "t")])
    assert first == {
        "when": "2001-09-09T01:46:40",
        "day": "1970-01-02",
        "price": 1.5,
        "kind": "a",
        "raw": "café",
        "nan": None,
        "list": [{"role": "user"}],
    }
    assert second["when"] is None and second["list"] == []


BAD = {
    "zip": (b"PK\x03\x04\0\0", "a zip archive or an Excel workbook"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\0", "an Excel workbook"),
    "twice": (gzip.compress(gzip.compress(b"text")), "compressed twice"),
    "cut gzip": (gzip.compress(os.urandom(2000))[:-900], "damaged or cut short"),
    "cut bz2": (bz2.compress(os.urandom(2000))[:-900], "damaged or cut short"),
    "cut xz": (lzma.compress(os.urandom(2000))[:-900], "damaged or cut short"),
    "cut zstd": (zstd(os.urandom(200_000))[:-900], "damaged or cut short"),
    "flipped gzip": (gzip.compress(b"text," * 99)[:-6] + b"000000", "damaged or cut short"),
    "cut parquet": (TYPED["parquet"][:-40], "cannot be read as Parquet"),
    "cut arrow": (TYPED["feather"][:200], "cannot be read as an Arrow file"),
    "cut stream": (TYPED["stream"][:200], "cannot be read as an Arrow stream"),
    "empty": (b"", "is empty"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "no rows": (arrow_bytes(parquet.write_table, TABLE.slice(0, 0)), "has no rows"),
    "two names": (arrow_bytes(stream, pa.table([[1], [2]], names=["a", "a"])), "names a column twice"),
    "quotes alone": (b'""\n""\n', "more than once|no rows|header"),
    "open array": (b'[{"a": 1},\n{"a": 2}', "not JSON .* at line 2"),
    "array of numbers": (b'[{"a": 1}, 2]', "record 2: found int, not an object"),
    "line of numbers": (b'{"a": 1}\n[2]', ":2: found list, not an object"),
    "deep": (b'{"a":' + b"[" * 100_000, "nests deeper"),
    "merged rows": (b'a\tb\n"x\t1\ny"\t2\nz\t3\n', "runs over several lines"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_is_one_sentence(tmp_path, name):
    """As records, as a table, as text."""
    content, message = BAD[name]
    (tmp_path / "file").write_bytes(content)
    for read in (lambda path: read_records([path]), read_table):
        with pytest.raises(UserError, match=message):
            read(str(tmp_path / "file"))


def test_names_that_are_no_data_are_one_sentence(tmp_path, monkeypatch):
    """Pipes and devices are not waited for; names may be of any length and hold patterns, dashes or escapes."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    for name, message in {
        "pipe": "a pipe or a device",
        "/dev/zero": "a pipe or a device",
        "loop": "matches no file",
        "folder": "is a folder",
        "fold*": "matches only folders",
        "a" * 5000: r"a{200}\.\.\.a{80} matches no file",
        "a\0b": "matches no file",
    }.items():
        with pytest.raises(UserError, match=message):
            read_documents([name])
    for name in ("--steps.txt", "[a]*?.txt", "\x1b[31mred.txt", "a b.txt"):
        Path(name).write_text("words")
        assert [each.text for each in read_documents([name])] == ["words"]
        assert "\x1b" not in read_documents([name])[0].key


def test_a_file_expands_so_far_and_no_further(tmp_path, monkeypatch):
    """In any container, and in Parquet: refused while it is read, with no more memory than allowed."""
    monkeypatch.setattr(containers, "ALWAYS_ALLOWED", 2**20)
    (tmp_path / "parquet").write_bytes(arrow_bytes(parquet.write_table, pa.table({"x": pa.array([0] * 300_000)})))
    for container in ("gzip", "bz2", "xz", "zstd"):
        (tmp_path / container).write_bytes(PLAIN[container](b"a" * 2**25))
    for name in ("gzip", "bz2", "xz", "zstd", "parquet"):
        tracemalloc.start()
        with pytest.raises(UserError, match="expands to more than"):
            read_records([str(tmp_path / name)])
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()
    (tmp_path / "good").write_bytes(gzip.compress(os.urandom(2**20).hex().encode()))
    assert len(read_documents([str(tmp_path / "good")])[0].text) == 2**21


def test_odd_headers_are_read_or_named(tmp_path):
    """As pandas names them; tens of thousands of columns, and of keys, cost no square of time."""
    path = tmp_path / "t.csv"
    for content, expected in {
        ",a,\n1,2,\n": {"Unnamed: 0": ["1"], "a": ["2"]},
        ",,\n1,2,3\n": {"Unnamed: 0": ["1"], "Unnamed: 1": ["2"], "Unnamed: 2": ["3"]},
        " a , b\n1,2\n \n\n3,4\n": {"a": ["1", "3"], "b": ["2", "4"]},
        '"a;b",c\n1,2\n': {"a;b": ["1"], "c": ["2"]},
        "a\n1\n2;3\n": {"a": ["1", "2;3"]},
        "a;b\n1,5;x\n;y\n": {"a": ["1.5", ""], "b": ["x", "y"]},
        'a,b\n"1,000",x\nNA,y\n': {"a": ["1000", "NA"], "b": ["x", "y"]},
        'a,b\n"1,00",x\n': {"a": ["1,00"], "b": ["x"]},
        'a,b\n"1,000","red, green"\n': {"a": ["1000"], "b": ["red, green"]},
    }.items():
        path.write_text(content)
        assert read_delimited(path) == expected
    path.write_text(",".join(f"gene {n}" for n in range(6_000)) + "\n" + ",".join("1" * 6_000) + "\n")
    assert len(read_delimited(path)) == 6_000
    path.write_text(json.dumps({f"k{n}": n for n in range(20_000)}))
    with pytest.raises(UserError, match=r"no field 'text'; it has k0, .*\.\.\.") as refused:
        read_documents([str(path)])
    assert len(str(refused.value)) < 500
    path.write_text("\n".join(json.dumps({f"k{n}": n}) for n in range(5000)))
    with pytest.raises(UserError, match="5,000 different fields in 5,000 records"):
        read_table(str(path))


CELL = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=40)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.sampled_from(",;|"))
def test_what_csv_writes_is_read(tmp_path_factory, rows, separator):
    """Quotes, line breaks and separators in values come back as they were, for all but numbers with commas."""
    quoted = [separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(("first" + separator + "second\n" + "\n".join(quoted) + "\n").encode())
    read = read_delimited(path)
    for column, values in zip(read.values(), zip(*rows, strict=True), strict=True):
        assert [value.replace(",", "").replace(".", "") for value in column] == [
            value.replace(",", "").replace(".", "") for value in values
        ]
