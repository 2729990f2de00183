"""LoRA: low-rank updates beside frozen kernels (Hu et al. 2021), for any model, chosen by path.

`with_lora(model, LoRA(rank=8))` is a model whose parameters have a branch `lora` beside the model's own; `merged` adds
the updates to the kernels, which gives back plain parameters of the plain model. Train with
`Optimizer(lr_multipliers=LORA_RATES)`, so that the rest stays frozen and takes no optimizer state.
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
from research.core.shapes import Params
from research.models.model import Cache, Decoding, Model, Sown

BRANCH = "lora"
# For `Optimizer(lr_multipliers=...)`: the updates alone, or with the head of new labels, which no pretraining has seen.
LORA_RATES = ((rf"^{BRANCH}/", 1.0), (rf"^(?!{BRANCH}/)", 0.0))
LORA_AND_HEAD_RATES = ((rf"^({BRANCH}|head|pooler)/", 1.0), (rf"^(?!({BRANCH}|head|pooler)/)", 0.0))
SHARDING = ((rf"^{BRANCH}/.*down_kernel$", P("fsdp", None)), (rf"^{BRANCH}/.*up_kernel$", P(None, "fsdp")))


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which kernels get an update, and of what rank."""

    rank: int = 0
    """0: no updates"""
    alpha: float = 16.0
    """the update is alpha / rank times the product of its factors"""
    pattern: str = r"(query_key_value|query|key_value|attention/output|mlp/(up|gate|down))/kernel$"
    """searched for in the paths of the parameters"""


def with_lora(model: Model, lora: LoRA) -> Model:
    """Returns the model with low-rank updates, which are zero at first.

    Raises:
        UserError: at `init`, where no kernel matches, or the rank is below 1.
    """

    def init(key: Key[Array, ""], inputs: Array) -> Params:
        params = model.init(key, inputs)
        matched = {path: leaf for path, leaf in trees.flatten(params).items() if re.search(lora.pattern, path)}
        if lora.rank < 1 or not matched:
            raise UserError(f"LoRA of rank {lora.rank} finds {len(matched)} kernels that match {lora.pattern!r}.")
        branch: dict[str, Any] = {}
        for number, (path, kernel) in enumerate(matched.items()):
            *leading, inputs_, outputs = kernel.shape
            bound = math.sqrt(1 / inputs_)  # of PEFT: Kaiming uniform with a slope of sqrt(5)
            shape = (*leading, inputs_, lora.rank)
            down = jax.random.uniform(jax.random.fold_in(key, number), shape, jnp.float32, -bound, bound)
            up = jnp.zeros((*leading, lora.rank, outputs), jnp.float32)
            _put(branch, path, {"down_kernel": down, "up_kernel": up})
        return {**params, BRANCH: branch}

    def apply(params: Params, inputs: Array, **options: Any) -> tuple[Array, Sown]:
        return model.apply(merged(params, lora), inputs, **options)

    rules = tuple((rf"^(?!{BRANCH}/).*({pattern})", spec) for pattern, spec in model.sharding)
    return Model(init, apply, (*rules, *SHARDING), model.decoding and _decoding(model.decoding, lora))


def _decoding(plain: Decoding, lora: LoRA) -> Decoding:
    def begin(params: Params, batch: int, capacity: int, **context: Any) -> Cache:
        return plain.begin(merged(params, lora), batch, capacity, **context)

    def advance(params: Params, cache: Cache, tokens: Any, start: Any, first: Any) -> tuple[Array, Cache]:
        return plain.advance(merged(params, lora), cache, tokens, start, first)

    return plain._replace(begin=begin, advance=advance)


def merged(params: Params, lora: LoRA) -> Params:
    """Returns the plain model's parameters with the updates added to its kernels; without a branch, `params`."""
    updates = trees.flatten(params.get(BRANCH, {}))

    def add(path: str, kernel: Array) -> Array:
        if f"{path}/up_kernel" not in updates:
            return kernel
        product = _product(updates[f"{path}/down_kernel"], updates[f"{path}/up_kernel"], lora.alpha / lora.rank)
        return kernel + product.astype(kernel.dtype)

    return trees.map_with_path(add, {name: branch for name, branch in params.items() if name != BRANCH})


def check_rates(multipliers: Any, params: Params) -> None:
    """Raises UserError where kernels that have updates would be trained themselves.

    Args:
        multipliers: each parameter's factor of the learning rate.
        params: (abstract) parameters.
    """
    rates = trees.flatten(multipliers)
    suffix = "/up_kernel"
    for path in trees.flatten(params.get(BRANCH, {})):
        if path.endswith(suffix) and rates[path.removesuffix(suffix)]:
            raise UserError(
                f"{path.removesuffix(suffix)!r} has a low-rank update and would be trained as well: add "
                "--optimizer.lr-multipliers '^lora/' 1 '^(?!lora/)' 0, or Optimizer(lr_multipliers=LORA_RATES)."
            )


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
