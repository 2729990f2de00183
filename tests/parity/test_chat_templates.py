"""Conversations as text and what is learned of them, against transformers' `apply_chat_template`."""

import pytest
import transformers
from rendering import render

from research.data.text.chat import ChatData
from research.data.text.tokenizers import TokenizerConfig

pytestmark = pytest.mark.peer

SPECIAL = {"bos": "<s>", "eos": "</s>"}
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
TEMPLATES = {
    "plain": TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "special tokens": "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "date": "Today: {{ strftime_now('%d %b %Y') }}\n" + TURNS,
    "tools": "{% if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}" + TURNS,
    "nothing else": "{{ documents is none }}{{ tools is defined }}{{ enable_thinking is defined }}" + TURNS,
    "thought": "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{{ m.content }}\n{% endfor %}",
    "loops": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.get('content')[:3] }}"
    "{% endfor %}",
    "blocks": "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|end|>{% endgeneration %}\n{% else %}{{ m.content }}\n  {%- endif %}\n{% endfor %}",
    "two blocks": "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%} {{ m.content }}"
    "{% endgeneration %} and {% generation %}on{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
}
CHATS = (
    [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": " hi there "}],
    [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello\n"},
        {"role": "assistant", "content": "one", "reasoning": "let me see"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "日本 two."},
    ],
)
TOOLS = [{"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {"é": {}}}}}]


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_masks_are_those_of_transformers(name):
    """The same text, with tools and without; the same tokens where the template says which the assistant writes.

    No block ends in a character of several tokens, of which transformers leaves out all but the first.
    """
    template = TEMPLATES[name]
    own = TokenizerConfig("bpe", vocabulary_size=300).train([str(CHATS), template])
    peer = transformers.PreTrainedTokenizerFast(tokenizer_object=own.trained, bos_token="<s>", eos_token="</s>")
    for tools in (None, TOOLS):
        expected = [peer.apply_chat_template(chat, tools, chat_template=template, tokenize=False) for chat in CHATS]
        assert render(template, CHATS, SPECIAL, tools=[tools] * len(CHATS)) == expected
    if "generation" in template.replace("add_generation_prompt", ""):
        for chat, part in zip(CHATS, ChatData(template=template)._tokens(own, CHATS), strict=True):
            options = {"return_assistant_tokens_mask": True, "return_dict": True}
            found = peer.apply_chat_template(chat, chat_template=template, **options)
            assert part["targets"].tolist() == found["input_ids"][1:]
            assert part["weights"].tolist() == found["assistant_masks"][1:]
