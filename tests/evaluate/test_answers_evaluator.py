"""Answers that are spans: scores counted by hand, and spans of packed rows."""

import dataclasses

import numpy as np
import pytest
from batches import measured

from research.data.dataset import Data
from research.data.text.text_examples import encode_answer, rows_of
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.answers import answer_baseline, answer_metrics, answer_scores, normalise_answer

TOKENIZER = TokenizerConfig("bpe", vocabulary_size=400, special="bert").train(["light and day, night and day"] * 3)


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
    found = measured(answer_metrics(data, "test"), {"spans": spans}, batch)
    assert found["exact_match"] == pytest.approx(2 / 4)
    assert found["answer_f1"] == pytest.approx((2 + 2 * 1 / (1 + 3)) / 4)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "overlap"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("in 1887", ["1887", "March 1887"], 0, 2 / 3),
        ("the red fox", ["a red dog"], 0, 1 / 2),
        ("", [""], 1, 1),
        ("anything", [""], 0, 0),
        ("the", [""], 1, 1),
    ],
)
def test_answers_are_compared_as_by_squad(answer, right, exact, overlap):
    """Counted by hand after the rules of SQuAD's script: no case, articles or punctuation, the best right answer."""
    assert answer_scores([answer], [right]) == pytest.approx({"exact_match": exact, "answer_f1": overlap})


def test_articles_inside_words_stay():
    """Only whole words are articles."""
    assert normalise_answer("A theme, and an Anthem") == "theme and anthem"


def test_the_baseline_gives_the_commonest_training_answer():
    """Of four questions one has that answer, and one half of it."""
    right = ["by day", "night", "day", ""]
    data = Data({}, outputs=1, texts={"train": {"label": ["day", "noon", "day"]}, "test": {"label": right}})
    scores = answer_baseline(data, "test")["commonest answer"]
    assert scores == pytest.approx({"exact_match": 1 / 4, "answer_f1": (2 / 3 + 1) / 4})
