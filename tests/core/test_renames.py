"""Old runs still load and old options give their new names, whatever was renamed since."""

import dataclasses
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from research.core import command_line
from research.core.configs import from_json
from research.core.renames import (
    EVALUATOR,
    EVALUATORS,
    FIELDS,
    HEAD,
    HEAD_MULTIPLIERS,
    MODULES,
    OPTIONS,
    renamed_option,
    upgraded,
)
from research.data.synthetic import CloudData
from research.evaluate.language import LanguageEvaluator
from research.evaluate.translation import TranslationEvaluator
from research.launch.launcher import Options
from research.models.gpt import GPT
from research.models.llama import Llama
from research.models.mlp import MLP
from research.models.t5 import T5
from research.models.wrappers.lora import LoRA
from research.tasks.classification import Classification
from research.tasks.span_corruption import SpanCorruption
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

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
    options = Options(Experiment(CloudData(), model, Classification()))
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


OLD = {"type": EVALUATOR, "metrics": "language", "split": "test", "batch_size": 8, "limit": 5}


def test_an_old_evaluator_becomes_one_of_its_kind():
    """Split, batch size and limit stay; an old run was judged by the loss, whatever decides today."""
    (found,) = map(from_json, upgraded([OLD]))
    assert found == LanguageEvaluator("test", 8, 5, best=("loss", "min"))
    assert from_json(upgraded({**OLD, "metrics": "translation"})).best == ("loss", "min") != TranslationEvaluator().best


@pytest.mark.parametrize("kind", EVALUATORS)
def test_every_old_kind_has_a_new_type(kind):
    """And no field is lost or left over."""
    new = from_json(upgraded({**OLD, "metrics": kind}))
    assert type(new).__name__.lower() == f"{kind}evaluator"
    assert {field.name for field in dataclasses.fields(new)} == {"split", "batch_size", "limit", "best", "name"}


def test_what_is_not_old_stays():
    """A record of today is read as it is, and an unknown kind is refused later, by its type."""
    config = {"type": "research.evaluate.language.LanguageEvaluator", "best": ["accuracy", "max"]}
    assert upgraded(config) == config
    assert upgraded({**OLD, "metrics": "unheard of"}) == {**OLD, "metrics": "unheard of"}


def test_renamed_fields_of_an_old_record_load():
    """The optimizer and the schedule of a run.json of old are rebuilt with the fields of today."""
    optimizer = {
        "type": "research.train.optimizers.Optimizer",
        "kind": "muon",
        "peak": 0.02,
        "decay_rules": [["", 0.5]],
        "rate_rules": [["^lora/", 1.0], ["^(?!lora/)", 0.0]],
    }
    schedule = {"type": "research.train.schedules.Schedule", "kind": "warmup_stable_decay", "decay_share": 0.1}
    assert tuple(map(from_json, upgraded([optimizer, schedule]))) == (
        Optimizer(
            "muon",
            learning_rate=0.02,
            weight_decay_multipliers=(("", 0.5),),
            lr_multipliers=(("^lora/", 1.0), ("^(?!lora/)", 0.0)),
        ),
        Schedule("warmup_stable_decay", decay_fraction=0.1),
    )


@pytest.mark.parametrize("old", [option for option in OPTIONS if option.startswith(("--optimizer.", "--schedule."))])
@pytest.mark.parametrize("form", ["{} 1", "{}=1"])
def test_an_old_option_names_the_new_one(old, form, capsys):
    """One sentence and code 2; the new option is one that the experiment has."""
    default = Experiment(CloudData(), MLP(), Classification())
    with pytest.raises(SystemExit) as ended:
        command_line.parse(Experiment, default, args=form.format(old).split())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {old} is now called {OPTIONS[old]}: give that instead.\n"
    with pytest.raises(SystemExit):
        command_line.parse(Experiment, default, args=["--help"])
    assert OPTIONS[old] in capsys.readouterr().out


def test_a_head_trained_beside_low_rank_updates_is_still_trained() -> None:
    """Older runs said so by multipliers of the learning rate; others with low-rank updates are read as they are."""
    lora = {"type": "research.models.lora.LoRA", "rank": 8}
    model = {"type": "research.train.pretrained.PretrainedModel", "source": "x", "lora": lora}
    optimizer = {"type": "research.train.optimizers.Optimizer", "rate_rules": HEAD_MULTIPLIERS}
    found = upgraded({"type": "research.train.experiment.Experiment", "model": model, "optimizer": optimizer})
    assert from_json(found["model"]).lora == LoRA(8, trained=HEAD)
    assert from_json(found["optimizer"]) == Optimizer()
    assert from_json(upgraded(model)).lora == LoRA(8)


def test_an_evaluator_of_all_examples_says_so() -> None:
    """Its limit was 0, which is refused today, as nobody who types it can mean all."""
    recorded = {"type": "research.evaluate.language.LanguageEvaluator", "split": "test", "batch_size": 8, "limit": 0}
    assert upgraded(recorded)["limit"] is None and upgraded({**recorded, "limit": 5})["limit"] == 5
    assert upgraded({**OLD, "limit": 0})["limit"] is None
