"""Chat templates: Jinja programs that come with published models and turn a conversation into the text they know.

They are other people's code, so `render` runs them in Jinja's sandbox, in a process of its own with little memory and
little time: `chat_sandbox.py`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.core.errors import UserError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SECONDS = 20  # of processor time, for all that is rendered at once
MEMORY = 2**30  # bytes
CHUNK = 1000  # conversations rendered at once

Message = Mapping[str, str]


def render(
    template: str, conversations: Sequence[Sequence[Message]], special: Mapping[str, str], *, answering: bool = False
) -> list[str]:
    """Returns the text of each conversation.

    Args:
        template: Jinja, which sees `messages`, `add_generation_prompt` and the special tokens (`bos_token`, ...).
        conversations: messages of a `role` ("system", "user", "assistant") and a `content`.
        special: special tokens by role ("bos", "eos", ...).
        answering: end where the assistant is to go on.

    Raises:
        UserError: the template fails, refuses a conversation, or takes too much time or memory.
    """
    tokens = {f"{role}_token": token for role, token in special.items()}
    texts: list[str] = []
    for start in range(0, len(conversations), CHUNK):
        contexts = [
            {"messages": messages, "add_generation_prompt": answering, **tokens}
            for messages in conversations[start : start + CHUNK]
        ]
        texts += _in_sandbox(template, contexts)
    return texts


def _in_sandbox(template: str, contexts: Sequence[Mapping[str, Any]]) -> list[str]:
    request = json.dumps({"template": template, "contexts": contexts, "seconds": SECONDS, "memory": MEMORY})
    command = [sys.executable, "-I", str(Path(__file__).with_name("chat_sandbox.py"))]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=3 * SECONDS, check=False)
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
    return answer["texts"]
