"""A grid of images with right and wrong predictions: chosen at the end of an image run, shown by the report.

`write_predictions` leaves `predictions.json` in the run directory, which holds the images themselves as PNG, so that
the report needs neither the data nor the model.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from research.core.files import write_atomic
from research.core.mesh import replicated
from research.data.dataset import Rows
from research.data.pipeline import evaluation_batches, gather
from research.runs.directory import PREDICTIONS
from research.runtime import processes
from research.tasks.task import evaluation_context
from research.train.recorded_run import Run

COUNT = 20  # images of each kind


def write_image_predictions(run: Run, limit: int = 2000) -> None:
    """Writes the predictions of a run that classifies images, on the split last evaluated; nothing for other runs."""
    data, task = run.assembly.data, run.assembly.task
    splits = [evaluator.split for evaluator in run.assembly.evaluators]
    example = data.splits["train"][0]
    if not splits or not {"inputs", "labels"} <= example.keys():
        return
    if example["inputs"].ndim != 3 or example["inputs"].dtype != np.uint8:
        return
    mesh = run.assembly.mesh  # of several processes: each has a part of the parameters, and the first one writes
    context = evaluation_context(run.assembly.experiment.seed)
    predict = jax.jit(
        lambda params, batch: task.predict(params, batch, context)["logits"].argmax(-1), out_shardings=replicated(mesh)
    )
    chosen = gather(data.splits[splits[-1]], np.arange(min(limit, len(data.splits[splits[-1]]))))
    batches = evaluation_batches(Rows(chosen), 100)
    predicted = np.concatenate([np.asarray(predict(run.state.evaluated, batch)) for batch in batches])
    predicted = predicted[: len(chosen["labels"])]
    if not processes.is_main_process():
        return
    write_predictions(run.folder, chosen["inputs"], chosen["labels"], predicted, data.class_names, splits[-1])


def write_predictions(
    run: Path,
    images: UInt8[np.ndarray, "batch height width channels"],
    labels: Integer[np.ndarray, " batch"],
    predicted: Integer[np.ndarray, " batch"],
    class_names: Sequence[str],
    split: str,
) -> None:
    """Writes the first images predicted wrongly and the first predicted correctly, spread over the classes.

    Args:
        run: the run directory.
        images: with one channel (grey) or three (red, green, blue).
        labels: true classes.
        predicted: predicted classes.
        class_names: names by class number; empty for the numbers.
        split: the split they are from.
    """
    write_atomic(
        run / PREDICTIONS, json.dumps({"split": split, **prediction_grid(images, labels, predicted, class_names)})
    )


def prediction_grid(
    images: UInt8[np.ndarray, "batch height width channels"],
    labels: Integer[np.ndarray, " batch"],
    predicted: Integer[np.ndarray, " batch"],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Returns JSON values: `examples`, `wrong_total`, and `wrong` and `right`, of {"png", "label", "predicted"}.

    The arguments are those of `write_predictions`.
    """
    wrong = labels != predicted

    def name(index: int) -> str:
        return str(class_names[index]) if index < len(class_names) else str(index)

    def rows(chosen: Sequence[int]) -> list[dict[str, str]]:
        return [
            {"png": png(images[index]), "label": name(int(labels[index])), "predicted": name(int(predicted[index]))}
            for index in chosen
        ]

    return {
        "examples": len(labels),
        "wrong_total": int(wrong.sum()),
        "wrong": rows(_spread(labels, np.flatnonzero(wrong))),
        "right": rows(_spread(labels, np.flatnonzero(~wrong))),
    }


def png(image: UInt8[np.ndarray, "height width channels"]) -> str:
    """Returns an image as PNG in base 64."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _spread(labels: Integer[np.ndarray, " batch"], indices: Integer[np.ndarray, " chosen"]) -> list[int]:
    """Returns up to COUNT of the indices, taking one of each true class in turn."""
    turns: dict[int, int] = {}
    order = []
    for index in indices.tolist():
        label = int(labels[index])
        turns[label] = turns.get(label, 0) + 1
        order.append((turns[label], label, index))
    return [index for _, _, index in sorted(order)[:COUNT]]
