"""Chat templates: Jinja programs that come with published models and turn a conversation into the text they know.

They are other people's code, so `rendered` runs them in Jinja's sandbox, in a process of its own with little memory and
little time: `chat_sandbox.py`. Texts are those of transformers' `apply_chat_template`.
"""

import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.core.errors import UserError

# ChatML, and within its turns the calls and the tools of Hermes' and Qwen's models.
CHATML = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}{% set call = call.function or call %}"
    '<tool_call>\n{"name": {{ call.name | tojson }}, "arguments": '
    "{{ call.arguments if call.arguments is string else (call.arguments or {}) | tojson }}}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SECONDS = 20  # of processor time, for all that is rendered at once
MEMORY = 2**30  # bytes
CHUNK = 1000  # conversations rendered at once
NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # which Unicode leaves to a program's own use
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of what the assistant thought

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
        text: the text.
        generated: first character and one past the last of what stands in `{% generation %}` blocks; None where the
            template has no such blocks.
    """

    text: str
    generated: tuple[tuple[int, int], ...] | None


def rendered(
    template: str,
    conversations: Sequence[Sequence[Message]],
    special: Mapping[str, str],
    *,
    answering: bool = False,
    tools: Sequence[Tools | None] = (),
    date: str = "",
) -> list[Rendered]:
    """Returns the text of each conversation with its generation blocks.

    Args:
        template: Jinja, which sees `messages`, `tools`, `add_generation_prompt` and special tokens (`bos_token`, ...).
        conversations: messages of a `role` ("system", "user", "assistant", "tool") and a `content`.
        special: special tokens by role ("bos", "eos", ...).
        answering: end where the assistant is to go on.
        tools: what the assistant may call, for each conversation; without them it has none.
        date: the day that `strftime_now` tells, YYYY-MM-DD; today if empty.

    Raises:
        UserError: the template fails, refuses a conversation, or takes too much time or memory.
    """
    tokens = {f"{role}_token": token for role, token in special.items()}
    offered = list(tools) or [None] * len(conversations)
    contexts = [
        {
            **{"messages": [_with_reasoning(each) for each in messages], "tools": own, "documents": None},
            **{"add_generation_prompt": answering, **tokens},
        }
        for messages, own in zip(conversations, offered, strict=True)
    ]
    found: list[Rendered] = []
    for start in range(0, len(contexts), CHUNK):
        found += _in_sandbox(template, contexts[start : start + CHUNK], date or str(datetime.date.today()))
    return found


def unused_marks(texts: Any, count: int) -> tuple[str, ...]:
    """Returns characters that stand nowhere in JSON values; raises UserError where too few are left."""
    used = set(json.dumps(texts, ensure_ascii=False))
    marks = [character for character in NONCHARACTERS if character not in used][:count]
    if len(marks) < count:
        raise UserError("The conversations hold the characters U+FDD0 to U+FDEF, which no text has: take them out.")
    return tuple(marks)


def without_marks(text: str, marks: Sequence[str]) -> tuple[str, list[tuple[str, int]]]:
    """Returns a text without marks, and each mark with the place where it stood in that text."""
    pieces = re.split(f"([{''.join(marks)}])", text)
    places, length = [], 0
    for piece, mark in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        length += len(piece)
        places.append((mark, length))
    return "".join(pieces[::2]), places[:-1]


def _with_reasoning(message: Message) -> Message:
    """Returns the message with what was thought under the names that templates use, as transformers does."""
    thought = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


def _in_sandbox(template: str, contexts: Sequence[Mapping[str, Any]], date: str) -> Iterator[Rendered]:
    marks = unused_marks([template, contexts], 2)
    limits = {"seconds": SECONDS, "memory": MEMORY}
    request = json.dumps({"template": template, "contexts": contexts, "marks": marks, "date": date, **limits})
    command = [sys.executable, "-I", str(Path(__file__).with_name("chat_sandbox.py"))]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=2 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0:
        raise UserError(
            f"The chat template takes more than {SECONDS} s or {MEMORY:,} bytes and was stopped: use another one."
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise UserError(f"The chat template failed ({done.stderr.strip()[-200:]}): use another one.") from None
    if "error" in answer:
        raise UserError(f"The chat template cannot render a conversation: {answer['error']}.")
    for marked in answer["texts"]:
        text, places = without_marks(marked, marks)
        begins, ends = ([at for mark, at in places if mark == which] for which in marks)
        if len(begins) != len(ends):
            raise UserError("The chat template cuts its generation blocks into pieces: use another one.")
        yield Rendered(text, tuple(zip(begins, ends, strict=True)) if answer["generation"] else None)
