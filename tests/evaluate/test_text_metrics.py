"""Measures of written text against numbers published, made by the reference implementations, or counted by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.evaluate.text_metrics import (
    Entity,
    answer_scores,
    bleu,
    chrf,
    entities,
    entity_scores,
    normalise_answer,
    rouge,
    tokenise_13a,
)

WRITTEN = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
EXPECTED = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
texts = st.lists(st.text(max_size=30), min_size=1, max_size=5)


def test_bleu_and_chrf_of_a_corpus():
    """The example of sacreBLEU's documentation, first reference: what sacreBLEU 2.6.0 gives."""
    assert bleu(WRITTEN, EXPECTED) == pytest.approx(45.067, abs=1e-3)
    assert chrf(WRITTEN, EXPECTED) == pytest.approx(50.043, abs=1e-3)


def test_bleu_smooths_lengths_that_match_nowhere():
    """Two words of four, no pair: 1/2 for pairs, 1/4 for threes, 1/8 for fours (Chen and Cherry 2014, method 3)."""
    expected = 100 * (2 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25
    assert bleu(["a x b y"], ["a q b z"]) == pytest.approx(expected)


def test_bleu_punishes_what_is_too_short():
    """By exp(1 - reference / hypothesis) where all that is written is right."""
    assert bleu(["a b c d"], ["a b c d e f"]) == pytest.approx(100 * 2.718281828 ** (1 - 6 / 4))
    assert bleu([""], ["a b"]) == bleu(["a b c"], ["a b c"]) == 0  # no run of four anywhere


@given(texts)
def test_a_text_is_like_itself(corpus):
    """BLEU and chrF are 100 (or 0 where there is too little to count), ROUGE 1 or 0 for each text."""
    assert bleu(corpus, corpus) == pytest.approx(100) or bleu(corpus, corpus) == 0
    assert chrf(corpus, corpus) == pytest.approx(100) or chrf(corpus, corpus) == 0
    assert rouge(corpus, corpus)["rouge_1"] == rouge(corpus, corpus)["rouge_l"]


def test_words_are_divided_as_by_mteval():
    """Points and commas stay inside numbers, dashes inside words; entities are read."""
    found = tokenise_13a("Don't pay 1,000.50 (or 7-8) &quot;so-so&quot;.")
    assert found == ["Don't", "pay", "1,000.50", "(", "or", "7", "-", "8", ")", '"', "so-so", '"', "."]


def test_rouge_of_a_sentence():
    """The example of rouge-score's documentation, which gives 0.7059, 0.2667 and 0.5882 for it (0.1.2)."""
    found = rouge(["The quick brown dog jumps on the log."], ["The quick brown fox jumps over the lazy dog"])
    assert found == pytest.approx({"rouge_1": 12 / 17, "rouge_2": 4 / 15, "rouge_l": 10 / 17})


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


def test_entities_of_two_sentences():
    """The example of seqeval's README, for which it prints an F1 of 0.50."""
    expected = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    written = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert entity_scores(written, expected) == {"entity_precision": 0.5, "entity_recall": 0.5, "entity_f1": 0.5}
    assert entity_scores([["O"]], [["O"]])["entity_f1"] == 0


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-X B-X I-X", [Entity("X", 0, 0), Entity("X", 1, 2)]),
        ("I-X I-X O I-X", [Entity("X", 0, 1), Entity("X", 3, 3)]),
        ("B-X I-Y I-Y", [Entity("X", 0, 0), Entity("Y", 1, 2)]),
        ("O O", []),
        ("B-A-B I-A-B", [Entity("A-B", 0, 1)]),
    ],
)
def test_an_entity_begins_and_ends_as_in_conlleval(tags, found):
    """Also where I follows O or another label (the rules of conlleval, which seqeval takes over)."""
    assert entities(tags.split()) == found


@given(texts)
def test_as_many_texts_must_be_written_as_expected(corpus):
    """Else the scores would be of something else."""
    for score in (bleu, chrf, rouge, answer_scores, entity_scores):
        with pytest.raises(ValueError):
            score([*corpus, "more"], corpus)
