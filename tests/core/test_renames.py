"""Records of older versions: their types and fields get today's names."""

import dataclasses

import pytest

from research.core.configs import from_json
from research.core.renames import EVALUATOR, EVALUATORS, upgraded
from research.evaluate.language import LanguageEvaluator
from research.evaluate.translation import TranslationEvaluator

OLD = {"type": EVALUATOR, "metrics": "language", "split": "test", "batch_size": 8, "limit": 5}


def test_an_old_evaluator_becomes_one_of_its_kind():
    """Split, batch size and limit stay; an old run was judged by the loss, whatever decides today."""
    (found,) = from_json(upgraded([OLD]))
    assert found == LanguageEvaluator("test", 8, 5, best=("loss", "min"))
    assert from_json(upgraded({**OLD, "metrics": "translation"})).best == ("loss", "min") != TranslationEvaluator().best


@pytest.mark.parametrize("kind", EVALUATORS)
def test_every_old_kind_has_a_new_type(kind):
    """And no field is lost or left over."""
    new = from_json(upgraded({**OLD, "metrics": kind}))
    assert type(new).__name__.lower() == f"{kind}evaluator"
    assert {field.name for field in dataclasses.fields(new)} == {"split", "batch_size", "limit", "best"}


def test_what_is_not_old_stays():
    """A record of today is read as it is, and an unknown kind is refused later, by its type."""
    config = {"type": "research.evaluate.language.LanguageEvaluator", "best": ["accuracy", "max"]}
    assert upgraded(config) == config
    assert upgraded({**OLD, "metrics": "unheard of"}) == {**OLD, "metrics": "unheard of"}
