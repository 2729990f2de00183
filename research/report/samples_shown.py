"""The samples that a report shows: texts, and the pictures and clips of the run directory, embedded into the page."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from research.runs.directory import SAMPLES
from research.tasks.samples import data_uri

MEDIA_TYPES = {".png": "image/png", ".wav": "audio/wav"}


class ShownSample(NamedTuple):
    """A sample as the template shows it.

    Attributes:
        step: of the run.
        text: a text, the captions of a picture, or what is missing; "" where there is nothing to say.
        image: a picture as a data URI, or "".
        clips: (data URI, caption) of each clip.
    """

    step: str
    text: str
    image: str = ""
    clips: Sequence[tuple[str, str]] = ()


def samples(run: Path, entries: Sequence[Mapping[str, Any]], max_samples: int = 8) -> list[ShownSample]:
    """Returns up to `max_samples` samples, evenly spread over the log entries, the last one always among them."""
    found = [entry for entry in entries if entry["kind"] == "sample"]
    if len(found) > max_samples:
        found = [found[round(index * (len(found) - 1) / (max_samples - 1))] for index in range(max_samples)]
    return [_shown(run, entry) for entry in found]


def _shown(run: Path, entry: Mapping[str, Any]) -> ShownSample:
    step, captions = f"{entry['step']:,}", [str(caption) for caption in entry.get("captions", [])]
    if "text" in entry:
        return ShownSample(step, str(entry["text"]))
    names = [entry["images"]] if "images" in entry else entry["audio"]
    uris = [_embedded(run, str(name)) for name in names]
    if missing := [name for name, uri in zip(names, uris, strict=True) if not uri]:
        return ShownSample(step, f"({missing[0]} is not in the run directory)")
    if "images" in entry:
        return ShownSample(step, ", ".join(captions), image=uris[0])
    return ShownSample(step, "", clips=list(zip_longest(uris, captions[: len(uris)], fillvalue="")))


def _embedded(run: Path, name: str) -> str:
    """Returns a file of the run's samples as a data URI, "" where it is none: a log may name any file."""
    path = run / SAMPLES / Path(name).name
    if path.suffix not in MEDIA_TYPES or not path.is_file():
        return ""
    return data_uri(MEDIA_TYPES[path.suffix], path.read_bytes())
