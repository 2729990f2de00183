"""Names in text: entities as seqeval finds them, in rows of several examples."""

import numpy as np
import pytest
from batches import measured

from research.evaluate.classification import classification_metrics
from research.evaluate.entities import Entity, entities, entity_metrics, entity_scores
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
