"""Measures of written text against what was expected: BLEU, chrF, ROUGE, exact match and F1 of answers, entity F1.

Pure functions of strings, or of tags, of a whole corpus at once, equal to the reference implementations that each
names. `research/evaluate/text_bundles.py` makes metrics of them.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
            grams = _grams(words, place + 1)
            matches[place] += (grams & _grams(right, place + 1)).total()
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
            grams, right_grams = _grams(left, place + 1), _grams(right, place + 1)
            matches[place] += (grams & right_grams).total()
            found[place] += grams.total() if right_grams else 0
            wanted[place] += right_grams.total()
    used = [place for place in range(order) if found[place] and wanted[place]]
    if not any(matches):
        return 0.0
    precision = sum(matches[place] / found[place] for place in used) / len(used)
    recall = sum(matches[place] / wanted[place] for place in used) / len(used)
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def rouge(written: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L, 0 to 1: the mean F1 over the texts (Lin 2004), as rouge-score without stemming.

    Words are runs of a to z and digits, in lower case; the longest common subsequence is that of whole texts.

    Raises:
        ValueError: the numbers of texts differ.
    """
    sums = {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    for hypothesis, reference in zip(written, expected, strict=True):
        words, right = (re.findall(r"[a-z0-9]+", text.lower()) for text in (hypothesis, reference))
        for order in (1, 2):
            grams, right_grams = _grams(words, order), _grams(right, order)
            sums[f"rouge_{order}"] += f1((grams & right_grams).total(), grams.total(), right_grams.total())
        sums["rouge_l"] += f1(common_subsequence(words, right), len(words), len(right))
    return {name: value / max(len(written), 1) for name, value in sums.items()}


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Returns the length of the longest sequence of words that both have in this order."""
    best = [0] * (len(right) + 1)
    for word in left:
        above = best
        best = [0]
        for place, other in enumerate(right):
            best.append(above[place] + 1 if word == other else max(above[place + 1], best[place]))
    return best[-1]


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, articles and spare white space, as SQuAD's script compares answers."""
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


class Entity(NamedTuple):
    """A run of words with one label, from `first` to `last`."""

    label: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence by its tags: B-X begins one, I-X continues it, O is none.

    As seqeval's default: I-X after O, or after another label, begins one too.
    """
    found: list[Entity] = []
    open_label, begin = "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, label = tag.partition("-")
        label = label if prefix in ("B", "I") else ""
        if open_label and (prefix != "I" or label != open_label):
            found.append(Entity(open_label, begin, place - 1))
        if label and (prefix == "B" or label != open_label):
            begin = place
        open_label = label
    return found


def entity_scores(written: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities over all sentences, as seqeval: right is one with its label and both ends.

    Tjong Kim Sang and De Meulder 2003 (CoNLL). Each is 0 where nothing was found, or nothing was there.

    Raises:
        ValueError: the numbers of sentences differ.
    """
    pairs = [(set(entities(left)), set(entities(right))) for left, right in zip(written, expected, strict=True)]
    hits = sum(len(left & right) for left, right in pairs)
    found, there = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return {
        "entity_precision": hits / found if found else 0.0,
        "entity_recall": hits / there if there else 0.0,
        "entity_f1": f1(hits, found, there),
    }


def f1(hits: int, found: int, wanted: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing was found and nothing there."""
    return 2 * hits / (found + wanted) if found + wanted else 0.0


def _grams(units: Sequence[str], order: int) -> Counter[Sequence[str]]:
    """Counts the runs of so many words, or of characters of a string."""
    make: Callable[[Sequence[str]], Sequence[str]] = str if isinstance(units, str) else tuple
    return Counter(make(units[start : start + order]) for start in range(len(units) - order + 1))
