"""The command line: typed options, the nearest right name, and one sentence for a mistake."""

import dataclasses

import pytest

from research.core import command_line
from research.core.errors import UserError
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer

DEFAULT = Experiment(data=Optimizer(), model=Optimizer("sgd"), task=Optimizer("lion"))


def test_options_set_nested_fields():
    """Every field of every part is an option of its type."""
    config = command_line.parse(
        Experiment, DEFAULT, args=["--steps", "7", "--model.learning-rate", "0.5", "--mesh.fsdp", "2"]
    )
    expected = dataclasses.replace(DEFAULT, steps=7, model=Optimizer("sgd", learning_rate=0.5))
    assert config == dataclasses.replace(expected, mesh=dataclasses.replace(DEFAULT.mesh, fsdp=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.learning-rat", "1"], "--model.learning-rate"),
        (["--steps", "many"], "many"),
        (["--optimizer.kind", "adamax"], "adamw"),
    ],
)
def test_a_wrong_option_ends_with_code_2_and_the_nearest_right_one(arguments, message, capsys):
    """Unknown and ill-typed options are refused by name."""
    with pytest.raises(SystemExit) as ended:
        command_line.parse(Experiment, DEFAULT, args=arguments)
    assert ended.value.code == 2
    assert message in "".join(capsys.readouterr())


def test_a_users_mistake_is_one_sentence_and_code_2(capsys):
    """No trace; a bug keeps its own."""

    def mistaken() -> None:
        raise UserError("The file is empty.")

    with pytest.raises(SystemExit) as ended:
        command_line.run(mistaken)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: The file is empty.\n"
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda: print(1 / 0))
