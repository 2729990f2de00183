"""What the tasks with one label or target an example share: prepared inputs and masked means.

Regression, binary classification and classification each put their own loss on top.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from research.core.errors import UserError
from research.core.shapes import Params
from research.data.dataset import Data
from research.tasks.task import WeightedSum


def standardise(
    data: Data, inputs: Num[Array, "batch ..."] | Num[np.ndarray, "batch ..."]
) -> Float[Array, "batch ..."]:
    """Returns (inputs - mean) / std in float32, by the last axis; inputs as they are where data gives neither.

    `data.summary["standardisation"]` holds "mean" and "std", one number a channel or column, in the units of
    the inputs (0 to 255 for pixels). A column that never varies is only shifted.
    """
    x = jnp.asarray(inputs).astype(jnp.float32)
    if "standardisation" not in data.summary:
        return x
    values = data.summary["standardisation"]
    mean, std = (np.asarray(values[name], np.float32) for name in ("mean", "std"))
    return (x - mean) / np.where(std > 0, std, 1)


def check_classes(data: Data) -> None:
    """Raises UserError for data of fewer than two classes, which any model tells apart without fault."""
    if data.outputs < 2:
        raise UserError(
            f"A classifier tells two classes or more apart, and these data have {data.outputs} "
            f"({', '.join(data.class_names) or 'a number'}): give examples of another, or data with another target."
        )


def example_inputs(data: Data) -> Float[Array, "1 ..."]:
    """Returns the first training example as a batch of one, from which a model learns its input shape."""
    return standardise(data, data.splits["train"][0]["inputs"][None])


def in_parameter_type(params: Params, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Casts inputs to the parameters' type, which the precision policy has set for the forward pass."""
    return inputs.astype(jax.tree.leaves(params)[0].dtype)


def weighted(
    losses: Float[Array, "*rows"], weights: Sequence[float], labels: Float[Array, "*rows classes"], data: Data
) -> Float[Array, "*rows"]:
    """Returns the losses of examples, each times the weight of its class; as they are without weights.

    Args:
        losses: one of each example.
        weights: one of each class, in the order of their names, or none.
        labels: shares of the classes, which add up to 1.
        data: what they are the classes of.

    Raises:
        UserError: there are more or fewer weights than classes.
    """
    if not weights:
        return losses
    classes = labels.shape[-1]
    if len(weights) != classes:
        names = f" ({', '.join(data.class_names)})" if data.class_names else ""
        raise UserError(
            f"--task.class-weights are {len(weights)} weights, and the classes {classes}{names}: give one each."
        )
    return losses * (labels @ jnp.asarray(weights, jnp.float32))


def masked_mean(
    values: Float[Array, "batch"] | Bool[Array, "batch"], mask: Float[Array, "batch"] | Float[np.ndarray, "batch"]
) -> WeightedSum:
    """Returns the mean over a batch's real examples, not divided yet; `mask` is 0 for padding."""
    return WeightedSum((values * mask).sum(), jnp.asarray(mask.sum()))
