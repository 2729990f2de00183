"""Old runs still load and old options give their new names, whatever was renamed since."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from research.core import command_line
from research.core.configs import from_json
from research.core.renames import FIELDS, MODULES, OPTIONS, renamed_option, upgraded
from research.launch.launcher import Options
from research.models.gpt import GPT
from research.models.llama import Llama
from research.models.mlp import MLP
from research.models.t5 import T5
from research.tasks.span_corruption import SpanCorruption
from research.train.experiment import Experiment

# Data, model and task of experiments, as run.json recorded them before anything here was renamed.
RECORDED = json.loads((Path(__file__).parent / "old_configurations.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_configuration_of_an_old_run_loads(name: str) -> None:
    """Its data, model and task are those that the experiment has today."""
    experiment = importlib.import_module(f"experiments.{name}").CONFIG
    for part, recorded in RECORDED[name].items():
        assert from_json(upgraded(recorded)) == getattr(experiment, part)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (
            {"type": "research.models.llama.Llama", "heads": 4, "groups": 2, "head": 6, "hidden": 20},
            Llama(heads=4, num_kv_heads=2, head_dim=6, mlp_dim=20),
        ),
        ({"type": "research.models.t5.T5", "head": 6, "hidden": 20}, T5(head_dim=6, mlp_dim=20)),
        ({"type": "research.tasks.span_corruption.SpanCorruption", "share": 0.3}, SpanCorruption(mask_rate=0.3)),
        ({"type": "research.models.mlp.MLP", "hidden": [8, 4]}, MLP(hidden=(8, 4))),
    ],
)
def test_a_field_is_renamed_in_its_own_type_only(recorded: dict, expected: object) -> None:
    """Values stay; a field of the same name in another configuration is left alone."""
    assert from_json(upgraded(recorded)) == expected


def test_todays_configurations_are_left_as_they_are() -> None:
    """The tables name no type, field or module of today as an old one."""
    for (name, old), new in FIELDS.items():
        module, _, cls = name.rpartition(".")
        fields = getattr(importlib.import_module(module), cls).__dataclass_fields__
        assert new in fields and old not in fields
    for moved in MODULES.values():
        importlib.import_module(moved)


@pytest.mark.parametrize(
    ("model", "arguments", "expected"),
    [
        (GPT(), ["--steps", "5", "--model.groups", "2"], ("--model.groups", "--model.num-kv-heads")),
        (GPT(), ["--model.hidden=64"], ("--model.hidden", "--model.mlp-dim")),
        (MLP(), ["--model.hidden", "64"], None),
        (T5(), ["--model.head", "8"], ("--model.head", "--model.head-dim")),
        (GPT(), ["--explain_memory"], ("--explain-memory", "--plan-memory")),
        (GPT(), ["--data.group", "book", "--model.heads", "2"], None),
    ],
)
def test_an_old_option_gives_its_new_name_and_a_present_one_is_never_refused(
    model: object, arguments: list[str], expected: tuple[str, str] | None
) -> None:
    """`--model.hidden` is old for a GPT, and an option of an MLP."""
    options = Options(Experiment(data=None, model=model, task=None))
    assert renamed_option(arguments, options) == expected


def test_the_command_ends_with_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and exit code 2; the class itself says which options there are where it has no default."""

    @dataclass(frozen=True)
    class Command:
        run: str
        format: str = "hf"

    with pytest.raises(SystemExit) as ended:
        command_line.parse(Command, args=["latest", "--adapter"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --adapter is now called --format adapter: give that instead.\n"
    assert not set(OPTIONS) & {new.partition(" ")[0] for new in OPTIONS.values()}
