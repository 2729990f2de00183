"""Optimizer groups: each as its optimizer alone, every parameter in exactly one, and a run that trains with them."""

import dataclasses

import jax
import numpy as np
import pytest
from test_optimizers import PARAMS, gradients, trained

from research.core import command_line
from research.core.configs import from_json, to_json
from research.core.errors import UserError
from research.core.json_files import read_lines
from research.data.synthetic import CloudData
from research.models.mlp import MLP
from research.report.curves import comparison_charts, run_charts
from research.runs.directory import METRICS
from research.tasks.classification import Classification
from research.train.experiment import Experiment
from research.train.optimizer_groups import OptimizerGroup, OptimizerGroups
from research.train.optimizers import Optimizer
from research.train.recorded_run import load_run
from research.train.run import train
from research.train.schedules import Schedule

STEPS = 8
HEAD = OptimizerGroup("head", "^head/", Optimizer("adamw", 0.02, clip=0.5), Schedule("cosine", warmup=2), period=2)
BODY = OptimizerGroup("body", "^(?!head/)", Optimizer("muon", 0.05, weight_decay=0.1, clip=1.0))
DEFAULT = Schedule("linear")  # of the experiment: the body follows it


def part(tree, head: bool):
    return {name: leaf for name, leaf in tree.items() if (name == "head") == head}


def test_two_groups_are_two_optimizers_run_apart():
    """To the bit: the head as if its every second gradient were all there is, the body under the default schedule."""
    found = trained(OptimizerGroups((HEAD, BODY)).build(STEPS, PARAMS, DEFAULT), gradients, STEPS)
    head = trained(
        HEAD.optimizer.build(STEPS // 2, part(PARAMS, True), HEAD.schedule),
        lambda step: part(gradients(2 * step + 1), True),
        STEPS // 2,
        part(PARAMS, True),
    )
    body = trained(
        BODY.optimizer.build(STEPS, part(PARAMS, False), DEFAULT),
        lambda step: part(gradients(step), False),
        STEPS,
        part(PARAMS, False),
    )
    jax.tree.map(np.testing.assert_array_equal, found, {**body, **head})


def test_between_its_updates_a_group_stays_as_it_is():
    """Updates are zero, and the state but for the count of steps is that of the last update."""
    transformation = OptimizerGroups((HEAD, BODY)).build(STEPS, PARAMS, DEFAULT)
    states, updates = [transformation.init(PARAMS)], []
    for step in range(4):
        update, state = transformation.update(gradients(step), states[-1], PARAMS)
        updates.append(bool(update["head"]["kernel"].any()))
        states.append(state)
    assert updates == [False, True, False, True]
    inner = [state.inner_states["head"].inner_state.inner_state for state in states]
    for before, after in ((0, 1), (2, 3)):
        jax.tree.map(np.testing.assert_array_equal, inner[before], inner[after])


def test_a_group_logs_the_rate_of_its_last_update():
    """The name is the group's, also of groups within groups; the schedule counts the group's own updates."""
    rates = OptimizerGroups((HEAD, BODY)).learning_rates(STEPS, DEFAULT)
    assert list(rates) == ["learning_rate/head", "learning_rate/body"]
    head, body = ([float(rate(step)) for step in range(STEPS)] for rate in rates.values())
    factors = [float(HEAD.schedule.build(STEPS // 2)(update)) for update in (0, 0, 0, 1, 1, 2, 2, 3)]
    np.testing.assert_allclose(head, 0.02 * np.array(factors), rtol=1e-6)
    np.testing.assert_allclose(body, 0.05 * (1 - np.arange(STEPS) / STEPS), rtol=1e-6)
    nested = OptimizerGroups((dataclasses.replace(HEAD, name="player", optimizer=OptimizerGroups((BODY,))),))
    assert list(nested.learning_rates(STEPS, DEFAULT)) == ["learning_rate/player/body"]


def test_multipliers_are_those_of_each_group():
    """Factors within a group are its optimizer's; 0 freezes."""
    optimizer = Optimizer(lr_multipliers=(("^norm/", 0.0), ("^(?!norm/)", 0.5)))
    groups = OptimizerGroups((HEAD, dataclasses.replace(BODY, optimizer=optimizer)))
    assert groups.multipliers(PARAMS) == {
        "token_embedding": 0.5,
        "block": {"kernel": 0.5, "bias": 0.5},
        "norm": {"scale": 0.0},
        "head": {"kernel": 1.0},
    }


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((HEAD,), "matched by no rule for optimizers"),
        ((HEAD, dataclasses.replace(BODY, pattern="")), "'head/kernel' is matched by the rules '\\^head/', ''"),
        ((HEAD, dataclasses.replace(BODY, pattern=".", name="head")), "each a name of its own"),
        ((), "give one group or more"),
        ((HEAD, BODY, dataclasses.replace(BODY, pattern="^tail/", name="tail")), "No parameter matches '\\^tail/'"),
        ((dataclasses.replace(HEAD, period=STEPS + 1), BODY), "the period 9, and the run 8 steps"),
        ((dataclasses.replace(HEAD, period=0), BODY), "give a period from 1"),
        ((HEAD, dataclasses.replace(BODY, optimizer=Optimizer(ema=0.9))), "give every group the same ema"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, message):
    """Every parameter has exactly one group, every group has parameters, updates and a name, or the launch fails."""
    with pytest.raises(UserError, match=message):
        config = OptimizerGroups(groups)
        config.multipliers(PARAMS)
        config.build(STEPS, PARAMS, DEFAULT)
        config.average_decay()


def test_groups_are_options():
    """Each group's optimizer and schedule can be set; one without a schedule of its own has none to set."""
    default = Experiment(CloudData(), MLP(), Classification(), optimizer=OptimizerGroups((HEAD, BODY)))
    options = ["--optimizer.groups.0.schedule.warmup", "1", "--optimizer.groups.1.optimizer.learning-rate", "0.5"]
    head, body = command_line.parse(Experiment, default, args=options).optimizer.groups
    assert head == dataclasses.replace(HEAD, schedule=Schedule("cosine", warmup=1))
    assert body == dataclasses.replace(BODY, optimizer=dataclasses.replace(BODY.optimizer, learning_rate=0.5))


def test_a_run_trains_with_groups(tiny_language_run, tmp_path):
    """It logs and draws every group's rate, survives run.json, and its newest checkpoint loads."""
    embeddings = OptimizerGroup("embeddings", "embedding$", Optimizer("adam", 0.01), period=3)
    rest = OptimizerGroup("rest", "(kernel|bias|scale)$", Optimizer("sgd", 0.1), Schedule("constant"))
    experiment = dataclasses.replace(
        tiny_language_run, optimizer=OptimizerGroups((embeddings, rest)), schedule=Schedule("linear"), sample_every=0
    )
    assert from_json(to_json(experiment)) == experiment
    run = train(experiment, name="tiny", root=tmp_path)
    assert load_run(run.folder).assembly.experiment == experiment
    entries = list(read_lines(run.folder / METRICS))
    logged = [entry for entry in entries if entry["kind"] == "train"]
    np.testing.assert_allclose([entry["learning_rate/embeddings"] for entry in logged], [0.01, 0.01, 0.005, 0.005])
    np.testing.assert_allclose([entry["learning_rate/rest"] for entry in logged], [0.1] * 4)
    (chart,) = (chart for chart in run_charts(entries) if chart.title == "Learning rate")
    assert [series.name for series in chart.series] == ["embeddings", "rest"]
    assert len({series.colour for series in chart.series}) == 2
    titles = [chart.title for chart in comparison_charts({"a": entries, "b": entries})]
    assert [title for title in titles if "rate" in title] == ["Learning rate of embeddings", "Learning rate of rest"]
