"""Writes small GGUF files for the tests, tensors in float32, following the format's description."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 32


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(item: Any) -> bytes:
    """A metadata value with its type: 4 uint32, 5 int32, 6 float32, 7 bool, 8 string, 9 list."""
    match item:
        case bool():
            return struct.pack("<I?", 7, item)
        case int():
            return struct.pack("<II", 4, item)
        case float():
            return struct.pack("<If", 6, item)
        case str():
            return struct.pack("<I", 8) + text(item)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(text(each) for each in item)
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(item)}f", 9, 6, len(item), *item)
        case _:
            return struct.pack(f"<IIQ{len(item)}i", 9, 5, len(item), *item)


def gguf_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray], kind: int = 0) -> bytes:
    """A whole file; `kind` is what the tensors claim to be."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    header += b"".join(text(name) + value(item) for name, item in metadata.items())
    data = b""
    for name, array in tensors.items():
        header += text(name) + struct.pack(f"<I{array.ndim}QIQ", array.ndim, *array.shape[::-1], kind, len(data))
        data += array.tobytes() + bytes(-array.nbytes % ALIGNMENT)
    return header + bytes(-len(header) % ALIGNMENT) + data


def write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path
