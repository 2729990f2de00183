"""Names in text: entities as seqeval finds them, in rows of several examples."""

import random

import numpy as np
import pytest
from batches import measured
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.dataset import Data, Rows
from research.evaluate.classification import classification_metrics
from research.evaluate.entities import (
    EntitiesEvaluator,
    Entity,
    Tag,
    entities,
    entity_metrics,
    entity_scores,
    majority_baseline,
    read_tags,
)
from research.evaluate.metrics import flattened


def test_entities_are_those_of_each_example():
    """A name does not go on in the next example of a row; unlabelled tokens are passed over."""
    names = ("B-PER", "I-PER", "O")
    labels = np.array([[0, 1, 0, 1, 0], [2, 0, 1, 2, 0], [2, 2, 2, 2, 2]])
    segments = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    mask = np.float32(segments > 0)
    mask[0, 1] = 0
    found = labels.copy()
    found[1, 2] = 2
    batch = {"labels": labels, "segments": segments, "mask": mask}
    metrics = (*map(flattened, classification_metrics(3)), *entity_metrics(names))
    results = measured(metrics, {"logits": np.eye(3, dtype=np.float32)[found]}, batch)
    # There: PER 0-0, 1-1 and 0-0, 1-1 (of the second example); PER 1-2, found as 1-1.
    assert results["entity_precision"] == results["entity_recall"] == pytest.approx(4 / 5)
    assert results["accuracy"] == pytest.approx(1 - 1 / mask.sum())


def test_entities_of_two_sentences():
    """The example of seqeval's README, for which it prints an F1 of 0.50."""
    expected = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    written = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert entity_scores(written, expected) == {"entity_precision": 0.5, "entity_recall": 0.5, "entity_f1": 0.5}
    assert entity_scores([["O"]], [["O"]])["entity_f1"] == 0


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-X B-X I-X", [Entity("X", 0, 0), Entity("X", 1, 2)]),
        ("I-X I-X O I-X", [Entity("X", 0, 1), Entity("X", 3, 3)]),
        ("B-X I-Y I-Y", [Entity("X", 0, 0), Entity("Y", 1, 2)]),
        ("O O", []),
        ("B-A-B I-A-B", [Entity("A-B", 0, 1)]),
    ],
)
def test_an_entity_begins_and_ends_as_in_conlleval(tags, found):
    """Also where I follows O or another label (the rules of conlleval, which seqeval takes over)."""
    assert entities(tags.split()) == found


@pytest.mark.parametrize(
    ("written", "expected", "f1"),
    [
        ("I-PER I-PER O I-LOC", "I-PER I-PER O I-LOC", 1),  # IOB1
        ("I-PER B-PER I-PER", "I-PER B-PER I-PER", 1),  # IOB1: two names beside each other
        ("B-PER I-PER E-PER S-LOC S-LOC", "B-PER I-PER E-PER S-LOC S-ORG", 2 / 3),  # IOBES: PER and LOC of three
        ("S-LOC S-LOC", "S-LOC S-LOC", 1),
        ("S-LOC O", "S-LOC S-LOC", 2 / 3),
        ("B-PER E-PER B-PER E-PER", "B-PER I-PER I-PER E-PER", 0),
        ("I-PER E-PER I-PER", "I-PER E-PER I-PER", 1),  # IOE1
        ("E-PER E-PER O", "E-PER I-PER O", 1),  # IOE2: after an end, I begins
        ("B-PER L-PER O U-LOC", "B-PER L-PER O U-LOC", 1),  # BILOU
        ("B-PER L-PER U-LOC U-ORG", "B-PER L-PER U-LOC U-LOC", 2 / 3),
        ("B-PER M-PER E-PER S-LOC", "B-PER M-PER E-PER S-ORG", 1 / 2),  # BMES
        ("PER-B PER-I O LOC-B", "PER-B PER-I O PER-B", 1 / 2),  # behind
        ("geo-loc-B geo-loc-I", "geo-loc-B geo-loc-I", 1),
        ("B_PER I_PER O B_LOC", "B_PER I_PER O B_PER", 1 / 2),
        ("B:PER I:PER O", "B:PER I:PER O", 1),
        ("b-per i-per o", "b-per i-per o", 1),
        ("B I O B", "B I O O", 2 / 3),  # no labels
        ("PER PER O LOC", "PER PER O PER", 1 / 2),  # bare
        ("B-geo-loc I-geo-loc O", "B-geo-loc I-geo_loc O", 0),
        ("O O", "O O", 0),
    ],
)
def test_every_style_of_tags_is_read(written, expected, f1):
    """F1 by hand from the rules of seqeval's default mode; BILOU and BMES, which it half knows, as IOBES."""
    assert entity_scores([written.split()], [expected.split()])["entity_f1"] == pytest.approx(f1)


def test_the_style_is_that_of_all_labels():
    """S-B alone would be read with the letter in front."""
    assert read_tags(["S-B", "O"])["S-B"] == Tag("S", "B")
    assert read_tags(["S-B", "PER-I", "O"])["S-B"] == Tag("B", "S")
    assert entity_scores([["S-B"], ["PER-I"]], [["S-B"], ["PER-B"]])["entity_f1"] == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("B-PER", "PER-I", "O"), r"not of one style \(B-PER, PER-I\)"),
        (("B-PER", "LOC", "O"), "not of one style"),
        (("0", "1", "2"), "labels of words are numbers"),
    ],
)
def test_labels_without_a_style_are_refused(names, message):
    """Before training: entities of them would be scores of nothing."""
    with pytest.raises(UserError, match=message):
        entity_metrics(names)


SPANS = st.lists(st.tuples(st.sampled_from(["PER", "LOC"]), st.integers(1, 4), st.integers(0, 2)), max_size=5)


def _written(spans, scheme, style):
    """The tags of [(label, words, words without a name after them)] in a scheme, from its definition."""
    tags = []
    for label, size, gap in spans:
        inside = size * "I"
        places = {
            "IOB2": "B" + inside[1:],
            "IOE2": inside[1:] + "E",
            "IOBES": "S" if size == 1 else "B" + inside[2:] + "E",
            "BILOU": "U" if size == 1 else "B" + inside[2:] + "L",
        }[scheme]
        tags += [style.format(place=place, label=label) for place in places] + gap * ["O"]
    return tags


@given(
    SPANS, st.sampled_from(["IOB2", "IOE2", "IOBES", "BILOU"]), st.sampled_from(["{place}-{label}", "{label}_{place}"])
)
def test_what_is_written_in_a_scheme_is_read_back(spans, scheme, style):
    """Every scheme that marks each name gives the same entities, the letter in front or behind."""
    begin, there = 0, []
    for label, size, gap in spans:
        there.append(Entity(label, begin, begin + size - 1))
        begin += size + gap
    assert entities(_written(spans, scheme, style)) == there


def test_the_commonest_tag_is_measured_as_entities_too():
    """The baseline stands in every column of the table."""
    rng = random.Random(0)
    rows = [[rng.choice([0, 2, 2, 2]) for _ in range(4)] for _ in range(6)]
    labels = np.array(rows, np.int32)
    records = Rows({"labels": labels, "segments": np.ones_like(labels), "mask": np.ones(labels.shape, np.float32)})
    data = Data({"train": records, "validation": records}, 3, class_names=("B-PER", "I-PER", "O"))
    metrics = (*map(flattened, classification_metrics(3)), *entity_metrics(data.class_names))
    (table,) = majority_baseline(metrics, data, EntitiesEvaluator(batch_size=4)).values()
    assert table["entity_f1"] == 0
    assert table["accuracy"] == pytest.approx(np.mean(labels == 2))
