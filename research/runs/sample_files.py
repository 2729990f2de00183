"""The samples of a run: what a log entry says of one, and the files in the run directory that it names.

A text is in the entry itself. Images are one PNG, `samples/STEP.png`, and each clip is one `samples/STEP-NUMBER.wav`.
"""

from pathlib import Path
from typing import Any

from research.runs.directory import SAMPLES
from research.runtime import processes
from research.tasks.samples import MAX_CLIPS, MAX_IMAGES, Audio, Images, Sample


def write_sample(run: Path, step: int, sample: Sample) -> dict[str, Any]:
    """Writes the files of a sample, in the main process alone; returns the log entry, which names them.

    Where they cannot be written the entry says so, and the run goes on.
    """
    entry = {"step": step, "kind": "sample"}
    match sample:
        case str():
            return {**entry, "text": sample}
        case Images():
            captions, names = sample.captions[:MAX_IMAGES], [f"{SAMPLES}/{step}.png"]
            named: dict[str, Any] = {"images": names[0]}
        case Audio():
            captions = sample.captions[:MAX_CLIPS]
            names = [f"{SAMPLES}/{step}-{number}.wav" for number in range(min(len(sample.waves), MAX_CLIPS))]
            named = {"audio": names}
        case _:
            raise TypeError(f"A sample is a text, Images or Audio, not {type(sample).__name__}.")
    if processes.is_main_process():
        files = sample.wav() if isinstance(sample, Audio) else [sample.png()]
        try:
            (run / SAMPLES).mkdir(exist_ok=True)
            for name, content in zip(names, files, strict=True):
                (run / name).write_bytes(content)
        except OSError as error:
            return {**entry, "text": f"({names[0]} could not be written: {error.strerror})"}
    return {**entry, **named, **({"captions": list(captions)} if captions else {})}
