"""Translations and summaries: where a text ends, and what the baselines of pairs are measured on."""

import numpy as np
import pytest
from batches import measured
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.data.dataset import Data, Rows
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.answers import answer_scores
from research.evaluate.entities import entity_scores
from research.evaluate.masked import token_metrics
from research.evaluate.summarisation import SummarisationEvaluator, rouge
from research.evaluate.translation import bleu, chrf, translation_scores
from research.evaluate.written_text import pairs_baselines, written_metric
from research.tasks.task import Task

TOKENIZER = TokenizerConfig("bpe", vocabulary_size=400, special="bert").train(["light and day, night and day"] * 3)

DATA = Data({}, outputs=3, tokenizer=TOKENIZER)
END = TOKENIZER.special_id("sep")


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
    scores, metric = {
        "translation": ({"bleu": 100, "chrf": 100}, translation_scores),
        "summarisation": ({"rouge_1": 1, "rouge_l": 1}, rouge),
    }[kind]
    found = measured((*token_metrics(), written_metric(DATA, tuple(scores), metric)), predictions, batch)
    assert {name: found[name] for name in scores} == pytest.approx(scores)
    assert {"loss", "perplexity"} <= set(found)


def test_baselines_of_pairs_are_measured_on_the_pairs_that_the_model_is():
    """The first ones, as many as the evaluator is limited to."""
    train, test = (
        {"source": ["day", "night", "light"], "target": ["light and day and light", second, second]}
        for second in ("night and day and night", "day and light and day")
    )
    rows = Rows({"targets": np.stack([ids(text) for text in test["target"]]), "mask": np.ones((3, 12), np.float32)})
    data = Data({"train": rows, "test": rows}, 1, tokenizer=TOKENIZER, texts={"train": train, "test": test})
    task, mesh = Task(None, None, lambda *_: {}), MeshConfig(data=1).build()
    whole, first = (
        SummarisationEvaluator("test", limit=limit).build(task, data, mesh, seed=0).baselines() for limit in (None, 1)
    )
    assert first["nearest training pair"]["rouge_2"] == 1 > whole["nearest training pair"]["rouge_2"]


def test_pairs_have_two_baselines():
    """A copy of the source, and the target of the nearest training source."""
    pairs = {"source": ["one two three four", "six"], "target": ["uno dos tres cuatro", "seis"]}
    data = Data({}, outputs=2, texts={"train": pairs, "test": {name: texts[:1] for name, texts in pairs.items()}})
    table = pairs_baselines(data, "test", translation_scores)
    assert table["nearest training pair"] == pytest.approx({"bleu": 100, "chrf": 100})
    assert table["copy of the source"]["bleu"] == 0
    copy = pairs_baselines(data, "test", rouge)["copy of the source"]
    assert set(copy) == {"rouge_1", "rouge_2", "rouge_l"}


def test_texts_are_written_with_a_tokenizer_that_has_an_end():
    """Else nobody knows where they stop."""
    with pytest.raises(UserError, match="need a tokenizer with special tokens"):
        written_metric(Data({"train": Rows({})}, outputs=1), ("bleu", "chrf"), translation_scores)


texts = st.lists(st.text(max_size=30), min_size=1, max_size=5)


@given(texts)
def test_a_text_is_like_itself(corpus):
    """BLEU and chrF are 100 (or 0 where there is too little to count), ROUGE 1 or 0 for each text."""
    assert bleu(corpus, corpus) == pytest.approx(100) or bleu(corpus, corpus) == 0
    assert chrf(corpus, corpus) == pytest.approx(100) or chrf(corpus, corpus) == 0
    assert rouge(corpus, corpus)["rouge_1"] == rouge(corpus, corpus)["rouge_l"]


@given(texts)
def test_as_many_texts_must_be_written_as_expected(corpus):
    """Else the scores would be of something else."""
    for score in (bleu, chrf, rouge, answer_scores, entity_scores):
        with pytest.raises(ValueError):
            score([*corpus, "more"], corpus)
