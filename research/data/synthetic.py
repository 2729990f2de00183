"""Data drawn from a formula and a seed, for examples whose point is the training and not the data."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np

from research.core.ranges import AtLeast0, Finite, Length, Range, Seed, Vocabulary
from research.data.dataset import Data, Rows
from research.data.text.packing import Windows

SMALL = 64  # examples, or rows, of a small data set
WORDS = (
    "the a and to of with they she he one two old young good bad house river letter sister friend king captain "
    "sees finds writes loves likes walks near under happy proud quick"
).split()
Examples = Annotated[int, Range(1, 10**7)]
Features = Annotated[int, Range(1, 10**5)]


@dataclasses.dataclass(frozen=True)
class LineData:
    """Inputs of standard normal features; the target is their sum plus a little normal noise."""

    examples: Examples = 100
    features: Features = 2
    noise: AtLeast0 = 0.01
    seed: Seed = 0

    def build(self) -> Data:
        """Draws the examples; validation is drawn apart from training."""
        random = np.random.default_rng(self.seed)

        def draw() -> Rows:
            inputs = random.standard_normal((self.examples, self.features))
            targets = inputs.sum(1, keepdims=True) + self.noise * random.standard_normal((self.examples, 1))
            return Rows({"inputs": inputs.astype(np.float32), "targets": targets.astype(np.float32)})

        return Data({"train": draw(), "validation": draw()}, outputs=1, summary=_facts(self))

    def small(self, folder: Path) -> "LineData":
        """Returns the same with few examples."""
        return dataclasses.replace(self, examples=min(self.examples, SMALL))


@dataclasses.dataclass(frozen=True)
class CloudData:
    """Normal clouds, one for each class, around centres drawn once."""

    examples: Examples = 100
    """of each class"""
    features: Features = 100
    stds: tuple[AtLeast0, ...] = (0.1, 0.2)
    """standard deviation of each class's cloud"""
    centres: tuple[Finite, ...] = (0.0, 0.0)
    """coordinate, the same along every feature, of each cloud's centre"""
    seed: Seed = 0

    def build(self) -> Data:
        """Draws the examples; validation is drawn apart from training."""
        random = np.random.default_rng(self.seed)

        def draw() -> Rows:
            clouds = [
                centre + std * random.standard_normal((self.examples, self.features))
                for centre, std in zip(self.centres, self.stds, strict=True)
            ]
            labels = np.repeat(np.arange(len(clouds)), self.examples)
            return Rows({"inputs": np.concatenate(clouds).astype(np.float32), "labels": labels.astype(np.int32)})

        names = tuple(f"cloud {index}" for index in range(len(self.stds)))
        outputs = 1 if len(names) == 2 else len(names)
        return Data({"train": draw(), "validation": draw()}, outputs=outputs, class_names=names, summary=_facts(self))

    def small(self, folder: Path) -> "CloudData":
        """Returns the same with few examples."""
        return dataclasses.replace(self, examples=min(self.examples, SMALL))


@dataclasses.dataclass(frozen=True)
class NoiseData:
    """Uniform random inputs with random labels: nothing to learn but by heart, so only the training loss can fall."""

    examples: Examples = 1000
    features: Features = 100
    classes: Vocabulary = 10
    seed: Seed = 0

    def build(self) -> Data:
        """Draws the training examples; there is nothing to validate."""
        random = np.random.default_rng(self.seed)
        inputs = random.random((self.examples, self.features), np.float32)
        labels = random.integers(0, self.classes, self.examples).astype(np.int32)
        names = tuple(str(index) for index in range(self.classes))
        rows = Rows({"inputs": inputs, "labels": labels})
        return Data({"train": rows}, outputs=self.classes, class_names=names, summary=_facts(self))

    def small(self, folder: Path) -> "NoiseData":
        """Returns the same with few examples."""
        return dataclasses.replace(self, examples=min(self.examples, SMALL))


@dataclasses.dataclass(frozen=True)
class TokenData:
    """Uniform random tokens, for questions of speed and memory: there is nothing to learn but that they are uniform."""

    vocabulary: Vocabulary = 32000
    length: Length = 64
    """tokens in a row"""
    examples: Examples = 64
    """rows of each split"""
    seed: Seed = 0

    def build(self) -> Data:
        """Draws a stream of tokens for each split; a token counts as one character."""
        random = np.random.default_rng(self.seed)
        count = self.examples * self.length + 1
        tokens = {name: random.integers(0, self.vocabulary, count, dtype=np.int32) for name in ("train", "validation")}
        return Data(
            {name: Windows(stream, self.length, stride=self.length) for name, stream in tokens.items()},
            outputs=self.vocabulary,
            tokens=tokens,
            characters_per_token=dict.fromkeys(tokens, 1.0),
            summary=_facts(self),
        )

    def small(self, folder: Path) -> "TokenData":
        """Returns the same with few rows."""
        return dataclasses.replace(self, examples=min(self.examples, SMALL))


def made_up_sentences(count: int, seed: int = 0) -> list[str]:
    """Returns English words in no order as sentences, each with its number so that no two are the same.

    >>> made_up_sentences(1)
    ['Near 0 captain river he two a and the.']
    """
    random = np.random.default_rng(seed)
    return [
        " ".join([first.capitalize(), str(number), *rest]) + "."
        for number, (first, *rest) in enumerate(random.choice(WORDS, (count, 8)).tolist())
    ]


def _facts(config: LineData | CloudData | NoiseData | TokenData) -> dict[str, str]:
    return {"name": type(config).__name__, "description": str(config), "licence": "drawn at random"}
