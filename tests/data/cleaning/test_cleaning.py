"""Cleaning steps do what they say, report what they removed, and settle: cleaning twice changes nothing more."""

import dataclasses
import json
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.cleaning.cleaning import (
    Cleaning,
    Document,
    clean,
    detect_language,
    drop,
    normalise_white_space,
    remove_control_characters,
    rewrite,
)
from research.data.cleaning.quality import quality_fault

NOTHING = Cleaning("none", False, False, False, 0, "", False, False, 0.0)
PROSE = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property of "
    "some one or other of their daughters."
)
# With ten words repeated, 6 % of it is in repeated n-grams; overlapping ones counted twice would make it 19 %.
DISTINCT = "the tale of " + " ".join(f"{first}o{second}" for first in "bcdfghklmnprstv" for second in "abdefgikor")
SPANISH = "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo."


def documents(*texts: str) -> list[Document]:
    return [Document(f"file:{number}", "file", text) for number, text in enumerate(texts)]


def texts_after(config: Cleaning, *texts: str) -> list[str]:
    return [document.text for document in clean(documents(*texts), config.steps())[0]]


def only(**changes: object) -> Cleaning:
    return dataclasses.replace(NOTHING, **changes)


def test_no_steps_change_nothing() -> None:
    """With every rule off there are no steps and the documents come back as they were."""
    assert NOTHING.steps() == ()
    assert clean(documents("a", "a", ""), ()) == (documents("a", "a", ""), ())


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        (only(unicode="NFC"), ["e\u0301 \ufb01"], ["é \ufb01"]),
        (only(unicode="NFKC"), ["e\u0301 \ufb01"], ["é fi"]),
        (only(control_characters=True), ["\ufeffa\r\nb\rc\u2028d\x00\x1b\te"], ["a\nb\nc\nd\te"]),
        (only(white_space=True), ["\n a  b\t\u00a0c  \n\n\n\n    d \n"], ["a b c\n\n    d"]),
        (only(personal_data=True), ["to a@example.com"], ["to <EMAIL>"]),
        (only(minimum_characters=3), ["ab", "abc"], ["abc"]),
        (only(language="en"), [PROSE, SPANISH, "123 456"], [PROSE]),
        (only(language="es"), [PROSE, SPANISH, ""], [SPANISH]),
        (only(quality=True), [PROSE, "buy now " * 60], [PROSE]),
        (only(exact_duplicates=True), ["a", "b", "a", "A"], ["a", "b", "A"]),
        (only(near_duplicates=0.8), [PROSE, PROSE.upper() + " So it is.", SPANISH], [PROSE, SPANISH]),
    ],
)
def test_each_rule_does_its_own_work(config: Cleaning, before: list[str], after: list[str]) -> None:
    """A configuration with one rule on has one step, with the expected result."""
    assert len(config.steps()) == 1
    assert texts_after(config, *before) == after


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=40), min_size=1, max_size=6))
def test_cleaning_twice_changes_nothing_more(texts: list[str]) -> None:
    """The default steps settle in one pass, and the sums of the reports agree with the documents."""
    anchor = [*texts, "an ordinary text"]
    cleaned, reports = clean(documents(*anchor), Cleaning().steps())
    again, _ = clean(cleaned, Cleaning().steps())
    assert again == cleaned
    assert sum(map(len, anchor)) - sum(report.characters_removed for report in reports) == sum(
        len(document.text) for document in cleaned
    )
    for document in cleaned:
        assert unicodedata.is_normalized("NFC", document.text)
        assert normalise_white_space(remove_control_characters(document.text)) == document.text


def test_reports_count_and_show_what_was_removed() -> None:
    """A report tells counts, excerpts at the first difference, and reasons; it is JSON."""
    before = documents("x" * 100 + "  end", "short", "x" * 100 + " end")
    _, reports = clean(before, only(white_space=True, minimum_characters=10, exact_duplicates=True).steps())
    space, length, repeats = json.loads(json.dumps([dataclasses.asdict(report) for report in reports]))
    assert (space["documents_changed"], space["characters_removed"]) == (1, 1)
    assert space["examples"][0]["before"].endswith("xx  end") and space["examples"][0]["after"].endswith("xx end")
    assert (length["documents_in"], length["documents_out"], length["characters_removed"]) == (3, 2, 5)
    assert length["examples"] == [{"key": "file:1", "before": "short", "after": "", "reason": "5 characters"}]
    assert repeats["examples"][0]["reason"] == "repeats file:0"


def test_steps_of_your_own_compose() -> None:
    """`rewrite` and `drop` make steps from plain functions."""
    steps = (rewrite("lower case", str.lower), drop("drafts", lambda text: "a draft" if "draft" in text else None))
    cleaned, reports = clean(documents("DRAFT one", "Two"), steps)
    assert [document.text for document in cleaned] == ["two"]
    assert [report.name for report in reports] == ["lower case", "drafts"]


def test_language_is_deterministic() -> None:
    """The language of a text does not depend on the state of any random generator."""
    mixed = SPANISH + " " + PROSE[:100]
    results = set()
    for seed in range(3):
        random.seed(seed)
        results.add(detect_language(mixed))
    assert len(results) == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("word " * 10, "words, outside"),
        (PROSE.replace(" ", "## ", 20), "hash marks"),
        ("\n".join("- " + line for line in [PROSE[i : i + 40] for i in range(0, 360, 40)]), "bullet"),
        (" ".join(f"{number}{number}{number}" for number in range(100)), "contain a letter"),
        ("gato perro casa " * 2 + " ".join(f"palabra{chr(97 + i % 26)}{i}" for i in range(80)), "stop words"),
        (PROSE + "\n\n" + PROSE, "repeats"),
        ((PROSE + " ") * 3, "repeated 5-grams"),
        (PROSE + " free money" * 20, "in the one 2-gram"),
        (PROSE, None),
        (DISTINCT + " " + " ".join(DISTINCT.split()[:10]), None),
    ],
)
def test_quality_rules_name_the_fault(text: str, fault: str | None) -> None:
    """Each of Gopher's rules (Rae et al. 2021, A.1) catches its own kind of text, and prose passes them all."""
    found = quality_fault(text)
    assert found is None if fault is None else fault in found


@pytest.mark.parametrize(
    ("before", "steps", "message"),
    [
        (documents("ab"), only(minimum_characters=5).steps(), "'length' removed the last 1"),
        ([*documents("a"), *documents("b")], (), "same key"),
    ],
)
def test_losing_everything_and_equal_keys_are_refused(before: list, steps: tuple, message: str) -> None:
    """Cleaning never hands on nothing, and never confuses two documents."""
    with pytest.raises(UserError, match=message):
        clean(before, steps)


def test_an_unknown_language_is_refused() -> None:
    """The error lists the languages that are known."""
    with pytest.raises(UserError, match=r"'english' is not known.* en, es"):
        only(language="english").steps()


def test_no_example_of_any_step_shows_personal_data_that_is_removed():
    """The report of cleaning is published with the run: it must not hold what the run itself may not."""
    text = "Write  to jane@example.org \u0065\u0301 or call +1 650-253-0000 now."
    documents = [Document("a", "a", text), Document("b", "b", text)]
    _, reports = clean(documents, Cleaning().steps())
    shown = repr(reports)
    assert "<EMAIL>" in shown and "<PHONE>" in shown
    assert "jane@example.org" not in shown and "253-0000" not in shown
