"""The process in which `chat_template.py` runs other people's Jinja: a request in, texts or an error out, both JSON.

It is started by its path and imports nothing of this project, so that little time and memory go into the start. It
offers what transformers offers to templates: `raise_exception`, `strftime_now`, `tojson`, loop controls and
`{% generation %}` blocks.
"""

import datetime
import json
import resource
import sys
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.sandbox
import jinja2.utils


class Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says, which is put between two marks."""

    tags = {"generation"}

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        environment.extend(generation_marks=("", ""), has_generation=False)

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """Parses a block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        self.environment.has_generation = True  # type: ignore[attr-defined]
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        begin, end = self.environment.generation_marks  # type: ignore[attr-defined]
        return f"{begin}{caller()}{end}"


class Namespace(jinja2.utils.Namespace):
    """`namespace()` of templates, without names that Python gives a meaning."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no {name!r}")
        super().__setitem__(name, value)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _main() -> None:
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.generation_marks = request["marks"]  # type: ignore[attr-defined]
    now = datetime.datetime.fromisoformat(request["date"])
    del environment.globals["lipsum"]  # which costs time, and which no template needs
    environment.globals["raise_exception"] = _refuse
    environment.globals["namespace"] = Namespace
    environment.globals["strftime_now"] = lambda form: now.strftime(form)
    environment.filters["tojson"] = _to_json
    try:
        program = environment.from_string(request["template"])
        texts = [program.render(**context) for context in request["contexts"]]
        answer: dict[str, Any] = {"texts": texts, "generation": environment.has_generation}  # type: ignore[attr-defined]
    except Exception as error:  # whatever a template of others runs into
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
