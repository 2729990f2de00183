"""What a data configuration builds: named splits of records, and the facts that models and reports need.

A split is a `Records`: a sequence of examples by position, each a dictionary of arrays of fixed shape, so that a
batch is a pure function of (seed, step). `Data` adds what was learned on the way (tokenizer, class names, cleaning
and split summary, digests). `DataConfig` is what an experiment asks of a data configuration.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from research.core.configs import config_protocol
from research.core.shapes import Spec

Example = Mapping[str, np.ndarray]


@runtime_checkable
class Records(Protocol):
    """A split: random access to examples of equal shapes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples held in memory as arrays with a common leading axis."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def gather(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Returns a batch of examples."""
        return {name: array[indices] for name, array in self.arrays.items()}


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; `decode(encode(text)) == text` for text it can represent."""

    @property
    def vocabulary_size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Any) -> str: ...

    def save(self, path: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set made ready.

    Attributes:
        splits: records by split name: "train", "validation", "test".
        outputs: how many numbers a model predicts: token ids, classes, or targets.
        class_names: names of the classes, empty where there are none.
        tokenizer: for text, else None.
        tokens: for text, every token of a split in order, by split name.
        texts: of each split, each example once: for labelled text "text", "label" (as learned) and, where there is one,
            "other"; for pairs "source" and "target".
        characters_per_token: for text, by split name; turns nats per token into bits per character.
        columns: of a table, by name: the first of a column's features in "inputs", and the one after its last.
        fitted: what was learned of the training rows besides, such as the features of a table's columns; data of which
            it is equal encode the same input alike.
        summary: JSON values for the record and the report: source, licence, counts, cleaning, split, digests.
        encode: inputs as a user has them (texts, rows of a table, images) to records of one example each, in their
            order and prepared as those of the splits, without labels; raises UserError for inputs that the data cannot
            be asked about. None where inputs do not come one by one.
    """

    splits: Mapping[str, Records]
    outputs: int
    class_names: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    tokens: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, Mapping[str, Sequence[Any]]] = dataclasses.field(default_factory=dict)
    characters_per_token: Mapping[str, float] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    fitted: Any = None
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encode: Callable[[Sequence[Any]], Records] | None = None

    @property
    def spec(self) -> Spec:
        """What a model for these data is built for: the first training example as a batch, and the outputs."""
        example = self.splits["train"][0] if "train" in self.splits else {}
        batch = {name: np.asarray(array)[None] for name, array in example.items()}
        return Spec(self.outputs, batch, self.class_names)


@config_protocol
@runtime_checkable
class DataConfig(Protocol):
    """What an experiment asks of a data configuration, a frozen dataclass such as `TextData`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self) -> Data:
        """Reads and prepares; raises UserError for files and options that cannot work."""
        ...


@runtime_checkable
class HasSmallForm(Protocol):
    """A data configuration that can be tried on tiny data; the tests ask it of every experiment's."""

    def small(self, folder: Path) -> DataConfig:
        """Returns a configuration of the same kind on tiny data, for tests and for trying a pipeline out.

        Its `build` takes about a second and gives every split, with the columns that this configuration names and
        labels that it can use. Sizes such as the length of a row stay.

        Args:
            folder: exists; data that no formula draws and no embedded data set holds are written into it.
        """
        ...
