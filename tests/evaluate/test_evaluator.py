"""What evaluators of all kinds promise: a contract, a metric that decides, and a new kind in one file."""

import dataclasses
import importlib
import json
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import research.evaluate
from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.data.dataset import Data, Rows
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.binary import binary_metrics
from research.evaluate.classification import classification_metrics
from research.evaluate.correlation import correlation_metrics
from research.evaluate.entities import entity_metrics
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.language import LanguageEvaluator, language_metrics
from research.evaluate.masked import token_metrics
from research.evaluate.metrics import Metric, evaluate
from research.evaluate.preference import preference_metrics
from research.evaluate.ranking import ranking_metrics
from research.evaluate.regression import regression_metrics
from research.evaluate.retrieval import RetrievalEvaluator, retrieval_metrics
from research.report.html import write_report
from research.runs import checkpoints
from research.tasks.task import Task
from research.train.evaluation import Best, EvaluatorConfig, score
from research.train.run import train

DRAW = np.random.default_rng(0)
MESH = MeshConfig(data=1).build()
MODULES = [
    importlib.import_module(f"research.evaluate.{module.name}")
    for module in pkgutil.iter_modules(research.evaluate.__path__)
    if module.name != "__main__"
]
KINDS = sorted(
    {cls for module in MODULES for cls in vars(module).values() if isinstance(cls, type)}
    & set(EvaluatedSplit.__subclasses__()),
    key=lambda cls: cls.__name__,
)


@pytest.fixture(scope="module")
def data() -> Data:
    """A split that any kind can be built for."""
    tokenizer = TokenizerConfig("bpe", vocabulary_size=300, special="bert").train(["light and day"])
    rows, texts = Rows({"inputs": np.zeros((5, 2), np.int32)}), {"test": {"label": ["day"]}}
    return Data({"test": rows}, outputs=3, class_names=("B-X", "I-X", "O"), tokenizer=tokenizer, texts=texts)


def nothing(*_):
    return {}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_decides_is_measured(kind, data):
    """Of every kind in research/evaluate: by default, and else it is refused with the metrics that there are."""
    assert len(KINDS) >= 13
    config = kind(split="test")
    assert isinstance(config, EvaluatorConfig)
    assert config.build(Task(None, None, nothing), data, MESH, seed=0).name == "test"
    other = dataclasses.replace(config, best=("elegance", "max"))
    with pytest.raises(UserError, match=rf"'elegance', which {kind.__name__} .* give one of .*{config.best[0]}"):
        other.build(Task(None, None, nothing), data, MESH, seed=0)


def test_a_direction_is_min_or_max(data):
    """Where a configuration is written in Python no command line has checked it."""
    config = dataclasses.replace(RetrievalEvaluator("test"), best=("accuracy", "max"))
    object.__setattr__(config, "best", ("accuracy", "highest"))  # past the type checker of the tests
    with pytest.raises(UserError, match="'min' or 'max', not 'highest'"):
        config.build(Task(None, None, nothing), data, MESH, seed=0)


def draw(*shape):
    return DRAW.normal(size=shape).astype(np.float32)


CLASSES = {"labels": np.array([0, 1, 1, 2]), "targets": np.array([0, 1, 1, 2]), "mask": np.ones(4)}
TOKENS = {name: np.array([[0, 1], [1, 2]]) for name in ("targets", "labels", "segments")} | {"mask": np.ones((2, 2))}


@pytest.mark.parametrize(
    ("metrics", "predictions", "batch"),
    [
        (language_metrics(2.0), {"logits": draw(2, 2, 3)}, TOKENS),
        (language_metrics(None), {"logits": draw(2, 2, 3)}, TOKENS),
        (token_metrics(), {"logits": draw(2, 2, 3)}, TOKENS),
        (entity_metrics(("B-X", "I-X", "O")), {"logits": draw(2, 2, 3)}, TOKENS),
        (classification_metrics(3, top_k=(2, 5)), {"logits": draw(4, 3)}, CLASSES),
        (ranking_metrics(), {"logits": draw(4, 3)}, CLASSES),
        (binary_metrics(), {"logits": draw(4)}, {**CLASSES, "labels": np.array([0, 1, 1, 0])}),
        (regression_metrics(), {"outputs": draw(4, 1)}, {**CLASSES, "targets": draw(4, 1)}),
        (correlation_metrics(), {"outputs": draw(2, 2)}, TOKENS),
        (retrieval_metrics(), {"first": draw(2, 2, 3), "second": draw(2, 2, 3)}, TOKENS),
        (preference_metrics(), {"logits": draw(2, 2)}, TOKENS),
    ],
)
def test_metrics_name_their_numbers(metrics, predictions, batch):
    """What may decide is known before anything is measured: the single numbers of the results, no more and no less."""
    results = evaluate(metrics, lambda _: jax.tree.map(jnp.asarray, predictions), [batch])
    named = {name for metric in metrics for name in metric.names}
    assert named == {name for name, value in results.items() if isinstance(value, float)}


def test_a_score_is_lower_where_the_results_are_better():
    """By the validation split, else the first; the highest value counts negative."""
    loss, accuracy = LanguageEvaluator("validation"), RetrievalEvaluator("test", best=("accuracy", "max"))
    results = {"test": {"accuracy": 0.75}, "validation": {"loss": 2.0, "accuracy": 0.5}}
    assert score([accuracy, loss], results) == 2.0
    assert score([accuracy, dataclasses.replace(loss, best=("accuracy", "max"))], results) == -0.5
    assert score([accuracy, loss], {"test": {"accuracy": 0.75}}) == -0.75
    assert score([accuracy, loss], {}) is None
    assert score([loss], {"validation": {"accuracy": 0.5}}) is None


def test_an_evaluation_may_be_cut_short_before_every_batch():
    """`between` is called once for each of three batches, of which the last is padded."""
    rows = Rows({"targets": np.zeros((5, 2), np.int32), "mask": np.ones((5, 2), np.float32)})
    task = Task(None, None, lambda params, batch, context: {"logits": jnp.zeros((*batch["targets"].shape, 3))})
    calls = []
    evaluation = LanguageEvaluator("test", batch_size=2).build(task, Data({"test": rows}, outputs=3), MESH, seed=0)
    assert evaluation.measure({}, lambda: calls.append(None))["loss"] == pytest.approx(np.log(3))
    assert len(calls) == 3


def uncertainty() -> Metric:
    """Mean entropy of the predicted distributions, in nats."""

    def measure(predictions, batch):
        logs = jax.nn.log_softmax(predictions["logits"])
        counted = batch["mask"] > 0
        return {"sum": jnp.sum(-(jnp.exp(logs) * logs).sum(-1), where=counted), "count": jnp.sum(counted)}

    return Metric(("uncertainty",), measure, lambda state: {"uncertainty": float(state["sum"] / state["count"])})


@dataclasses.dataclass(frozen=True)
class UncertaintyEvaluator(EvaluatedSplit):
    """A new kind of evaluator, for which nothing else was edited."""

    best: Best = ("uncertainty", "max")

    def build(self, task, data, mesh, seed):
        metrics = (uncertainty(), *language_metrics(None))
        return build_evaluation(self, metrics, dict, task, data, mesh, seed)


def test_a_new_kind_is_one_file_and_decides_the_best_checkpoint(tiny_language_run, tmp_path):
    """The run keeps the checkpoint of the highest uncertainty, not of the lowest loss, and the report opens with it."""
    experiment = dataclasses.replace(
        tiny_language_run,
        evaluators=(UncertaintyEvaluator(batch_size=64, limit=100),),
        evaluate_every=2,
        checkpoint_every=2,
        sample_every=0,
        keep_last=1,
    )
    run = train(experiment, name="tiny", root=tmp_path)
    entries = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = {entry["step"]: entry for entry in entries if entry["kind"] == "evaluation"}
    highest = max(evaluated, key=lambda step: evaluated[step]["uncertainty"])
    assert highest != min(evaluated, key=lambda step: evaluated[step]["loss"]) == 8
    kept = run.folder / "checkpoints"
    assert checkpoints.best(kept) == highest
    assert sorted(int(path.name) for path in kept.iterdir() if path.is_dir()) == [highest, 8]
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert '<div class="label">validation uncertainty</div>' in page and "Uncertainty" in page
