"""What all tests share: one cache for compiled programs and prepared data, reproducible examples, and a tiny run.

The fixtures `tiny_text`, `tiny_language_run`, `tiny_line_run` and `tiny_image_run` are configurations and files that
train in about a second; a test varies them with `dataclasses.replace`.
"""

import dataclasses
import gc
import importlib.metadata
import os
import random
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # read when JAX is imported: XLA's warnings would bury a failure's report
# Most of the suite's time is compilation, which plain machine code makes five times shorter. Programs that tests start
# inherit it; `XLA_FLAGS= make test` has the optimizations that users have.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"  # each worker has one core
    # Newer releases do not have the last one, and an unknown flag ends the process.
    + (" --xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib") == "0.10.1" else ""),
)
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # where an operation is from, which no test asks

import jax
import numpy as np
import pytest
import type_checks  # before this project, whose checks it makes cheap
from hypothesis import settings
from PIL import Image
from tiny_run import only_run, options, record, run_module

from research.core.configs import from_json
from research.data.synthetic import LineData
from research.data.text.text_data import TextData
from research.data.vision.images import ImageData
from research.evaluate.classification import ClassificationEvaluator
from research.evaluate.language import LanguageEvaluator
from research.evaluate.regression import RegressionEvaluator
from research.models.gpt import GPT
from research.models.mlp import MLP
from research.models.resnet import ResNet
from research.tasks.classification import Classification
from research.tasks.language_modelling import LanguageModelling
from research.tasks.regression import Regression
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.run import train
from research.train.schedules import Schedule

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "ontogeny"
os.environ["ONTOGENY_CACHE"] = str(CACHE)  # for the programs that tests start, too
jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

gc.set_threshold(100_000, 50, 100)  # JAX's traces are many objects that stay, and each full search takes a second

LONG = {"chaos", "contracts", "devices", "models", "notebooks", "train"}  # folders with the longest files

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("suite")


@pytest.fixture(scope="module", autouse=True)
def types_checked_again() -> None:
    """Each file has the types of its first calls checked."""
    type_checks.calls.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that at the end no worker has to wait for another one's."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 21,000 characters in sections that a split can divide: random words over eight letters."""
    random_words = random.Random(0)
    words = ["".join(random_words.choices("abcdefgh", k=4)) for _ in range(4200)]
    paragraphs = [" ".join(words[start : start + 70]) for start in range(0, len(words), 70)]
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_language_run(tiny_text: Path) -> Experiment:
    """A GPT of one block that trains for 8 steps on `tiny_text`, with every period shorter than that."""
    return Experiment(
        data=TextData(train=(str(tiny_text),), length=8, validation_fraction=0.3),
        model=GPT(depth=1, width=8, heads=2, context=8),
        task=LanguageModelling(sample_tokens=8),
        optimizer=Optimizer("adamw", learning_rate=1e-2, weight_decay=0.1, clip=1.0),
        schedule=Schedule("cosine", warmup=2, final=0.1),
        evaluators=(LanguageEvaluator(batch_size=64, limit=100),),
        steps=8,
        batch_size=8,
        log_every=2,
        evaluate_every=4,
        checkpoint_every=3,
        digest_every=4,
        sample_every=4,
    )


@pytest.fixture(scope="session")
def tiny_line_run(tiny_language_run: Experiment) -> Experiment:
    """`tiny_language_run` with an MLP that learns a line, in a third of the time: for what no model changes."""
    return dataclasses.replace(
        tiny_language_run,
        data=LineData(examples=200, noise=1.0),
        model=MLP(hidden=(4,)),
        task=Regression(),
        evaluators=(RegressionEvaluator(batch_size=64, limit=100),),
        sample_every=0,
    )


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 48 pictures of 8 x 8 in two classes, dark and bright."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, low in (("bright", 128), ("dark", 0)):
        (folder / name).mkdir()
        for index in range(24):
            pixels = generator.integers(low, low + 128, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_image_run(tiny_images: Path) -> Experiment:
    """A ResNet of one block that trains for 8 steps on `tiny_images`."""
    return Experiment(
        data=ImageData(folder=str(tiny_images), size=8, validation_fraction=0.25),
        model=ResNet(stages=(1,), width=4),
        task=Classification(),
        optimizer=Optimizer("momentum", learning_rate=0.1),
        schedule=Schedule("linear"),
        evaluators=(ClassificationEvaluator(batch_size=8),),
        steps=8,
        batch_size=8,
        log_every=1,
        evaluate_every=4,
        checkpoint_every=3,
        digest_every=4,
    )


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of `tiny_run.py` finished under `clean/runs`, and interrupted at step 13 under `runs`."""
    folder = tmp_path_factory.mktemp("tiny_runs")
    assert run_module("experiments.gpt_austen", *options(folder), "--runs", str(folder / "clean/runs")) == 0
    config = from_json(record(only_run(folder / "clean"))["config"])
    train(config, name="gpt_austen", root=folder / "runs", stop_after=13)
    return folder
