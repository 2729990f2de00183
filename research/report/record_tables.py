"""What the record of a run says, in the words and tables of its report: what it is, how it ended, what it ran on."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.core.configs import flatten_config
from research.report import numbers
from research.runs.record import PARTS_OF_TRAINING

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
    reached = f"step {reached_of(record, entries)}"
    match status:
        case "failed":
            return status, f"This run failed after {reached}: {record.get('error', 'no error was recorded')}"
        case "interrupted":
            command = str(record.get("command", ""))
            again = command if "--resume" in command.split() else f"{command} --resume"
            return status, f"This run was interrupted at {reached}. To continue it: {again}"
        case _:
            return status, f"This run was at {reached} when this page was written, or was killed there."


def steps_reached(record: Record, entries: Sequence[Entry]) -> int:
    """Returns the last step of a run: of a finished one the last it has, of another the last that is logged."""
    steps = record.get("config", {}).get("steps")
    if record.get("status") == "finished" and isinstance(steps, int):
        return steps
    return max((entry["step"] for entry in entries), default=0)


def reached_of(record: Record, entries: Sequence[Entry]) -> str:
    """Returns how far a run got: "300 of 1,500"; "1,500" where that is all of it."""
    step, steps = steps_reached(record, entries), record.get("config", {}).get("steps")
    return f"{step:,} of {steps:,}" if isinstance(steps, int) else f"{step:,}"


def seconds(record: Record) -> float | None:
    """Returns the time a run worked, without the pauses before it was resumed; None where it is not known."""
    stages = record.get("stages", {})
    if "train" not in stages:
        return None
    return sum(value for name, value in stages.items() if name not in PARTS_OF_TRAINING)


def device(record: Record) -> str | None:
    """Returns how many devices of which name: of a CPU that of the processor, where it is recorded."""
    environment = record.get("environment", {})
    devices = environment.get("devices", {})
    if not devices:
        return None
    kind = environment.get("processor") or devices["kind"] if devices["kind"] == "cpu" else devices["kind"]
    return f"{devices['count']} × {kind}"


def headline_rows(record: Record) -> Rows:
    """Returns the facts under the headline."""
    config = record.get("config", {})
    length, wait = seconds(record), record.get("wait_share")
    candidates = [
        ("duration", None if length is None else numbers.duration(length)),
        ("started, UTC", str(record.get("started", ""))[:16].replace("T", " ")),
        ("seed", config.get("seed")),
        ("parameters", _count(record.get("model", {}).get("parameters"))),
        ("steps", _count(config.get("steps"))),
        ("device", device(record)),
        ("waiting for data", None if wait is None else numbers.share(wait)),
        ("skipped steps", _count(sum(event.get("count", 1) for event in events_of(record, "skip")) or None)),
        ("rollbacks", _count(len(events_of(record, "rollback")) or None)),
    ]
    return [(name, str(value)) for name, value in candidates if value not in (None, "")]


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def stage_rows(record: Record) -> list[tuple[str, str, float]]:
    """Returns (stage, duration, share of the longest) of every stage."""
    names = {
        "train": "training",
        "first_step": "of it, to the first step",
        "paused": "of it, evaluations, samples and saves",
    }
    order = {"data": 0, "assembly": 1, "train": 2, "first_step": 3, "paused": 4}
    stages = sorted(record.get("stages", {}).items(), key=lambda stage: order.get(stage[0], 9))
    longest = max((value for _, value in stages), default=0) or 1
    return [(names.get(name, name), numbers.duration(value), value / longest) for name, value in stages]


class ConfigField(NamedTuple):
    """A field of the configuration; `default` is the experiment's, where the run was given another, else None."""

    name: str
    value: str
    default: str | None


class ConfigGroup(NamedTuple):
    """A part of the configuration, its type and its fields; the experiment itself has no type."""

    title: str
    kind: str
    default_kind: str | None
    fields: list[ConfigField]


def config_groups(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[ConfigGroup]:
    """Returns the experiment's own fields and those of each of its parts.

    Args:
        config: as recorded.
        defaults: the experiment's value of each field, with its dotted name, that the run was given another of.
    """
    own = {name: value for name, value in config.items() if name != "type"}
    parts: dict[str, Mapping[str, Any]] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            parts[name] = own.pop(name)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            parts |= {f"{name}.{index}": item for index, item in enumerate(own.pop(name))}
    groups = [_config_group("", own, defaults), *(_config_group(name, part, defaults) for name, part in parts.items())]
    return [group for group in groups if group.kind or group.fields]


def _config_group(name: str, part: Mapping[str, Any], defaults: Mapping[str, Any]) -> ConfigGroup:
    prefix = f"{name}." if name else ""

    def default(field: str) -> str | None:
        return text(defaults[prefix + field]) if prefix + field in defaults else None

    fields = [(field, value) for field, value in table(part) if field.rpartition(".")[2] != "type"]
    instead = default("type")
    return ConfigGroup(
        title=name or "experiment",
        kind=str(part.get("type", "")).rpartition(".")[2],
        default_kind=None if instead is None else instead.rpartition(".")[2],
        fields=[ConfigField(field, value, default(field)) for field, value in fields],
    )


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


def marked_events(record: Record) -> list[tuple[int, str, str]]:
    """Returns (step, text, kind) of the events that a curve shows: those that befell single steps."""
    found = events_of(record, *OF_STEPS)
    return [(event["step"], f"step {_steps(event)}: {event['message']}", event["kind"]) for event in found]


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
