"""The model card of a run, `MODEL_CARD.md`: Hugging Face's front matter, then what a stranger must know.

The sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019), as far as a record can fill them.
"""

import json
import re
from pathlib import Path

from research.core.terminal import printable
from research.report import record_tables, result_tables
from research.report.page import render
from research.runs.directory import read_metrics, read_record

MARKUP = re.compile(r"[\\`\[\]|]")  # what makes code, links and cells of Markdown
TASKS = {
    "language modelling": ("text-generation", "continue text, one token at a time"),
    "classification": ("", "choose one of the classes for an example"),
    "binary classification": ("", "say yes or no for an example"),
    "regression": ("", "predict numbers from an example"),
}


def model_card(run: Path) -> str:
    """Returns the card as Markdown; raises UserError where the record cannot be read."""
    record, entries = read_record(run), read_metrics(run)
    found, step = result_tables.results_of(record, entries)
    tag, ability = TASKS.get(record_tables.task_of(record), ("", "do what its training data show"))
    tables = [
        (
            split,
            ["this run", *record.get("baselines", {}).get(split, {})],
            result_tables.rows([values, *record.get("baselines", {}).get(split, {}).values()]),
        )
        for split, values in found.items()
    ]
    return render(
        "model_card.md",
        record=record,
        run=record_tables.place(run),
        sentence=record_tables.sentence(record),
        notice=record_tables.state(record, entries)[1],
        step=step,
        tag=tag,
        ability=ability,
        data=record.get("data", {}),
        data_name=record_tables.data_name(record),
        splits=record_tables.split_table(record),
        tables=tables,
        found={split: result_tables.scalars(values) for split, values in found.items()},
        units={split: result_tables.loss_unit(record, values).removeprefix(", ") for split, values in found.items()},
        headline_rows=record_tables.headline_rows(record),
        environment=record_tables.environment_rows(record),
        quote=quote,
        cell=cell,
        code=code,
        block=block,
        line=line,
    )


def quote(value: object) -> str:
    """Returns a value as YAML, for which JSON will do."""
    return json.dumps(value, ensure_ascii=False)


def cell(value: object) -> str:
    """Returns text that stays in its line and in its cell of a Markdown table, and is no HTML, link or other markup."""
    return MARKUP.sub(r"\\\g<0>", line(value))


def code(value: object) -> str:
    """Returns text as code that stays in its line, whatever backquotes it has."""
    text = line(value)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"


def line(value: object) -> str:
    """Returns text that stays in its line, without HTML, which some readers of Markdown take for such in code too."""
    return _no_html(" ".join(printable(value).split()))


def block(value: object) -> str:
    """Returns paragraphs of Markdown, such as a data set's own description, without HTML."""
    return _no_html(printable(value))


def _no_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
