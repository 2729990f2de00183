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


def test_a_value_out_of_range_is_refused_before_anything_is_done():
    """With the option as it was typed, in parts too."""
    with pytest.raises(UserError, match=r"^--model\.learning-rate is nan: give a number from 0"):
        command_line.parse(Experiment, DEFAULT, args=["--model.learning-rate", "nan"])


def test_too_little_memory_is_one_sentence_and_code_2(capsys):
    """What NumPy says of an array that does not fit is no trace."""

    def too_large() -> None:
        raise MemoryError("Unable to allocate 7 TiB for an array")

    with pytest.raises(SystemExit) as ended:
        command_line.run(too_large)
    assert ended.value.code == 2
    assert "There is not enough memory (Unable to allocate 7 TiB" in capsys.readouterr().err


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
