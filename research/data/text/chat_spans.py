"""Which characters of a rendered conversation the assistant says, and are learned.

By the template's own `{% generation %}` blocks where it has them, as transformers' assistant mask. Else by rendering a
conversation up to each answer: what the text of the answer adds to the text that asks for it is learned, with the mark
that ends it. Where a template writes earlier turns otherwise than the last one (Qwen 3 leaves out what was thought),
the answers are found in the whole text by marks in their content; what the template left out is not learned.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from research.core.errors import UserError
from research.data.text.chat_messages import (
    ASSISTANT,
    Chat,
    called_names,
    is_learned,
    joined,
    text_of,
    with_texts,
)
from research.data.text.chat_template import Message, Rendered, Tools, rendered, unused_marks, without_marks

Span = tuple[int, int]
Write = Callable[[Sequence[Chat], bool], list[Rendered]]
PROBE = "What is asked here?"
LINE = re.compile(r"(^|[\n>])(\s*)(?=[^\s<])")
UNKNOWN_PLACE = (
    "The chat template changes earlier turns as a conversation goes on, so that the answers in it cannot be told: give "
    "another one with --data.template."
)


class Answers(NamedTuple):
    """A conversation as text, and what is learned of it.

    Attributes:
        text: the text.
        spans: first character and one past the last of every answer.
        whole_tokens: whether only the tokens that lie within a span are learned, or all that have a part in one.
    """

    text: str
    spans: Sequence[Span]
    whole_tokens: bool


class _Content(NamedTuple):
    """Where the content of an answer stands in a text; no `begin` where a template cut it off."""

    begin: int | None
    end: int


class _Turn(NamedTuple):
    """An answer: the number of its conversation, its place there, and the texts before it and through it."""

    chat: int
    place: int
    before: str
    through: str
    blocks: range
    """numbers of its generation blocks in the conversation's text"""


def find_answers(
    template: str,
    conversations: Sequence[Sequence[Message]],
    special: Mapping[str, str],
    *,
    tools: Sequence[Tools | None] = (),
    date: str = "",
) -> list[Answers]:
    """Returns every conversation as text with what is learned of it.

    Args:
        template, special, tools, date: as `chat_template.rendered` takes them.
        conversations: checked messages, which end with an answer that is learned.

    Raises:
        UserError: the template cannot render them, leaves out an answer, or changes them so that the answers cannot be
            told.
    """
    chats = list(map(Chat, conversations, tools or [None] * len(conversations)))
    if not _writes_parts(template, chats, special, date):
        chats = [chat._replace(messages=list(map(joined, chat.messages))) for chat in chats]

    def write(chats: Sequence[Chat], answering: bool) -> list[Rendered]:
        messages, offered = [chat.messages for chat in chats], [chat.tools for chat in chats]
        return rendered(template, messages, special, answering=answering, tools=offered, date=date)

    texts = write(chats, False)
    if any(each.generated is not None for each in texts):
        return _of_blocks(texts, _turns(write, chats, learned=False))
    turns = _turns(write, chats, learned=True)
    changed = [turn for turn in turns if not _goes_on(turn, texts[turn.chat].text)]
    marked = _marked_spans(write, chats, changed, texts)
    spans: list[list[Span]] = [[] for _ in chats]
    for turn in turns:
        begin, end = marked.get((turn.chat, turn.place), (len(turn.before), len(turn.through)))
        _check_written(chats[turn.chat].messages[turn.place], texts[turn.chat].text[begin:end])
        spans[turn.chat].append((begin, end))
    return [Answers(text.text, own, True) for text, own in zip(texts, spans, strict=True)]


def _turns(write: Write, chats: Sequence[Chat], *, learned: bool) -> list[_Turn]:
    """Returns the answers that are learned, or those that are not."""
    places = [
        (number, place)
        for number, chat in enumerate(chats)
        for place, message in enumerate(chat.messages)
        if message["role"] == ASSISTANT and is_learned(message) == learned
    ]
    before = write([_cut(chats[number], place) for number, place in places], True)
    through = write([_cut(chats[number], place + 1) for number, place in places], False)
    return [
        _Turn(*at, first.text, then.text, range(len(first.generated or ()), len(then.generated or ())))
        for at, first, then in zip(places, before, through, strict=True)
    ]


def _cut(chat: Chat, length: int) -> Chat:
    return chat._replace(messages=chat.messages[:length])


def _goes_on(turn: _Turn, text: str) -> bool:
    """Whether the texts up to an answer are the beginning of the whole text."""
    return turn.through.startswith(turn.before) and text.startswith(turn.through)


def _writes_parts(template: str, chats: Sequence[Chat], special: Mapping[str, str], date: str) -> bool:
    """Whether a template reads a content of parts; one that does not would write it as Python does."""
    if not any(isinstance(message.get("content"), list) for chat in chats for message in chat.messages):
        return True
    message = {"role": "user", "content": [{"type": "text", "text": PROBE}]}
    try:
        (found,) = rendered(template, [[message]], special, answering=True, date=date)
    except UserError:
        return False
    return PROBE in found.text and not re.search("[\"']type[\"']", found.text)


def _of_blocks(texts: Sequence[Rendered], left_out: Sequence[_Turn]) -> list[Answers]:
    """Returns the generation blocks of the texts without those of some answers."""
    blocks = [dict(enumerate(text.generated or ())) for text in texts]
    for turn in left_out:
        for number in turn.blocks:
            blocks[turn.chat].pop(number, None)
    for text, own in zip(texts, blocks, strict=True):
        if not any(end > begin for begin, end in own.values()):
            raise UserError(
                f"The chat template has generation blocks, but none holds an answer of {text.text[:80]!r}: give "
                "another one with --data.template."
            )
    return [Answers(text.text, list(own.values()), False) for text, own in zip(texts, blocks, strict=True)]


def _check_written(message: Message, text: str) -> None:
    """Raises UserError where an answer's text holds none of its words, or not the tools that it calls."""
    called = called_names(message)
    if left_out := [name for name in called if name not in text]:
        raise UserError(
            f"The chat template leaves out that the assistant calls the tool {left_out[0]!r}: give one that writes "
            "tool_calls with --data.template."
        )
    said, written = text_of(message).casefold(), text.casefold()
    words = re.findall(r"\w+", said) or said.split()
    if words and not called and not any(word in written for word in words):
        raise UserError(
            f"The chat template leaves out what the assistant says ({text_of(message)[:80]!r}): give another one with "
            "--data.template."
        )


def _marked_spans(
    write: Write, chats: Sequence[Chat], turns: Sequence[_Turn], texts: Sequence[Rendered]
) -> dict[tuple[int, int], Span]:
    """Returns the spans of answers, by conversation and place, that the template changes as a conversation goes on."""
    marks = unused_marks([chats[turn.chat] for turn in turns], 2)
    marked = {
        turn.chat: chats[turn.chat]._replace(
            messages=[_marked(each, *marks) if _has_place(each) else each for each in chats[turn.chat].messages]
        )
        for turn in turns
    }
    wholes = dict(zip(marked, write(list(marked.values()), False), strict=True))
    throughs = write([_cut(marked[turn.chat], turn.place + 1) for turn in turns], False)
    spans = {}
    for turn, through in zip(turns, throughs, strict=True):
        messages, text = chats[turn.chat].messages, texts[turn.chat].text
        if _has_place(messages[turn.place]):
            until = sum(map(_has_place, messages[: turn.place + 1]))
            here = _contents(wholes[turn.chat].text, text, marks, sum(map(_has_place, messages)))[until - 1]
            alone = _contents(through.text, turn.through, marks, until)[-1]
            spans[turn.chat, turn.place] = _answer(text, turn, here, alone)
        else:  # nothing is there to be learned
            spans[turn.chat, turn.place] = (0, 0)
    return spans


def _answer(text: str, turn: _Turn, here: _Content, alone: _Content) -> Span:
    """Returns an answer's span in a text by the places of its content there and in the text that ends with it.

    It goes from where the text that asks for it ends, and with the mark that ends it, where both are as in that text.
    """
    begin, after = here.begin, turn.through[alone.end :]
    if text.startswith(turn.before):
        begin = len(turn.before)
    elif begin is not None and alone.begin is not None and turn.through.startswith(turn.before):
        lead = turn.through[len(turn.before) : alone.begin]
        begin -= len(lead) * text[:begin].endswith(lead)
    if begin is None:
        raise UserError(UNKNOWN_PLACE)
    return begin, here.end + len(after) * text.startswith(after, here.end)


def _contents(marked: str, text: str, marks: Sequence[str], count: int) -> list[_Content]:
    """Returns the places in a text of the contents that have marks; raises UserError where they are not `count`."""
    found, places = without_marks(marked, marks)
    contents: list[_Content] = []
    begins: list[int] = []
    for mark, at in places:
        if mark == marks[0]:
            begins.append(at)
        else:
            contents.append(_Content(begins[0] if begins else None, at))
            begins = []
    if found != text or len(contents) != count:
        raise UserError(UNKNOWN_PLACE)
    return contents


def _has_place(message: Message) -> bool:
    """Whether a message is to be learned and has something whose place can be found."""
    return is_learned(message) and bool(text_of(message).strip() or called_names(message))


def _marked(message: Message, begin: str, end: str) -> Message:
    """Returns an answer with a mark where each line and each call begins, and one where all ends.

    A line begins after `>` too, where a thought may have ended that a template leaves out. White space at both ends
    stays outside, as templates cut it.
    """
    calls = message.get("tool_calls") or []
    last_part = len(message["content"]) - 1 if isinstance(message.get("content"), list) else 0
    ends = iter([False] * last_part + [not calls])

    def mark(text: str) -> str:
        text = LINE.sub(rf"\1\2{begin}", text)
        body = text.rstrip()
        return body + end * next(ends) + text[len(body) :]

    changed = with_texts(message, mark)
    if not calls:
        return changed
    return {
        **changed,
        "tool_calls": [*(_renamed(call, begin, "") for call in calls[:-1]), _renamed(calls[-1], begin, end)],
    }


def _renamed(call: Any, before: str, after: str) -> Any:
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _renamed(call["function"], before, after)}
    return {**call, "name": f"{before}{call.get('name')}{after}"}
