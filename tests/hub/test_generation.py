"""How a published model writes: read from either file, obeyed by every way to write, and written on export."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pretrained import LLAMA, MODELS, edit, initial

from research.core.errors import UserError
from research.data.text.tokenizers import TokenizerConfig
from research.decoding.beam_search import Beam, make_beam_search
from research.decoding.greedy import greedy
from research.decoding.loop import ENDED, make_generate
from research.decoding.sampling import Sampling
from research.hub.generation import GENERATION, read_rules
from research.hub.pretrained import load_pretrained, load_tokenizer, save_pretrained
from research.models.generation_rules import GenerationRules
from research.models.model import Decoding

# A "model" of six tokens: after each one the next is likeliest, 0 after 5; then the one after that, and so on.
ORDER = np.stack([np.roll([3.0, 2.0, 1.0, 0.5, 0.25, 0.0], token + 1) for token in range(6)]).astype(np.float32)


def decoding(rules: GenerationRules) -> Decoding:
    return Decoding(
        init_cache=lambda params, batch, capacity: jnp.zeros((batch, 1)),
        decode_step=lambda params, cache, tokens, start, first: (params["order"][tokens], cache),
        rules=rules,
    )


def by_loop(rules: GenerationRules) -> list[int]:
    generate = make_generate(decoding(rules), Sampling(temperature=0.0))
    prompt = [np.array([0], np.int32)]
    found = list(generate({"order": jnp.asarray(ORDER)}, prompt, jax.random.split(jax.random.key(0), 1), tokens=5))
    return [int(token[0]) for token in found if token[0] != ENDED]


def by_beam(rules: GenerationRules) -> list[int]:
    search = make_beam_search(decoding(rules), Beam(1))
    ((found, _),) = search({"order": jnp.asarray(ORDER)}, [np.array([0], np.int32)], tokens=5)
    return list(map(int, found))


def by_greedy(rules: GenerationRules) -> list[int]:
    end = rules.end[0] if rules.end else 99
    found = greedy(decoding(rules), {"order": jnp.asarray(ORDER)}, jnp.zeros(1, jnp.int32), 5, end, {})[0].tolist()
    return found[: found.index(end) + 1] if end in found else found


RULES: dict[str, tuple[GenerationRules, list[int]]] = {
    "nothing": (GenerationRules(), [1, 2, 3, 4, 5]),
    "an end": (GenerationRules(end=(3,)), [1, 2, 3]),
    "forbidden": (GenerationRules(never=(2, 3)), [1, 4, 5, 0, 1]),
    "forbidden at first": (GenerationRules(never_first=(1, 2)), [3, 4, 5, 0, 1]),
    "forced at first": (GenerationRules(first=4), [4, 5, 0, 1, 2]),
    "forced at first, then forbidden": (GenerationRules(first=4, never_first=(4, 5)), [4, 0, 1, 2, 3]),
    "forced at last": (GenerationRules(last=3), [1, 2, 3, 4, 3]),
}


@pytest.mark.parametrize("write", [by_loop, by_beam, by_greedy])
@pytest.mark.parametrize("name", RULES)
def test_every_way_to_write_obeys_the_rules(name, write):
    """The tokens that a text may not or must have, in the loop, in a beam search and in compiled greedy decoding."""
    rules, expected = RULES[name]
    assert write(rules) == expected


@pytest.mark.parametrize("write", [by_loop, by_beam])
def test_any_of_several_ends_ends_a_text(write):
    """As of a chat model, whose turns and texts end with different tokens."""
    assert write(GenerationRules(end=(5, 2))) == [1, 2]


def test_the_penalty_of_the_file_is_obeyed_where_none_is_asked_for():
    """A repetition penalty turns the text to new tokens; beams do not have it, and say so."""
    rules = GenerationRules(first=5, repetition_penalty=9.0)
    assert by_loop(rules) == [5, 1, 2, 3, 4]
    assert by_loop(dataclasses.replace(rules, repetition_penalty=1.0)) == [5, 0, 1, 2, 3]
    with pytest.raises(UserError, match=r"have repetition_penalty \(9.0\), which is not obeyed here"):
        by_beam(rules)


@pytest.mark.parametrize(
    ("described", "generation", "expected"),
    [
        ({}, None, GenerationRules()),
        ({"eos_token_id": 5}, None, GenerationRules(end=(5,))),
        ({"eos_token_id": 5}, {"eos_token_id": [3, 4]}, GenerationRules(end=(3, 4))),
        ({"eos_token_id": 5}, {}, GenerationRules()),
        ({"text_config": {"eos_token_id": [1, 106]}}, None, GenerationRules(end=(1, 106))),
        ({"eos_token_id": -1, "bos_token_id": 2}, None, GenerationRules()),
        (
            {"is_encoder_decoder": True, "decoder_start_token_id": 9, "eos_token_id": 0, "forced_eos_token_id": 0},
            {"bad_words_ids": [[9]], "decoder_start_token_id": 9, "eos_token_id": 0, "forced_eos_token_id": 0},
            GenerationRules(end=(0,), start=9, never=(9,), last=0),
        ),
        ({"is_encoder_decoder": True, "bos_token_id": 2}, None, GenerationRules(start=2)),
        (
            {},
            {"suppress_tokens": [7, 3], "begin_suppress_tokens": [1]},
            GenerationRules(never=(3, 7), never_first=(1,)),
        ),
        ({}, {"no_repeat_ngram_size": 3, "min_length": 0}, GenerationRules(unknown=(("no_repeat_ngram_size", "3"),))),
    ],
)
def test_the_rules_are_read_as_transformers_reads_them(described, generation, expected):
    """generation_config.json alone where it is there, else config.json; -1 is none; the unknown is kept by name."""
    assert read_rules(described, generation) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_token_id", "2"),
        ("eos_token_id", [1, 2.5]),
        ("eos_token_id", {"a": 1}),
        ("decoder_start_token_id", [1, 2]),
        ("bad_words_ids", [3]),
        ("bad_words_ids", [[]]),
        ("suppress_tokens", [True]),
        ("repetition_penalty", -1),
        ("repetition_penalty", "much"),
    ],
)
def test_what_is_no_token_is_refused_by_name(field, value):
    """One sentence names the file and the field."""
    with pytest.raises(UserError, match=f"generation_config.json sets '{field}'"):
        read_rules({"is_encoder_decoder": True}, {field: value})


def test_what_is_not_obeyed_is_refused_where_a_text_is_written(tmp_path):
    """The model still loads, and can be trained on; the message names the field."""
    save_pretrained(tmp_path, LLAMA, initial(LLAMA))
    edit(tmp_path / GENERATION, no_repeat_ngram_size=3)
    loaded = load_pretrained(tmp_path)
    for make in (make_generate, make_beam_search):
        with pytest.raises(UserError, match=r"have no_repeat_ngram_size \(3\), which is not obeyed here"):
            make(loaded.model.decoding)


def test_tokens_that_the_model_lacks_are_no_ends(tmp_path):
    """A GPT-2 of a small vocabulary keeps 50256 in its files, which never occurs; one that is forced is a mistake."""
    save_pretrained(tmp_path, LLAMA, initial(LLAMA))
    edit(tmp_path / GENERATION, eos_token_id=[12, 11], suppress_tokens=[50])
    assert load_pretrained(tmp_path).model.decoding.rules == GenerationRules(end=(11,))
    edit(tmp_path / GENERATION, forced_eos_token_id=12)
    with pytest.raises(UserError, match=r"have forced_eos_token_id \(12\), which is not obeyed here"):
        make_generate(load_pretrained(tmp_path).model.decoding)


@pytest.mark.parametrize("name", ["gpt", "llama", "t5", "marian"])
def test_the_rules_are_written_and_come_back(name, tmp_path):
    """In both files, as older versions of transformers read config.json; without rules both say that there are none."""
    config: Any = MODELS[name]
    encoder = name in ("t5", "marian")
    rules = GenerationRules((3, 4), 5 if encoder else None, (6,), (7,), 8 if encoder else None, 3, 1.5)
    rules = dataclasses.replace(rules, unknown=(("no_repeat_ngram_size", "2"),))
    save_pretrained(tmp_path, config, initial(config), rules=rules)
    assert load_pretrained(tmp_path).model.decoding.rules == rules
    (tmp_path / GENERATION).unlink()
    assert load_pretrained(tmp_path).model.decoding.rules == rules
    save_pretrained(tmp_path, config, initial(config))
    described = json.loads((tmp_path / "config.json").read_text())
    assert (described["eos_token_id"] is None) == (not encoder)  # T5 and Marian have ends by their form


def test_own_special_tokens_are_the_ends_and_beginnings_of_an_exported_model(tmp_path):
    """A translator trained here on a tokenizer with [CLS] and [SEP] says that its texts begin and end with these."""
    tokenizer = TokenizerConfig("bpe", 280, special="bert").train(["some text to count"])
    config = dataclasses.replace(MODELS["t5"])
    save_pretrained(tmp_path, config, initial(config, 280), tokenizer)
    first, last = (tokenizer.special_id(role) for role in ("cls", "sep"))
    assert load_pretrained(tmp_path).model.decoding.rules == GenerationRules(end=(last,), start=first)
    assert load_tokenizer(tmp_path).special_id("start") == first
