"""Evaluation of answers that are spans of a text (SQuAD): exact match and F1 of words."""

import dataclasses
import operator
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer

from research.core.shapes import Tree
from research.data.dataset import Data
from research.evaluate.baselines import Table
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.metrics import Arrays, Metric, Results, f1
from research.tasks.task import Task
from research.train.evaluation import Best, Evaluation


@dataclasses.dataclass(frozen=True)
class AnswersEvaluator(EvaluatedSplit):
    """Answers to the questions of a split, beside the commonest answer to all of the training questions."""

    best: Best = ("answer_f1", "max")

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        baselines = partial(answer_baseline, data, self.split)
        return build_evaluation(self, answer_metrics(data, self.split), baselines, task, data, mesh, seed)


def answer_metrics(data: Data, split: str) -> tuple[Metric, ...]:
    """Exact match and F1 of answers, both as the tokenizer writes them; no answer is the example's first token.

    The right ones are the split's texts, also where the row has no room for them. Reads predictions["spans"]
    [batch examples 2]; batch["starts"], batch["indices"] and batch["mask"] [batch examples]; batch["inputs"]
    [batch length].
    """
    answers = data.texts[split]["label"]

    def measure(predictions: Arrays, batch: Arrays) -> Tree:
        arrays = (batch[name] for name in ("inputs", "starts", "mask", "indices"))
        return ((*arrays, predictions["spans"]),)

    def compute(chunks: Tree) -> Results:
        written, right = [], []
        for inputs, starts, mask, indices, spans in (row for chunk in chunks for row in zip(*chunk, strict=True)):
            for example in np.flatnonzero(mask > 0):
                written.append(_span(data, inputs, spans[example], int(starts[example])))
                answer = answers[indices[example]]
                right.append([data.tokenizer.decode(data.tokenizer.encode(answer)) if data.tokenizer else answer])
        return answer_scores(written, right)

    return (Metric(("exact_match", "answer_f1"), measure, compute, operator.add),)


def answer_baseline(data: Data, split: str) -> Table:
    """The answer that is the most frequent in training, given to every question."""
    (commonest, _), *_ = Counter(data.texts["train"]["label"]).most_common(1)
    right = data.texts[split]["label"]
    return {"commonest answer": answer_scores([commonest] * len(right), [[answer] for answer in right])}


def _span(data: Data, inputs: Integer[np.ndarray, " length"], span: Integer[np.ndarray, " 2"], start: int) -> str:
    first, last = span
    return data.tokenizer.decode(inputs[first : last + 1]) if data.tokenizer and first > start else ""


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, articles and spare white space, as SQuAD's script compares answers.

    >>> normalise_answer("The  Eiffel Tower!")
    'eiffel tower'
    """
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_scores(written: Sequence[str], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of answers, 0 to 1, as SQuAD's script: the best over the right answers of each question.

    Rajpurkar et al. 2016; 2018 for questions without an answer, where the right one, and only it, is empty.

    Raises:
        ValueError: the numbers of questions differ.
    """
    exact, overlap = 0.0, 0.0
    for answer, right in zip(written, expected, strict=True):
        exact += max(_is_exact(answer, each) for each in right)
        overlap += max(_answer_f1(answer, each) for each in right)
    count = max(len(written), 1)
    return {"exact_match": exact / count, "answer_f1": overlap / count}


def _is_exact(answer: str, right: str) -> float:
    return float(normalise_answer(answer) == normalise_answer(right))


def _answer_f1(answer: str, right: str) -> float:
    words, expected = (normalise_answer(text).split() for text in (answer, right))
    if not words or not expected:
        return float(words == expected)
    return f1((Counter(words) & Counter(expected)).total(), len(words), len(expected))
