"""The process in which `chat_template.py` runs other people's Jinja: a request in, texts or an error out, both JSON.

It is started by its path and imports nothing of this project, so that little time and memory go into the start.
"""

import json
import resource
import sys
from typing import Any

import jinja2
import jinja2.sandbox


def _main() -> None:
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    try:
        program = environment.from_string(request["template"])
        answer: dict[str, Any] = {"texts": [program.render(**context) for context in request["contexts"]]}
    except (jinja2.TemplateError, MemoryError, TypeError, ValueError, OverflowError, RecursionError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
