"""Promises of what is learned of a conversation: the assistant's words, however a template writes them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering import render

from research.core.errors import UserError
from research.data.text import chat_spans
from research.data.text.chat import ChatData
from research.data.text.chat_spans import find_answers
from research.data.text.chat_template import CHATML, Rendered, unused_marks, without_marks
from research.data.text.tokenizers import TokenizerConfig

# As Qwen 3: of turns before the last question, what was thought is left out.
QWEN = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% set parts = (m.content or '').split('</think>') %}{% if loop.index0 > ns.last %}<think>\n"
    "{{ parts[0].replace('<think>', '').strip('\n') if parts | length > 1 }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip('\n') }}{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}"
    "</tool_call>{% endfor %}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BLOCKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}|{% endgeneration %}"
    "{% else %}{{ m.role }}:{{ m.content }}|{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
PARTS = "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{{ part.text }}{% endfor %}\n{% endfor %}"


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def learned(template, messages, **options):
    """What is learned of one conversation."""
    (answers,) = find_answers(template, [messages], {}, **options)
    return [answers.text[begin:end] for begin, end in answers.spans]


def test_answers_are_learned_where_earlier_turns_lose_what_was_thought():
    """As the model writes them now, and the last one with its thought; equal words of the user are not learned."""
    messages = [
        user("hi"),
        assistant("<think>\nplan\n\nmore\n</think>\n\nhi\nyou"),
        user("hi\nyou"),
        assistant("<think>a</think>", tool_calls=[{"function": {"name": "w", "arguments": {"x": "é<b>"}}}]),
        {"role": "tool", "content": "rain"},
        assistant("<think>b</think>ok\n"),
        user("?"),
        assistant("<think>\nc\n</think>\n\n fin"),
    ]
    assert learned(QWEN, messages) == [
        "hi\nyou<|im_end|>\n",
        '<tool_call>{"name": "w", "arguments": {"x": "é<b>"}}</tool_call><|im_end|>\n',
        "ok\n<|im_end|>\n",
        "<think>\nc\n</think>\n\n fin<|im_end|>\n",
    ]


WORDS = st.text(st.sampled_from("ab \n<|>"), max_size=6)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_an_answer_is_found_whatever_stands_in_it(turns):
    """Of any texts: the answers as the template writes them, each with the mark that ends it, in their order."""
    messages, expected, text = [], [], ""
    for number, (question, thought, answer) in enumerate(turns):
        shown = f"<think>{thought.strip()}</think>" * (number == len(turns) - 1) + answer.strip()
        messages += [user(question), {**assistant(answer), "thought": thought}]
        text += f"[U]{question}[A]"
        expected += [(len(text), len(text) + len(shown) + 3)] if answer.strip() else []
        text += f"{shown}[E]"
        if not answer.strip() and number == len(turns) - 1:
            expected.append((len(text) - len(shown) - 3, len(text)))

    def write(template, conversations, special, *, answering=False, tools=(), date=""):
        found = []
        for each in conversations:
            last = max((place for place, message in enumerate(each) if message["role"] == "user"), default=-1)
            parts = []
            for place, message in enumerate(each):
                shown = f"<think>{message['thought'].strip()}</think>" if place > last and "thought" in message else ""
                parts.append(
                    f"[U]{message['content']}"
                    if message["role"] == "user"
                    else f"[A]{shown}{message['content'].strip()}[E]"
                )
            found.append(Rendered("".join(parts) + "[A]" * answering, None))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_spans, "rendered", write)
        (answers,) = find_answers("", [messages], {})
    assert answers.text == text
    assert [span for span in answers.spans if span[1] > span[0]] == expected


def test_generation_blocks_say_what_is_learned():
    """As transformers' assistant mask; an answer of weight 0 stays out; a template with none in them is refused."""
    messages = [user("a"), assistant("one", weight=0), user("b"), assistant("two"), user("c"), assistant("three")]
    assert learned(BLOCKS, messages) == ["two|", "three|"]
    assert render(BLOCKS, [messages], {}) == ["user:a|A:one|user:b|A:two|user:c|A:three|"]
    with pytest.raises(UserError, match="none holds an answer"):
        learned("{% generation %}{% endgeneration %}{{ messages }}", messages)


def test_tokens_with_a_part_in_a_generation_block_are_learned():
    """As transformers counts them: a token may reach over the end of a block."""
    tokenizer = TokenizerConfig("bpe", vocabulary_size=300).train(["A:yes|user:"] * 9)
    (part,) = ChatData(template=BLOCKS)._tokens(tokenizer, [[user("a"), assistant("yes"), user("b"), assistant("yes")]])
    assert "|user" in [tokenizer.decode([token]) for token in part["targets"][part["weights"] > 0]] or "yes|" in (
        tokenizer.decode(part["targets"][part["weights"] > 0])
    )


def test_an_answer_of_weight_0_is_read_but_not_learned(tmp_path):
    """It stays in the conversation as context, and one without any answer to learn is refused."""
    wrong = [user("a"), assistant("wrong", weight=0), user("b"), assistant("right", weight=1), assistant("x", weight=0)]
    (tmp_path / "chats.jsonl").write_text(
        "".join(json.dumps({"messages": [*wrong, user(str(n))], "n": n}) + "\n" for n in range(30))
    )
    tokenizer = TokenizerConfig("bpe", vocabulary_size=300)
    chats = ChatData(train=(str(tmp_path / "chats.jsonl"),), group=("n",), tokenizer=tokenizer, length=256)
    example = (data := chats.build()).splits["train"][0]
    first = example["segments"] == 1
    assert data.tokenizer.decode(example["targets"][first & (example["mask"] > 0)]) == "right<|im_end|>\n"
    shown = data.tokenizer.decode(example["inputs"][first])
    assert "wrong" in shown and "x<" not in shown


def test_tools_and_their_calls_are_written_and_learned():
    """By ChatML in the form of Hermes and Qwen, where a call has no text of its own."""
    call = {"type": "function", "function": {"name": "rain", "arguments": '{"where": "é"}'}}
    messages = [user("?"), assistant(None, tool_calls=[call]), {"role": "tool", "content": "1"}, assistant("Yes.")]
    tools = [{"type": "function", "function": {"name": "rain"}}]
    assert learned(CHATML, messages, tools=[tools]) == [
        '<tool_call>\n{"name": "rain", "arguments": {"where": "é"}}\n</tool_call><|im_end|>\n',
        "Yes.<|im_end|>\n",
    ]
    (text,) = render(CHATML, [messages], {}, tools=[tools])
    assert text.startswith('<|im_start|>system\n{"type": "function", "function": {"name": "rain"}}\n<|im_end|>\n')


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>\n"), (PARTS, "")])
def test_parts_of_text_are_read(template, end):
    """By a template that reads them, or put together for one that does not."""
    parts = [{"type": "text", "text": "Yes"}, {"type": "text", "text": ", gladly."}]
    (text,) = learned(template, [user([{"type": "text", "text": "Hi"}]), assistant(parts)])
    assert text.endswith(f"Yes, gladly.{end}") and "type" not in text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out what the assistant says"),
        ("{{ strftime_now('%Y') }}", "leaves out what the assistant says"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "leaves out that the assistant calls the tool 'rain'"),
        ("{% for m in messages | reverse %}{{ m.content }}{{ m.tool_calls }}{% endfor %}", "changes earlier turns"),
    ],
)
def test_a_template_that_does_not_write_the_answers_is_refused(template, message):
    """Else nothing, or only a mark, would be learned without a word."""
    call = {"function": {"name": "rain", "arguments": {}}}
    with pytest.raises(UserError, match=message):
        learned(template, [user("?"), assistant("It rains."), user("!"), assistant("So.", tool_calls=[call])])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [user("a"), assistant("b", weight=0)]}, "no turn of the assistant with a weight above 0"),
        ({"messages": [user("a"), assistant("b", weight=2)]}, "weight of a message is 2"),
        ({"messages": [user([{"type": "image", "url": "x"}]), assistant("b")]}, "only parts of text are read"),
        ({"messages": [user("a"), assistant(None)]}, "are no messages"),
        ({"messages": [user("a"), assistant(None, tool_calls="rain")]}, "no list of calls"),
        ({"messages": [user("a"), assistant("b")], "tools": {"rain": 1}}, "no list of JSON schemas"),
    ],
)
def test_messages_that_are_none_are_refused(tmp_path, record, message):
    """In one sentence that shows them."""
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({**record, "n": n}) + "\n" for n in range(20)))
    with pytest.raises(UserError, match=message):
        ChatData(train=(str(tmp_path / "chats.jsonl"),), group=("n",)).build()


def test_what_transformers_offers_to_templates_is_there():
    """The date, JSON as it is, and the loop controls; the date of data is fixed."""
    template = (
        "{{ strftime_now('%d %b %Y') }} {{ {'b': 'é<', 'a': 1} | tojson }}{% for i in [1, 2] %}{% break %}{% endfor %}"
    )
    assert render(template, [[]], {}, date="2024-07-26") == ['26 Jul 2024 {"b": "é<", "a": 1}']
    assert ChatData().date == "2024-07-26"


@given(st.text(st.sampled_from("ab\ufdd0\ufdd1\n"), max_size=20))
def test_marks_leave_a_text_as_it_was(text):
    """They are characters that it has not."""
    marks = unused_marks([text], 2)
    assert not set(marks) & set(text)
    assert without_marks(marks[0] + text + marks[1], marks) == (text, [(marks[0], 0), (marks[1], len(text))])
