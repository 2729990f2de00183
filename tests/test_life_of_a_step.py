"""The page "The life of a step" is true: each function it links to exists, and is called where the page says so."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).parents[1] / "docs"
LINK = re.compile(r"\[`([\w.]+)`\]\((\S+\.py)\)")
NAMED = (ast.FunctionDef, ast.ClassDef)


class Link(NamedTuple):
    name: str
    file: str


def page() -> str:
    return (DOCS / "life-of-a-step.md").read_text(encoding="utf-8")


def calls(text: str) -> list[tuple[Link, Link]]:
    """Returns (caller, callee) of each list item that is indented under another, by the link each begins with."""
    pairs, above = [], list[Link]()
    for spaces, item in re.findall(r"^( *)- (.*)", text, re.MULTILINE):
        match = LINK.match(item)
        assert match, f"the item begins with no link: {item}"
        depth, link = len(spaces) // 2, Link(*match.groups())
        above = [*above[:depth], link]
        assert len(above) == depth + 1, f"{link.name} is indented too far"
        pairs += [(above[-2], link)] if depth else []
    return pairs


@functools.cache
def module(file: str) -> ast.Module:
    return ast.parse((DOCS / file).read_text(encoding="utf-8"))


def definition(link: Link) -> ast.AST | None:
    """Returns the function, class, method, nested function or field that a link names; None where there is none."""
    node: ast.AST | None = module(link.file)
    for part in link.name.split("."):
        named = {found.name: found for found in getattr(node, "body", ()) if isinstance(found, NAMED)}
        fields = [found for found in getattr(node, "body", ()) if isinstance(found, ast.AnnAssign)]
        named |= {found.target.id: found for found in fields if isinstance(found.target, ast.Name)}
        node = named.get(part)
    return node


def identifiers(node: ast.AST) -> set[str]:
    """Returns the names and attributes that the body of a definition reads."""
    names = {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}
    return names | {found.attr for found in ast.walk(node) if isinstance(found, ast.Attribute)}


LINKS = [Link(*found) for found in LINK.findall(page())]
CALLS = calls(page())


@pytest.mark.parametrize("link", sorted(set(LINKS)), ids=lambda link: link.name)
def test_each_link_leads_to_what_it_names(link: Link) -> None:
    """The file exists and defines it; a renamed or moved function fails here."""
    assert definition(link) is not None, f"{link.file} defines no {link.name}"


@pytest.mark.parametrize(("caller", "callee"), CALLS, ids=lambda link: link.name)
def test_each_function_is_called_by_the_one_above_it(caller: Link, callee: Link) -> None:
    """The caller's code names the callee; Linen calls `__call__`, and code on the page names the module."""
    owner, _, name = callee.name.rpartition(".")
    if name == "__call__":
        assert any(owner in identifiers(definition(link)) for link in LINKS if link.name != callee.name)
    else:
        assert name in identifiers(definition(caller)), f"{caller.name} does not call {name}"


def test_the_page_covers_the_whole_way() -> None:
    """Command, data, functions, batch, gradient, update, log, evaluation, checkpoint and report are on the page."""
    way = "launch parse train assemble fit make_batch step loss update flush_pending due _evaluate save write_report"
    assert set(way.split()) <= {link.name.rpartition(".")[2] for link in LINKS}


def test_the_state_has_the_fields_of_the_table() -> None:
    """Every field of `State` has a row in the table, and no row is about another."""
    state = definition(Link("State", "../research/train/state.py"))
    fields = [found.target.id for found in state.body if isinstance(found, ast.AnnAssign)]
    assert re.findall(r"^\| `(\w+)` \|", page(), re.MULTILINE) == fields
