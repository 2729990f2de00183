"""Fashion-MNIST's files: arrays of bytes in idx format, compressed.

Used by the builder beside this module and by `make_mini.py`. The format (LeCun, http://yann.lecun.com/exdb/mnist/) is a
magic number, whose last byte counts the dimensions, the sizes as big-endian 32-bit numbers, and the data.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from research.core.errors import UserError

PREFIXES = {"train": "train", "test": "t10k"}
# Of the decompressed files: distributors compress them anew, which changes the digest of the compressed ones.
FULL_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def file_names(prefix: str) -> tuple[str, str]:
    """Returns the names of a split's image file and label file."""
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def parse_idx(content: bytes) -> UInt8[np.ndarray, "..."]:
    """Reads an array of bytes in idx format."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def format_idx(array: UInt8[np.ndarray, "..."]) -> bytes:
    """Writes an array of bytes in idx format, the inverse of `parse_idx`."""
    magic = bytes([0, 0, 8, array.ndim])
    return magic + np.asarray(array.shape, ">u4").tobytes() + np.ascontiguousarray(array).tobytes()


def read_full(folder: Path) -> dict[str, bytes]:
    """Returns {file name: decompressed content} of the complete data set.

    Raises:
        UserError: a file is missing, damaged, or not that of the original data set.
    """
    contents = {}
    for name, expected in FULL_SHA256.items():
        try:
            content = gzip.decompress((folder / name).read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"Fashion-MNIST's {folder / name} cannot be read ({error}): restore the file.") from None
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise UserError(
                f"Fashion-MNIST's {folder / name} holds SHA-256 {found[:12]}... in place of the original's "
                f"{expected[:12]}...: restore the file."
            )
        contents[name] = content
    return contents
