"""Cleaning as named, composable, pure steps over documents; every step reports what it removed, with examples.

`Cleaning` is the configuration that experiments hold; `clean(documents, Cleaning().steps())` runs it. A step of your
own is one line, such as `rewrite("lower case", str.lower)` or `drop("drafts", reason)`.
"""

import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from research.core.errors import UserError
from research.core.ranges import Fraction, Limit
from research.data.cleaning.personal_data import remove_personal_data
from research.data.cleaning.quality import quality_fault

EXAMPLES = 3
EXCERPT = 80  # characters
LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
PERSONAL_DATA = "personal data"
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")


@dataclasses.dataclass(frozen=True)
class Document:
    """A text with a unique key, and the group (book, chapter, author) that a split never divides."""

    key: str
    group: str
    text: str


def content_group(text: str) -> str:
    """Returns the group of a text that belongs to no named one: its digest, so that wherever it moves, it stays put."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Step:
    """A named pure step: `apply(documents)` returns those kept, in order, and {key: reason} of those dropped.

    Attributes:
        name: what the report calls it.
        apply: the step itself.
        alike: None where every document is treated by itself; else the keys of a text, as many for every text, such
            that documents which share none, not even by way of others, have no bearing on each other.
    """

    name: str
    apply: Callable[[Sequence[Document]], tuple[list[Document], Mapping[str, str]]]
    alike: Callable[[str], Sequence[bytes]] | None = None


@dataclasses.dataclass(frozen=True)
class Change:
    """An example of a change: excerpts before and after at the first difference, or the reason of a removal."""

    key: str
    before: str
    after: str
    reason: str


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What a step did; `dataclasses.asdict` makes it JSON. `characters_removed` is below 0 where a step adds some."""

    name: str
    documents_in: int
    documents_out: int
    documents_changed: int
    characters_removed: int
    examples: tuple[Change, ...]


def clean(documents: Sequence[Document], steps: Sequence[Step]) -> tuple[list[Document], tuple[StepReport, ...]]:
    """Runs the steps in order and reports each.

    Raises:
        UserError: two documents have one key, or no document is left.
    """
    current = list(documents)
    if len({document.key for document in current}) < len(current):
        raise UserError("Two documents have the same key; give every document a key of its own, such as path and line.")
    mask = mask_of(steps)
    reports: list[StepReport] = []
    for step in steps:
        before, (current, reasons) = current, step.apply(current)
        reports.append(_report(step.name, before, current, reasons, mask))
        check_some_left(reports[-1], len(documents))
    return current, tuple(reports)


def mask_of(steps: Sequence[Step]) -> Callable[[str], str]:
    """Returns what an example goes through: where personal data are removed, none of any step may show them."""
    return remove_personal_data if any(step.name == PERSONAL_DATA for step in steps) else str


def check_some_left(report: StepReport, documents: int) -> None:
    """Raises UserError where a step dropped the last of so many documents."""
    if report.documents_in and not report.documents_out:
        raise UserError(
            f"The cleaning step {report.name!r} removed the last {report.documents_in} of {documents} documents "
            f"({report.examples[0].reason or 'no reason given'}); loosen that step or turn it off."
        )


def _report(
    name: str,
    before: Sequence[Document],
    after: Sequence[Document],
    reasons: Mapping[str, str],
    mask: Callable[[str], str],
) -> StepReport:
    texts = {document.key: document.text for document in after}
    touched = [document for document in before if texts.get(document.key) != document.text]
    examples = [
        example(name, document, texts.get(document.key), reasons.get(document.key, ""), mask)
        for document in touched[:EXAMPLES]
    ]
    return StepReport(
        name=name,
        documents_in=len(before),
        documents_out=len(after),
        documents_changed=sum(document.key in texts for document in touched),
        characters_removed=sum(len(document.text) for document in before) - sum(map(len, texts.values())),
        examples=tuple(examples),
    )


def example(name: str, before: Document, after: str | None, reason: str, mask: Callable[[str], str]) -> Change:
    """Returns what the step `name` did to a document as an example; `after` is None for one that was dropped."""
    if after is None:
        return Change(before.key, mask(before.text[:EXCERPT]), "", reason)
    old, new = _excerpts(before.text, after)
    return Change(before.key, "" if name == PERSONAL_DATA else mask(old), mask(new), reason="")


def _excerpts(before: str, after: str) -> tuple[str, str]:
    pairs = enumerate(zip(before, after, strict=False))
    first = next((place for place, (left, right) in pairs if left != right), min(len(before), len(after)))
    start = max(0, first - EXCERPT // 2)
    return before[start : start + EXCERPT], after[start : start + EXCERPT]


def rewrite(name: str, function: Callable[[str], str]) -> Step:
    """Makes a step that replaces every text by `function(text)`."""
    return Step(name, functools.partial(_rewrite, function))


def _rewrite(function: Callable[[str], str], documents: Sequence[Document]) -> tuple[list[Document], Mapping[str, str]]:
    return [dataclasses.replace(document, text=function(document.text)) for document in documents], {}


def drop(name: str, reason: Callable[[str], str | None]) -> Step:
    """Makes a step that drops every document for whose text `reason(text)` gives a reason."""
    return Step(name, functools.partial(_drop, reason))


def _drop(
    reason: Callable[[str], str | None], documents: Sequence[Document]
) -> tuple[list[Document], Mapping[str, str]]:
    reasons = {document.key: fault for document in documents if (fault := reason(document.text)) is not None}
    return [document for document in documents if document.key not in reasons], reasons


def drop_repeats(
    name: str, repeats: Callable[[Sequence[str]], Mapping[int, int]], alike: Callable[[str], Sequence[bytes]]
) -> Step:
    """Makes a step that drops the texts for which `repeats(texts)` gives the index of the text they repeat.

    A text and those it repeats share a key of `alike(text)`, see `Step`.
    """
    return Step(name, functools.partial(_drop_repeats, repeats), alike)


def _drop_repeats(
    repeats: Callable[[Sequence[str]], Mapping[int, int]], documents: Sequence[Document]
) -> tuple[list[Document], Mapping[str, str]]:
    originals = repeats([document.text for document in documents])
    kept = [document for index, document in enumerate(documents) if index not in originals]
    return kept, {documents[i].key: f"repeats {documents[j].key}" for i, j in originals.items()}


def remove_control_characters(text: str) -> str:
    """Turns every kind of line break into a newline and removes control characters and byte order marks, not tabs."""
    return CONTROL_CHARACTERS.sub("", LINE_BREAKS.sub("\n", text))


def normalise_white_space(text: str) -> str:
    """Makes one space of several, keeps indentation and at most one blank line, and strips lines' and text's ends."""
    text = re.sub(r"(?<=\S)[^\S\n]+", " ", text)
    text = re.sub(r"[^\S\n]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def exact_repeats(texts: Sequence[str]) -> dict[int, int]:
    """Returns {index: index of the first equal text} for every text seen before."""
    first: dict[str, int] = {}
    return {index: origin for index, text in enumerate(texts) if (origin := first.setdefault(text, index)) != index}


def text_digest(text: str) -> list[bytes]:
    """Returns the one key that only equal texts share."""
    return [hashlib.sha256(text.encode()).digest()]


@functools.cache
def _languages() -> DetectorFactory:
    factory = DetectorFactory()
    # In sorted order, since the order of the profiles changes the last bits of the probabilities.
    factory.load_json_profile([path.read_text("utf-8") for path in sorted(Path(PROFILES_DIRECTORY).iterdir())])
    factory.set_seed(0)
    return factory


def detect_language(text: str) -> str:
    """Returns the ISO 639-1 code of a text's language (Shuyo 2010, n-gram profiles), or "unknown"; deterministic."""
    detector = _languages().create()
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return "unknown"


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """Which steps to run; they run in this order.

    Attributes:
        unicode: normal form of Unicode; NFKC also folds ligatures, wide letters and superscripts.
        control_characters: remove control characters, make all line breaks newlines.
        white_space: make one space of several, at most one blank line.
        personal_data: replace e-mail, phone, card and identity numbers and IP addresses by placeholders.
        minimum_characters: drop shorter documents.
        language: keep only documents in this language ("en", "es", ...); empty for all.
        quality: keep only running prose, by the rules of Gopher (for English).
        exact_duplicates: drop documents whose text was seen before.
        near_duplicates: drop documents this similar to an earlier one (0 to 1, usually 0.8); 0 for none.
    """

    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    control_characters: bool = True
    white_space: bool = True
    personal_data: bool = True
    minimum_characters: Limit = 1
    language: str = ""
    quality: bool = False
    exact_duplicates: bool = True
    near_duplicates: Fraction = 0.0

    def steps(self) -> tuple[Step, ...]:
        """Builds the steps; raises UserError for a language that is not known."""
        steps = []
        if self.unicode != "none":
            steps.append(rewrite(f"Unicode {self.unicode}", functools.partial(unicodedata.normalize, self.unicode)))
        if self.control_characters:
            steps.append(rewrite("control characters", remove_control_characters))
        if self.white_space:
            steps.append(rewrite("white space", normalise_white_space))
        if self.personal_data:
            steps.append(rewrite(PERSONAL_DATA, remove_personal_data))
        if self.minimum_characters > 0:
            steps.append(drop("length", self._length_fault))
        if self.language:
            known = sorted(_languages().get_lang_list())
            if self.language not in known:
                raise UserError(f"The language {self.language!r} is not known; choose one of {', '.join(known)}.")
            steps.append(drop("language", self._language_fault))
        if self.quality:
            steps.append(drop("quality", quality_fault))
        if self.exact_duplicates:
            steps.append(drop_repeats("exact duplicates", exact_repeats, text_digest))
        if self.near_duplicates > 0:
            # Here, as it takes scipy along, which would cost every start half a second.
            from research.data.cleaning.near_duplicates import bands, duplicates_of_earlier

            repeats = functools.partial(duplicates_of_earlier, threshold=self.near_duplicates)
            alike = functools.partial(bands, threshold=self.near_duplicates)
            steps.append(drop_repeats("near duplicates", repeats, alike))
        return tuple(steps)

    def _length_fault(self, text: str) -> str | None:
        return f"{len(text)} characters" if len(text) < self.minimum_characters else None

    def _language_fault(self, text: str) -> str | None:
        found = detect_language(text)
        return f"language {found}" if found != self.language else None
