"""Tensors in safetensors files, read one at a time and never trusted: names, shapes and offsets are checked first.

The format (https://github.com/huggingface/safetensors): eight bytes with the size of a header, the header in JSON (name
-> dtype, shape, first and last byte), and the bytes of the tensors in order, without gaps. Large models are split over
several files, the shards, and an index names the file of each tensor.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from research.core import files
from research.core.errors import UserError, quoted

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TEMPORARY = ".unfinished-"  # what files are called until they are whole
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
UNQUANTISED = "take the model that it was made from, in float32, float16 or bfloat16, or a .gguf file of it"
LARGEST_JSON = 1 << 27  # bytes; the tokenizers of large vocabularies have some 30 million
LARGEST_HEADER = 1 << 25  # bytes; some 200,000 tensors
ALIGNMENT = 64  # bytes; what the CPU backend of JAX asks of memory that it does not copy
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "C64": np.dtype("<c8"),
    "BOOL": np.dtype("?"),
}
WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")  # torch.compile, DataParallel, PEFT


@runtime_checkable
class Weights(Protocol):
    """Named tensors that are read when asked for."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def dtypes(self) -> Mapping[str, np.dtype]: ...

    def read(self, name: str) -> np.ndarray: ...


class Entry(NamedTuple):
    """Where a tensor lies: its file, type and shape, and its first byte."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


class Safetensors:
    """The tensors of one or several checked files."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self._entries.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        return {name: entry.dtype for name, entry in self._entries.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as a fresh array; raises UserError where the file has become shorter."""
        entry = self._entries[name]
        found = read_bytes(entry.path, entry.start, math.prod(entry.shape) * entry.dtype.itemsize)
        return found.view(entry.dtype).reshape(entry.shape)


def read_bytes(path: Path, start: int, count: int) -> np.ndarray:
    """Returns bytes of a file in aligned memory of their own; raises UserError where the file ends before."""
    buffer = aligned_empty((count,), np.uint8)
    with open(path, "rb") as file:
        file.seek(start)
        found, view = 0, buffer.data
        while found < count and (read := file.readinto(view[found : found + (1 << 30)])):
            found += read
    if found < count:
        raise UserError(f"{path} ends too early: it has become shorter since it was opened; fetch it again.")
    return buffer


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns memory that JAX on a CPU can use without a copy."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    padded = np.empty(count + ALIGNMENT, np.uint8)
    return padded[-padded.ctypes.data % ALIGNMENT :][:count].view(dtype).reshape(shape)


def aligned(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns the array as it is, or else a copy, of this type, in order, and where JAX uses it without copying."""
    if array.dtype == dtype and array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, dtype)
    np.copyto(copy, array)
    return copy


def open_file(path: Path) -> Safetensors:
    """Opens one file; raises UserError where it cannot be trusted."""
    return Safetensors(_entries(path))


def open_folder(folder: Path) -> Safetensors:
    """Opens model.safetensors or the shards that its index names; raises UserError where they cannot be trusted.

    What a wrapper has put before every name is left out.
    """
    if (folder / SINGLE).exists():
        return Safetensors(_unwrapped(_entries(folder / SINGLE)))
    if (folder / INDEX).exists():
        return Safetensors(_unwrapped(_sharded(folder)))
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{folder} has its weights in {pickles[0]}, a form that can hold code and is not read here: take the "
            f"model in safetensors, or convert it where you trust it."
        )
    raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}: name a folder with a model in safetensors.")


def _unwrapped(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Returns the tensors without the names of wrappers, as long as all begin with the same one."""
    for wrapper in WRAPPERS:
        if entries and all(name.startswith(wrapper) for name in entries):
            return _unwrapped({name.removeprefix(wrapper): entry for name, entry in entries.items()})
    return entries


def _sharded(folder: Path) -> dict[str, Entry]:
    """Returns the tensors that the index names, where the shards hold just these."""
    index = read_json(folder / INDEX)
    where = index.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise UserError(f"{folder / INDEX} has no weight_map of names to files: fetch it again.")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UserError(
                f"{folder / INDEX} names the file {quoted(shard)}, which is no safetensors file of its folder."
            )
        found = _entries(folder / shard)
        named = {name for name, other in where.items() if other == shard}
        if named != set(found):
            odd = min(named ^ set(found))
            raise UserError(f"{folder / INDEX} and {shard} disagree about the tensor {quoted(odd)}: fetch both again.")
        entries |= found
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises UserError where there is none."""
    if not path.exists():
        raise UserError(f"There is no {path.name} in {path.parent}: name a folder with a whole model.")
    try:
        found = json.loads(files.read_bytes(path, LARGEST_JSON).decode())
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({quoted(error, 200)}): fetch it again.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: fetch it again.")
    return found


def _entries(path: Path) -> dict[str, Entry]:
    """Reads and checks a header; raises UserError for everything in it that is not as the format has it."""
    try:
        size = files.regular_size(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise _corrupt(path, f"its header would be {length} bytes long")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"its header is no JSON ({quoted(error, 200)})") from None
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    entries, ends = {}, {}
    for name, value in header.items():
        entries[name], ends[name] = _entry(path, name, value, 8 + length)
    place = 8 + length
    for name in sorted(entries, key=lambda name: (entries[name].start, ends[name])):
        if entries[name].start != place:
            raise _corrupt(path, f"the bytes of {quoted(name)} overlap others or leave a gap")
        place = ends[name]
    if place != size:
        raise _corrupt(path, f"it has {size} bytes, but its tensors end at {place}")
    return entries


def _entry(path: Path, name: str, value: Any, base: int) -> tuple[Entry, int]:
    if not name or ".." in name or re.search(r"[\x00-\x1f/\\]", name):
        raise _corrupt(path, f"{quoted(name)} is no name for a tensor")
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _corrupt(path, f"{quoted(name)} does not have a dtype, a shape and two offsets") from None
    if dtype in ("F4", "F6_E2M3", "F6_E3M2"):
        raise UserError(f"{path} has {quoted(name)} in the type {dtype}, which is quantised: {UNQUANTISED}.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _corrupt(path, f"{quoted(name)} has the dtype {quoted(dtype)}, which is none of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(_is_count(each) for each in [*shape, start, end]):
        raise _corrupt(path, f"the shape or the offsets of {quoted(name)} are no whole numbers from 0")
    if math.prod(shape) * DTYPES[dtype].itemsize != end - start:
        raise _corrupt(path, f"{quoted(name)} has a shape that does not fit its bytes")
    return Entry(path, DTYPES[dtype], tuple(shape), base + start), base + end


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _corrupt(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged or no safetensors file: {what}; fetch it again.")


def write_folder(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], limit: int) -> None:
    """Writes tensors as safetensors, in shards of at most `limit` bytes (but for a tensor that alone is larger).

    Every file is written beside its place and then moved there, the index last. Only one shard is in memory.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    shards: list[list[str]] = []
    total = 0
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, shard in enumerate(_portions(tensors, limit)):
            _write(folder / f"{TEMPORARY}{number}", shard)
            shards.append(list(shard))
            total += sum(array.nbytes for array in shard.values())
        count = len(shards)
        names = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        for number, name in enumerate(names):
            (folder / f"{TEMPORARY}{number}").replace(folder / name)
        if count == 1:
            (folder / INDEX).unlink(missing_ok=True)
            return
        where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{TEMPORARY}index").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (folder / f"{TEMPORARY}index").replace(folder / INDEX)
        (folder / SINGLE).unlink(missing_ok=True)


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors as one file, beside its place first; raises UserError as `write_folder`."""
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path.with_name(TEMPORARY + path.name), tensors)
        path.with_name(TEMPORARY + path.name).replace(path)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): free space or name another folder.") from None
    finally:
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink()


def _portions(tensors: Iterable[tuple[str, np.ndarray]], limit: int) -> Iterator[dict[str, np.ndarray]]:
    portion: dict[str, np.ndarray] = {}
    size = 0
    for name, array in tensors:
        if portion and size + array.nbytes > limit:
            yield portion
            portion, size = {}, 0
        portion[name] = array
        size += array.nbytes
    yield portion


def _write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, array in tensors.items():
        offsets = [place, place + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
