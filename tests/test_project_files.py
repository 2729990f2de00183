"""The project's own documents are true: versions agree, commands exist, links resolve, both lines of JAX are sound."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from tiny_run import ROOT

from research.launch.results import HEADER

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.11", "3.12", "3.13")
FAULTY_JAX = {"0.10.2", "0.11.0"}  # wrong numbers on CPU
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")])
SCRIPTS = [ROOT / ".ci/run", ROOT / ".github/workflows/ci.yml"]
MAKE = re.compile(r"\bmake((?: [A-Z]+=\S+)*(?: [a-z][a-z-]*)+)")


def read(path: str) -> str:
    """Returns the text of a file of the project."""
    return (ROOT / path).read_text(encoding="utf-8")


def make_targets() -> set[str]:
    """Returns the targets that the Makefile declares."""
    return set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))


def made(text: str) -> set[str]:
    """Returns the targets that a text gives to make."""
    return {word for match in MAKE.finditer(text) for word in match[1].split() if "=" not in word}


def code(markdown: str) -> str:
    """Returns the code of a Markdown text, spans and blocks, one a line."""
    return "\n".join("".join(found) for found in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", markdown, re.DOTALL))


def links(markdown: str) -> list[str]:
    """Returns where the links and pictures of a Markdown text lead, those in code left out."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "code", markdown, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"^\[[^\]]+\]: (\S+)", prose, re.MULTILINE)


def anchors(markdown: str) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a Markdown text."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def constrained(python: str) -> dict[str, str]:
    """Returns {package: version} of constraints.txt for a version of Python."""
    lines = [Requirement(line) for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    taken = [(line.name, line.specifier) for line in lines if not line.marker or line.marker.evaluate(environment)]
    assert len(dict(taken)) == len(taken), "a package has two versions at once"
    return {name: str(specifier).removeprefix("==") for name, specifier in taken}


def test_the_citation_agrees_with_the_package() -> None:
    """CITATION.cff has what CFF 1.2.0 requires, and the version, licence and address of pyproject.toml."""
    citation: dict[str, Any] = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"] and citation["title"] and all(author["name"] for author in citation["authors"])
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Homepage"]


def test_the_changelog_has_what_is_unreleased_and_this_version() -> None:
    """`Unreleased` first, then dated versions, the newest that of the package; kinds are those of Keep a Changelog."""
    text = read("CHANGELOG.md")
    first, *released = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in released)
    assert released[0].startswith(f"[{PROJECT['project']['version']}]")
    assert released[0].endswith(str(yaml.safe_load(read("CITATION.cff"))["date-released"]))
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("path", [*DOCUMENTS, *SCRIPTS], ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    """Every `make TARGET` in the code of a document or in a workflow is a target of the Makefile."""
    text = path.read_text(encoding="utf-8")
    commands = code(text) if path.suffix == ".md" else re.sub("^ *#.*", "", text, flags=re.MULTILINE)
    assert made(commands) <= make_targets()


def test_contributing_explains_every_target() -> None:
    """CONTRIBUTING.md explains each target of the Makefile but `clean`."""
    assert made(code(read("CONTRIBUTING.md"))) == make_targets() - {"clean"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    """Links to files of the project exist, and so do the headings that they name."""
    text = path.read_text(encoding="utf-8")
    for link in links(text):
        target, _, anchor = link.partition("#")
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), link
            if anchor:
                assert anchor in anchors((path.parent / target).read_text(encoding="utf-8") if target else text), link


@pytest.mark.parametrize("python", PYTHONS)
def test_both_lines_of_jax_are_sound(python: str) -> None:
    """Each Python has one jax with its own jaxlib, none that is wrong on CPU, and one that pyproject.toml allows."""
    versions = constrained(python)
    assert versions["jax"] == versions["jaxlib"]
    assert versions["jax"] not in FAULTY_JAX
    (jax,) = [need for need in map(Requirement, PROJECT["project"]["dependencies"]) if need.name == "jax"]
    assert versions["jax"] in jax.specifier
    assert not [version for version in FAULTY_JAX if version in jax.specifier]


def test_the_results_name_the_line_that_gave_them() -> None:
    """RESULTS.md opens with the text that `make results` writes, which names Python 3.11 and the jax of its line."""
    assert read("experiments/RESULTS.md").startswith(HEADER)
    line = f"Python 3.11 and its versions in `constraints.txt` (jax {constrained('3.11')['jax']})"
    assert line in " ".join(HEADER.split())


def test_every_python_that_is_promised_is_tested() -> None:
    """The workflow tests the versions of Python that the classifiers name, from the oldest that is required on."""
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    prefix = "Programming Language :: Python :: 3."
    promised = [name.removeprefix(prefix) for name in PROJECT["project"]["classifiers"] if name.startswith(prefix)]
    assert tuple(jobs["test"]["strategy"]["matrix"]["python"]) == PYTHONS == tuple(f"3.{minor}" for minor in promised)
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"


def test_the_hooks_check_what_make_checks() -> None:
    """pre-commit runs each tool of `make lint` and `make types`, from the same environment."""
    rules = re.search(r"^lint:.*?(?=^results:)", read("Makefile"), re.MULTILINE | re.DOTALL)
    assert rules
    tools = set(re.findall(r"\$\(BIN\)/(ruff \w+|\S+)", rules[0]))
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert {re.sub(r"^\.venv/bin/(ruff \w+|\S+).*", r"\1", hook["entry"]) for hook in hooks} == tools


def test_the_types_ship_with_the_package() -> None:
    """`py.typed` (PEP 561) is there, and is among the files that a wheel carries."""
    assert (ROOT / "research/py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["research"]
