"""The quantised kinds of tensors in GGUF files, turned into float32.

A row of a tensor is a run of blocks. A block of the plain kinds has 32 values with one scale; one of the K kinds has
256 in 8 or 16 parts, whose own scales are whole numbers of a few bits times the block's. The layouts are those of ggml
(https://github.com/ggml-org/ggml, src/ggml-common.h).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float32, UInt8

Blocks = Any  # a structured array of one block's layout, [blocks]
Values = Float32[np.ndarray, "blocks values"]

HALF, BYTE = "<f2", "u1"


class Kind(NamedTuple):
    """How values are stored: `values` in one block of the layout `block`."""

    name: str
    values: int
    block: np.dtype
    decode: Callable[[Blocks], np.ndarray]


def dequantize(raw: UInt8[np.ndarray, " bytes"], kind: Kind) -> Float32[np.ndarray, " values"]:
    """Returns the values of the blocks in `raw`, whose length is a multiple of a block's."""
    return kind.decode(raw.view(kind.block)).reshape(-1)


def _column(numbers: np.ndarray) -> Values:
    return numbers.astype(np.float32)[:, None]


def _nibbles(packed: UInt8[np.ndarray, "blocks runs bytes"]) -> UInt8[np.ndarray, "blocks values"]:
    """Returns of every run of bytes first the low four bits of each, then the high ones."""
    return _fields(packed, 4, 2)


def _fields(
    packed: UInt8[np.ndarray, "blocks runs bytes"], bits: int, count: int
) -> UInt8[np.ndarray, "blocks values"]:
    """Returns of every run of bytes first the lowest `bits` bits of each, then the next, `count` times."""
    shifts = bits * np.arange(count, dtype=np.uint8)[:, None]
    return ((packed[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _fifth_bits(blocks: Blocks) -> UInt8[np.ndarray, "blocks values"]:
    bits = np.unpackbits(blocks["high"], axis=-1, bitorder="little")
    return _nibbles(blocks["low"][:, None]) | bits << 4


def _q4_0(blocks: Blocks) -> Values:
    return _column(blocks["scale"]) * (_nibbles(blocks["low"][:, None]).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> Values:
    return _column(blocks["scale"]) * _nibbles(blocks["low"][:, None]) + _column(blocks["least"])


def _q5_0(blocks: Blocks) -> Values:
    return _column(blocks["scale"]) * (_fifth_bits(blocks).astype(np.float32) - 16)


def _q5_1(blocks: Blocks) -> Values:
    return _column(blocks["scale"]) * _fifth_bits(blocks) + _column(blocks["least"])


def _q8_0(blocks: Blocks) -> Values:
    return _column(blocks["scale"]) * blocks["low"].astype(np.float32)


def _in_parts(whole: np.ndarray, parts: Any, scales: np.ndarray) -> Float32[np.ndarray, "blocks parts values"]:
    """Returns whole x (the scale of its part), for a block's number and those of its parts."""
    return (_column(whole) * scales)[..., None] * parts


def _q2_k(blocks: Blocks) -> Values:
    values = _fields(blocks["low"].reshape(-1, 2, 32), 2, 4).reshape(-1, 16, 16).astype(np.float32)
    scaled = _in_parts(blocks["scale"], values, blocks["scales"] & 15)
    return (scaled - _in_parts(blocks["least"], 1, blocks["scales"] >> 4)).reshape(-1, 256)


def _q3_k(blocks: Blocks) -> Values:
    low = _fields(blocks["low"].reshape(-1, 2, 32), 2, 4)
    high = _fields(blocks["high"][:, None], 1, 8)
    values = (low | high << 2).reshape(-1, 16, 16).astype(np.float32) - 4
    packed = blocks["scales"]
    scales = _nibbles(packed[:, None, :8]) | _fields(packed[:, None, 8:], 2, 4) << 4
    return _in_parts(blocks["scale"], values, scales.astype(np.float32) - 32).reshape(-1, 256)


def _six_bits(packed: UInt8[np.ndarray, "blocks 12"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scales and the least values of 8 parts, whose six bits each Q4_K and Q5_K pack into 12 bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    return scales, np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)


def _by_six_bits(blocks: Blocks, values: np.ndarray) -> Values:
    scales, least = _six_bits(blocks["scales"])
    scaled = _in_parts(blocks["scale"], values.reshape(-1, 8, 32).astype(np.float32), scales)
    return (scaled - _in_parts(blocks["least"], 1, least)).reshape(-1, 256)


def _q4_k(blocks: Blocks) -> Values:
    return _by_six_bits(blocks, _nibbles(blocks["low"].reshape(-1, 4, 32)))


def _q5_k(blocks: Blocks) -> Values:
    high = _fields(blocks["high"][:, None], 1, 8)
    return _by_six_bits(blocks, _nibbles(blocks["low"].reshape(-1, 4, 32)) | high << 4)


def _q6_k(blocks: Blocks) -> Values:
    low, high = _nibbles(blocks["low"].reshape(-1, 2, 64)), _fields(blocks["high"].reshape(-1, 2, 32), 2, 4)
    values = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    return _in_parts(blocks["scale"], values, blocks["scales"]).reshape(-1, 256)


def _plain(blocks: Blocks) -> np.ndarray:
    return blocks.astype(np.float32)


def _kind(name: str, values: int, decode: Callable[[Blocks], np.ndarray], *fields: Any) -> Kind:
    return Kind(name, values, np.dtype(list(fields)), decode)


SCALE, LEAST, SIX_BITS = ("scale", HALF), ("least", HALF), ("scales", BYTE, 12)

KINDS: Mapping[int, Kind] = {  # by the numbers that GGUF gives them
    0: Kind("F32", 1, np.dtype("<f4"), _plain),
    1: Kind("F16", 1, np.dtype(HALF), _plain),
    30: Kind("BF16", 1, np.dtype(ml_dtypes.bfloat16), _plain),
    2: _kind("Q4_0", 32, _q4_0, SCALE, ("low", BYTE, 16)),
    3: _kind("Q4_1", 32, _q4_1, SCALE, LEAST, ("low", BYTE, 16)),
    6: _kind("Q5_0", 32, _q5_0, SCALE, ("high", BYTE, 4), ("low", BYTE, 16)),
    7: _kind("Q5_1", 32, _q5_1, SCALE, LEAST, ("high", BYTE, 4), ("low", BYTE, 16)),
    8: _kind("Q8_0", 32, _q8_0, SCALE, ("low", "i1", 32)),
    10: _kind("Q2_K", 256, _q2_k, ("scales", BYTE, 16), ("low", BYTE, 64), SCALE, LEAST),
    11: _kind("Q3_K", 256, _q3_k, ("high", BYTE, 32), ("low", BYTE, 64), SIX_BITS, SCALE),
    12: _kind("Q4_K", 256, _q4_k, SCALE, LEAST, SIX_BITS, ("low", BYTE, 128)),
    13: _kind("Q5_K", 256, _q5_k, SCALE, LEAST, SIX_BITS, ("high", BYTE, 32), ("low", BYTE, 128)),
    14: _kind("Q6_K", 256, _q6_k, ("low", BYTE, 128), ("high", BYTE, 64), ("scales", "i1", 16), SCALE),
}
