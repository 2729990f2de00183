"""Promises of conversations: only the assistant's turns are learned; strangers' templates can do no harm."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from rendering import render

from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.data.text import chat_template
from research.data.text.chat import ChatData
from research.data.text.chat_template import CHATML
from research.data.text.table_chats import preferred
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.language import LanguageEvaluator
from research.tasks.task import Task

TOKENIZER = TokenizerConfig("bpe", vocabulary_size=300)


def conversation(number):
    return [
        {"role": "system", "content": "You count."},
        {"role": "user", "content": f"What follows {number}?"},
        {"role": "assistant", "content": f"{number + 1} follows."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": f"Then {number + 2}."},
        {"role": "user", "content": "Thanks."},
    ]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return (str(path),)


@pytest.fixture
def chats(tmp_path):
    return write(tmp_path / "chats.jsonl", [{"messages": conversation(number)} for number in range(30)])


def test_what_is_learned_is_the_assistants_turns_with_their_ends(chats) -> None:
    """The targets under the mask, decoded, are the answers and the marks that end them, and nothing else."""
    data = ChatData(train=chats, tokenizer=TOKENIZER, length=256).build()
    example = data.splits["train"][0]
    first = example["segments"] == 1
    learned = data.tokenizer.decode(example["targets"][first & (example["mask"] > 0)])
    number = int(learned.split(" ")[0]) - 1
    assert learned == f"{number + 1} follows.<|im_end|>\nThen {number + 2}.<|im_end|>\n"
    full = data.tokenizer.decode(example["inputs"][first])
    assert full.startswith("<|im_start|>system\nYou count.<|im_end|>\n") and "Thanks" not in full


def test_answers_are_evaluated_beside_the_frequencies_of_their_tokens(chats) -> None:
    """Loss and perplexity of the masked targets; no bits per character, since its tokens' lengths are unknown."""
    data = ChatData(train=chats, tokenizer=TOKENIZER, length=256).build()

    def predict(
        params, batch, context
    ):  # which XLA cannot work out while it compiles: with constants, that took a minute
        return {"logits": jnp.broadcast_to(params["logits"], (*batch["targets"].shape, data.outputs))}

    evaluation = LanguageEvaluator().build(Task(None, None, predict), data, MeshConfig(data=1).build(), seed=0)
    found, table = evaluation.measure({"logits": np.zeros(data.outputs, np.float32)}), evaluation.baselines()
    assert found["loss"] == pytest.approx(np.log(data.outputs), rel=1e-5)
    assert set(found) == {"loss", "perplexity", "accuracy"}
    train, asked = (rows.arrays["targets"][rows.arrays["mask"] > 0] for rows in data.splits.values())
    share = (np.bincount(train, minlength=data.outputs))[asked] / train.size
    assert set(table) == {"1-gram"}
    assert table["1-gram"]["loss"] == pytest.approx(-np.log(share).mean(), abs=0.5)  # without smoothing
    assert table["1-gram"]["loss"] < found["loss"]


def test_preferences_stand_beside_each_other(tmp_path) -> None:
    """The chosen and the rejected answer of a prompt are segments 2 k + 1 and 2 k + 2 of a row."""
    records = [{"prompt": f"Say {n}.", "chosen": f"{n}, gladly.", "rejected": "No."} for n in range(20)]
    data = ChatData(
        train=write(tmp_path / "p.jsonl", records), preferences=True, tokenizer=TOKENIZER, length=128
    ).build()
    for row in range(len(data.splits["train"])):
        example = data.splits["train"][row]
        for pair in range(int(example["mask"].sum())):
            texts = []
            for segment in (2 * pair + 1, 2 * pair + 2):
                own = (example["segments"] == segment) & (example["weights"] > 0)
                texts.append(data.tokenizer.decode(example["targets"][own]))
            assert "gladly" in texts[0] and texts[1].startswith("No.")


def test_a_table_becomes_conversations_by_templates(tmp_path) -> None:
    """Each row is a question and its answer; rows of one group stand in one split."""
    rows = "".join(f"{n},{n // 4},uno {n}\n" for n in range(80))
    (tmp_path / "table.csv").write_text("en,book,es\n" + rows, encoding="utf-8")
    table = ChatData(train=(str(tmp_path / "table.csv"),), question="Translate: {en}", answer="{es}", group=("book",))
    data = dataclasses.replace(table, tokenizer=TOKENIZER, length=64).build()
    books = []
    for split in data.splits.values():
        shown = [data.tokenizer.decode(split[row]["inputs"]) for row in range(len(split))]
        numbers = re.findall(r"user\nTranslate: (\d+)<\|im_end\|>\n<\|im_start\|>assistant\nuno \1<", "".join(shown))
        books.append({int(number) // 4 for number in numbers})
    assert books[0] | books[1] == set(range(20)) and not books[0] & books[1]


def test_better_answers_to_a_question_are_preferred() -> None:
    """The best of the better half over the best of the worse half, and so on, where the scores differ enough."""
    scores = {"a": 3.0, "b": 2.0, "c": 1.5, "d": 1.5, "e": -1.0, "f": -2.0, "alone": 0.0}
    records = [{"to": "it", "text": text, "score": score} for text, score in scores.items() if text != "alone"]
    records.append({"to": "another", "text": "alone", "score": 0.0})
    pairs = preferred(records, "Reply to {to}.", "{text}", "score", margin=3.0)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("b", "e"), ("c", "f")]
    assert {pair["prompt"] for pair in pairs} == {"Reply to it."}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "{other}"}, "--data.question '{other}' cannot be filled .*there are to, text"),
        ({"score": "text"}, "scores of answers are no numbers .'text' is 'a'"),
        ({"margin": 9.0}, "No two answers to one question differ by 9"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(options, message) -> None:
    """In one sentence that names the option."""
    records = [{"to": "it", "text": text, "score": score} for text, score in {"a": 3.0, "b": 1.0}.items()]
    given = {"question": "{to}", "answer": "{text}", "score": "score", "margin": 0.0, **options}
    with pytest.raises(UserError, match=message):
        preferred(records, **given)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [{"role": "user", "content": "Hello?"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "robot", "content": "Hello."}]}, "are no messages"),
        ({"text": "Hello."}, "has no 'messages'"),
        ({"prompt": "Hi", "chosen": 5, "rejected": "No."}, r"chosen are no messages \(5\)"),
        ({"messages": 5, "chosen": "Yes.", "rejected": "No."}, r"messages, or the prompt, are no messages \(5\)"),
        ({"chosen": "Yes.", "rejected": "No."}, r"messages, or the prompt, are no messages .*None"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path, record, message) -> None:
    """In one sentence that shows it."""
    path = write(tmp_path / "chats.jsonl", [{**record, "number": n} for n in range(40)])
    with pytest.raises(UserError, match=message):
        ChatData(train=path, preferences="chosen" in record, validation_fraction=0.0).build()


def test_chatml_renders_as_its_models_expect() -> None:
    """The form of OpenAI's ChatML, as Qwen's models write it."""
    messages = [{"role": "user", "content": "Hi"}]
    assert render(CHATML, [messages], {}, answering=True) == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "s or .* bytes"),
        ("{{ 'a' * 99999999999 }}", "MemoryError|bytes"),
        ("{{ raise_exception('only two turns') }}", "only two turns"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_a_template_that_misbehaves_is_stopped(monkeypatch, template, message) -> None:
    """Reaching for Python, changing its inputs, taking time or memory: one sentence, and nothing happens."""
    monkeypatch.setattr(chat_template, "SECONDS", 2)
    with pytest.raises(UserError, match=message):
        render(template, [[{"role": "user", "content": "Hi"}]], {})


def test_a_template_that_rewrites_earlier_turns_is_refused(chats) -> None:
    """Where an answer's place cannot be told, it is not guessed."""
    template = "{{ messages | length }}: {% for m in messages %}{{ m.content }} ({{ m.content }}) {% endfor %}"
    with pytest.raises(UserError, match="changes earlier turns"):
        ChatData(train=chats, template=template, tokenizer=TOKENIZER).build()


def test_long_conversations_lose_their_ends(chats) -> None:
    """A row holds no more than its length, and every kept target is the next input."""
    example = ChatData(train=chats, tokenizer=TOKENIZER, length=96).build().splits["train"][0]
    assert example["inputs"].shape == (96,)
    np.testing.assert_array_equal(example["targets"][:-1], example["inputs"][1:])
