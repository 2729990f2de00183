"""The glossary: the names of array dimensions used in every signature of this project.

| name | meaning |
|---|---|
| `batch` | examples in a batch |
| `length` | positions of a sequence: tokens, characters, frames |
| `keys` | positions attended to, where they differ from `length` |
| `width` | features of the residual stream |
| `hidden` | features inside an MLP |
| `heads`, `groups` | query heads; key and value heads that groups of query heads share |
| `head` | features of one attention head |
| `vocabulary` | token ids |
| `classes` | labels of a classification |
| `height`, `breadth`, `channels` | an image, channels last |
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
