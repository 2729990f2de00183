"""Names and sentences are the field's: no identifier and no text says what the glossary has a standard term for.

A word is wrong only in its place: attention's `groups` is `num_kv_heads`, while `--data.group`, `lm_head` and "the
first step" are right. `research/core/renames.py` keeps the old names of recorded runs, and is left out.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import ROOT

RENAMES = ROOT / "research/core/renames.py"
# (where, the words that are wrong there, the standard terms)
IDENTIFIERS = (
    ("research/train", "Watch", "Monitor"),
    ("research/train", "Watchdog", "StallDetector"),
    ("research/train", "Start newest_start", "ResumePoint, newest_checkpoint"),
    ("research/train", "settle stepped", "flush_pending, record_step"),
    ("research/train/pretrained.py", "Started note", "LoadReport"),
    ("research/train", "pinned", "resolved"),
    ("research/train/optimizers.py", "rate_rules peak", "lr_multipliers, learning_rate"),
    ("research/train/state.py", "whole", "replicated"),
    ("research/plan", "whole explain", "replicated, plan"),
    ("research/report", "facts", "metadata"),
    ("research/runs", "facts cut_back opened_by_first", "metadata, truncate, open_on_main_process"),
    ("research/runtime", "Place here places", "ProcessInfo"),
    ("research/runtime", "joined _meet _linger", "distributed_session, initialize, wait_for_peers"),
    ("research/runtime", "told beat agreed first", "message, heartbeat, broadcast_from_first, is_main_process"),
    ("research/runtime", "PATIENCE SILENCE MEETING", "..._TIMEOUT_SECONDS"),
    ("research/runtime", "Question", "StopRequested"),
    ("research/tasks", "deviation deviations breadth", "std, width"),
    ("research/report", "deviation deviations breadth", "std, width"),
    ("research/data", "deviation deviations breadth", "std, width"),
    ("research/tasks", "share Mean", "fraction or mask_rate, WeightedSum"),
    ("research/models", "HOME AWAY SPREAD", "TOKENS_BY_BATCH, BY_EXPERT, BY_EXPERT_AND_CONTEXT"),
    ("research/models", "groups places Begin Advance reads Slots", "num_kv_heads, capacity, decode_step, ..."),
    ("research/data", "lay_out thinned CUTS _lies", "pack, subsampled, PRE_TOKENIZERS, _corrupt"),
    ("research/hub", "lay_out thinned CUTS _lies", "pack, subsampled, PRE_TOKENIZERS, _corrupt"),
    ("research/evaluate", "bundles", "metric sets"),
    ("research/generate.py", "Language", "TextGenerator"),
)
PARAMETERS = "most least usual"  # of a function: max_..., min_..., median
SIZES = "hidden head"  # whole numbers in the configuration of a model: mlp_dim, head_dim
PHRASES = {
    "the user can mend": "an error the user can fix",
    "mend it": "fix it",
    "mend the": "fix the",
    "grown again": "reproduced bit for bit",
    "## The house": "Project layout",
    "who is who": "rank and size come from the environment",
    "kind or unkind": "sentiment classified correctly",
    "kind and unkind": "positive and negative",
    "told rightly": "accuracy",
    "What it wrote": "Generated samples",
    "not begun": "not started",
    "parted by": "separated by",
    "read anew": "re-encoded",
    "undisturbed": "uninterrupted",
    "lie close": "get similar embeddings",
}
FOLDERS = ("research", "experiments", "tests", "notebooks", "docs")
SUFFIXES = {".py", ".md", ".html", ".js", ".ipynb"}


def parsed(place: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yields the modules of a folder, or of one file, without the table of old names."""
    path = ROOT / place
    for file in [path] if path.suffix else sorted(path.rglob("*.py")):
        if file != RENAMES:
            yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def identifiers(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yields every name, attribute, function, class and parameter of a module, with its line."""
    for node in ast.walk(module):
        for field in ("id", "attr", "name", "arg"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield word, getattr(node, "lineno", 0)


@pytest.mark.parametrize(("place", "words", "terms"), IDENTIFIERS, ids=lambda value: value.replace(" ", ","))
def test_identifiers_are_the_standard_terms(place: str, words: str, terms: str) -> None:
    """No name of the code in a place is one that the glossary replaces there."""
    assert (ROOT / place).exists()
    wrong = [
        f"{file}:{line} {word}"
        for file, module in parsed(place)
        for word, line in identifiers(module)
        if word in words.split()
    ]
    assert not wrong, f"use {terms}"


def test_parameters_say_max_min_and_median() -> None:
    """No function takes `most`, `least` or `usual`."""
    wrong = [
        f"{file}:{node.lineno} {node.arg}"
        for file, module in parsed("research")
        for node in ast.walk(module)
        if isinstance(node, ast.arg) and node.arg in PARAMETERS.split()
    ]
    assert not wrong


def test_sizes_of_models_are_mlp_dim_and_head_dim() -> None:
    """No model's configuration has a whole number `hidden` or `head`; MLP.hidden is several, BERT.head is a kind."""
    wrong = [
        f"{file}:{node.lineno} {node.target.id}"
        for file, module in parsed("research/models")
        for node in ast.walk(module)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if node.target.id in SIZES.split() and ast.unparse(node.annotation) == "int"
    ]
    assert not wrong


def test_texts_say_it_in_the_fields_words() -> None:
    """No code, page, notebook or document has a phrase that the glossary replaces, in whatever case."""
    files = [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*"))]
    checked = [file for file in files if file.suffix in SUFFIXES and file not in (RENAMES, Path(__file__))]
    wrong = [
        f"{file.relative_to(ROOT)}: {phrase!r}, use {term!r}"
        for file in checked
        for phrase, term in PHRASES.items()
        if phrase.lower() in " ".join(file.read_text(encoding="utf-8").lower().split())
    ]
    assert not wrong
