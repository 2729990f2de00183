"""LoRA: low-rank updates beside frozen kernels (Hu et al. 2021), for any model, chosen by path.

`with_lora(model, LoRA(rank=8))` is a model whose parameters have a branch `lora` beside the model's own, which are
fixed: they have no gradient, no optimizer state and no place in the periodic checkpoints. `merged` adds the updates to
the kernels, which gives back plain parameters of the plain model.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from research.core import trees
from research.core.errors import UserError
from research.core.ranges import Above0, OptionalWidth, Regex
from research.core.shapes import Batch, Params
from research.models.model import Cache, Decoding, Model, Sown, beside

BRANCH = "lora"
SHARDING = ((rf"^{BRANCH}/.*down_kernel$", P("fsdp", None)), (rf"^{BRANCH}/.*up_kernel$", P(None, "fsdp")))


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which kernels get an update, and of what rank."""

    rank: OptionalWidth = 0
    """0: no updates"""
    alpha: Above0 = 16.0
    """the update is alpha / rank times the product of its factors"""
    pattern: Regex = r"(query_key_value|query|key_value|attention/output|mlp/(up|gate|down))/kernel$"
    """searched for in the paths of the parameters"""
    trained: Regex = ""
    """searched for in the paths of other parameters, which are trained as well; ^(head|pooler)/ for new labels"""


def with_lora(model: Model, lora: LoRA) -> Model:
    """Returns the model with low-rank updates, which are zero at first.

    Raises:
        UserError: at `init`, where no kernel matches, or the rank is below 1.
    """

    def init(key: Key[Array, ""], batch: Batch) -> Params:
        params = model.init(key, batch)
        matched = {path: leaf for path, leaf in trees.flatten(params).items() if re.search(lora.pattern, path)}
        if lora.rank < 1 or not matched:
            raise UserError(f"LoRA of rank {lora.rank} finds {len(matched)} kernels that match {lora.pattern!r}.")
        if both := [path for path in matched if lora.trained and re.search(lora.trained, path)]:
            raise UserError(
                f"{both[0]!r} has a low-rank update and would be trained as well: change --model.lora.trained "
                f"{lora.trained!r} or --model.lora.pattern."
            )
        branch: dict[str, Any] = {}
        for number, (path, kernel) in enumerate(matched.items()):
            *leading, inputs_, outputs = kernel.shape
            bound = math.sqrt(1 / inputs_)  # of PEFT: Kaiming uniform with a slope of sqrt(5)
            shape = (*leading, inputs_, lora.rank)
            down = jax.random.uniform(jax.random.fold_in(key, number), shape, jnp.float32, -bound, bound)
            up = jnp.zeros((*leading, lora.rank, outputs), jnp.float32)
            _put(branch, path, {"down_kernel": down, "up_kernel": up})
        return {**params, BRANCH: branch}

    def apply(params: Params, batch: Batch, **options: Any) -> tuple[Any, Sown]:
        return model.apply(merged(params, lora), batch, **options)

    def fixed(path: str) -> bool:
        trained = path.startswith(f"{BRANCH}/") or bool(lora.trained and re.search(lora.trained, path))
        return not trained or model.fixed(path)

    rules = beside(BRANCH, model.sharding)
    decoding = model.decoding and _decoding(model.decoding, lora)
    return Model(init, apply, (*rules, *SHARDING), decoding, fixed, model.variables)


def _decoding(plain: Decoding, lora: LoRA) -> Decoding:
    def init_cache(params: Params, batch: int, capacity: int, **context: Any) -> Cache:
        return plain.init_cache(merged(params, lora), batch, capacity, **context)

    def decode_step(params: Params, cache: Cache, tokens: Any, start: Any, first: Any) -> tuple[Array, Cache]:
        return plain.decode_step(merged(params, lora), cache, tokens, start, first)

    unproven = plain.unproven and _decoding(plain.unproven, lora)
    return plain._replace(init_cache=init_cache, decode_step=decode_step, unproven=unproven)


def merged(params: Params, lora: LoRA) -> Params:
    """Returns the plain model's parameters with the updates added to its kernels; without a branch, `params`."""
    updates = trees.flatten(params.get(BRANCH, {}))

    def add(path: str, kernel: Array) -> Array:
        if f"{path}/up_kernel" not in updates:
            return kernel
        product = _product(updates[f"{path}/down_kernel"], updates[f"{path}/up_kernel"], lora.alpha / lora.rank)
        return kernel + product.astype(kernel.dtype)

    return trees.map_with_path(add, {name: branch for name, branch in params.items() if name != BRANCH})


def _product(
    down: Float[Array, "*layers inputs rank"], up: Float[Array, "*layers rank outputs"], scale: float
) -> Float[Array, "*layers inputs outputs"]:
    return scale * (down @ up)


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    first, _, rest = path.partition("/")
    if rest:
        _put(tree.setdefault(first, {}), rest, value)
    else:
        tree[first] = value
