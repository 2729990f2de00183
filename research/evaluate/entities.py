"""Evaluation of names in text (named-entity recognition): F1 of whole entities, as seqeval, and of token classes."""

import dataclasses
import operator
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from research.core.errors import UserError
from research.core.shapes import Batch, Tree
from research.data.dataset import Data
from research.data.pipeline import evaluation_batches
from research.evaluate.baselines import Table, columns
from research.evaluate.classification import classification_metrics
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, evaluate, f1, flattened
from research.tasks.task import Task
from research.train.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class EntitiesEvaluator(EvaluatedSplit):
    """A class, such as B-PER, for each word of the sentences of a split; `data.class_names` names them."""

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation` and `read_tags`."""
        classes = (flattened(metric) for metric in classification_metrics(data.outputs))
        metrics = (*classes, *entity_metrics(data.class_names))

        def baselines() -> Table:
            return majority_baseline(metrics, data, self)

        return build_evaluation(self, metrics, baselines, task, data, mesh, seed)


def majority_baseline(metrics: Sequence[Metric], data: Data, config: EvaluatedSplit) -> Table:
    """The commonest tag for every word, with the training split's frequencies (plus one) as probabilities."""
    train, _ = columns(data, config.split, "labels")
    logits = jnp.asarray(np.log(np.bincount(train, minlength=data.outputs) + 1.0), jnp.float32)

    def predict(batch: Batch) -> Arrays:
        return {"logits": jnp.broadcast_to(logits, (*batch["labels"].shape, data.outputs))}

    batches = evaluation_batches(data.splits[config.split], config.batch_size)
    results = evaluate(metrics, predict, batches)
    return {"majority class": {name: value for name, value in results.items() if isinstance(value, float)}}


def entity_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Precision, recall and F1 of entities; `names` are the tags by class number.

    Reads predictions["logits"] [batch length classes], and batch["labels"], batch["mask"] and batch["segments"]
    [batch length].

    Raises:
        UserError: the tags are of no scheme, as `read_tags`.
    """
    read = read_tags(names)
    tags = [read[name] for name in names]

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        segments = jnp.where(batch["mask"] > 0, batch["segments"], 0)
        return ((predictions["logits"].argmax(-1), batch["labels"], segments),)

    def compute(chunks: Tree) -> Results:
        written, expected = [], []
        for found, labels, segments in (row for chunk in chunks for row in zip(*chunk, strict=True)):
            for segment in range(1, segments.max() + 1):
                written.append([tags[label] for label in found[segments == segment]])
                expected.append([tags[label] for label in labels[segments == segment]])
        return _scores(written, expected)

    return (Metric(("entity_precision", "entity_recall", "entity_f1"), measure, compute, operator.add),)


class Tag(NamedTuple):
    """What a label says of its word.

    Attributes:
        place: where in an entity the word stands: B begins one, I is inside, E ends one, S is one by itself, O in none.
        label: of the entity, "" where tags have none.
    """

    place: str
    label: str


PLACES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
PREFIXED = re.compile(rf"(?P<place>[{''.join(PLACES)}])(?:[\W_](?P<label>.+))?", re.IGNORECASE | re.DOTALL)
SUFFIXED = re.compile(rf"(?:(?P<label>.+)[\W_])?(?P<place>[{''.join(PLACES)}])", re.IGNORECASE | re.DOTALL)


def read_tags(names: Iterable[str]) -> dict[str, Tag]:
    """Returns what each label means, by the one style that all of them have: B-PER, PER-B, B, or bare PER.

    The letters are those of IOB1, IOB2, IOE1, IOE2, IOBES (BIOES), BILOU and BMES; any sign that is no letter or digit
    divides, such as B_PER. In bare labels a run of one label is an entity. O is in no entity. Where labels can be read
    in two ways, as S-B, the letter is in front.

    >>> read_tags(["B-PER", "L-PER", "O"])
    {'O': Tag(place='O', label=''), 'B-PER': Tag(place='B', label='PER'), 'L-PER': Tag(place='E', label='PER')}
    >>> read_tags(["geo-loc_B"])
    {'geo-loc_B': Tag(place='B', label='geo-loc')}

    Raises:
        UserError: some labels are of one style and some of another, or all are numbers.
    """
    names = list(dict.fromkeys(names))
    read = {name: Tag("O", "") for name in names if name in ("O", "o")}
    rest = [name for name in names if name not in read]
    matches = [[pattern.fullmatch(name) for name in rest] for pattern in (PREFIXED, SUFFIXED)]
    for of_style in matches:
        if all(of_style):
            found = [Tag(PLACES[match["place"].upper()], match["label"] or "") for match in of_style if match]
            return read | dict(zip(rest, found, strict=True))
    if any(match for of_style in matches for match in of_style):
        raise UserError(
            f"The labels of words are not of one style ({', '.join(rest[:10])}), so that entities cannot be told: "
            "write all tags as B-PER, as PER-B or as PER."
        )
    if names and all(name.lstrip("-").isdecimal() for name in names):
        raise UserError(
            f"The labels of words are numbers ({', '.join(names[:5])}), which name no entities: write tags such as "
            "B-PER and O, or measure with ClassificationEvaluator."
        )
    return read | {name: Tag("I", name) for name in rest}


class Entity(NamedTuple):
    """A run of words with one label, from `first` to `last`."""

    label: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence by its tags, whose style is theirs alone; raises UserError as `read_tags`.

    >>> entities(["B-PER", "I-PER", "O", "B-LOC"])
    [Entity(label='PER', first=0, last=1), Entity(label='LOC', first=3, last=3)]
    """
    read = read_tags(tags)
    return _runs([read[tag] for tag in tags])


def _runs(tags: Sequence[Tag]) -> list[Entity]:
    """Returns the entities of any sequence of tags, as seqeval's default.

    A word goes on with the entity before it where that has its label and has not ended, and the word does not begin
    one. So I-X after O, or after another label, begins one too.
    """
    found: list[Entity] = []
    before = Tag("O", "")
    for place, tag in enumerate(tags):
        if tag.place in "IE" and before.place in "BI" and tag.label == before.label:
            found[-1] = found[-1]._replace(last=place)
        elif tag.place != "O":
            found.append(Entity(tag.label, place, place))
        before = tag
    return found


def entity_scores(written: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities over all sentences, as seqeval: right is one with its label and both ends.

    Tjong Kim Sang and De Meulder 2003 (CoNLL). Each is 0 where nothing was found, or nothing was there. The style of
    the labels is that of all sentences together.

    Raises:
        ValueError: the numbers of sentences, or of words in one, differ.
        UserError: the labels are of no style, as `read_tags`.
    """
    if [len(tags) for tags in written] != [len(tags) for tags in expected]:
        raise ValueError("the sentences written and those expected differ in number, or in their numbers of words")
    read = read_tags(tag for tags in (*written, *expected) for tag in tags)
    return _scores(*([[read[tag] for tag in tags] for tags in side] for side in (written, expected)))


def _scores(written: Sequence[Sequence[Tag]], expected: Sequence[Sequence[Tag]]) -> dict[str, float]:
    pairs = [(set(_runs(left)), set(_runs(right))) for left, right in zip(written, expected, strict=True)]
    hits = sum(len(left & right) for left, right in pairs)
    found, there = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return {
        "entity_precision": hits / found if found else 0.0,
        "entity_recall": hits / there if there else 0.0,
        "entity_f1": f1(hits, found, there),
    }
