"""The contract of every module in experiments/, new ones included: found, shrunk, checked, and run for a step."""

import dataclasses
import importlib
import json
import math
import re
import string
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import run_module, write_texts

import experiments
from research.core import configs, trees
from research.core.shapes import Spec
from research.core.streams import stream
from research.data.pipeline import training_batches
from research.data.text.chat import ChatData
from research.data.text.labelled_text import LabelledText
from research.data.text.paired_text import PairedText
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.hub.pretrained import save_pretrained
from research.launch.discovery import modules
from research.models.bert import BERT
from research.models.llama import Llama
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Assembly, Experiment, assemble
from research.train.pretrained import PretrainedModel, PretrainedTokenizer

LANGUAGE = "language"  # the folder, inside that of the published encoder, of a language model

# The largest value of a size, by the name of its field, wherever it stands in a configuration.
SMALL = {
    "accumulate": 2,
    "batch_size": 8,
    "context": 16,
    "depth": 1,
    "examples": 64,
    "fsdp": 1,
    "num_kv_heads": 2,
    "heads": 2,
    "mlp_dim": 32,
    "length": 16,
    "stages": 1,
    "steps": 4,
    "tensor": 1,
    "vocabulary": 300,
    "vocabulary_size": 300,
    "warmup": 1,
    "width": 32,
}


def shrink(config: Any, texts: list[str], published: str) -> Any:
    """Returns a configuration in which every size is at most that of `SMALL`, and data and pretrained model are small.

    Args:
        config: an experiment's, or a part of it.
        texts: options that name two files of text.
        published: the folder of a small published model, with short texts to label and to translate.
    """
    changes: dict[str, Any] = {}
    if isinstance(getattr(config, "data", None), ChatData):
        published = str(Path(published) / LANGUAGE)
    for field in dataclasses.fields(config):
        value, most = getattr(config, field.name), SMALL.get(field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = shrink(value, texts, published)
        elif most is not None:
            changes[field.name] = (
                tuple(min(size, most) for size in value) if isinstance(value, tuple) else min(value, most)
            )
    if isinstance(config, TextData):
        changes |= {"train": (texts[1],), "validation": (texts[3],)}
    if isinstance(config, LabelledText):
        changes["train"] = (str(Path(published) / "scores.tsv"),)
    if isinstance(config, PairedText):
        changes |= {"train": (str(Path(published) / "pairs.tsv"),), "ratio": 0.0}
    if isinstance(config, ChatData):
        changes["train"] = (str(Path(published) / ("preferences.jsonl" if config.preferences else "chats.jsonl")),)
    if isinstance(config, PretrainedModel | PretrainedTokenizer):
        changes["source"] = published
    if getattr(config, "dataset", "") == "fashion_mnist/full":
        changes["dataset"] = "fashion_mnist/mini"
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small published encoder, with short texts to label and to translate."""
    folder = tmp_path_factory.mktemp("published")
    characters = string.printable + "£¬®°–—‘’“”…é"
    tokenizer = TokenizerConfig("wordpiece", vocabulary_size=300).train([" ".join(characters), characters])
    model = BERT(1, 16, 2, 32, context=16, vocabulary=tokenizer.vocabulary_size, head="embedding")
    params = model.build(Spec(16)).init(jax.random.key(0), {"inputs": jax.numpy.zeros((1, 4), jax.numpy.int32)})
    save_pretrained(folder, model, params, tokenizer)
    pairs = [f"{number}\tone {number}\tuno {number}\n" for number in range(100)]
    scores = [f"{number % 20}\t{number % 7 - 3}\tso {number} and {number % 7}\n" for number in range(200)]
    (folder / "scores.tsv").write_text("document\tscore\ttext\n" + "".join(scores), encoding="utf-8")
    (folder / "pairs.tsv").write_text("book\ten\tes\n" + "".join(pairs), encoding="utf-8")
    publish_language_model(folder / LANGUAGE)
    return str(folder)


def publish_language_model(folder: Path) -> None:
    """Writes a small language model into a folder, with short conversations and preferences."""
    tokenizer = TokenizerConfig("bpe", vocabulary_size=258).train(["1 2 1 2"])
    model = Llama(1, 16, 2, mlp_dim=32, context=16, tied=True)
    params = model.build(Spec(258)).init(jax.random.key(0), {"inputs": jax.numpy.zeros((1, 4), jax.numpy.int32)})
    save_pretrained(folder, model, params, tokenizer)
    questions = [{"role": "user", "content": f"{number}?"} for number in range(100)]
    chats = [{"messages": [question, {"role": "assistant", "content": "Yes."}]} for question in questions]
    preferences = [{"messages": [question], "chosen": "Yes.", "rejected": "No."} for question in questions]
    for name, lines in {"chats.jsonl": chats, "preferences.jsonl": preferences}.items():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


@pytest.fixture(params=modules(), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """The name of an experiment."""
    return request.param


@pytest.fixture(scope="module")
def config(name: str) -> Experiment:
    """The experiment's own configuration."""
    return importlib.import_module(f"experiments.{name}").CONFIG


@pytest.fixture(scope="module")
def small(config: Experiment, published: str, tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    """The experiment, shrunk and made executable."""
    shrunk = shrink(config, write_texts(tmp_path_factory.mktemp("texts")), published)
    return assemble(shrunk, shrunk.data.build())


def parts(config: Any) -> list[Any]:
    """Returns a configuration and every configuration inside it."""
    if isinstance(config, tuple):
        return [part for item in config for part in parts(item)]
    if not dataclasses.is_dataclass(config):
        return []
    return [config, *(part for field in dataclasses.fields(config) for part in parts(getattr(config, field.name)))]


def first_batch(assembly: Assembly) -> dict[str, np.ndarray]:
    """Returns the batch of the first step."""
    experiment = assembly.experiment
    batches = training_batches(assembly.data.splits["train"], batch_size=experiment.batch_size, seed=experiment.seed)
    return dict(batches(0))


def test_every_module_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m experiments` lists every module of experiments/ that defines CONFIG, and there are some."""
    assert run_module("experiments") == 0
    listed = capsys.readouterr().out
    files = Path(experiments.__path__[0]).glob("[a-z]*.py")
    defining = [path.stem for path in files if re.search(r"^CONFIG\b", path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert len(defining) >= 7
    assert not [name for name in defining if f" {name} " not in listed]


def test_the_docstring_gives_the_command(name: str) -> None:
    """The module says what it does in one line, and with which command it is run."""
    text = importlib.import_module(f"experiments.{name}").__doc__
    assert re.search(rf"^    python -m experiments\.{name}\b", text, re.MULTILINE)
    assert 20 < len(text.split("\n")[0]) <= 120 and text.split("\n")[1] == ""


def test_the_configuration_is_frozen_throughout(config: Experiment) -> None:
    """CONFIG is an Experiment, a frozen dataclass made of frozen dataclasses."""
    assert isinstance(config, Experiment)
    assert len(parts(config)) >= 6
    assert not [part for part in parts(config) if not part.__dataclass_params__.frozen]


def test_the_configuration_survives_json(config: Experiment) -> None:
    """What run.json keeps is the very configuration."""
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config


def test_each_parameter_has_one_rule_of_each_kind(config: Experiment, small: Assembly) -> None:
    """In full size: exactly one sharding, one learning-rate and one decay rule match each parameter, or UserError."""
    model = small.experiment.model if isinstance(config.model, PretrainedModel) else config.model
    task = config.task.build(model, small.data)
    params = jax.eval_shape(task.init, stream(0, "init"))
    assert jax.tree.leaves(params)
    trees.match_rules(model.build(small.data.spec).sharding, params, what="sharding")
    config.optimizer.multipliers(params)
    config.optimizer.build(config.steps, params, config.schedule)


@pytest.fixture(scope="module")
def lowered(small: Assembly) -> jax.stages.Lowered:
    """The step, lowered from shapes alone."""
    shapes = jax.eval_shape(lambda: first_batch(small))
    return jax.jit(small.step, donate_argnums=0, out_shardings=(small.shardings, None)).lower(small.state, shapes)


def test_a_step_is_lowered_without_data_or_memory(small: Assembly, lowered: jax.stages.Lowered) -> None:
    """The step is traced and lowered from shapes alone, and takes and gives states of one shape."""
    state, metrics = lowered.out_info
    assert jax.tree.structure(state) == jax.tree.structure(small.state)
    for taken, given in zip(jax.tree.leaves(small.state), jax.tree.leaves(state), strict=True):
        assert (taken.shape, taken.dtype) == (given.shape, given.dtype)
    assert {"loss", "weight", "gradient_norm", "random"} <= metrics.keys()


def test_a_step_learns(small: Assembly, lowered: jax.stages.Lowered) -> None:
    """One real step: finite loss and gradient, a positive weight, other parameters, the next step number."""
    state = small.initial_state()
    before = trees.digest(state.merged)
    after, metrics = lowered.compile()(state, first_batch(small))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    assert metrics["weight"] > 0 and metrics["gradient_norm"] > 0
    assert int(after.step) == 1 and trees.digest(after.merged) != before
    if isinstance(small.experiment.task, LanguageModelling):
        # An untrained language model knows nothing: its loss is the logarithm of the vocabulary (Karpathy 2019).
        assert float(metrics["loss"]) == pytest.approx(math.log(small.data.outputs), rel=0.03)


def test_every_evaluator_measures_and_has_a_baseline(small: Assembly) -> None:
    """Each evaluator of the configuration gives finite numbers, and a baseline in the same measures."""
    params = small.initial_state().evaluated
    for evaluator in small.experiment.evaluators:
        few = dataclasses.replace(evaluator, limit=32, batch_size=32)
        evaluation = few.build(small.task, small.data, small.mesh, seed=0)
        results = evaluation.measure(params)
        assert np.isfinite(results["loss"]) and np.isfinite(results[evaluator.best[0]])
        baselines = evaluation.baselines()
        assert baselines and all(results.keys() & row.keys() for row in baselines.values())
