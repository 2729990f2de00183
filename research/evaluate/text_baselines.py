"""What a model of text has to beat: word weights with logistic regression, and the translations that cost nothing.

TF-IDF (Spärck Jones 1972) makes a text a sparse vector of its words and pairs of words. Like the other baselines each
is fitted on the training split alone; `research/evaluate/evaluators.py` puts them beside the model.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer
from scipy import optimize, sparse, special

from research.data.dataset import Data
from research.evaluate import text_metrics
from research.evaluate.baselines import Table
from research.evaluate.metrics import classification_metrics, evaluate
from research.evaluate.text_bundles import translation_scores

WORD = re.compile(r"\b\w\w+\b")
COMPARED = 512  # texts compared with all others at once


@dataclasses.dataclass(frozen=True)
class TfIdf:
    """Texts as vectors of length 1: how often a text has each word or run of words, the rarer the heavier.

    As scikit-learn's: words of two characters or more in lower case; weights count * (1 + log((1 + texts) / (1 +
    texts that have it))); what training did not have is left out.

    Attributes:
        columns: the number of each word, or words with spaces between.
        rarity: of each column, the logarithm above.
        longest: words in a run.
    """

    columns: Mapping[str, int]
    rarity: Float[np.ndarray, " columns"]
    longest: int

    @classmethod
    def fit(cls, texts: Sequence[str], longest: int = 2) -> "TfIdf":
        """Learns words and their rarity."""
        frequency: Counter[str] = Counter()
        for text in texts:
            frequency.update(set(_runs(text, longest)))
        columns = {run: number for number, run in enumerate(sorted(frequency))}
        rarity = [1 + math.log((1 + len(texts)) / (1 + frequency[run])) for run in columns]
        return cls(columns, np.array(rarity), longest)

    def vectors(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Returns the texts as rows."""
        ends, columns, values = [0], [], []
        for text in texts:
            counts = Counter(run for run in _runs(text, self.longest) if run in self.columns)
            found = [self.columns[run] for run in counts]
            weights = np.fromiter(counts.values(), np.float64, len(counts)) * self.rarity[found]
            columns += found
            values.append(weights / max(np.linalg.norm(weights), 1e-12))
            ends.append(len(columns))
        return sparse.csr_matrix((np.concatenate(values), columns, ends), (len(texts), len(self.columns)))


def _runs(text: str, longest: int) -> Iterator[str]:
    words = WORD.findall(text.lower())
    for length in range(1, longest + 1):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


@dataclasses.dataclass(frozen=True)
class LogisticRegression:
    """Logits that are linear in the features."""

    weights: Float[np.ndarray, "features outputs"]
    bias: Float[np.ndarray, " outputs"]

    @classmethod
    def fit(
        cls, features: sparse.csr_matrix, labels: Integer[np.ndarray, " examples"], classes: int, penalty: float = 1.0
    ) -> "LogisticRegression":
        """Minimises the cross entropy plus half of `penalty` times the squared weights, by L-BFGS.

        Of two classes only the second one has weights, as in scikit-learn, so that the penalty is the same.
        """
        examples, width = features.shape
        outputs = classes if classes > 2 else 1
        right = np.eye(classes)[labels][:, classes - outputs :]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            model = cls(flat[outputs:].reshape(width, outputs), flat[:outputs])
            logits = model.logits(features)
            total = special.logsumexp(logits, axis=1)
            loss = (total - logits[np.arange(examples), labels]).sum() + penalty / 2 * (model.weights**2).sum()
            error = np.exp(logits - total[:, None])[:, classes - outputs :] - right
            slope = features.T @ error + penalty * model.weights
            return loss, np.concatenate([error.sum(0), slope.reshape(-1)])

        start = np.zeros(outputs * (width + 1))
        found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
        return cls(found[outputs:].reshape(width, outputs), found[:outputs])

    def logits(self, features: sparse.csr_matrix) -> Float[np.ndarray, "examples classes"]:
        """Returns the logits of all classes."""
        found = features @ self.weights + self.bias
        return found if found.shape[1] > 1 else np.concatenate([np.zeros_like(found), found], axis=1)


def classes_baselines(data: Data, split: str) -> Table:
    """Returns the baseline of data with texts that have a class each; none for others."""
    if not data.texts or not isinstance(data.texts["train"]["label"][0], int):
        return {}
    train, asked = data.texts["train"], data.texts[split]
    read = [name for name in ("text", "other") if name in train]
    known, texts = (
        ["\n".join(parts) for parts in zip(*(of[name] for name in read), strict=True)] for of in (train, asked)
    )
    labels, classes = np.array(asked["label"]), len(data.class_names)
    return {
        "TF-IDF and logistic regression": word_weights_baseline(known, np.array(train["label"]), texts, labels, classes)
    }


def pairs_baselines(data: Data, split: str, *, summaries: bool, most: int | None = None) -> Table:
    """Returns the source as it is, and the target of the training source most like it by TF-IDF of words.

    Measured on the first `most` pairs of the split.
    """
    train, asked = data.texts["train"], {name: texts[:most] for name, texts in data.texts[split].items()}
    scores = text_metrics.rouge if summaries else translation_scores
    nearest = nearest_texts(train["source"], asked["source"])
    return {
        "copy of the source": scores(asked["source"], asked["target"]),
        "nearest training pair": scores([train["target"][place] for place in nearest], asked["target"]),
    }


def word_weights_baseline(
    train_texts: Sequence[str],
    train_labels: Integer[np.ndarray, " train"],
    texts: Sequence[str],
    labels: Integer[np.ndarray, " examples"],
    classes: int,
) -> dict[str, float]:
    """The results of TF-IDF of words and pairs of words with logistic regression."""
    words = TfIdf.fit(train_texts)
    model = LogisticRegression.fit(words.vectors(train_texts), train_labels, classes)
    logits = model.logits(words.vectors(texts)).astype(np.float32)
    batch = {"logits": logits, "labels": labels, "mask": np.ones(len(labels), np.float32)}
    results = evaluate(classification_metrics(classes), lambda batch: {"logits": jnp.asarray(batch["logits"])}, [batch])
    return {name: value for name, value in results.items() if isinstance(value, float)}


def nearest_texts(known: Sequence[str], asked: Sequence[str]) -> Integer[np.ndarray, " asked"]:
    """Returns which of the known texts is most like each one asked for by TF-IDF (cosine), the first of equals."""
    words = TfIdf.fit(known, longest=1)
    columns = words.vectors(known).T.tocsc()
    found = words.vectors(asked)
    parts = (found[start : start + COMPARED] @ columns for start in range(0, len(asked), COMPARED))
    return np.concatenate([np.asarray(part.argmax(axis=1)).reshape(-1) for part in parts])
