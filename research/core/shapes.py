"""The glossary: the names of array dimensions used in every signature of this project.

| name | meaning |
|---|---|
| `batch` | examples in a batch |
| `length` | positions of a sequence: tokens, characters, frames |
| `keys` | positions attended to, where they differ from `length` |
| `width` | features of the residual stream; of an image, see below |
| `mlp_dim` | features inside an MLP |
| `heads`, `num_kv_heads` | query heads; key and value heads, each shared by heads / num_kv_heads query heads |
| `head_dim` | features of one attention head |
| `experts`, `capacity` | expert MLPs of a layer; tokens of a row that one expert takes |
| `vocabulary` | token ids |
| `classes` | labels of a classification |
| `height`, `width`, `channels` | an image, channels last: here `width` counts pixels |
| `features`, `outputs` | columns of a table; numbers predicted |

`Params` and `Batch` are pytrees: nested dictionaries of arrays. A `Spec` is what a model is built for.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from research.core.errors import UserError

Tree = Any
Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a model is built for.

    >>> Spec(10).size
    10
    >>> Spec({"boxes": 4, "classes": 80}).outputs
    {'boxes': 4, 'classes': 80}

    Attributes:
        outputs: how many numbers the model predicts: tokens, labels or targets; or by the name of each output.
        batch: an example batch, arrays or their shapes by name; empty where the model needs no shape to be built.
        labels: names of the classes, where the outputs are classes that have names.
    """

    outputs: int | Mapping[str, int]
    batch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The numbers of the one output; raises UserError where there are several."""
        if isinstance(self.outputs, int):
            return self.outputs
        raise UserError(f"The model has one output, and the data ask for {list(self.outputs)}: take another model.")
