"""The model card."""

import pytest

from research.report.model_card import model_card
from research.runs.directory import read_record, write_record

yaml = pytest.importorskip("yaml")


def test_the_front_matter_is_yaml_with_the_results(language_run):
    """The part between the dashes is valid YAML and holds data set, metrics and measured values."""
    front = yaml.safe_load(model_card(language_run).split("---\n")[1])
    assert front["datasets"] == ["austen"]
    assert front["pipeline_tag"] == "text-generation"
    (result,) = front["model-index"][0]["results"]
    assert {"type": "loss", "value": 1.3721} in result["metrics"]


def test_the_front_matter_survives_hostile_names(language_run):
    """A name with quotes, colons and line breaks stays one value."""
    record = read_record(language_run)
    record["name"], record["data"]["name"] = 'a: "b" # c', 'a: "b"\n---\nlicense: mit'
    write_record(language_run, record)
    front = yaml.safe_load(model_card(language_run).split("\n---\n")[0].removeprefix("---\n"))
    assert front["model-index"][0]["name"] == record["name"]
    assert front["datasets"] == [record["data"]["name"]]


def test_no_name_or_description_becomes_html_or_leaves_its_place(language_run):
    """Tags of strangers' data, splits, metrics and commands are text; a cell stays a cell, and code stays code."""
    record, tag = read_record(language_run), "<img src=x onerror=alert(1)>"
    record["data"].update(name=tag, description=f"One.\n\n{tag}", source=f"`{tag}`", digest=f"``{tag}``\n# big")
    record["data"]["splits"] = {f"{tag}|": {f"{tag}|": 5}}
    record["metrics"] = {tag: {f"{tag}|": 1.0}}
    record["baselines"] = {tag: {f"[{tag}](x)": {f"{tag}|": 2.0}}}
    record.update(command=f"```\n{tag}", status="failed", error=tag)
    record["environment"]["flags"] = {tag: f"{tag}\n# big"}
    write_record(language_run, record)
    body = model_card(language_run).split("\n---\n", 1)[1]
    assert "<" not in body and "\n# big" not in body
    (heads,) = (line for line in body.splitlines() if line.startswith("| metric |"))
    assert heads.replace("\\|", "").count("|") == 4 and "\\[" in heads


def test_an_unmeasured_run_has_valid_front_matter(tmp_path):
    """Without results the lists are empty, not broken."""
    write_record(tmp_path, {"name": "early", "status": "failed", "command": "python -m x", "config": {}})
    card = model_card(tmp_path)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["metrics"] == [] and front["model-index"][0]["results"] == []
    assert "Nothing was measured." in card and "This run failed" in card


def test_the_card_is_honest(language_run):
    """The card gives source, licence, every baseline, limits of use and how to reproduce."""
    card = model_card(language_run)
    for expected in (
        "Project Gutenberg",
        "Licence: public domain",
        "| loss | 1.3721 | 2.8904 | 2.4011 | 1.9876 |",
        "has not been examined for bias",
        "python -m research.reproduce runs/gpt_austen/20250301-100000-000-ab12",
    ):
        assert expected in " ".join(card.split("\n"))
