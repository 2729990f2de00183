"""Logistic regression, which a classifier has to beat: on words of texts, columns of tables, pixels of images.

Fitted on the training split alone. Imported only where a baseline is computed, for it takes scipy along.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from scipy import optimize, special

from research.data.dataset import Data, Records
from research.data.pipeline import gather

MAX_EXAMPLES = 5_000  # of the training split that are learned from, evenly spread
MAX_NUMBERS = 4_000_000  # features of all of them: a fit takes about two seconds
MAX_SIDE = 32  # pixels; of larger images, squares of pixels are averaged
GATHERED = 1024  # examples read at once


@dataclasses.dataclass(frozen=True)
class LogisticRegression:
    """Logits that are linear in the features."""

    weights: Float[np.ndarray, "features outputs"]
    bias: Float[np.ndarray, " outputs"]

    @classmethod
    def fit(
        cls, features: Any, labels: Integer[np.ndarray, " examples"], classes: int, penalty: float = 1.0
    ) -> "LogisticRegression":
        """Minimises the cross entropy plus half of `penalty` times the squared weights, by L-BFGS.

        Features are an array [examples features], or a sparse matrix. Of two classes only the second one has weights,
        as in scikit-learn, so that the penalty is the same.
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

    def logits(self, features: Any) -> Float[np.ndarray, "examples classes"]:
        """Returns the logits of all classes."""
        found = features @ self.weights + self.bias
        return found if found.shape[1] > 1 else np.concatenate([np.zeros_like(found), found], axis=1)


def linear_logits(data: Data, split: str) -> Float[np.ndarray, "examples classes"] | None:
    """Returns logits of a split by logistic regression on the inputs; None where these are no features and no images.

    The inputs of a table are its features; of images they are pixels from 0 to 1, less their mean.
    """
    train = data.splits["train"]
    if not (data.columns or np.ndim(train[0].get("inputs", 0)) == 3) or "labels" not in train[0]:
        return None
    width = _features(train, np.arange(1)).shape[1]
    count = max(min(len(train), MAX_EXAMPLES, MAX_NUMBERS // width), 1)
    learned = np.linspace(0, len(train) - 1, count).astype(np.int64)
    features, labels = _features(train, learned), gather(train, learned)["labels"]
    mean = features.mean(0)
    model = LogisticRegression.fit(features - mean, labels, max(data.outputs, 2))
    evaluated = data.splits[split]
    parts = np.array_split(np.arange(len(evaluated)), max(-(-len(evaluated) // GATHERED), 1))
    return np.concatenate([model.logits(_features(evaluated, part) - mean) for part in parts])


def _features(records: Records, indices: Integer[np.ndarray, " examples"]) -> Float[np.ndarray, "examples features"]:
    """Returns the inputs of some examples as rows of numbers."""
    inputs = gather(records, indices)["inputs"]
    if inputs.ndim == 2:
        return inputs.astype(np.float64)
    _, height, width, channels = inputs.shape
    size = -(-max(height, width) // MAX_SIDE)
    kept = inputs[:, : height // size * size, : width // size * size]
    squares = kept.reshape(len(kept), height // size, size, width // size, size, channels)
    scale = 255 if inputs.dtype == np.uint8 else 1
    return squares.mean((2, 4)).reshape(len(kept), -1) / scale
