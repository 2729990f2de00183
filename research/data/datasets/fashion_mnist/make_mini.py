"""Makes the embedded subset of Fashion-MNIST: the first pictures of every class, in their original order.

How `raw/` was made, and can be made again from a folder with the complete files:
`python -m research.data.datasets.fashion_mnist.make_mini --source /usr/share/datasets/fashion-mnist --target DIRECTORY`
"""

import dataclasses
import gzip
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from research.core import command_line
from research.data.datasets.fashion_mnist.idx_files import PREFIXES, file_names, format_idx, parse_idx, read_full

PER_CLASS = {"train": 1_000, "test": 200}


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the complete files are and where the subset goes."""

    source: Path
    target: Path


def first_of_each_class(labels: UInt8[np.ndarray, "examples"], count: int) -> Int[np.ndarray, "chosen"]:
    """Returns the positions, ascending, of the first `count` examples of every class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def main() -> None:
    """Writes the subset's four files."""
    config = command_line.parse(Config, description=__doc__ or "")
    contents = read_full(config.source)
    config.target.mkdir(parents=True, exist_ok=True)
    for split, prefix in PREFIXES.items():
        images, labels = file_names(prefix)
        chosen = first_of_each_class(parse_idx(contents[labels]), PER_CLASS[split])
        for name in (images, labels):
            # No time stamp: the same pictures give the same bytes.
            subset = gzip.compress(format_idx(parse_idx(contents[name])[chosen]), compresslevel=9, mtime=0)
            (config.target / name).write_bytes(subset)


if __name__ == "__main__":
    command_line.run(main)
