"""How fast a run was and what it took: examples and tokens seen, floating-point operations per second, peak memory.

Everything follows from the record and the lines of `metrics.jsonl`. What they do not tell is left out.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from research.report import numbers, record_tables
from research.report.layer_rows import FLOPS_UNITS

# Operations per second of dense matrix products in bfloat16, of a device as JAX counts them, by the start of its name.
# NVIDIA: data sheets, half of what they give with sparsity. TPU: Google Cloud's pages on each version.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}
PASSES = 3  # forward, and backward at twice the cost


def speed_rows(record: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the facts (name, value) that are known."""
    found: dict[str, str | None] = {
        "device": record_tables.device(record),
        **_seen(record, entries),
        **_operations(record, entries),
        "peak memory": _peak_memory(record),
    }
    return [(name, value) for name, value in found.items() if value]


def steps_per_second(entries: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the median over the log periods, without evaluations and the like; None where none was logged."""
    rates = [entry["rate"] / entry["weight"] for entry in _training(entries) if entry["weight"] > 0]
    return statistics.median(rates) if rates else None


def peak(device_kind: str) -> float | None:
    """Returns the operations per second that a device can do at most; None where this is not known.

    >>> peak("NVIDIA H100 80GB HBM3"), peak("cpu")
    (989000000000000.0, None)
    """
    names = [name for name in PEAKS if device_kind == name or device_kind.startswith((f"{name} ", f"{name}-"))]
    return PEAKS[max(names, key=len)] if names else None


def _training(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    def is_known(value: Any) -> bool:
        return isinstance(value, int | float) and math.isfinite(value)

    return [
        each for each in entries if each["kind"] == "train" and all(is_known(each.get(n)) for n in ("rate", "weight"))
    ]


def _seen(record: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the examples that were seen, and the tokens that were learned: those of the logged steps on average."""
    steps, size = record_tables.steps_reached(record, entries), record.get("config", {}).get("batch_size")
    found = {"examples seen": f"{steps * size:,}"} if steps and isinstance(size, int) else {}
    weights = [entry["weight"] for entry in _training(entries) if entry.get("unit") == "tokens"]
    if weights and steps:
        about = "" if len(set(weights)) == 1 else "about "
        found["tokens seen"] = f"{about}{statistics.fmean(weights) * steps:,.0f}"
    return found


def _operations(record: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the model's operations per second while it trained, and what part of the devices' peak that is."""
    size, steps = record.get("config", {}).get("batch_size"), steps_per_second(entries)
    flops = sum(row["flops"] for row in record.get("model", {}).get("layers", []))
    if not (flops and steps and isinstance(size, int)):
        return {}
    rate = PASSES * flops * size * steps
    devices = record.get("environment", {}).get("devices", {})
    most = peak(str(devices.get("kind", "")))
    share = "unknown: the peak of this device is not known"
    if most is not None:
        share = f"{numbers.share(rate / (most * devices['count']))} of {_per_second(most)} each, in bfloat16"
    return {"operations of the model": _per_second(rate), "share of the device's peak": share}


def _per_second(flops: float) -> str:
    size, unit = next(((size, unit) for size, unit in FLOPS_UNITS if flops >= size), (1, "FLOPs"))
    return f"{float(f'{flops / size:.3g}'):,g} {unit.removesuffix('s')}/s"


def _peak_memory(record: Mapping[str, Any]) -> str | None:
    if not record.get("peak_bytes"):
        return None
    owner = "the process" if record.get("environment", {}).get("backend") == "cpu" else "the first device"
    return f"{record['peak_bytes'] / 1e9:,.2f} GB, of {owner}"
