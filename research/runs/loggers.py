"""Where numbers go while a run trains, besides `metrics.jsonl`: the terminal, and TensorBoard or W&B where asked for.

A logger is a function of one entry, `{"step", "kind": "compiled" | "train" | "evaluation" | "sample", ...}`.
"""

import html
import math
import wave
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from research.core.extras import import_extra
from research.core.terminal import console, print_message

Logger = Callable[[Mapping[str, Any]], Any]


class Terminal:
    """The live progress bar, and lines above it; plain lines where the output is not a terminal.

    Args:
        steps: of the run.
        start: the step it begins after.
        run: its directory.
        judged: the evaluation that decides, its metric, and whether "min" or "max" is the best.
    """

    def __init__(self, steps: int, start: int, run: Path, judged: tuple[str, str, str] | None = None):
        self.console = console()
        status = TextColumn("{task.fields[status]}", markup=False)
        columns = ("step", BarColumn(bar_width=24), MofNCompleteColumn(), status, TimeElapsedColumn())
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal
        )
        self._task = self._progress.add_task("", total=steps, completed=start, status="")
        self._steps, self._run, self._judged = steps, run, judged
        self._trained = self._last = ""
        self._best: tuple[float, int] | None = None

    def __enter__(self) -> "Terminal":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def evaluating(self, name: str, batch: int) -> None:
        """Shows which batch of an evaluation is under way."""
        self._progress.update(self._task, status=f"evaluating {name}, batch {batch}")

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Shows an entry: training moves the bar, evaluations and samples are printed above it.

        Where the output is closed or full, training goes on without it.
        """
        if self.console.quiet:
            return
        try:
            self._show(entry)
        except (OSError, SystemExit):  # Rich ends a program whose reader has gone
            self.console.quiet = True
            print_message("standard output cannot be written: training goes on without it")

    def _show(self, entry: Mapping[str, Any]) -> None:
        match entry["kind"]:
            case "train":
                self._trained = f"loss {entry['loss']:.4f}  {entry['rate']:,.0f} {entry['unit']}/s"
                self._progress.update(self._task, completed=entry["step"])
                if not self.console.is_terminal:
                    left = f"{entry['seconds_left']:.0f} s left"
                    self.console.print(f"step {entry['step']}/{self._steps}  {self._trained}  {left}")
            case "compiled":
                self.console.print(f"first step after {entry['seconds']:.1f} s, most of them for compilation")
            case "evaluation":
                numbers = "  ".join(f"{name} {value:.4f}" for name, value in scalars(entry).items())
                self.console.print(f"step {entry['step']}  {entry['name']}: {numbers}")
                self._judge(entry)
            case "sample":
                self.console.rule(f"step {entry['step']} writes", align="left", style="dim")
                files = [entry["images"]] if "images" in entry else entry.get("audio", [])
                shown = "\n".join(str(self._run / file) for file in files) if files else entry["text"]
                self.console.print(shown, soft_wrap=bool(files))
                self.console.rule(style="dim")
        self._progress.update(self._task, status=f"{self._trained}{self._last}")

    def _judge(self, entry: Mapping[str, Any]) -> None:
        """Notes the last result of the evaluation that decides, and the best so far."""
        if self._judged is None or entry["name"] != self._judged[0] or self._judged[1] not in entry:
            return
        name, metric, direction = self._judged
        value = entry[metric]
        if self._best is None or (value < self._best[0] if direction == "min" else value > self._best[0]):
            self._best = value, entry["step"]
        self._last = f"  {name} {metric} {value:.4f}, best {self._best[0]:.4f} at {self._best[1]}"


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers of an entry, without its step."""
    return {
        name: float(value)
        for name, value in entry.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def last_results(entries: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns {split: results} of the last evaluation of each split among log entries."""
    last = {entry["name"]: entry for entry in entries if entry["kind"] == "evaluation"}
    outer = ("step", "kind", "name")
    return {name: {k: v for k, v in entry.items() if k not in outer} for name, entry in last.items()}


def check_loggers(kinds: Sequence[str]) -> None:
    """Raises UserError where the package of a logger is not installed."""
    for kind in kinds:
        _package(kind)


def open_loggers(kinds: Sequence[str], run: Path, config: Any) -> list[Logger]:
    """Opens the loggers asked for, which get numbers and samples; raises UserError where one is not installed."""
    opened: dict[str, Callable[[Path, Any], Logger]] = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [opened[kind](run, config) for kind in kinds]


def _package(kind: str) -> Any:
    return import_extra({"tensorboard": "tensorboardX"}.get(kind, kind), kind, f"The logger {kind!r}")


def _tensorboard(run: Path, config: Any) -> Logger:
    writer = _package("tensorboard").SummaryWriter(str(run / "tensorboard"))

    def log(entry: Mapping[str, Any]) -> None:
        step = entry["step"]
        _each_scalar(entry, writer.add_scalar)
        if "text" in entry:
            writer.add_text("sample", entry["text"], step)
        if "images" in entry:
            with Image.open(run / entry["images"]) as image:
                writer.add_image("sample", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        for number, name in enumerate(entry.get("audio", [])):
            rate, heard = _wave(run / name)
            writer.add_audio(f"sample/{number}", heard, step, sample_rate=rate)

    return log


def _wandb(run: Path, config: Any) -> Logger:
    wandb = _package("wandb")
    session = wandb.init(project=run.parent.name, name=run.name, config=config, dir=str(run))

    def log(entry: Mapping[str, Any]) -> None:
        step = entry["step"]
        _each_scalar(entry, lambda name, value, step: session.log({name: value}, step=step))
        if "text" in entry:
            session.log({"sample": wandb.Html(f"<pre>{html.escape(entry['text'])}</pre>")}, step=step)
        if "images" in entry:
            session.log({"sample": wandb.Image(str(run / entry["images"]))}, step=step)
        if entry.get("audio"):
            session.log({"sample": [wandb.Audio(str(run / name)) for name in entry["audio"]]}, step=step)

    return log


def _wave(path: Path) -> tuple[int, Float32[np.ndarray, " samples"]]:
    """Returns the sampling rate and the waveform, from -1 to 1, of a 16-bit WAV file of one channel."""
    with wave.open(str(path)) as file:
        frames = file.readframes(file.getnframes())
        return file.getframerate(), np.frombuffer(frames, "<i2").astype(np.float32) / 2**15


def _each_scalar(entry: Mapping[str, Any], add: Callable[[str, float, int], Any]) -> None:
    prefix = entry.get("name", entry["kind"])
    for name, value in scalars(entry).items():
        if math.isfinite(value):
            add(f"{prefix}/{name}", value, entry["step"])
