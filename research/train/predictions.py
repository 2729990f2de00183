"""What a run that labels texts says about texts of your own; `research.predict` is its command line."""

from typing import Any

import jax
import numpy as np

from research.core.errors import UserError
from research.data.text.labelled_text import LabelledText
from research.data.text.text_examples import Example, encode_text, rows_of
from research.train.run import Run

BATCH = 64  # texts asked about at once


def predict_texts(run: Run, texts: list[str], others: tuple[str, ...] = (), *, logits: bool = False) -> np.ndarray:
    """Returns the probability (or logit) of each class, or the number predicted, [texts outputs].

    Raises:
        UserError: the run is not one on labels of whole texts, or the texts of pairs are not as many.
    """
    config: Any = run.assembly.experiment.data
    kinds = ("classes", "threshold", "numbers")
    if not isinstance(config, LabelledText) or config.kind not in kinds:
        raise UserError(f"{run.folder} does not label whole texts: name a run on labelled text.")
    if len(others) != (len(texts) if config.other else 0):
        raise UserError(f"There are {len(texts)} texts and {len(others)} others: the run reads {_asked(config)}.")
    seconds = others or [None] * len(texts)
    tokenizer: Any = run.assembly.data.tokenizer
    pairs = zip(texts, seconds, strict=True)
    examples = [Example((encode_text(tokenizer, text, other, config.length),)) for text, other in pairs]
    rows, _ = rows_of(examples, config.length, packing=False)
    predict, name = jax.jit(run.assembly.task.predict), "outputs" if config.kind == "numbers" else "logits"
    size = min(BATCH, len(rows))
    # The last row fills the last batch, so that one compilation serves all.
    batches = (np.arange(start, start + size).clip(max=len(rows) - 1) for start in range(0, len(rows), size))
    parts = [np.asarray(predict(run.state.evaluated, rows.gather(batch))[name]) for batch in batches]
    found = np.concatenate(parts)[: len(rows)]
    if config.kind == "numbers":
        return found
    return found[:, 0] if logits else np.asarray(jax.nn.softmax(found[:, 0]))


def _asked(config: LabelledText) -> str:
    return "two of each" if config.other else "one of each, and no others"
