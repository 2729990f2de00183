"""What the files of a run may hold: their fields and types, checked once when a file is read.

A form is a function of a value and its place in the file, which raises where the value is not of the form. The forms
at the end are those of `run.json`, of the lines of `metrics.jsonl` and `chain.jsonl`, and of the files beside them;
what reads a run may then rely on every field that it finds. Fields that are not named may be anything.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from research.core.errors import UserError

Form = Callable[[Any, str], None]
LONGEST_TYPE = 200  # characters of the name of a class
LARGEST = 2**63  # a larger whole number counts nothing here, and may be too large for a floating one


class _MismatchError(Exception):
    """A value that is not of its form."""


def check(value: Any, form: Form, place: object) -> None:
    """Checks a value that was read from a file.

    Args:
        value: any JSON value.
        form: what it should be.
        place: the file, and maybe the line, for the message.

    Raises:
        UserError: it is of another form; names the field, what it should be, and what it is.

    >>> check({"step": 3, "chain": 5}, CHAIN_ENTRY, "chain.jsonl")
    Traceback (most recent call last):
    research.core.errors.UserError: chain.jsonl is damaged: 'chain' should be a text, and is 5; restore it from a ...
    """
    try:
        form(value, "")
    except _MismatchError as mismatch:
        raise UserError(f"{place} is damaged: {mismatch}; restore it from a copy, or train again.") from None


def _refuse(value: Any, at: str, expected: str) -> None:
    raise _MismatchError(f"{_short(at or 'it')} should be {expected}, and is {_short(value)}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


def text(value: Any, at: str) -> None:
    """A string."""
    if not isinstance(value, str):
        _refuse(value, at, "a text")


def anything(value: Any, at: str) -> None:
    """Any value."""


def truth(value: Any, at: str) -> None:
    """true or false."""
    if not isinstance(value, bool):
        _refuse(value, at, "true or false")


def number(value: Any, at: str) -> None:
    """A number; also one that is not finite, which a diverged run has measured."""
    if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(value, int) and _is_vast(value)):
        _refuse(value, at, "a number")


def amount(value: Any, at: str) -> None:
    """A finite number of 0 or more."""
    number(value, at)
    if not (math.isfinite(value) and value >= 0):
        _refuse(value, at, "a number of 0 or more")


def count(value: Any, at: str) -> None:
    """A whole number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or _is_vast(value):
        _refuse(value, at, "a whole number of 0 or more")


def whole(value: Any, at: str) -> None:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or _is_vast(value):
        _refuse(value, at, "a whole number")


def _is_vast(value: int) -> bool:
    return abs(value) >= LARGEST


def name(value: Any, at: str) -> None:
    """A text that is one component of a path, as a folder is written by that name."""
    text(value, at)
    if not is_plain_name(value):
        _refuse(value, at, "a plain name without '/' or control characters")


def is_plain_name(value: str) -> bool:
    """Whether a text may be the name of a folder inside another: one component, that leads nowhere else.

    >>> [is_plain_name(each) for each in ("gpt_austen", "../..", "/etc", "..", "")]
    [True, False, False, False, False]
    """
    return re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,200}", value) is not None and value not in (".", "..")


def optional(form: Form) -> Form:
    """The form, or null."""
    return lambda value, at: None if value is None else form(value, at)


def fields(*required: str, **known: Form) -> Form:
    """An object with the required fields, in which known fields have their forms."""

    def checked(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, at, "an object")
        for field in required:
            if field not in value:
                raise _MismatchError(f"{_short(at or 'it')} has no {field!r}")
        for field in value.keys() & known.keys():
            known[field](value[field], f"{at}.{field}" if at else field)

    return checked


def each(form: Form) -> Form:
    """An object whose values all have the form."""

    def checked(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, at, "an object")
        for field, item in value.items():
            form(item, f"{at}.{field}" if at else field)

    return checked


def items(form: Form, length: int | None = None) -> Form:
    """A list whose items all have the form, of a length where one is given."""

    def checked(value: Any, at: str) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            _refuse(value, at, "a list" if length is None else f"a list of {length}")
        for index, item in enumerate(value):
            form(item, f"{at}.{index}")

    return checked


def _measured(value: Any, at: str) -> None:
    """A result: a number, or what only its own table shows."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number(value, at)


def results(value: Any, at: str) -> None:
    """The results of an evaluation: a square confusion matrix, and as many numbers in what is measured by class."""
    each(_measured)(value, at)
    _shown_results(value, at)
    length: int | None = None
    if MATRIX in value:
        items(anything)(value[MATRIX], f"{at}.{MATRIX}")
        length = len(value[MATRIX])
        items(items(count, length))(value[MATRIX], f"{at}.{MATRIX}")
    for field in value:
        if field.endswith(BY_CLASS):
            items(optional(number), length)(value[field], f"{at}.{field}")
            length = len(value[field])


def _typed(value: Any, at: str) -> None:
    """A configuration, in which every `type` is a text."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for field, item in value.items() if isinstance(value, dict) else ():
        if field == "type" and not (isinstance(item, str) and len(item) <= LONGEST_TYPE):
            _refuse(item, f"{at}.type", "the name of a class")
        _typed(item, f"{at}.{field}")


def _config(value: Any, at: str) -> None:
    evaluator = fields(split=text, name=optional(text), best=items(text, 2))
    part = fields()
    parts = {"data": part, "model": part, "task": part, "optimizer": part, "evaluators": items(evaluator)}
    fields(**parts, steps=whole, batch_size=whole, seed=whole)(value, at)
    _typed(value, at)


_rates = items(optional(amount))
_shown_results = fields(
    roc_curve=fields(
        "false_positive_rate", "true_positive_rate", false_positive_rate=_rates, true_positive_rate=_rates
    ),
    calibration=fields(
        *("count", "probability", "right", "error"),
        count=items(count),
        probability=_rates,
        right=_rates,
        error=optional(amount),
    ),
)
MATRIX, BY_CLASS = "confusion_matrix", "_per_class"
_cleaning_step = fields(
    *("name", "documents_in", "documents_out"),
    name=text,
    documents_in=count,
    documents_out=count,
    examples=items(fields()),
)
_data = fields(
    name=optional(text),
    description=optional(text),
    splits=each(anything),
    class_names=items(anything),
    tokenizer=optional(fields(kind=text, vocabulary=count)),
    cleaning=optional(items(_cleaning_step)),
)
_layer = fields("path", "parameters", "flops", path=text, parameters=count, flops=amount)
_event = fields("step", "message", step=count, message=text, kind=text, time=text, last=count, count=count)
# The record of a run, `run.json`.
RECORD = fields(
    *("name", "status", "config"),
    format=whole,
    name=name,
    status=text,
    config=_config,
    command=text,
    started=text,
    error=text,
    environment=fields(devices=fields("count", "kind", count=count), processor=text, thread_pool=count),
    code=each(text),
    git=optional(fields("commit", "dirty", commit=text, dirty=truth)),
    stages=each(amount),
    events=items(_event),
    resumes=items(fields("step", step=count, time=text)),
    extensions=items(fields("step", "steps", step=optional(count), steps=count)),
    wait_share=amount,
    peak_bytes=count,
    data=_data,
    model=fields(parameters=count, layers=items(_layer)),
    pretrained=fields("loaded", "new", "left", "sha256", loaded=count, new=items(text), left=items(text), sha256=text),
    metrics=each(results),
    baselines=each(each(results)),
    importance=each(each(optional(number))),
    params_sha256=text,
    chain=text,
    notes=items(fields("time", "text", time=text, text=text)),
    tags=items(name),
)


def entry(value: Any, at: str) -> None:
    """A line of `metrics.jsonl`."""
    logged = fields("step", "kind", step=count, kind=text, unit=text, text=text, images=text, captions=items(anything))
    logged(value, at)
    each(_measured)(value, at)
    fields(audio=items(text))(value, at)
    if value["kind"] == "evaluation":
        fields("name", name=text)(value, at)
        results(value, at)
    if value["kind"] == "norms":
        fields("norms", norms=each(items(optional(number), 2)))(value, at)
    if value["kind"] == "sample" and not value.keys() & {"text", "images", "audio"}:
        fields("text")(value, at)


CHAIN_ENTRY = fields("step", "chain", step=count, chain=text)
_history = fields(
    *("recent", "skipped", "rollbacks"),
    recent=items(number),
    skipped=count,
    rollbacks=items(items(whole, 3)),
    best=optional(number),
    stale=count,
)
# What is beside a checkpoint: the digests of its files, its score, and where training goes on, which older ones say
# otherwise.
MANIFEST = fields("files", files=each(text), step=count, score=optional(number))
RESUMABLE = fields("chain", "history", chain=text, history=_history, unevaluated=truth)
_picture = fields("png", "label", "predicted", png=text, label=text, predicted=text)
PICTURES = fields(
    *("split", "examples", "wrong_total"),
    split=text,
    examples=count,
    wrong_total=count,
    wrong=items(_picture),
    right=items(_picture),
)


def _look(value: Any, at: str) -> None:
    """A text that was written, and a row of weights for each of its tokens."""
    sides = {"source": text, "written": text, "target": text, "across": items(text), "down": items(text)}
    fields(*sides, "weights", **sides)(value, at)
    rows = items(items(amount, len(value["across"])), len(value["down"]))
    rows(value["weights"], f"{at}.weights")


ATTENTION = fields("split", "examples", split=text, examples=items(_look))
