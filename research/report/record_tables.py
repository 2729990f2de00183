"""What the record of a run says, in the words and tables of its report: what it is, how it ended, what it ran on."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.core.configs import flatten_config
from research.report import numbers

Record = Mapping[str, Any]
Entry = Mapping[str, Any]
Rows = list[tuple[str, str]]

# The parts of a data summary that have a place of their own in the report.
PLACED = ("name", "source", "licence", "description", "cleaning", "splits", "class_names", "labels", "citation")
KINDS = {
    "skip": "skipped",
    "slow": "slow step",
    "environment": "other conditions",
    "chain": "hash chain",
    "waiting": "slow data",
}
OF_STEPS = ("skip", "rollback", "slow")  # kinds of events that befall single steps
FLOPS_UNITS = ((1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"), (1e3, "kFLOPs"))


def type_of(record: Record, part: str) -> str:
    """Returns the name of the type of a part of the configuration ("model", "task", "data")."""
    value = record.get("config", {}).get(part)
    return str(value.get("type", "")).rpartition(".")[2] if isinstance(value, Mapping) else ""


def task_of(record: Record) -> str:
    """Returns the task in words: "language modelling"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", type_of(record, "task")).lower()


def data_name(record: Record) -> str:
    """Returns the name of the data set."""
    return str(record.get("data", {}).get("name") or type_of(record, "data") or "unnamed data")


def sentence(record: Record) -> str:
    """Says in one sentence what was trained on what."""
    model, parameters = type_of(record, "model") or "model", record.get("model", {}).get("parameters")
    size = f" with {parameters:,} parameters" if parameters else ""
    config = record.get("config", {})
    steps = config.get("steps")
    length = f", {steps:,} steps of {config.get('batch_size')} examples" if isinstance(steps, int) else ""
    return f"{task_of(record).capitalize() or 'Training'}: {model}{size}, on {data_name(record)}{length}."


def state(record: Record, entries: Sequence[Entry]) -> tuple[str, str]:
    """Returns the status of a run, and a sentence on how far an unfinished one got ("" for a finished one)."""
    status = str(record.get("status", "unknown"))
    if status == "finished":
        return status, ""
    step, steps = max((entry["step"] for entry in entries), default=0), record.get("config", {}).get("steps")
    reached = f"step {step:,} of {steps:,}" if isinstance(steps, int) else f"step {step:,}"
    match status:
        case "failed":
            return status, f"This run failed after {reached}: {record.get('error', 'no error was recorded')}"
        case "interrupted":
            command = str(record.get("command", ""))
            again = command if "--resume" in command.split() else f"{command} --resume"
            return status, f"This run was interrupted at {reached}. To continue it: {again}"
        case _:
            return status, f"This run was at {reached} when this page was written, or was killed there."


def seconds(record: Record) -> float | None:
    """Returns the time a run worked, without the pauses before it was resumed; None where it is not known."""
    stages = record.get("stages", {})
    if "train" not in stages:
        return None
    return sum(value for name, value in stages.items() if name != "first_step")


def headline_rows(record: Record) -> Rows:
    """Returns the facts under the headline."""
    environment, config = record.get("environment", {}), record.get("config", {})
    devices = environment.get("devices", {})
    length, wait = seconds(record), record.get("wait_share")
    candidates = [
        ("duration", None if length is None else numbers.duration(length)),
        ("started, UTC", str(record.get("started", ""))[:16].replace("T", " ")),
        ("seed", config.get("seed")),
        ("parameters", _count(record.get("model", {}).get("parameters"))),
        ("steps", _count(config.get("steps"))),
        ("device", f"{devices['count']} × {devices['kind']}" if devices else None),
        ("waiting for data", None if wait is None else numbers.share(wait)),
        ("skipped steps", _count(sum(event.get("count", 1) for event in events_of(record, "skip")) or None)),
        ("rollbacks", _count(len(events_of(record, "rollback")) or None)),
    ]
    return [(name, str(value)) for name, value in candidates if value not in (None, "")]


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def stage_rows(record: Record) -> list[tuple[str, str, float]]:
    """Returns (stage, duration, share of the longest) of every stage."""
    names = {"train": "training", "first_step": "of it, to the first step"}
    order = {"data": 0, "assembly": 1, "train": 2, "first_step": 3}
    stages = sorted(record.get("stages", {}).items(), key=lambda stage: order.get(stage[0], 9))
    longest = max((value for _, value in stages), default=0) or 1
    return [(names.get(name, name), numbers.duration(value), value / longest) for name, value in stages]


def config_groups(config: Mapping[str, Any]) -> list[tuple[str, str, Rows]]:
    """Returns (title, type, [(field, value)]) of the experiment itself and of each of its parts."""
    own = {name: value for name, value in config.items() if name != "type"}
    parts: dict[str, Mapping[str, Any]] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            parts[name] = own.pop(name)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            parts |= {f"{name}.{index}": item for index, item in enumerate(own.pop(name))}
    groups = [("experiment", "", table(own))]
    for name, part in parts.items():
        fields = [(field, value) for field, value in table(part) if field.rpartition(".")[2] != "type"]
        groups.append((name, str(part.get("type", "")).rpartition(".")[2], fields))
    return [group for group in groups if group[1] or group[2]]


def environment_rows(record: Record) -> Rows:
    """Returns what the numbers may depend on, the commit of the code first."""
    git = record.get("git")
    commit = "not in a git repository" if not git else git["commit"] + (", with uncommitted changes" * git["dirty"])
    return [("commit", commit), *table(record.get("environment", {}))]


def table(value: Mapping[str, Any]) -> Rows:
    """Returns (dotted field, value as text) of nested JSON values."""
    return [(field, text(item)) for field, item in flatten_config(value)]


def text(value: Any) -> str:
    """Returns a JSON value as text, strings without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def data_rows(record: Record) -> Rows:
    """Returns the facts of the data that have no table of their own: tokenizer, digests, and what else was noted."""
    return table({name: value for name, value in record.get("data", {}).items() if name not in PLACED})


def split_table(record: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the columns and the rows (split, values) of the table of splits."""
    counts = record.get("data", {}).get("splits", {})
    splits = {name: split if isinstance(split, Mapping) else {"examples": split} for name, split in counts.items()}
    columns = list(dict.fromkeys(name for split in splits.values() for name in split))

    def cell(name: str, value: Any) -> str:
        if isinstance(value, float) and name == "share":
            return numbers.share(value)
        return numbers.metric(value) if isinstance(value, int | float) else ("–" if value is None else text(value))

    return columns, [(name, [cell(column, split.get(column)) for column in columns]) for name, split in splits.items()]


class Layers(NamedTuple):
    """The table of layers: rows (path, parameters, FLOPs, and both as shares of the largest), totals, unit of FLOPs."""

    rows: list[tuple[str, str, str, float, float]]
    parameters: str
    flops: str
    unit: str


def layers(record: Record) -> Layers:
    """Returns the table of layers, all FLOPs in the unit that suits their sum."""
    found = record.get("model", {}).get("layers", [])
    parameters, flops = [row["parameters"] for row in found], [row["flops"] for row in found]
    size, unit = next(((size, unit) for size, unit in FLOPS_UNITS if sum(flops) >= size), (1, "FLOPs"))
    digits = 2 if size > 1 else 0
    most_parameters, most_flops = max(parameters, default=0) or 1, max(flops, default=0) or 1
    rows = [
        (row["path"], f"{count:,}", f"{work / size:,.{digits}f}", count / most_parameters, work / most_flops)
        for row, count, work in zip(found, parameters, flops, strict=True)
    ]
    return Layers(rows, f"{sum(parameters):,}", f"{sum(flops) / size:,.{digits}f}", unit)


def start_rows(record: Record) -> Rows:
    """Returns what became of the parameters of a model that the run started from; none where it started from none."""
    found = record.get("pretrained")
    if not found:
        return []
    named = {"loaded": f"{found['loaded']:,} parameters", **{name: ", ".join(found[name]) for name in ("new", "left")}}
    named |= {"source": str(record["config"]["model"].get("source", "")), "SHA-256": found["sha256"]}
    words = {"source": "source", "loaded": "loaded", "new": "newly drawn", "left": "left in the source"}
    return [(words.get(name, name), named[name]) for name in (*words, "SHA-256") if named[name]]


def events_of(record: Record, *kinds: str) -> list[Mapping[str, Any]]:
    """Returns the events of some kinds, in order of time."""
    return [event for event in record.get("events", []) if event.get("kind") in kinds]


def marked_events(record: Record) -> list[tuple[int, str]]:
    """Returns (step, text) of the events that a curve shows: those that befell single steps."""
    return [(event["step"], f"step {_steps(event)}: {event['message']}") for event in events_of(record, *OF_STEPS)]


def event_rows(record: Record) -> list[tuple[str, str, str, str]]:
    """Returns (time, step, kind, message) of events and resumes, in order of time."""
    resumed = {"kind": "resumed", "message": "from this step's checkpoint"}
    resumes = [{**resume, **resumed} for resume in record.get("resumes", [])]
    events = sorted([*record.get("events", []), *resumes], key=lambda event: str(event.get("time", "")))
    return [(str(event.get("time", "")), _steps(event), _kind(event), event["message"]) for event in events]


def _kind(event: Mapping[str, Any]) -> str:
    kind = str(event.get("kind", ""))
    return KINDS.get(kind, kind)


def _steps(event: Mapping[str, Any]) -> str:
    last = event.get("last", event["step"])
    return f"{event['step']:,}" + (f" to {last:,}" if last > event["step"] else "")


def place(run: Path) -> str:
    """Returns the run directory as commands name it: NAME/ID and the folder it is in."""
    return "/".join(run.resolve().parts[-3:])
