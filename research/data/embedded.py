"""The data sets embedded beside this module: a folder `datasets/NAME/` with `NAME_dataset_builder.py` each.

Their raw files are checked against the list of digests beside them before anything is made of them.
"""

import hashlib
from pathlib import Path

from research.core.errors import UserError

DATASETS = Path(__file__).parent / "datasets"
CHECKSUMS = "SHA256SUMS"


def names() -> list[str]:
    """Returns the names of the embedded data sets."""
    return sorted(path.parent.name for path in DATASETS.glob("*/*_dataset_builder.py"))


def check_raw_files(folder: Path) -> dict[str, str]:
    """Returns {file: SHA-256} of an embedded data set's raw files, checked against the list beside them.

    Raises:
        UserError: a file listed in SHA256SUMS is missing or differs.
    """
    raw = [path for path in sorted(folder.glob("raw/**/*")) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in raw}
    if (folder / CHECKSUMS).exists():
        for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
            expected, name = line.split("  ", 1)
            if found.get(name) != expected:
                state = "is damaged or changed" if name in found else "is missing"
                raise UserError(
                    f"The raw data file {folder / name} {state} (SHA-256 {found.get(name, 'none')[:12]}, expected "
                    f"{expected[:12]}): restore it, or, where the change is meant, renew {folder / CHECKSUMS}."
                )
    downloads = folder / "checksums.tsv"
    return found | ({downloads.name: sha256(downloads.read_bytes())} if downloads.exists() else {})


def sha256(content: bytes) -> str:
    """Returns a digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
