"""Calibration: of the predictions that a model is so sure of, how many are right (Guo et al., 2017, "On Calibration").

Predictions are sorted by their probability into ten bins of equal width; the sums of each merge over batches and hosts.
For two classes the probability is that of class 1, for several that of the class predicted.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

BINS = 10


def calibration_sums(
    probability: Float[Array, " batch"], right: Bool[Array, " batch"], counted: Bool[Array, " batch"]
) -> dict[str, Float[Array, " bins"]]:
    """Returns by bin how many predictions are counted, the sum of their probabilities, and how many are right."""
    places = jnp.clip((probability * BINS).astype(jnp.int32), 0, BINS - 1)

    def by_bin(values: Any) -> Float[Array, " bins"]:
        return jnp.zeros(BINS, jnp.float32).at[places].add(jnp.where(counted, values, 0))

    return {"count": by_bin(1.0), "probability": by_bin(probability), "right": by_bin(right)}


def calibration_of(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns, of each bin that is not empty, the mean probability and the fraction that is right; and their distance.

    `error` is the expected calibration error: the mean over all predictions of the distance in their bin.

    >>> calibration_of({"count": np.array([0, 4]), "probability": np.array([0.0, 3.2]), "right": np.array([0, 3])})
    {'count': [4], 'probability': [0.8], 'right': [0.75], 'error': 0.05}
    """
    count, kept = np.asarray(sums["count"]), np.asarray(sums["count"]) > 0
    means = {name: np.asarray(sums[name], np.float64)[kept] / count[kept] for name in ("probability", "right")}
    distance = np.abs(means["probability"] - means["right"]) * count[kept]
    return {
        "count": [int(each) for each in count[kept]],
        **{name: [round(float(value), 5) for value in values] for name, values in means.items()},
        "error": round(float(distance.sum() / max(count.sum(), 1)), 5),
    }
