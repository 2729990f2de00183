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
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import run_module

import experiments
from research.core import configs, trees
from research.core.shapes import Params, Spec
from research.core.streams import stream
from research.data.dataset import Data, HasSmallForm, Rows
from research.data.pipeline import training_batches
from research.data.text.tokenizers import TokenizerConfig
from research.hub.pretrained import save_pretrained
from research.launch.discovery import modules
from research.models.bert import BERT
from research.models.llama import Llama
from research.models.mlp import MLP
from research.models.model import Model
from research.tasks.classification import Classification
from research.tasks.language_modelling import LanguageModelling
from research.tasks.task import evaluation_context
from research.train.experiment import Assembly, Experiment, assemble
from research.train.pretrained import PretrainedModel

ENCODER, LANGUAGE = "encoder", "language"  # folders of small published models

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
    "vocabulary": 400,
    "vocabulary_size": 400,
    "warmup": 1,
    "width": 32,
}


def shrink(config: Any, source: str) -> Any:
    """Returns a configuration in which every size is at most that of `SMALL`, and pretrained parts are from `source`.

    Args:
        config: an experiment's, or a part of it.
        source: the folder of a small published model.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, most = getattr(config, field.name), SMALL.get(field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = shrink(value, source)
        elif most is not None:
            changes[field.name] = (
                tuple(min(size, most) for size in value) if isinstance(value, tuple) else min(value, most)
            )
    if hasattr(config, "source") and hasattr(config, "revision"):
        changes["source"] = source
    return dataclasses.replace(config, **changes)


def small_experiment(config: Experiment, published: Path, folder: Path) -> Experiment:
    """Returns an experiment on the small form of its data; a pretrained encoder is one that is given a head."""
    source = published / (ENCODER if getattr(config.model, "head", "") else LANGUAGE)
    return shrink(dataclasses.replace(config, data=config.data.small(folder)), str(source))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small published encoder and of a small published language model."""
    folder = tmp_path_factory.mktemp("published")
    characters = string.printable + "£¬®°–—‘’“”…é"
    tokenizer = TokenizerConfig("wordpiece", vocabulary_size=300).train([" ".join(characters), characters])
    model = BERT(1, 16, 2, 32, context=16, vocabulary=tokenizer.vocabulary_size, head="embedding")
    params = initial(model.build(Spec(16)))
    save_pretrained(folder / ENCODER, model, params, tokenizer)
    publish_language_model(folder / LANGUAGE)
    return folder


def initial(model: Model) -> Params:
    """Draws the parameters of a model of texts."""
    return jax.jit(model.init)(jax.random.key(0), {"inputs": np.zeros((1, 4), np.int32)})


def publish_language_model(folder: Path) -> None:
    """Writes a small language model into a folder."""
    tokenizer = TokenizerConfig("bpe", vocabulary_size=258).train(["1 2 1 2"])
    model = Llama(1, 16, 2, mlp_dim=32, context=16, tied=True)
    params = initial(model.build(Spec(258)))
    save_pretrained(folder, model, params, tokenizer)


def config_of(name: str) -> Experiment:
    """Returns an experiment's own configuration."""
    return importlib.import_module(f"experiments.{name}").CONFIG


def one_of_each_kind() -> list[Any]:
    """Returns the names of all experiments; of those whose parts have the classes of an earlier one's, marked slow."""
    known, found = set(), []
    for name in modules():
        config = config_of(name)
        kind = tuple(type(part) for part in (config.data, config.model, config.task, config.optimizer))
        found.append(pytest.param(name, marks=[pytest.mark.slow] if kind in known else []))
        known.add(kind)
    return found


def predicts_tokens(name: str) -> bool:
    """Whether an experiment learns to predict the next token."""
    return isinstance(config_of(name).task, LanguageModelling)


compiling = pytest.mark.parametrize("name", one_of_each_kind(), indirect=True)  # for tests that take seconds


@pytest.fixture(params=modules(), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """The name of an experiment."""
    return request.param


@pytest.fixture(scope="module")
def config(name: str) -> Experiment:
    """The experiment's own configuration."""
    return config_of(name)


@pytest.fixture(scope="module")
def small(config: Experiment, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    """The experiment, shrunk and made executable."""
    shrunk = small_experiment(config, published, tmp_path_factory.mktemp("data"))
    return assemble(shrunk, shrunk.data.build())


def parts(config: Any) -> list[Any]:
    """Returns a configuration and every configuration inside it."""
    if isinstance(config, tuple):
        return [part for item in config for part in parts(item)]
    if not dataclasses.is_dataclass(config):
        return []
    return [config, *(part for field in dataclasses.fields(config) for part in parts(getattr(config, field.name)))]


def few_rows(records: Any, count: int) -> Any:
    """Returns some rows of many, from all over, as they may be in the order of their classes."""
    if not isinstance(records, Rows):
        return records
    chosen = np.unique(np.linspace(0, len(records) - 1, count).astype(int))
    return Rows({name: rows[chosen] for name, rows in records.arrays.items()})


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


@compiling
def test_a_step_is_lowered_without_data_or_memory(small: Assembly, lowered: jax.stages.Lowered) -> None:
    """The step is traced and lowered from shapes alone, and takes and gives states of one shape."""
    state, metrics = lowered.out_info
    assert jax.tree.structure(state) == jax.tree.structure(small.state)
    for taken, given in zip(jax.tree.leaves(small.state), jax.tree.leaves(state), strict=True):
        assert (taken.shape, taken.dtype) == (given.shape, given.dtype)
    assert {"loss", "weight", "gradient_norm", "random"} <= metrics.keys()


@compiling
def test_a_step_learns(small: Assembly, lowered: jax.stages.Lowered) -> None:
    """One real step: finite loss and gradient, a positive weight, other parameters, the next step number.

    Where rows do not depend on one another, the loss of a batch is the sum over its rows: that of one half and of the
    other, by which a mean, which accumulation and padding would change, is found.
    """
    state, batch, compiled = small.initial_state(), first_batch(small), lowered.compile()
    before = trees.digest(state.merged)
    if not small.task.coupled:
        first = (np.arange(len(batch["index"])) < len(batch["index"]) // 2).astype(np.float32)
        whole, *halves = (
            compiled(jax.tree.map(jnp.copy, state), {**batch, "mask": batch["mask"] * each})[1]
            for each in (rows.reshape(-1, *[1] * (batch["mask"].ndim - 1)) for rows in (first**0, first, 1 - first))
        )
        for total in (lambda found: found["weight"], lambda found: found["loss"] * found["weight"]):
            assert float(total(whole)) == pytest.approx(sum(float(total(half)) for half in halves), rel=1e-4)
    after, metrics = compiled(state, batch)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    assert metrics["weight"] > 0 and metrics["gradient_norm"] > 0
    assert int(after.step) == 1 and trees.digest(after.merged) != before
    if isinstance(small.experiment.task, LanguageModelling):
        # An untrained language model knows nothing: its loss is the logarithm of the vocabulary (Karpathy 2019).
        assert float(metrics["loss"]) == pytest.approx(math.log(small.data.outputs), rel=0.03)


@pytest.mark.parametrize(
    "name", [param for param in one_of_each_kind() if predicts_tokens(param.values[0])], indirect=True
)
def test_a_language_model_does_not_see_what_it_predicts(small: Assembly) -> None:
    """Another token changes the scores at its place and after it, and none before."""
    params, context, batch = small.initial_state().merged, evaluation_context(0), first_batch(small)
    tokens, middle = batch["inputs"], batch["inputs"].shape[1] // 2
    other = {**batch, "inputs": np.where(np.arange(tokens.shape[1]) == middle, tokens - 1, tokens).clip(0)}
    predict = jax.jit(small.task.predict)
    moved = abs(predict(params, batch, context)["logits"] - predict(params, other, context)["logits"]).max((0, 2))
    assert moved[:middle].max() == 0 and moved[middle] > 0


@compiling
def test_every_evaluator_measures_and_has_a_baseline(small: Assembly) -> None:
    """Each evaluator of the configuration gives finite numbers, and a baseline in the same measures."""
    params = small.initial_state().evaluated
    counts = {name: 256 if name == "train" else 32 for name in small.data.splits}  # a baseline learns from the former
    splits = {name: few_rows(rows, counts[name]) for name, rows in small.data.splits.items()}
    data = dataclasses.replace(small.data, splits=splits)
    for evaluator in small.experiment.evaluators:
        few = dataclasses.replace(evaluator, limit=32, batch_size=32)
        evaluation = few.build(small.task, data, small.mesh, seed=0)
        results = evaluation.measure(params)
        assert math.isfinite(results[evaluator.best[0]]), f"{evaluator.best[0]} of 32 rows: {results}"
        baselines = evaluation.baselines()
        assert baselines and all(results.keys() & row.keys() for row in baselines.values())


@dataclasses.dataclass(frozen=True)
class PitchData:
    """Tones as raw audio, to be told by their pitch: a modality that nothing else knows."""

    examples: int = 10_000
    samples: int = 8_000

    def build(self) -> Data:
        labels = np.arange(self.examples, dtype=np.int32) % 2
        times = np.arange(self.samples, dtype=np.float32) / 10
        rows = Rows({"inputs": np.sin(times * (1 + labels[:, None])).astype(np.float32), "labels": labels})
        return Data({"train": rows, "validation": rows}, outputs=2, class_names=("low", "high"))

    def small(self, folder: Path) -> "PitchData":
        return dataclasses.replace(self, examples=64, samples=16)


def test_a_new_data_class_is_under_contract_by_its_own_small_form(published: Path, tmp_path: Path) -> None:
    """Data of a new kind need `build` and `small` and nothing else: no line above names their class or their fields."""
    config = Experiment(data=PitchData(), model=MLP(hidden=(8,)), task=Classification(), batch_size=512)
    assembly = assemble(shrunk := small_experiment(config, published, tmp_path), shrunk.data.build())
    assert isinstance(config.data, HasSmallForm)
    after, metrics = assembly.compiled_step()(assembly.initial_state(), first_batch(assembly))
    assert int(after.step) == 1 and np.isfinite(metrics["loss"]) and len(assembly.data.splits["train"]) == 64


def test_small_data_are_of_the_same_kind(config: Experiment, tmp_path: Path) -> None:
    """A small form keeps all but where the data come from, how many they are, and what only their source has."""
    assert isinstance(config.data, HasSmallForm)
    assert type(config.data.small(tmp_path)) is type(config.data)
