"""The tests check the types and shapes of every function of the project, also of those defined inside others."""

import beartype
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from research.train.schedules import Schedule


def adder(amount: int):
    """Returns a function that is defined again at each call."""

    @jaxtyping.jaxtyped(typechecker=beartype.beartype)
    def add(left: Float[np.ndarray, " rows"], right: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        return (left + right + amount)[:2]

    return add


def test_the_closures_of_one_definition_are_checked_and_keep_their_own_values() -> None:
    """The first call builds the checks of all of them: of each argument, of shapes that must agree, of the result."""
    pair, triple = np.zeros(2), np.zeros(3)
    assert [adder(amount)(pair, pair)[0] for amount in (1, 2)] == [1.0, 2.0]
    for wrong in ((pair, triple), (pair, 3), (triple, triple)):
        with pytest.raises(TypeCheckError):
            adder(3)(*wrong)


def test_the_projects_own_functions_are_checked() -> None:
    """pytest's option is in force; without it these would be other errors, or none."""
    with pytest.raises(TypeCheckError, match=r"Schedule\.build"):
        Schedule().build("ten")
