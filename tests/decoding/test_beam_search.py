"""Promises of beam search: wide enough it finds the very best text; its caches follow the beams."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.core.shapes import Spec
from research.decoding.beam_search import Beam, make_beam_search
from research.models.gpt import GPT

VOCABULARY, END, TOKENS = 4, 3, 4
PROMPTS = [np.array(ids, np.int32) for ids in ([0, 2, 1], [1])]


@pytest.fixture(scope="module")
def model():
    """A model over three letters and an end, with parameters large enough that its choices differ."""
    built = GPT(depth=1, width=16, heads=2, context=16).build(Spec(VOCABULARY))
    params = jax.jit(built.init)(jax.random.key(3), {"inputs": jnp.zeros((1, 4), jnp.int32)})
    built = built._replace(apply=jax.jit(built.apply))
    return built, jax.tree.map(lambda leaf: leaf * (25 if leaf.ndim > 1 else 1), params)


def scores(built, params, prompt):
    """Returns the log-probability of every text of at most TOKENS tokens that ends with END, or is that long."""
    texts = [
        text
        for size in range(1, TOKENS + 1)
        for text in itertools.product(range(VOCABULARY), repeat=size)
        if END not in text[:-1] and (text[-1] == END or size == TOKENS)
    ]
    rows = np.zeros((len(texts), len(prompt) + TOKENS), np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(prompt) + len(text)] = [*prompt, *text]
    every = np.asarray(jax.nn.log_softmax(built.apply(params, {"inputs": jnp.asarray(rows)})[0]))
    places = range(len(prompt) - 1, len(prompt) + TOKENS - 1)
    return {
        text: sum(float(logs[place, token]) for place, token in zip(places, text, strict=False))
        for logs, text in zip(every, texts, strict=True)
    }


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_search_wide_enough_finds_the_best_of_all_texts(model, penalty) -> None:
    """With beams for every beginning and no early end: the same text and score as trying all."""
    search = make_beam_search(model[0].decoding, Beam(beams=64, length_penalty=penalty, stop="never"))
    found = search(model[1], PROMPTS, tokens=TOKENS, end=[END])
    for prompt, (text, score) in zip(PROMPTS, found, strict=True):
        penalised = {text: value / len(text) ** penalty for text, value in scores(*model, prompt).items()}
        best = max(penalised, key=lambda each: penalised[each])
        assert tuple(text) == best
        assert score == pytest.approx(penalised[best], abs=1e-4)


def test_one_beam_is_greedy(model) -> None:
    """With a single beam each token is the likeliest after those before."""
    found = make_beam_search(model[0].decoding, Beam(beams=1))(model[1], PROMPTS, tokens=TOKENS)
    for prompt, (text, _) in zip(PROMPTS, found, strict=True):
        ids = list(prompt)
        for token in text:
            logits = model[0].apply(model[1], {"inputs": jnp.asarray([ids + [0] * (16 - len(ids))], jnp.int32)})[0]
            assert token == int(logits[0, len(ids) - 1].argmax())
            ids.append(int(token))


def test_no_beam_is_refused(model) -> None:
    """In one sentence."""
    with pytest.raises(UserError, match="--beams is 0: give a number from 1"):
        make_beam_search(model[0].decoding, Beam(beams=0))
