"""What a run predicts for inputs of your own; `research.predict` is its command line.

The run's data encode the inputs as they encoded its splits, and the task predicts with the parameters that evaluation
measures, so that an input of a split gets what evaluation computed for it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from research.core.errors import UserError
from research.data.pipeline import evaluation_batches
from research.tasks.task import evaluation_context
from research.train.run import Run

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
    data, task = run.assembly.data, run.assembly.task
    if data.encode is None:
        raise UserError(f"{run.folder} has no predictions for inputs of your own: name a run that classifies them.")
    if not len(inputs):
        raise UserError("There are no inputs to predict for: give at least one.")
    records, context = data.encode(inputs), evaluation_context(run.assembly.experiment.seed)
    predict = jax.jit(lambda params, batch: task.predict(params, batch, context))
    parts = []
    for batch in evaluation_batches(records, min(BATCH, len(records))):  # of one shape, which compiles once
        predictions = predict(run.state.evaluated, batch)
        name = next((name for name in ("logits", "outputs") if name in predictions), None)
        if name is None or predictions[name].size != len(batch["real"]) * data.outputs:
            raise UserError(f"{run.folder} predicts no class or number for each input: name a run that classifies.")
        values = np.asarray(predictions[name]).reshape(len(batch["real"]), data.outputs)
        parts.append(values[batch["real"] > 0])
    found = np.concatenate(parts)
    if name == "outputs":
        return found
    if data.outputs == 1:
        found = np.concatenate([np.zeros_like(found), found], 1)
    return found if logits else np.asarray(jax.nn.softmax(found))
