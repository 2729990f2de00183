"""Our measures of written text against the reference implementations: sacreBLEU and rouge-score."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.evaluate.summarisation import rouge
from research.evaluate.translation import bleu, chrf, tokenise_13a

sacrebleu = pytest.importorskip("sacrebleu")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

pytestmark = pytest.mark.peer

WORDS = [
    "the",
    "dog",
    "Dog",
    "bit",
    "3.5",
    "1,000",
    "don't",
    "man.",
    "&quot;x&quot;",
    "a-b",
    "7-8",
    "¿qué?",
    "(so)",
    "\n",
]
sentences = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.one_of(sentences, st.text(max_size=20))), min_size=1, max_size=6)


@given(corpora)
@settings(max_examples=300, deadline=None)
def test_bleu_is_sacrebleus(corpus):
    """For any corpus, with the default signature: 13a, mixed case, exponential smoothing."""
    written, expected = map(list, zip(*corpus, strict=True))
    found = bleu(written, expected)
    assert found == pytest.approx(sacrebleu.corpus_bleu(written, [expected]).score, abs=1e-9)


@given(corpora)
@settings(max_examples=300, deadline=None)
def test_chrf_is_sacrebleus(corpus):
    """For any corpus: chrF2, characters 1 to 6, no words, no white space."""
    written, expected = map(list, zip(*corpus, strict=True))
    assert chrf(written, expected) == pytest.approx(sacrebleu.corpus_chrf(written, [expected]).score)


@given(corpora)
@settings(max_examples=300, deadline=None)
def test_rouge_is_rouge_scores(corpus):
    """For any corpus: the mean of each text's F1, without stemming."""
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    written, expected = map(list, zip(*corpus, strict=True))
    scores = [scorer.score(right, text) for text, right in corpus]
    found = rouge(written, expected)
    for ours, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert found[ours] == pytest.approx(sum(score[theirs].fmeasure for score in scores) / len(scores))


def test_the_tokenisers_agree_on_any_text():
    """Word by word, on a thousand strings of letters, digits and every ASCII sign."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    draw, tokenise = random.Random(0), Tokenizer13a()
    signs = [chr(code) for code in range(32, 127)] + list("áñ¿“”\n\t") + ["&amp;", "&lt;", "-\n", "<skipped>"]
    for _ in range(1000):
        text = "".join(draw.choices(signs, k=40))
        assert tokenise_13a(text) == tokenise(text.rstrip()).split()
