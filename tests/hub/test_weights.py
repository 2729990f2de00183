"""Safetensors: equal to the format's own library in both directions, and no header is used unchecked."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from research.core.errors import UserError
from research.hub.weights import DTYPES, INDEX, SINGLE, aligned, open_folder, write_folder

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def tensors() -> dict[str, np.ndarray]:
    """One of each type, an empty one and a scalar among them."""
    random = np.random.default_rng(0)
    made = {f"layer.{name}": (100 * random.random((3, 5))).astype(dtype) for name, dtype in DTYPES.items()}
    return made | {"empty": np.zeros((0, 4), np.float32), "scalar": np.array(3.5, np.float32)}


def write(folder: Path, header: Any, data: bytes = bytes(32), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / SINGLE).write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return folder


def assert_equal(found: Any, expected: dict[str, np.ndarray]) -> None:
    assert found.shapes == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        read = found.read(name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_reads_what_the_library_writes(tmp_path):
    """Every type, empty tensors and scalars, with their names."""
    save_file(tensors(), tmp_path / SINGLE)
    assert_equal(open_folder(tmp_path), tensors())


@pytest.mark.parametrize("limit", [1, 200, 1 << 20])
def test_the_library_reads_what_we_write(tmp_path, limit):
    """In one file and in shards within the limit, with an index; and we read it back."""
    write_folder(tmp_path, tensors().items(), limit)
    files = sorted(tmp_path.iterdir())
    assert (tmp_path / SINGLE in files) == (limit == 1 << 20)
    merged: dict[str, Any] = {}
    for path in (path for path in files if path.suffix == ".safetensors"):
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118, no mapping
                eight_bits = file.get_slice(name).get_dtype().startswith("F8")  # which this library cannot give NumPy
                merged[name] = None if eight_bits else file.get_tensor(name)
    assert merged.keys() == tensors().keys()
    for name, array in tensors().items():
        if merged[name] is not None:
            np.testing.assert_array_equal(merged[name], array)
    assert_equal(open_folder(tmp_path), tensors())
    if limit == 200:
        assert all(path.stat().st_size < 200 + 1500 for path in files if path.suffix == ".safetensors")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    """What is there stays as it is until all of the new is written."""
    write_folder(tmp_path, [("old", np.ones(3, np.float32))], 1 << 20)

    def failing():
        yield "new", np.zeros(3, np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path, failing(), 4)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert_equal(open_folder(tmp_path), {"old": np.ones(3, np.float32)})


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """A file stands where the folder should."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(tmp_path / "taken", tensors().items(), 1 << 20)


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "a": {**GOOD["a"], **fields}}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (changed(shape=[2, 4]), "does not fit its bytes"),
        (changed(shape=[-2, -3]), "no whole numbers"),
        (changed(shape=[1 << 62, 1 << 62]), "does not fit its bytes"),
        (changed(shape=[2.0, 3]), "no whole numbers"),
        (changed(shape=[True, 6]), "no whole numbers"),
        (changed(shape="23"), "no whole numbers"),
        (changed(dtype="F99"), "dtype 'F99'"),
        (changed(dtype=["F32"]), "dtype"),
        (changed(data_offsets=[24, 0]), "does not fit its bytes"),
        (changed(data_offsets=[0, 24, 32]), "two offsets"),
        (changed(data_offsets=[4, 28]), "overlap others or leave a gap"),
        (changed(data_offsets=[8, 32]), "overlap others or leave a gap"),
        ({**GOOD, "c": {"dtype": "U8", "shape": [9], "data_offsets": [32, 41]}}, "tensors end at"),
        ({"a": GOOD["a"]}, "tensors end at"),
        ({**GOOD, "../c": GOOD["a"]}, "no name for a tensor"),
        ({"": GOOD["a"]}, "no name for a tensor"),
        ({"a": 3}, "two offsets"),
        ([1], "no JSON object"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
    ],
)
def test_lies_are_told(tmp_path, header, words):
    """Each says what is wrong with the file."""
    with pytest.raises(UserError, match=words):
        open_folder(write(tmp_path, header))


@pytest.mark.parametrize("length", [10_000, 1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_not_read(tmp_path, length):
    """The size comes first, and nothing of that size is allocated."""
    with pytest.raises(UserError, match="header would be"):
        open_folder(write(tmp_path, GOOD, length=length))


@given(place=st.integers(0, 1 << 16), values=st.binary(min_size=1, max_size=6), cut=st.integers(0, 40))
def test_a_damaged_file_is_refused_or_read_within_its_size(tmp_path_factory, place, values, cut):
    """Whatever bytes change: the tensors fit the file, or a UserError says that they do not; memory stays small."""
    folder = write(tmp_path_factory.mktemp("damaged"), GOOD)
    whole = bytearray((folder / SINGLE).read_bytes())
    place %= len(whole)
    whole[place : place + len(values)] = values
    (folder / SINGLE).write_bytes(whole[: len(whole) - cut])
    tracemalloc.start()
    try:
        found = open_folder(folder)
        for name in found.shapes:
            assert found.read(name).nbytes <= 32
    except UserError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_cut_while_open_is_noticed(tmp_path):
    """A tensor that is no longer there is not read as whatever was in memory."""
    found = open_folder(write(tmp_path, GOOD))
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-4])
    with pytest.raises(UserError, match="shorter"):
        found.read("b")


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ("../model.safetensors", "of its folder"),
        ("/etc/passwd", "of its folder"),
        ("model.bin", "of its folder"),
        (3, "weight_map"),
    ],
)
def test_an_index_names_files_of_its_folder_only(tmp_path, shard, words):
    """No path leads out of the folder."""
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UserError, match=words):
        open_folder(tmp_path)


def test_an_index_and_its_shards_agree(tmp_path):
    """A tensor in one of them only is named."""
    write_folder(tmp_path, tensors().items(), 1)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["layer.x"] = index["weight_map"].pop("layer.F16")
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"layer\.(x|F16)"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused(tmp_path, name):
    """In one sentence that says why."""
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="can hold code"):
        open_folder(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    """The files that were looked for are named."""
    with pytest.raises(UserError, match="has neither"):
        open_folder(tmp_path)


def test_aligned_copies_only_where_it_must(tmp_path):
    """What was read can be used in place; another type, order or address makes a copy of equal values."""
    read = open_folder(write(tmp_path, GOOD, np.arange(8, dtype=np.float32).tobytes())).read("a")
    assert aligned(read, np.float32) is read
    for other in (read.T, read.astype(ml_dtypes.bfloat16), read.reshape(-1)[1:]):
        copy = aligned(other, np.float32)
        assert copy is not other and copy.dtype == np.float32 and copy.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy, other)
