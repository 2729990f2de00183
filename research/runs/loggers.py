"""Where numbers go while a run trains, besides `metrics.jsonl`: the terminal, and TensorBoard or W&B where asked for.

A logger is a function of one entry, `{"step", "kind": "compiled" | "train" | "evaluation" | "sample", ...}`.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from research.core.errors import UserError
from research.core.terminal import console, print_message

Logger = Callable[[Mapping[str, Any]], Any]


class Terminal:
    """The live progress bar, and lines above it; plain lines where the output is not a terminal."""

    def __init__(self, steps: int, start: int, run: Path):
        self.console = console()
        status = TextColumn("{task.fields[status]}", markup=False)
        columns = ("step", BarColumn(bar_width=24), MofNCompleteColumn(), status)
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal
        )
        self._task = self._progress.add_task("", total=steps, completed=start, status="")
        self._steps, self._run = steps, run

    def __enter__(self) -> "Terminal":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

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
                status = f"loss {entry['loss']:.4f}  {entry['rate']:,.0f} {entry['unit']}/s"
                self._progress.update(self._task, completed=entry["step"], status=status)
                if not self.console.is_terminal:
                    left = f"{entry['seconds_left']:.0f} s left"
                    self.console.print(f"step {entry['step']}/{self._steps}  {status}  {left}")
            case "compiled":
                self.console.print(f"first step after {entry['seconds']:.1f} s, most of them for compilation")
            case "evaluation":
                numbers = "  ".join(f"{name} {value:.4f}" for name, value in scalars(entry).items())
                self.console.print(f"step {entry['step']}  {entry['name']}: {numbers}")
            case "sample":
                self.console.rule(f"step {entry['step']} writes", align="left", style="dim")
                files = [entry["images"]] if "images" in entry else entry.get("audio", [])
                shown = "\n".join(str(self._run / file) for file in files) if files else entry["text"]
                self.console.print(shown, soft_wrap=bool(files))
                self.console.rule(style="dim")


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


def open_loggers(kinds: Sequence[str], run: Path, config: Any) -> list[Logger]:
    """Opens the loggers asked for; raises UserError where one is not installed."""
    loggers: list[Logger] = []
    if "tensorboard" in kinds:
        writer = _optional("tensorboardX", "tensorboard").SummaryWriter(str(run / "tensorboard"))
        loggers.append(lambda entry: _each_scalar(entry, writer.add_scalar))
    if "wandb" in kinds:
        session = _optional("wandb", "wandb").init(project=run.parent.name, name=run.name, config=config, dir=str(run))
        loggers.append(
            lambda entry: _each_scalar(entry, lambda name, value, step: session.log({name: value}, step=step))
        )
    return loggers


def _each_scalar(entry: Mapping[str, Any], add: Callable[[str, float, int], Any]) -> None:
    prefix = entry.get("name", entry["kind"])
    for name, value in scalars(entry).items():
        if math.isfinite(value):
            add(f"{prefix}/{name}", value, entry["step"])


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"The logger {extra!r} needs a package that is not installed: pip install -e '.[{extra}]'."
        ) from None
