"""Batches for the tests of metrics: cut, padded, and measured."""

import functools

import jax
import numpy as np

from research.evaluate.metrics import Metric, evaluate, to_host

CLASSES = 4
SIZE = 8  # one batch size, so that each metric compiles once for all random examples


def padded_batches(examples: dict, rng: np.random.Generator) -> list[dict]:
    """Cuts examples into batches of SIZE, each with a random number of rows of padding full of rubbish."""
    batches, start, total = [], 0, len(next(iter(examples.values())))
    while start < total:
        rows = int(rng.integers(0, SIZE + 1))
        mask = np.zeros(SIZE, np.float32)
        positions = rng.permutation(SIZE)[: min(rows, total - start)]
        mask[positions] = 1
        batch = {"mask": mask}
        for name, values in examples.items():
            rubbish = np.full((SIZE, *values.shape[1:]), 3, values.dtype)
            rubbish[positions] = values[start : start + len(positions)]
            batch[name] = rubbish
        batches.append(batch)
        start += len(positions)
    return batches


@functools.cache
def compiled(measure):
    """A metric's function of a batch that is its own prediction, compiled once."""
    return jax.jit(lambda batch: measure(batch, batch))


def measure(metric: Metric, batch: dict) -> dict:
    """The state of one batch, on the host; the batch is its own prediction."""
    return to_host(compiled(metric.measure)(batch))


def flat(results: dict) -> dict[str, np.ndarray]:
    """Returns each result as an array; those inside another one by both names."""
    found = {}
    for name, value in results.items():
        inner = {f"{name}/{part}": array for part, array in flat(value).items()} if isinstance(value, dict) else None
        found |= {name: np.asarray(value, np.float64)} if inner is None else inner
    return found


def assert_equal(results: dict, expected: dict, rtol: float = 1e-5) -> None:
    found = flat(results)
    for name, value in flat(expected).items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-6, err_msg=name)


def measured(metrics, predictions, batch):
    """The results of metrics on a batch cut into two, with predictions cut alike."""
    halves = [{name: array[part] for name, array in {**batch, **predictions}.items()} for part in np.s_[:2, 2:]]

    def predict(half):
        return {name: half[name] for name in predictions}

    return evaluate(metrics, predict, halves)


def random_examples(kind: str, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if kind == "classification":
        return {
            "logits": rng.normal(size=(count, CLASSES)).astype(np.float32),
            "labels": rng.integers(0, CLASSES, count),
        }
    if kind == "binary":  # rounded, so that scores tie
        return {
            "logits": rng.normal(size=count).round(1).astype(np.float32),
            "labels": rng.permutation(np.arange(count) % 2),
        }
    targets = rng.normal(size=(count, 3)).astype(np.float32)
    targets[0] = targets[1] + 1  # constant targets, whose R2 is not defined, have their own test
    noise = rng.normal(size=(count, 3)).astype(np.float32)
    return {"outputs": targets + noise, "targets": targets}
