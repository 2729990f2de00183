"""TF-IDF, logistic regression and nearest texts against scikit-learn."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from research.evaluate.logistic_regression import LogisticRegression
from research.evaluate.tf_idf import TfIdf, nearest_texts

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
