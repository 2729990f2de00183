"""Speed and memory: what follows from the record and the log, and nothing that they do not tell."""

import pytest

from research.report.speed import peak, speed_rows, steps_per_second

RECORD = {
    "status": "finished",
    "config": {"steps": 100, "batch_size": 8},
    "model": {"layers": [{"path": "a", "parameters": 1, "flops": 2e12}, {"path": "b", "parameters": 1, "flops": 3e12}]},
    "environment": {"backend": "gpu", "devices": {"kind": "NVIDIA H100 80GB HBM3", "count": 2}},
    "peak_bytes": 41_250_000_000,
}


def entries(*weights: float, rate: float = 640.0, unit: str = "tokens") -> list[dict]:
    return [
        {"step": 10 * n, "kind": "train", "rate": rate, "weight": weight, "unit": unit}
        for n, weight in enumerate(weights, start=1)
    ]


def test_operations_are_those_of_three_passes():
    """3 x 5 TFLOPs x 8 examples x 10 steps a second are 1,200 TFLOP/s, of two devices of 989."""
    assert steps_per_second(entries(64.0, 64.0)) == 10
    assert dict(speed_rows(RECORD, entries(64.0, 64.0))) == {
        "device": "2 × NVIDIA H100 80GB HBM3",
        "examples seen": "800",
        "tokens seen": "6,400",
        "operations of the model": "1,200 TFLOP/s",
        "share of the device's peak": "60.7 % of 989 TFLOP/s each, in bfloat16",
        "peak memory": "41.25 GB, of the first device",
    }


def test_on_a_cpu_the_peak_is_not_invented():
    """The processor's name is shown where it is recorded, and its peak is said to be unknown."""
    environment = {"backend": "cpu", "devices": {"kind": "cpu", "count": 1}, "processor": "Some CPU @ 2 GHz"}
    rows = dict(speed_rows({**RECORD, "environment": environment}, entries(64.0)))
    assert rows["device"] == "1 × Some CPU @ 2 GHz"
    assert rows["share of the device's peak"].startswith("unknown") and rows["peak memory"].endswith("of the process")


def test_what_is_not_known_is_left_out():
    """An older record, a run without steps, odd numbers in a log; tokens that vary are told as about."""
    assert speed_rows({"config": {}, "status": "failed"}, []) == []
    assert steps_per_second([*entries(0.0), {"step": 1, "kind": "train", "rate": None, "weight": 3.0}]) is None
    assert dict(speed_rows(RECORD, entries(63.0, 65.0)))["tokens seen"] == "about 6,400"
    assert "tokens seen" not in dict(speed_rows(RECORD, entries(8.0, unit="examples")))
    unfinished = {**RECORD, "status": "interrupted"}
    assert dict(speed_rows(unfinished, entries(64.0, 64.0)))["examples seen"] == "160"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", None),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("cpu", None),
        ("", None),
    ],
)
def test_peaks_are_found_by_the_whole_words_of_a_name(kind: str, expected: float | None):
    """The longest name that fits counts; a device that only begins alike has none."""
    assert peak(kind) == expected
