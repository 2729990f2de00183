"""What a run predicts for inputs of your own; `research.predict` is its command line.

The run's data encode the inputs as they encoded its splits, and the task predicts with the parameters that evaluation
measures, so that an input of a split gets what evaluation computed for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from research.core.errors import UserError
from research.data.pipeline import evaluation_batches
from research.data.text.tokenizers import PairTokenizer
from research.tasks.answer_spans import AnswerSpans
from research.tasks.task import evaluation_context
from research.train.recorded_run import Run

BATCH = 64  # inputs predicted at once


def predict_inputs(
    run: Run, inputs: Sequence[Any], *, logits: bool = False
) -> Float[np.ndarray, "inputs classes"] | Float[np.ndarray, "inputs outputs"]:
    """Returns the probability of each class, or the numbers predicted.

    Args:
        run: a run that classifies or predicts numbers.
        inputs: of the kind that it was trained on: texts, or pairs of texts; rows of a table, {column: value}; images,
            uint8 [height width channels] or paths of files.
        logits: logits instead of probabilities; of two classes with one logit, 0 and it.

    Raises:
        UserError: the run predicts nothing for single inputs, or an input is none that it can read.
    """
    parts = []
    for predictions, real in _predicted(run, inputs):
        name = next((name for name in ("logits", "outputs") if name in predictions), None)
        outputs = run.assembly.data.outputs
        if name is None or predictions[name].size != len(real) * outputs:
            raise UserError(f"{run.folder} predicts no class or number for each input: name a run that classifies.")
        parts.append(np.asarray(predictions[name]).reshape(len(real), outputs)[real])
    found = np.concatenate(parts)
    if name == "outputs":
        return found
    if outputs == 1:
        found = np.concatenate([np.zeros_like(found), found], 1)
    return found if logits else np.asarray(jax.nn.softmax(found))


def answers_questions(run: Run) -> bool:
    """Whether a run finds answers in texts, as `predict_answers` needs it."""
    return isinstance(run.assembly.experiment.task, AnswerSpans)


def predict_answers(run: Run, inputs: Sequence[Any]) -> list[str]:
    """Returns the words of each text that answer its question, "" where none do.

    Args:
        run: a run that finds answers, by `AnswerSpans`.
        inputs: pairs of a question and the text that holds its answer.

    Raises:
        UserError: the run finds no answers, or an input is no pair of texts.
    """
    tokenizer = run.assembly.data.tokenizer
    if not (answers_questions(run) and isinstance(tokenizer, PairTokenizer)):
        raise UserError(f"{run.folder} finds no answers in texts: name a run whose task is AnswerSpans.")
    answers: list[str] = []
    for predictions, real in _predicted(run, inputs):
        for first, last in np.asarray(predictions["spans"])[real, 0]:
            question, text = inputs[len(answers)]
            encoded = tokenizer.encode_pair(question, text, length=run.assembly.data.spec.batch["inputs"].shape[1])
            (begin, _), (_, end) = encoded.offsets[first], encoded.offsets[last]
            answers.append(text[begin:end] if encoded.sources[first] == encoded.sources[last] == 1 else "")
    return answers


def _predicted(run: Run, inputs: Sequence[Any]) -> Iterator[tuple[Mapping[str, Any], Bool[np.ndarray, " batch"]]]:
    """Yields what the task predicts for the inputs, batch by batch, with the rows that are no padding."""
    data, task = run.assembly.data, run.assembly.task
    if data.encode is None:
        raise UserError(f"{run.folder} has no predictions for inputs of your own: name a run that classifies them.")
    if not len(inputs):
        raise UserError("There are no inputs to predict for: give at least one.")
    records, context = data.encode(inputs), evaluation_context(run.assembly.experiment.seed)
    predict = jax.jit(lambda params, batch: task.predict(params, batch, context))
    for batch in evaluation_batches(records, min(BATCH, len(records))):  # of one shape, which compiles once
        yield predict(run.state.evaluated, batch), np.asarray(batch["real"]) > 0
