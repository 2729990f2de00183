"""Fills the templates beside this file; what they show is escaped, since samples and data are not ours.

A page carries its style and its script, and a content security policy that lets it load nothing and run nothing else.
"""

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import jinja2

from research.report import numbers

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Returns a filled template, HTML escaped."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=(TEMPLATES / "page.css").read_text(encoding="utf-8"), script=script, script_digest=digest, **values
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """Returns Jinja's environment, which keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=numbers.share, metric=numbers.metric)
    return environment
