"""Runs and commands of older versions: a recorded configuration gets today's names, an old option names the new one."""

import pytest

from research.core import command_line
from research.core.configs import from_json
from research.core.renames import OPTIONS, upgraded
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule


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
    assert from_json(upgraded([optimizer, schedule])) == (
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
    default = Experiment(data=None, model=None, task=None)
    with pytest.raises(SystemExit) as ended:
        command_line.parse(Experiment, default, args=form.format(old).split())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {old} is now called {OPTIONS[old]}: give that instead.\n"
    with pytest.raises(SystemExit):
        command_line.parse(Experiment, default, args=["--help"])
    assert OPTIONS[old] in capsys.readouterr().out
