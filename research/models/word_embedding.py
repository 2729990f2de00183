"""Word embeddings of the skip-gram (Mikolov et al. 2013): a vector for each word, and one for it as a neighbour."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from research.core import ranges
from research.core.mesh import constrain
from research.core.ranges import Width
from research.core.shapes import Spec
from research.models.model import Model, functional

SHARDING = ((r"(word|context)_embedding$", P("tensor", "fsdp")),)


@dataclasses.dataclass(frozen=True)
class WordEmbedding:
    """Two tables of vectors: `word_embedding`, what is learned, and `context_embedding`."""

    width: Width = 100
    """features of a vector"""

    def build(self, spec: Spec) -> Model:
        """Builds the model for a vocabulary of `spec.size` words."""
        ranges.check(self, within="model")
        return functional(WordEmbeddingModule(self, spec.size), SHARDING)


class WordEmbeddingModule(nn.Module):
    """Word ids to scores of words as their neighbours: of all words, or of `candidates`."""

    config: WordEmbedding
    vocabulary: int

    @nn.compact
    def __call__(
        self,
        inputs: Int[Array, "batch"],
        train: bool = False,
        candidates: Int[Array, "batch candidates"] | None = None,
    ) -> Float[Array, "batch scores"]:
        shape = (self.vocabulary, self.config.width)
        words = constrain(self.param("word_embedding", _small, shape), "tensor", None)
        contexts = constrain(self.param("context_embedding", nn.initializers.zeros, shape), "tensor", None)
        if candidates is None:
            return words[inputs] @ contexts.T
        return jnp.einsum("bw,bcw->bc", words[inputs], contexts[candidates])


def _small(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "vocabulary width"]:
    """The start of the original program: uniform within half of 1 / width; the other table starts at zero."""
    return jax.random.uniform(key, shape, jnp.float32, -0.5, 0.5) / shape[1]
