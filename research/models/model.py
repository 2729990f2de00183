"""A model as two pure functions, made from a Linen module in one place.

Every architecture is a file here with a frozen configuration whose `build(spec)` returns a `Model`. Nothing
outside `research/models` sees Linen; `change_layer`, in the file of that name, tries an idea on one layer.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Key

from research.core import trees
from research.core.configs import config_protocol
from research.core.shapes import Batch, Params, Spec, Tree
from research.models.generation_rules import GenerationRules
from research.models.layers.cache import CACHE, CachePositions

# The collections that layers sow into in training; see `Sown`.
STATISTICS = "statistics"
LOSSES = "losses"
METRICS = "metrics"
# Where layers sow what they attend to, when asked.
ATTENTION = "attention"

Cache = Tree


class Sown(NamedTuple):
    """What layers report in training, beside the model's outputs; empty where no layer does.

    Attributes:
        statistics: a pair (sum, weight) at the path of each parameter that is a running average of activations.
        losses: by name, what each row of the batch adds to its loss, [batch], summed over layers.
        metrics: by name, a measurement of each row, [batch], averaged over layers.
        attention: by the path of a layer, its attention weights over a source, where `apply` is asked for them.
    """

    statistics: Tree = {}
    losses: Mapping[str, Float[Array, "batch"]] = {}
    metrics: Mapping[str, Float[Array, "batch"]] = {}
    attention: Mapping[str, Float[Array, "batch heads length keys"]] = {}


class Init(Protocol):
    def __call__(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Returns initial parameters for batches of these shapes and types."""
        ...


class Apply(Protocol):
    def __call__(
        self,
        params: Params,
        batch: Batch,
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        attention: bool = False,
    ) -> tuple[Any, Sown]:
        """Returns the outputs, an array or arrays by name, and what layers sowed.

        Args:
            params: of the model.
            batch: fields by name; the model takes those that it reads.
            train: whether there is dropout, and statistics of the batch are sowed.
            key: draws the dropout where `train`.
            attention: whether layers sow what they attend to.
        """
        ...


class InitCache(Protocol):
    def __call__(self, params: Params, batch: int, capacity: int, **context: Any) -> Cache:
        """Returns an empty cache for `batch` rows of at most `capacity` tokens; `context` is an encoder's input."""
        ...


class DecodeStep(Protocol):
    def __call__(
        self,
        params: Params,
        cache: Cache,
        tokens: Int[Array, "batch length"],
        start: Int[Array, ""],
        first: Int[Array, "batch"],
    ) -> tuple[Float[Array, "batch length vocabulary"], Cache]:
        """Returns the logits after each of the next tokens, which are at positions `start`, `start` + 1, ...
        of the cache.

        `first` is the position in the cache where each row's text begins: before it is padding. See `layers/cache.py`.
        """
        ...


class Decoding(NamedTuple):
    """A language model applied step by step: `init_cache` makes a cache, `decode_step` extends it by the next tokens.

    The leading axis of every array of a cache is the batch. `context` is the longest text that the model can take
    (0: any). Where the model `has_encoder`, `init_cache` takes the inputs of the encoder, `inputs` and `segments`, and
    `tokens` is the field of a batch that the decoder reads.
    """

    init_cache: InitCache
    decode_step: DecodeStep
    context: int = 0
    tokens: str = "inputs"
    rules: GenerationRules = GenerationRules()
    """what a published model's files say about the texts that it writes"""
    unproven: Any = None
    """a faster `Decoding`, which may differ from what `apply` gives; see `change_layer.fastest`"""

    @property
    def has_encoder(self) -> bool:
        return self.tokens != "inputs"


def no_path(path: str) -> bool:
    """Accepts no path."""
    return False


class Model(NamedTuple):
    """`init` and `apply`, the sharding rules of the parameters, and for language models their step-by-step form.

    `fixed` says which parameters, by path, a wrapper freezes; `variables` which change without a gradient: running
    statistics of activations.
    """

    init: Init
    apply: Apply
    sharding: Sequence[tuple[str, PartitionSpec]]
    decoding: Decoding | None = None
    fixed: Callable[[str], bool] = no_path
    variables: Callable[[str], bool] = no_path


def functional(
    module: nn.Module,
    sharding: Sequence[tuple[str, PartitionSpec]],
    *,
    cached: bool = False,
    context: int = 0,
    tokens: str = "inputs",
    variables: Callable[[str], bool] = no_path,
) -> Model:
    """Turns a Linen module, called as `module(inputs, train=..., ...)`, into a `Model`.

    The names of the arguments are those of the fields of a batch that the model reads.

    One that is `cached` takes `cache_positions=CachePositions(...)` too, and stores its cache in the collection
    `CACHE`; `context` is the longest text that it can take (0: any), `tokens` the argument that takes the next tokens.
    `variables` accepts the paths of running statistics.
    """

    arguments = inspect.signature(type(module).__call__).parameters.keys() - {"self", "train", "cache_positions"}

    def fields(batch: Batch) -> dict[str, Any]:
        return {name: jnp.asarray(batch[name]) for name in arguments if name in batch}

    def init(key: Key[Array, ""], batch: Batch) -> Params:
        return meta.unbox(module.init(key, train=False, **fields(batch))["params"])

    def apply(
        params: Params,
        batch: Batch,
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        attention: bool = False,
    ) -> tuple[Any, Sown]:
        rngs = {} if key is None else {"dropout": key}
        mutable = ([STATISTICS, LOSSES, METRICS] if train else []) + ([ATTENTION] if attention else [])
        outputs, state = module.apply({"params": params}, train=train, rngs=rngs, mutable=mutable, **fields(batch))
        losses, metrics = (_by_name(state.get(collection, {})) for collection in (LOSSES, METRICS))
        return outputs, Sown(
            state.get(STATISTICS, {}),
            {name: rows.sum(0) for name, rows in losses.items()},
            {name: rows.mean(0) for name, rows in metrics.items()},
            {path.rpartition("/")[0]: weights for path, weights in trees.flatten(state.get(ATTENTION, {})).items()},
        )

    decoding = _decoding(module, context, tokens) if cached else None
    return Model(init, apply, sharding, decoding, variables=variables)


def _decoding(module: nn.Module, longest: int, argument: str) -> Decoding:
    def init_cache(params: Params, batch: int, capacity: int, **context: Any) -> Cache:
        def no_step() -> Cache:
            cache_positions = CachePositions(jnp.int32(0), jnp.zeros(batch, jnp.int32), capacity)
            extra = {argument: jnp.zeros((batch, 0), jnp.int32), **context}
            return module.apply({"params": params}, cache_positions=cache_positions, mutable=[CACHE], **extra)[1][CACHE]

        if context:  # the output of the encoder is a part of the cache
            return no_step()
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(no_step))

    def decode_step(params: Params, cache: Cache, tokens: Any, start: Any, first: Any) -> tuple[Any, Cache]:
        variables, cache_positions = {"params": params, CACHE: cache}, CachePositions(start, first)
        logits, state = module.apply(variables, cache_positions=cache_positions, mutable=[CACHE], **{argument: tokens})
        return logits, state[CACHE]

    return Decoding(init_cache, decode_step, longest, argument)


def _by_name(collection: Tree) -> dict[str, Float[Array, "layers batch"]]:
    """Stacks what layers sowed under the same name, [batch] each, or [layers batch] where they are scanned."""
    layers: dict[str, list[Array]] = {}
    for path, leaf in trees.flatten(collection).items():
        layers.setdefault(path.rpartition("/")[2], []).append(leaf.reshape(-1, leaf.shape[-1]))
    return {name: jnp.concatenate(rows) for name, rows in layers.items()}


@config_protocol
@runtime_checkable
class ModelConfig(Protocol):
    """The configuration of a model, a frozen dataclass of sizes and options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, spec: Spec) -> Model:
        """Builds the model; raises UserError where sizes do not fit one another, or the data."""
        ...


def within(branch: str, rules: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Returns rules (pattern, value) by path, such as a model's, for its parameters as a branch of a larger tree.

    >>> within("teacher", (("^head/kernel$", 1), ("bias$", 0)))
    (('^teacher/head/kernel$', 1), ('^teacher/.*(bias$)', 0))
    """
    return tuple(
        (f"^{branch}/{pattern[1:]}" if pattern.startswith("^") else f"^{branch}/.*({pattern})", value)
        for pattern, value in rules
    )


def beside(branch: str, rules: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Returns rules (pattern, value) by path, such as a model's, that match nothing inside a branch beside it.

    >>> beside("queue", (("bias$", 0),))
    (('^(?!queue(/|$)).*(bias$)', 0),)
    """
    return tuple((f"^(?!{branch}(/|$)).*({pattern})", value) for pattern, value in rules)
