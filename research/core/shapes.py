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

`Params` and `Batch` are pytrees: nested dictionaries of arrays.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Tree = Any
Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array | np.ndarray]
