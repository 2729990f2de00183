"""Run directories as training leaves them, with realistic numbers, for the tests of reports."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.core.files import append_lines
from research.launch.image_predictions import write_predictions
from research.runs.directory import METRICS, write_record

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def language_record(folder: Path, steps: int) -> dict[str, Any]:
    """The record of a finished character-level GPT."""
    blocks = [
        {"path": f"block_{block}/{part}", "parameters": parameters, "flops": flops}
        for block in range(4)
        for part, parameters, flops in (
            ("attention_norm", 256, 0),
            ("attention", 66048, 12_582_912),
            ("feed_forward_norm", 256, 0),
            ("feed_forward", 131712, 16_777_216),
        )
    ]
    example = {
        "key": "train/3",
        "before": "“It is a truth  universally",
        "after": "“It is a truth universally",
        "reason": "",
    }
    return {
        "format": 1,
        "name": "gpt_austen",
        "id": folder.name,
        "status": "finished",
        "command": "python -m experiments.gpt_austen --steps 2000",
        "config": {
            "type": "research.train.experiment.Experiment",
            "data": {
                "type": "research.data.text.text_data.TextData",
                "dataset": "austen",
                "group": ["book", "chapter"],
                "cleaning": {
                    "type": "research.data.cleaning.cleaning.Cleaning",
                    "unicode": "NFC",
                    "near_duplicates": 0.0,
                },
                "length": 64,
            },
            "model": {
                "type": "research.models.gpt.GPT",
                "depth": 4,
                "width": 128,
                "heads": 4,
                "context": 64,
                "tied": True,
            },
            "task": {"type": "research.tasks.language_modelling.LanguageModelling", "temperature": 0.8},
            "optimizer": {
                "type": "research.train.optimizers.Optimizer",
                "kind": "adamw",
                "learning_rate": 0.001,
                "weight_decay_multipliers": [["(kernel|embedding)$", 1.0], ["(bias|scale)$", 0.0]],
            },
            "schedule": {"type": "research.train.schedules.Schedule", "kind": "cosine", "warmup": 100, "final": 0.1},
            "evaluators": [
                {"type": "research.evaluate.evaluators.Evaluator", "metrics": "language", "split": "validation"}
            ],
            "steps": steps,
            "batch_size": 32,
            "seed": 0,
        },
        "started": "2025-03-01T10:00:00Z",
        "finished": "2025-03-01T10:04:31Z",
        "environment": {
            "python": "3.11.9",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "packages": {"jax": "0.10.1", "jaxlib": "0.10.1", "flax": "0.12.8", "optax": "0.2.8"},
            "backend": "cpu",
            "devices": {"kind": "cpu", "count": 1, "processes": 1},
            "thread_pool": 2,
            "flags": {},
        },
        "git": {"commit": "4f3c2b1a0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a", "dirty": False},
        "stages": {"data": 3.1, "assembly": 0.8, "first_step": 4.2, "train": 259.4, "baselines": 1.7},
        "wait_share": 0.0042,
        "data": {
            "name": "austen",
            "source": "Project Gutenberg, https://www.gutenberg.org",
            "licence": "public domain",
            "description": "Jane Austen's six novels as plain text, one record a chapter.",
            "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "tokenizer": {"kind": "characters", "vocabulary": 85},
            "cleaning": [
                {
                    "name": name,
                    "documents_in": 269,
                    "documents_out": 269 - dropped,
                    "documents_changed": changed,
                    "characters_removed": removed,
                    "examples": [example] if changed else [],
                }
                for name, dropped, changed, removed in (
                    ("Unicode NFC", 0, 0, 0),
                    ("white space", 0, 254, 41873),
                    ("personal data", 0, 0, 0),
                    ("exact duplicates", 1, 0, 12),
                )
            ],
            "splits": {
                "train": {"documents": 241, "groups": 241, "characters": 3573201, "share": 0.897, "tokens": 3573201},
                "validation": {"documents": 27, "groups": 27, "characters": 410876, "share": 0.103, "tokens": 410876},
            },
        },
        "model": {
            "parameters": 812_160,
            "layers": [{"path": "(top level)", "parameters": 19072, "flops": 1_392_640}, *blocks],
        },
        "events": [],
        "resumes": [],
        "baselines": {
            "validation": {
                "1-gram": {"loss": 2.8904, "perplexity": 18.001, "bits_per_character": 4.17},
                "2-gram": {"loss": 2.4011, "perplexity": 11.035, "bits_per_character": 3.464},
                "3-gram": {"loss": 1.9876, "perplexity": 7.298, "bits_per_character": 2.8675},
            }
        },
        "metrics": {
            "validation": {"loss": 1.3721, "perplexity": 3.9436, "bits_per_character": 1.9795, "accuracy": 0.5871}
        },
        "params_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "chain": "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
    }


def write_curves(folder: Path, steps: int, *, unit: str, every: int = 10, period: int = 250) -> None:
    """Writes `metrics.jsonl` of a training that learns, with noise."""
    noise = random.Random(0)
    entries: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        loss = 1.3 + 2.9 * math.exp(-step / 220) + noise.gauss(0, 0.05)
        entry = {
            "step": step,
            "kind": "train",
            "loss": loss,
            "gradient_norm": 0.3 + 2 * math.exp(-step / 100) + abs(noise.gauss(0, 0.05)),
            "weight": 2048.0,
            "accuracy": 0.6 - loss / 10,
            "learning_rate": 1e-3 * min(step / 100, 0.55 + 0.45 * math.cos(math.pi * step / steps)),
            "rate": 15300 + noise.gauss(0, 350),
            "unit": unit,
            "seconds_left": 10.0,
        }
        entries.append(entry)
        if step % period == 0:
            result = {"loss": loss + 0.06, "perplexity": math.exp(loss + 0.06), "accuracy": 0.58 - loss / 10}
            entries.append({"step": step, "kind": "evaluation", "name": "validation", **result})
            text = "She was <b>not</b> at all sorry to have been so very happy,\nand Mr. Darcy was & is. " * 3
            entries.append({"step": step, "kind": "sample", "text": text})
    append_lines(folder / METRICS, entries)


@pytest.fixture
def language_run(tmp_path: Path) -> Path:
    """A finished run of a language model."""
    folder = tmp_path / "runs" / "gpt_austen" / "20250301-100000-000-ab12"
    folder.mkdir(parents=True)
    write_record(folder, language_record(folder, 2000))
    write_curves(folder, 2000, unit="tokens")
    return folder


@pytest.fixture
def picture_run(tmp_path: Path) -> Path:
    """A finished run of a classifier of pictures, with a confusion matrix and predictions."""
    folder = tmp_path / "runs" / "resnet_fashion" / "20250302-090000-000-cd34"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    predicted = np.where(rng.random(2000) < 0.9, labels, rng.integers(0, 10, 2000))
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, predicted), 1)
    hits = np.diag(matrix)
    record = language_record(folder, 500)
    record["name"], record["command"] = "resnet_fashion", "python -m experiments.resnet_fashion"
    record["config"]["model"] = {"type": "research.models.resnet.ResNet", "depths": [2, 2, 2], "width": 16}
    record["config"]["task"] = {"type": "research.tasks.classification.Classification", "label_smoothing": 0.1}
    record["data"] = {
        "name": "fashion_mnist",
        "licence": "MIT",
        "class_names": CLASSES,
        "splits": {"train": {"examples": 9000}, "validation": {"examples": 1000}, "test": {"examples": 2000}},
        "digests": {"train": "ab" * 32, "test": "cd" * 32},
    }
    record["baselines"] = {"test": {"majority class": {"loss": 2.3026, "accuracy": 0.1, "f1_macro": 0.0182}}}
    per_class = {
        "precision_per_class": (hits / matrix.sum(0)).tolist(),
        "recall_per_class": (hits / matrix.sum(1)).tolist(),
        "f1_per_class": (2 * hits / (matrix.sum(0) + matrix.sum(1))).tolist(),
    }
    scores = {"loss": 0.3127, "accuracy": 0.912, "top_5_accuracy": 0.9985, "f1_macro": 0.9117}
    record["metrics"] = {"test": {**scores, **per_class, "confusion_matrix": matrix.tolist()}}
    write_record(folder, record)
    write_curves(folder, 500, unit="examples", every=5, period=100)
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] != "sample"]
    (folder / METRICS).write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    images = rng.integers(0, 256, (2000, 28, 28, 1)).astype(np.uint8)
    write_predictions(folder, images, labels, predicted, CLASSES, "test")
    return folder
