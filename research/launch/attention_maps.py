"""Where a model that translates looks while it writes: measured at the end of a run, shown by the report.

`picture_attention` leaves `attention.json` in the run directory, which holds a few pairs of the validation split, what
the model writes, and its weights, so that the report needs neither the data nor the model.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from research.core.files import write_atomic
from research.core.mesh import on_mesh, replicated
from research.core.shapes import Batch, Params
from research.data.dataset import Tokenizer
from research.data.pipeline import gather
from research.data.text.paired_text import boundary_ids, text_before
from research.runs.directory import ATTENTION
from research.runtime import processes
from research.tasks.task import evaluation_context
from research.train.experiment import Assembly
from research.train.recorded_run import Run

SPLIT = "validation"
COUNT = 4  # pairs
LENGTH = 10  # tokens: the pairs nearest to it are shown, as longer ones have no room on the page
LONGEST = 20  # tokens written that are shown

Ids = Int32[np.ndarray, " _tokens"]


def picture_attention(run: Run) -> None:
    """Writes what a run that translates looks at, for a few short pairs of the validation split; nothing for others."""
    data = run.assembly.data
    if "source" not in data.texts.get(SPLIT, {}) or run.assembly.model.decoding is None:
        return
    _, end = boundary_ids(data.tokenizer)
    rows = gather(data.splits[SPLIT], np.arange(len(data.splits[SPLIT])))
    sizes = np.maximum((rows["segments"] > 0).sum(1), (rows["decoder_segments"] > 0).sum(1))
    # One of each part of the split, as neighbours are much alike.
    parts = [part for part in np.array_split(np.arange(len(sizes)), COUNT) if part.size]
    chosen = np.array([part[np.abs(sizes[part] - LENGTH).argmin()] for part in parts])
    batch = {name: array[chosen] for name, array in rows.items()}
    # Of several processes each has a part of the parameters, and the first one writes.
    look = jax.jit(_looking(run.assembly), out_shardings=replicated(run.assembly.mesh))
    written, weights = jax.tree.map(np.asarray, look(run.state.evaluated, batch))
    if weights is None or not processes.is_main_process():
        return
    examples = []
    for row, index in enumerate(chosen):
        tokens = written[row, : int((written[row] != end).sum()) + 1]
        own = batch["segments"][row] > 0
        texts = {side: str(data.texts[SPLIT][side][index]) for side in ("source", "target")}
        shown = attention_example(data.tokenizer, batch["inputs"][row][own], tokens, weights[row][:, own])
        examples.append({**texts, "written": text_before(data, tokens, end), **shown})
    write_atomic(run.folder / ATTENTION, json.dumps({"split": SPLIT, "examples": examples}, ensure_ascii=False) + "\n")


def attention_example(
    tokenizer: Tokenizer | None,
    source: Ids,
    written: Ids,
    weights: Float[np.ndarray, "length keys"],
) -> dict[str, Any]:
    """Returns JSON values of one picture: the tokens across, those down, and a row of weights for each of these.

    Args:
        tokenizer: names the tokens.
        source: what is read.
        written: what is written, of which the first `LONGEST` are kept.
        weights: how far each written token, and maybe what follows the last, looks at each token of the source.

    Raises:
        ValueError: the weights are not those of these tokens: other shapes, or rows that do not sum to 1.
    """
    written = written[:LONGEST]
    weights = weights[: len(written)]
    if weights.shape != (len(written), len(source)) or not np.allclose(weights.sum(1), 1, atol=1e-3):
        raise ValueError(f"Weights {weights.shape} of {len(written)} written and {len(source)} source tokens.")

    def names(ids: Ids) -> list[str]:
        return [tokenizer.decode(ids[place : place + 1]) if tokenizer else str(ids[place]) for place in range(len(ids))]

    return {"across": names(source), "down": names(written), "weights": np.round(weights, 4).tolist()}


def last_layer(
    attention: Mapping[str, Float[Array, "batch heads length keys"]],
) -> Float[Array, "batch length keys"]:
    """Returns the weights of the last layer, by the numbers in the layers' paths, averaged over its heads."""
    last = max(attention, key=lambda path: [int(number) for number in re.findall(r"\d+", path)])
    return attention[last].mean(1)


def _looking(assembly: Assembly) -> Any:
    """Returns `look(params, batch)`: what the model writes, [batch length], and its weights, [batch length keys].

    They are None where the model has no attention.
    """
    start, _ = boundary_ids(assembly.data.tokenizer)

    def look(params: Params, batch: Batch) -> tuple[Array, Array | None]:
        written = assembly.task.predict(params, batch, evaluation_context(assembly.experiment.seed))["tokens"]
        before = jnp.pad(written, ((0, 0), (1, 0)), constant_values=start)[:, :-1]
        source, segments = (jnp.asarray(batch[name]) for name in ("inputs", "segments"))
        read = {"inputs": source, "segments": segments, "decoder_inputs": before}
        sown = assembly.model.apply(params, read, attention=True)[1]
        return written, last_layer(sown.attention) if sown.attention else None

    return on_mesh(assembly.mesh, look)
