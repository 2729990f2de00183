"""Evaluators: several on a split, numbers of any library, and one that fails while the training goes on."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.evaluate.evaluator import EvaluatedSplit
from research.evaluate.language import LanguageEvaluator
from research.train.evaluation import Evaluation, evaluation_names, plain, score
from research.train.run import train


@dataclasses.dataclass(frozen=True)
class OddEvaluator(EvaluatedSplit):
    """Answers with numbers of NumPy and JAX, or not at all."""

    answer: str = "numpy"

    def build(self, task: Any, data: Any, mesh: Any, seed: int) -> Evaluation:
        def measure(params: Any, between: Any = None) -> dict[str, Any]:
            if self.answer == "raise":
                raise ZeroDivisionError("no rows")
            if self.answer == "object":
                return {"loss": {1, 2}}
            return {"loss": np.float32(0.5), "count": np.int64(3), "curve": jnp.ones(2), "last": jnp.float32(1)}

        def baselines() -> dict[str, Any]:
            return {"majority": {"loss": 1 / 0 if self.answer == "raise" else np.float16(1)}}

        return Evaluation(self.split, measure, baselines)


def test_results_are_plain_numbers() -> None:
    """What NumPy and JAX compute becomes what JSON holds; anything else is refused by its type."""
    found = plain({"a": np.float32(0.5), "b": (jnp.int32(2), None), "c": np.eye(2), 5: "x", "d": np.bool_(True)})
    assert json.loads(json.dumps(found)) == {"a": 0.5, "b": [2, None], "c": [[1, 0], [0, 1]], "5": "x", "d": True}
    with pytest.raises(TypeError, match="not set"):
        plain({"a": {1}})


def test_evaluators_of_one_split_have_names() -> None:
    """The first keeps the split's own; two of the same name are refused with the option that tells them apart."""
    first, second = LanguageEvaluator(), LanguageEvaluator(name="short")
    assert evaluation_names([first, second, LanguageEvaluator(split="test")]) == [
        *("validation", "validation/short", "test")
    ]
    with pytest.raises(UserError, match=r"--evaluators\.1\.name"):
        evaluation_names([first, first])
    results = {"validation": {"loss": 3.0}, "validation/short": {"loss": 1.0}}
    assert score([first, second], results) == 3.0


def test_a_failing_evaluator_is_an_event_and_the_run_finishes(tiny_line_run, tmp_path) -> None:
    """Its results are missing and the cause is in the record, once; all others are kept."""
    evaluators = (
        *(tiny_line_run.evaluators[0], OddEvaluator(name="numbers"), OddEvaluator(name="odd", answer="object")),
        OddEvaluator(name="broken", answer="raise"),
    )
    run = train(dataclasses.replace(tiny_line_run, evaluators=evaluators), name="tiny", root=tmp_path)
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "finished"
    assert record["metrics"].keys() == {"validation", "validation/numbers"}
    assert record["metrics"]["validation/numbers"] == {"loss": 0.5, "count": 3, "curve": [1.0, 1.0], "last": 1.0}
    assert record["baselines"]["validation/numbers"] == {"majority": {"loss": 1.0}}
    failed = [event["message"] for event in record["events"] if event["kind"] == "evaluation"]
    assert [message for message in failed if "validation/broken failed (ZeroDivisionError: no rows)" in message]
    assert len(failed) == 3, "each cause once: no rows, division by zero of its baseline, and a set"


def test_what_is_no_evaluator_is_refused_before_data_are_read(tiny_language_run, tmp_path) -> None:
    """It says what the class lacks, and from which one to inherit."""
    lost = dataclasses.replace(tiny_language_run.data, train=(str(tmp_path / "none.txt"),))
    wrong = dataclasses.replace(tiny_language_run, data=lost)
    object.__setattr__(wrong, "evaluators", (wrong.model,))  # as where nothing checks types
    with pytest.raises(UserError, match=r"GPT is no evaluator, without split and best: .*EvaluatedSplit"):
        train(wrong, name="tiny", root=tmp_path)
