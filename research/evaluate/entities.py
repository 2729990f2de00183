"""Evaluation of names in text (named-entity recognition): F1 of whole entities, as seqeval, and of token classes."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table, columns
from research.evaluate.classification import classification_baseline, classification_metrics
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, f1, flattened
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class EntitiesEvaluator(EvaluatedSplit):
    """A class, such as B-PER, for each word of the sentences of a split; `data.class_names` names them."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        classes = (flattened(metric) for metric in classification_metrics(data.outputs))
        metrics = (*classes, *entity_metrics(data.class_names))

        def baselines() -> Table:
            return classification_baseline(*columns(data, self.split, "labels"), data.outputs)

        return build_evaluation(self, metrics, baselines, task, data, mesh, seed)


def entity_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Precision, recall and F1 of entities; `names` are the tags by class number.

    Reads predictions["logits"] [batch length classes], and batch["labels"], batch["mask"] and batch["segments"]
    [batch length].
    """

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        segments = jnp.where(batch["mask"] > 0, batch["segments"], 0)
        return ((predictions["logits"].argmax(-1), batch["labels"], segments),)

    def compute(chunks: Tree) -> Results:
        written, expected = [], []
        for found, labels, segments in (row for chunk in chunks for row in zip(*chunk, strict=True)):
            for segment in range(1, segments.max() + 1):
                written.append([names[label] for label in found[segments == segment]])
                expected.append([names[label] for label in labels[segments == segment]])
        return entity_scores(written, expected)

    return (Metric(("entity_precision", "entity_recall", "entity_f1"), measure, compute, operator.add),)


class Entity(NamedTuple):
    """A run of words with one label, from `first` to `last`."""

    label: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence by its tags: B-X begins one, I-X continues it, O is none.

    As seqeval's default: I-X after O, or after another label, begins one too.

    >>> entities(["B-PER", "I-PER", "O", "B-LOC"])
    [Entity(label='PER', first=0, last=1), Entity(label='LOC', first=3, last=3)]
    """
    found: list[Entity] = []
    open_label, begin = "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, label = tag.partition("-")
        label = label if prefix in ("B", "I") else ""
        if open_label and (prefix != "I" or label != open_label):
            found.append(Entity(open_label, begin, place - 1))
        if label and (prefix == "B" or label != open_label):
            begin = place
        open_label = label
    return found


def entity_scores(written: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities over all sentences, as seqeval: right is one with its label and both ends.

    Tjong Kim Sang and De Meulder 2003 (CoNLL). Each is 0 where nothing was found, or nothing was there.

    Raises:
        ValueError: the numbers of sentences differ.
    """
    pairs = [(set(entities(left)), set(entities(right))) for left, right in zip(written, expected, strict=True)]
    hits = sum(len(left & right) for left, right in pairs)
    found, there = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return {
        "entity_precision": hits / found if found else 0.0,
        "entity_recall": hits / there if there else 0.0,
        "entity_f1": f1(hits, found, there),
    }
