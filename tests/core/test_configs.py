"""Configurations survive the way through JSON, and nothing but configurations comes back."""

import dataclasses
import importlib
import json

import pytest

from research.core.configs import built, differences, flatten_config, from_json, to_json, type_name
from research.core.errors import UserError
from research.core.shapes import Spec
from research.launch.discovery import modules
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer

OPTIMIZER = "research.train.optimizers.Optimizer"


@pytest.mark.parametrize("name", modules())
def test_every_experiment_survives_json(name):
    """`run.json` rebuilds the very configuration of each experiment."""
    config = importlib.import_module(f"experiments.{name}").CONFIG
    assert isinstance(config, Experiment)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_configuration_names_its_type_and_all_its_fields():
    """The JSON form is complete: no field is left to a default that a later version may change."""
    written = to_json(Optimizer("sgd", learning_rate=0.5))
    assert written["type"] == OPTIMIZER
    assert set(written) == {"type", *(field.name for field in dataclasses.fields(Optimizer))}
    assert written["learning_rate"] == 0.5


@dataclasses.dataclass(frozen=True)
class Holder:
    """Holds anything, as a configuration should not."""

    value: object


def test_a_value_that_json_cannot_hold_is_a_bug_that_shows():
    """An array or a function in a configuration raises where it is written."""
    with pytest.raises(TypeError, match="not builtin_function"):
        to_json(Holder(len))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "os.path.join"}, "only types of research and experiments are rebuilt"),
        ({"type": "__main__.Mine"}, "define it in a module instead"),
        ({"type": "researchers.Model"}, "only types of research"),
        ({}, "only types of research"),
        ({"type": "research.nothing.Model"}, "not in this project"),
        ({"type": "research.train.optimizers.Adamw"}, "not in this project"),
        ({"type": "research.core.configs.from_json"}, "not a configuration class"),
        ({"type": OPTIMIZER, "speed": 1, "kind": "sgd"}, r"the fields \['speed'\], which it does not have"),
        ({"type": "research.train.experiment.Experiment"}, "does not fill research.train.experiment.Experiment"),
        (None, "is NoneType, and no object"),
        ([{"type": OPTIMIZER}], "is list, and no object"),
        ({"type": ["research.core.mesh.MeshConfig"]}, "only types of research"),
        ({"type": "research.a\0b.Model"}, "not in this project"),
    ],
)
def test_what_is_no_configuration_of_this_project_is_refused(value, message):
    """A stranger's run.json can neither run code nor be misread in silence."""
    with pytest.raises(UserError, match=message):
        from_json(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "adamax"},
            r"The field 'optimizer.kind' of the recorded configuration is 'adamax': give one of",
        ),
        ({"learning_rate": "fast"}, r"'optimizer.learning_rate' .* is 'fast': give a number"),
        ({"learning_rate": True}, r"'optimizer.learning_rate' .* is True: give a number"),
        ({"b1": 2}, r"'optimizer.b1' .* is 2: give a number from 0 to below 1"),
        ({"epsilon": float("nan")}, r"'optimizer.epsilon' .* is nan: give a number from 1e-30 to 1"),
        ({"lr_multipliers": 1.0}, r"'optimizer.lr_multipliers' .* is 1.0: give a tuple of any length"),
        (
            {"lr_multipliers": [["^block"]]},
            r"'optimizer.lr_multipliers' .* has \('\^block',\): give a tuple of 2",
        ),
        ({"lr_multipliers": [[r"^(\w+/?)*!$", 1.0]]}, r"'optimizer.lr_multipliers' .* can match in too many ways"),
    ],
)
def test_a_recorded_value_is_checked_before_it_is_believed(change, message):
    """A type that is not the field's, a number out of its range, a pattern that would not end: the field by name."""
    with pytest.raises(UserError, match=message):
        from_json({**to_json(Optimizer()), **change}, "optimizer")


def test_a_part_of_another_kind_is_refused():
    """A task where a model belongs has a `build` too, and cannot be called as a model's is."""
    recorded = to_json(importlib.import_module("experiments.article_binary").CONFIG)
    with pytest.raises(UserError, match=r"'model' .* is of the type research.tasks.binary.*, which is no ModelConfig"):
        from_json({**recorded, "model": recorded["task"]})
    with pytest.raises(UserError, match=r"'mesh' .* give a MeshConfig"):
        from_json({**recorded, "mesh": recorded["model"]})


def test_parts_inside_one_another_without_end_are_refused():
    """As many as a hostile record has room for."""
    value = {"type": OPTIMIZER}
    for _ in range(100):
        value = {"type": OPTIMIZER, "kind": value}
    with pytest.raises(UserError, match="parts inside one another"):
        from_json(value)


def test_differences_name_the_fields_as_the_command_line_does():
    """Dotted names, in order; equal fields are not mentioned."""
    left = {"type": "A", "model": {"type": "M", "depth": 2}, "sizes": [1, 2], "evaluators": [{"split": "test"}]}
    right = {
        "type": "A",
        "model": {"type": "M", "depth": 3},
        "sizes": [1, 3],
        "evaluators": [{"split": "train"}],
        "new": 0,
    }
    assert differences(left, right) == {
        "model.depth": (2, 3),
        "sizes": ([1, 2], [1, 3]),
        "evaluators.0.split": ("test", "train"),
        "new": (None, 0),
    }
    assert differences(left, left) == {}
    assert dict(flatten_config(left))["evaluators.0.split"] == "test"


def test_a_class_is_named_by_its_module():
    """`type_name` gives what `from_json` imports."""
    assert type_name(Optimizer()) == OPTIMIZER
    assert isinstance(from_json({"type": OPTIMIZER}), Optimizer)


@dataclasses.dataclass(frozen=True)
class Misspelt:
    """A part of one's own whose method is called otherwise."""

    def bild(self) -> Spec:
        return Spec(1)


@dataclasses.dataclass(frozen=True)
class Forgetful:
    """A part of one's own that forgets to return what it makes."""

    def build(self) -> None:
        Spec(1)


@dataclasses.dataclass(frozen=True)
class Greedy:
    """A part of one's own that wants to know what nobody tells it."""

    def build(self, outputs: int) -> Spec:
        return Spec(outputs)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (Misspelt(), r"Misspelt has no method `build`: define one that returns a research\.core\.shapes\.Spec\."),
        (Forgetful(), r"`Forgetful\.build` gives NoneType: let it return a research\.core\.shapes\.Spec\."),
        (Greedy(), r"`Greedy\.build` cannot be called with nothing \(missing a required argument: 'outputs'\)"),
    ],
)
def test_a_part_of_ones_own_that_builds_nothing_is_named(part, sentence):
    """Each mistake is one sentence, which names the class and what to change; a right one is built."""
    with pytest.raises(UserError, match=sentence):
        built(part, Spec)
    assert built(Greedy(), Spec, 3) == Spec(3)
