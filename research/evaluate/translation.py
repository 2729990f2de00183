"""Evaluation of translations: BLEU and chrF of the texts that the model writes, as sacreBLEU, and its token loss."""

import dataclasses
import math
import re
from collections.abc import Sequence
from functools import partial

from jax.sharding import Mesh

from research.data.dataset import Data
from research.evaluate.evaluator import EvaluatedSplit, build_evaluation
from research.evaluate.masked import token_metrics
from research.evaluate.metrics import Results
from research.evaluate.written_text import ngram_counts, pairs_baselines, written_metric
from research.tasks.task import Task
from research.train.evaluation import Best, Evaluation


@dataclasses.dataclass(frozen=True)
class TranslationEvaluator(EvaluatedSplit):
    """Translations that the model writes of the sources of a split."""

    best: Best = ("bleu", "max")

    def build(self, task: Task, data: Data, mesh: Mesh, seed: int) -> Evaluation:
        """Builds the evaluation; raises UserError as `build_evaluation`."""
        metrics = (*token_metrics(), written_metric(data, ("bleu", "chrf"), translation_scores))
        baselines = partial(pairs_baselines, data, self.split, translation_scores, self.limit)
        return build_evaluation(self, metrics, baselines, task, data, mesh, seed)


def translation_scores(written: Sequence[str], expected: Sequence[str]) -> Results:
    """BLEU and chrF."""
    return {"bleu": bleu(written, expected), "chrf": chrf(written, expected)}


# mteval-v13a: punctuation apart from words; full stops and commas but between digits; a dash after a digit.
RULES = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def tokenise_13a(text: str) -> list[str]:
    """Returns the words and signs of a text as mteval-v13a and sacreBLEU ("13a") divide it."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, sign in ENTITIES:
        text = text.replace(name, sign)
    text = f" {text} "
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def bleu(written: Sequence[str], expected: Sequence[str], order: int = 4) -> float:
    """BLEU of a corpus, 0 to 100 (Papineni et al. 2002), as sacreBLEU's default: 13a, case, exponential smoothing.

    An n-gram length that matches nowhere counts as 1/2, 1/4, ... matches (Chen and Cherry 2014, method 3).

    Raises:
        ValueError: the numbers of texts differ.
    """
    matches, totals, lengths = [0] * order, [0] * order, [0, 0]
    for hypothesis, reference in zip(written, expected, strict=True):
        words, right = tokenise_13a(hypothesis), tokenise_13a(reference)
        lengths = [lengths[0] + len(words), lengths[1] + len(right)]
        for place in range(order):
            grams = ngram_counts(words, place + 1)
            matches[place] += (grams & ngram_counts(right, place + 1)).total()
            totals[place] += grams.total()
    if not any(matches) or not all(totals):
        return 0.0
    smooth, logs = 1.0, 0.0
    for match, total in zip(matches, totals, strict=True):
        smooth = smooth if match else smooth / 2
        logs += math.log((match or smooth) / total)
    penalty = min(0.0, 1 - lengths[1] / lengths[0])
    return 100 * math.exp(penalty + logs / order)


def chrf(written: Sequence[str], expected: Sequence[str], order: int = 6, beta: float = 2.0) -> float:
    """chrF2 of a corpus, 0 to 100 (Popović 2015), as sacreBLEU's default: 1 to 6 characters, white space left out.

    Raises:
        ValueError: the numbers of texts differ.
    """
    matches, found, wanted = [0] * order, [0] * order, [0] * order
    for hypothesis, reference in zip(written, expected, strict=True):
        left, right = ("".join(text.split()) for text in (hypothesis, reference))
        for place in range(order):
            grams, right_grams = ngram_counts(left, place + 1), ngram_counts(right, place + 1)
            matches[place] += (grams & right_grams).total()
            found[place] += grams.total() if right_grams else 0
            wanted[place] += right_grams.total()
    used = [place for place in range(order) if found[place] and wanted[place]]
    if not any(matches):
        return 0.0
    precision = sum(matches[place] / found[place] for place in used) / len(used)
    recall = sum(matches[place] / wanted[place] for place in used) / len(used)
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
