"""TF-IDF, logistic regression and nearest texts against scikit-learn, and the tables that evaluators show."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from research.data.dataset import Data
from research.evaluate.text_baselines import (
    LogisticRegression,
    TfIdf,
    classes_baselines,
    nearest_texts,
    pairs_baselines,
)

DRAW = np.random.default_rng(0)
WORDS = "good bad film plot the a it was very not, don't cámara 42".split()
TEXTS = [" ".join(DRAW.choice(WORDS, size)) for size in DRAW.integers(0, 12, 120)]
TRAIN, ASKED = TEXTS[:80], TEXTS[80:]


@pytest.mark.parametrize("longest", [1, 2])
def test_vectors_are_scikit_learns(longest):
    """The same words, weights and lengths, for texts with and without known words."""
    vectorizer = TfidfVectorizer(ngram_range=(1, longest)).fit(TRAIN)
    ours = TfIdf.fit(TRAIN, longest)
    assert list(ours.columns) == list(vectorizer.get_feature_names_out())
    asked = [*ASKED, "", "unknown words"]
    np.testing.assert_allclose(ours.vectors(asked).toarray(), vectorizer.transform(asked).toarray(), atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_logits_are_scikit_learns(classes):
    """For two classes and for more, with the usual penalty."""
    labels = np.array([len(text) % classes for text in TRAIN])
    words = TfIdf.fit(TRAIN)
    ours = LogisticRegression.fit(words.vectors(TRAIN), labels, classes).logits(words.vectors(ASKED))
    theirs = SklearnLogisticRegression(tol=1e-8, max_iter=1000).fit(words.vectors(TRAIN), labels)
    expected = theirs.predict_proba(words.vectors(ASKED))
    found = np.exp(ours) / np.exp(ours).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_nearest_text_has_the_same_rare_words():
    """Frequent words weigh little; of equal texts the first counts."""
    known = ["the the cat", "the zebra", "the dog", "the dog"]
    assert nearest_texts(known, ["the the the dog", "zebra the", "nothing"]).tolist() == [2, 1, 0]


def test_classes_of_texts_have_a_baseline():
    """Words that decide the class are found; the table has the names of the metrics."""
    texts = {split: {"text": ["good film", "bad film"] * 20, "label": [1, 0] * 20} for split in ("train", "test")}
    table = classes_baselines(Data({}, outputs=2, class_names=("no", "yes"), texts=texts), "test")
    assert table["TF-IDF and logistic regression"]["accuracy"] == 1
    assert {"loss", "f1_macro"} <= set(table["TF-IDF and logistic regression"])


def test_pairs_have_two_baselines():
    """A copy of the source, and the target of the nearest training source."""
    pairs = {"source": ["one two three four", "six"], "target": ["uno dos tres cuatro", "seis"]}
    data = Data({}, outputs=2, texts={"train": pairs, "test": {name: texts[:1] for name, texts in pairs.items()}})
    table = pairs_baselines(data, "test", summaries=False)
    assert table["nearest training pair"] == pytest.approx({"bleu": 100, "chrf": 100})
    assert table["copy of the source"]["bleu"] == 0
    assert set(pairs_baselines(data, "test", summaries=True)["copy of the source"]) == {"rouge_1", "rouge_2", "rouge_l"}


def test_other_texts_have_none():
    """Numbers, and data without texts."""
    numbers = {"text": ["a"], "label": [0.5]}
    assert classes_baselines(Data({}, outputs=1, texts={"train": numbers, "test": numbers}), "test") == {}
    assert classes_baselines(Data({}, outputs=1), "test") == {}
