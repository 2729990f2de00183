"""Messages of conversations, checked: roles, texts and parts of texts, calls of tools, and which of them are learned.

`ChatData` reads them from JSON lines in the form of OpenAI and of Hugging Face, and `chat_spans.py` finds what the
assistant says in them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from research.core.errors import UserError
from research.data.text.chat_template import Message, Tools

ASSISTANT = "assistant"
ROLES = ("system", "user", ASSISTANT, "developer", "tool")


class Chat(NamedTuple):
    """A conversation: its messages, the last of which is learned, and what the assistant may call."""

    messages: Sequence[Message]
    tools: Tools | None = None


def checked_chat(value: Any, tools: Any, name: str) -> Chat:
    """Returns a conversation that ends with the last answer to be learned, since nothing after it is.

    Args:
        value: messages, {"role": ..., "content": ...}. A content is a text or a list of texts in parts, {"type":
            "text", "text": ...}; of an assistant that calls tools it may be null. With "weight": 0 an answer is read
            but not learned.
        tools: what the assistant may call: JSON schemas, or None.
        name: what a message to the user calls the messages.

    Raises:
        UserError: they are no messages, or nothing is to be learned.
    """
    check_messages(value, name)
    if not (tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools))):
        raise UserError(f"The tools of a conversation are no list of JSON schemas ({str(tools)[:80]}): fix them.")
    last = max((place for place, each in enumerate(value) if is_learned(each)), default=-1)
    if last < 0:
        raise UserError(
            f"A conversation has no turn of the assistant with a weight above 0 ({str(value)[:80]}): nothing is to be "
            "learned."
        )
    return Chat(value[: last + 1], tools or None)


def check_messages(value: Any, name: str) -> None:
    """Raises UserError where these are no messages, as `checked_chat` says."""
    if not (isinstance(value, list) and all(isinstance(each, dict) and each.get("role") in ROLES for each in value)):
        raise UserError(
            f"{name} are no messages ({str(value)[:80]}): each has a role, {', '.join(ROLES)}, and a text as content."
        )
    for each in value:
        content, calls = each.get("content"), each.get("tool_calls")
        if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
            raise UserError(f"The tool_calls of a message are no list of calls ({str(calls)[:80]}): fix them.")
        if isinstance(content, list):
            _check_parts(content)
        elif not (isinstance(content, str) or (content is None and each["role"] == ASSISTANT and calls)):
            raise UserError(
                f"{name} are no messages ({str(each)[:80]}): each has a role, {', '.join(ROLES)}, and a text as "
                "content."
            )
        if each["role"] == ASSISTANT and each.get("weight") not in (None, 0, 1):
            raise UserError(f"The weight of a message is {each['weight']!r}: give 1, or 0 for what is not learned.")


def _check_parts(parts: Sequence[Any]) -> None:
    for part in parts:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise UserError(
                f"A part of a message's content is {str(part)[:80]}: only parts of text are read here, "
                '{"type": "text", "text": "..."}.'
            )


def is_learned(message: Message) -> bool:
    """Whether the message is an answer that is to be learned."""
    return message["role"] == ASSISTANT and message.get("weight") != 0


def with_texts(message: Message, change: Callable[[str], str]) -> Message:
    """Returns the message with `change` of its text, or of every part of it."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": change(content)}
    if isinstance(content, list):
        return {**message, "content": [{**part, "text": change(part["text"])} for part in content]}
    return message


def text_of(message: Message) -> str:
    """Returns the text of a message, that of its parts put together."""
    content = message.get("content")
    return "".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def joined(message: Message) -> Message:
    """Returns the message with one text in place of parts."""
    return {**message, "content": text_of(message)} if isinstance(message.get("content"), list) else message


def called_names(message: Message) -> list[str]:
    """Returns the names of the tools that a message calls."""
    functions = [call.get("function") or call for call in message.get("tool_calls") or []]
    return [each["name"] for each in functions if isinstance(each, Mapping) and isinstance(each.get("name"), str)]


def training_texts(chat: Chat) -> list[str]:
    """Returns what a tokenizer is trained on."""
    calls = [json.dumps(each["tool_calls"], ensure_ascii=False) for each in chat.messages if each.get("tool_calls")]
    tools = [json.dumps(tool, ensure_ascii=False) for tool in chat.tools or ()]
    return [*(text_of(each) for each in chat.messages), *calls, *tools]
