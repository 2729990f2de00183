"""Metrics of text tasks: packed labels, written texts, answers, entities, scores, partners; and their evaluators."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.data.dataset import Data, Rows
from research.data.text.text_examples import Example, encode_answer, rows_of
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.evaluators import Evaluator
from research.evaluate.metrics import classification_metrics, evaluate
from research.evaluate.text_bundles import flattened, pearson, spearman, text_metrics_of
from research.tasks.task import Task

DRAW = np.random.default_rng(0)
TOKENIZER = TokenizerConfig("bpe", vocabulary_size=400, special="bert").train(["light and day, night and day"] * 3)
END = TOKENIZER.special_id("sep")


def measured(kind, predictions, batch, data=None):
    """The results of a kind's bundle on a batch cut into two, with predictions cut alike."""
    data = data or Data({}, outputs=3, tokenizer=TOKENIZER)
    halves = [{name: array[part] for name, array in {**batch, **predictions}.items()} for part in np.s_[:2, 2:]]

    def predict(half):
        return {name: half[name] for name in predictions}

    return evaluate(text_metrics_of(kind, data, "test"), predict, halves)


def test_labels_of_packed_rows_are_measured_like_single_ones():
    """[batch examples] is flattened, what has other axes is left to itself."""
    logits, labels = DRAW.normal(size=(4, 5, 3)).astype(np.float32), DRAW.integers(0, 3, (4, 5))
    mask = (DRAW.random((4, 5)) < 0.7).astype(np.float32)
    metrics = classification_metrics(3)
    packed = {"labels": labels, "mask": mask, "inputs": np.zeros((4, 9))}
    single = {"labels": labels.reshape(-1), "mask": mask.reshape(-1)}
    found = evaluate([flattened(m) for m in metrics], lambda _: {"logits": jnp.asarray(logits)}, [packed])
    assert found == evaluate(metrics, lambda _: {"logits": jnp.asarray(logits.reshape(-1, 3))}, [single])


def test_hidden_tokens_are_measured_where_the_task_hides_them():
    """Targets and mask are the predictions', or where there are none there the batch's."""
    logits = DRAW.normal(size=(4, 6, 9)).astype(np.float32)
    targets, mask = DRAW.integers(0, 9, (4, 6)), (DRAW.random((4, 6)) < 0.5).astype(np.float32)
    made = {"targets": targets, "mask": mask}
    found = measured("masked", {"logits": logits, **made}, {})
    assert found == measured("masked", {"logits": logits}, made)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logs, targets[..., None], -1)[..., 0][mask > 0].mean()
    assert found["loss"] == pytest.approx(nats, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == targets)[mask > 0].mean())


def ids(text, length=12):
    found = [*TOKENIZER.encode(text), END]
    return np.int32(found + [0] * (length - len(found)))


@pytest.mark.parametrize("kind", ["translation", "summarisation"])
def test_written_texts_end_where_the_model_ends_them(kind):
    """What stands after the end does not count, nor do rows of padding."""
    targets = np.stack([ids("light and day and night"), ids("day and light and day"), ids("night"), ids("")])
    written = targets.copy()
    written[:, -1] = 7
    batch = {"targets": targets, "mask": np.float32(np.cumsum(targets == END, 1) == 0)}
    batch["mask"][3] = 0
    predictions = {"tokens": written, "logits": np.zeros((4, 12, TOKENIZER.vocabulary_size), np.float32)}
    found = measured(kind, predictions, batch)
    scores = {"translation": {"bleu": 100, "chrf": 100}, "summarisation": {"rouge_1": 1, "rouge_l": 1}}[kind]
    assert {name: found[name] for name in scores} == pytest.approx(scores)
    assert {"loss", "perplexity"} <= set(found)


def test_answers_are_compared_as_text():
    """Right, half right, rightly none, and none where the answer was cut off; padding does not count."""
    context = "light and day and night"
    answers = ["day", "light and day", "", "night"]
    examples = [encode_answer(TOKENIZER, "what?", context, answer, 40) for answer in answers]
    examples[3] = dataclasses.replace(examples[3], label=(0, 0))
    rows, _ = rows_of(examples, 80, packing=True)
    data = Data({}, outputs=1, tokenizer=TOKENIZER, texts={"test": {"label": answers}})
    batch = dict(rows.arrays)
    assert batch["mask"].sum() == 4
    spans = batch["labels"].copy()
    places = {tuple(label - start): (row, place) for row, place in zip(*np.nonzero(batch["mask"]), strict=True)
              for label, start in [(batch["labels"][row, place], batch["starts"][row, place])]}  # fmt: skip
    half = places[tuple(examples[1].label)]
    spans[half][0] = spans[half][1]  # its last word alone
    found = measured("answers", {"spans": spans}, batch, data)
    assert found["exact_match"] == pytest.approx(2 / 4)
    assert found["answer_f1"] == pytest.approx((2 + 2 * 1 / (1 + 3)) / 4)


def test_entities_are_those_of_each_example():
    """A name does not go on in the next example of a row; unlabelled tokens are passed over."""
    names = ("B-PER", "I-PER", "O")
    labels = np.array([[0, 1, 0, 1, 0], [2, 0, 1, 2, 0], [2, 2, 2, 2, 2]])
    segments = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    mask = np.float32(segments > 0)
    mask[0, 1] = 0
    found = labels.copy()
    found[1, 2] = 2
    data = Data({}, outputs=3, class_names=names)
    batch = {"labels": labels, "segments": segments, "mask": mask}
    results = measured("entities", {"logits": np.eye(3, dtype=np.float32)[found]}, batch, data)
    # There: PER 0-0, 1-1 and 0-0, 1-1 (of the second example); PER 1-2, found as 1-1.
    assert results["entity_precision"] == results["entity_recall"] == pytest.approx(4 / 5)
    assert results["accuracy"] == pytest.approx(1 - 1 / mask.sum())


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=20))
def test_correlations_are_scipys(pairs):
    """With ties; NaN where one side is constant."""
    left, right = np.float64(list(zip(*pairs, strict=True)))
    if np.ptp(left) and np.ptp(right):
        assert pearson(left, right) == pytest.approx(stats.pearsonr(left, right).statistic, abs=1e-9)
        assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-9)
    else:
        assert np.isnan(pearson(left, right))


def test_scores_are_measured_without_padding():
    """Over all batches at once."""
    outputs, labels = (DRAW.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    mask = np.float32(DRAW.random((4, 3)) < 0.8)
    found = measured("correlation", {"outputs": outputs}, {"labels": labels, "mask": mask})
    left, right = outputs[mask > 0].astype(float), labels[mask > 0].astype(float)
    assert found["spearman"] == pytest.approx(stats.spearmanr(left, right).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(left, right).statistic)
    assert found["loss"] == pytest.approx(((left - right) ** 2).mean(), rel=1e-6)


def test_partners_are_looked_for_in_the_whole_split():
    """The rank of each partner among all second texts, not those of its batch alone."""
    unit = np.eye(8, dtype=np.float32).reshape(4, 2, 8)
    second = unit.copy()
    second[3, 1] = unit[0, 0]  # like the first text of another batch
    found = measured("retrieval", {"first": unit, "second": second}, {"mask": np.ones((4, 2), np.float32)})
    assert found["accuracy"] == pytest.approx(6 / 8)  # a tie counts as lost
    assert found["mean_reciprocal_rank"] == pytest.approx((6 + 1 / 2 + 1 / 8) / 8)


def test_an_evaluator_measures_packed_text_beside_its_baselines():
    """Single labels, one for each example, in both rows of the table."""
    examples = [Example(({"inputs": np.int32([2, 9, 3])},), number % 3) for number in range(20)]
    rows, _ = rows_of(examples, 8, packing=True)
    texts = {"text": [f"word{number % 3}" for number in range(20)], "label": [number % 3 for number in range(20)]}
    data = Data({"train": rows, "test": rows}, 3, ("a", "b", "c"), TOKENIZER, texts={"train": texts, "test": texts})

    def predict(params, batch):
        return {"logits": jnp.where(jnp.arange(3) == 0, 1.0, 0.0) + jnp.zeros((*batch["mask"].shape, 1))}

    evaluation = Evaluator("classification", split="test", batch_size=4).build(
        Task(None, None, predict), data, MeshConfig(data=1).build()
    )
    assert evaluation.measure({})["accuracy"] == pytest.approx(7 / 20)
    table = evaluation.baselines()
    assert table["majority class"]["accuracy"] == pytest.approx(7 / 20)
    assert table["TF-IDF and logistic regression"]["accuracy"] == 1


def test_baselines_of_pairs_are_measured_on_the_pairs_that_the_model_is():
    """The first ones, as many as the evaluator is limited to."""
    train, test = (
        {"source": ["day", "night", "light"], "target": ["light and day and light", second, second]}
        for second in ("night and day and night", "day and light and day")
    )
    rows = Rows({"targets": np.stack([ids(text) for text in test["target"]]), "mask": np.ones((3, 12), np.float32)})
    data = Data({"train": rows, "test": rows}, 1, tokenizer=TOKENIZER, texts={"train": train, "test": test})
    mesh = MeshConfig(data=1).build()
    whole, first = (
        Evaluator("summarisation", "test", limit=limit).build(Task(None, None, lambda *_: {}), data, mesh).baselines()
        for limit in (0, 1)
    )
    assert first["nearest training pair"]["rouge_2"] == 1 > whole["nearest training pair"]["rouge_2"]


def test_preferences_are_measured_beside_indifference():
    """By hand, on pairs that are there; a tie counts half, and the baseline is what margins of zero get."""
    margins, mask = DRAW.normal(size=(4, 3)).astype(np.float32), np.float32([[1, 1, 0]] * 4)
    margins[0, 0], margins[:, 2] = 0, np.nan
    rows = Rows({"inputs": np.zeros((4, 5), np.int32), "margins": margins, "mask": mask})

    def results(scale):
        task = Task(None, None, lambda params, batch: {"logits": scale * batch["margins"]})
        data = Data({"train": rows, "validation": rows}, outputs=3)
        return Evaluator("preference", batch_size=3).build(task, data, MeshConfig(data=1).build())

    found, counted = results(1).measure({}), np.float64(margins[mask > 0])
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-counted)).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(((counted > 0).sum() + 0.5) / 8)
    assert found["margin"] == pytest.approx(counted.mean(), rel=1e-5)
    assert results(0).measure({}) == pytest.approx(results(0).baselines()["indifference"])


def test_texts_are_written_with_a_tokenizer_that_has_an_end():
    """Else nobody knows where they stop."""
    with pytest.raises(UserError, match="need a tokenizer with special tokens"):
        text_metrics_of("translation", Data({"train": Rows({})}, outputs=1), "train")
