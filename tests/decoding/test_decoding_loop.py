"""Promises of generation: the tokens of the uncached model, whatever else is in the batch; and text in safe pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.core.shapes import Spec
from research.decoding.loop import ENDED, Text, make_generate
from research.decoding.sampling import Sampling
from research.models.gpt import GPT
from research.models.model import Decoding

VOCABULARY = 40
MODELS = {
    "learned": GPT(depth=2, width=16, heads=4, context=128),
    "rotary, grouped, scanned": GPT(
        depth=2,
        width=16,
        heads=4,
        num_kv_heads=2,
        context=64,
        positions="rotary",
        activation="swiglu",
        norm="rms",
        scan=True,
    ),
}
PROMPTS = [np.array(ids, np.int32) for ids in ([5, 9, 3, 17, 2, 30, 8, 11, 4, 6], [1], [7, 7, 21])]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A model, and parameters large enough that its choices differ."""
    built = MODELS[request.param].build(Spec(VOCABULARY))
    params = jax.jit(built.init)(jax.random.key(1), {"inputs": jnp.zeros((1, 8), jnp.int32)})
    decoding = built.decoding._replace(decode_step=jax.jit(built.decoding.decode_step))
    built = built._replace(apply=jax.jit(built.apply), decoding=decoding)
    return built, jax.tree.map(lambda leaf: leaf * (8 if leaf.ndim > 1 else 1), params)


@pytest.fixture(scope="module")
def greedy(model):
    """Writes the likeliest tokens, and reads prompts in chunks of 4."""
    return make_generate(model[0].decoding, Sampling(temperature=0.0), chunk=4)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def uncached(model, params, prompt, tokens):
    """Returns the likeliest tokens by whole forward passes, in a window that grows on the right."""
    text = list(prompt)
    for _ in range(tokens):
        rows = np.int32([text + [0] * (32 - len(text))])
        text.append(int(np.asarray(model.apply(params, {"inputs": rows})[0])[0, len(text) - 1].argmax()))
    return text[len(prompt) :]


def test_a_ragged_batch_gets_the_tokens_of_whole_forward_passes(model, greedy) -> None:
    """Greedy, with prompts of 10, 1 and 3 tokens read in chunks of 4: equal, token by token."""
    built, params = model
    found = np.stack(list(greedy(params, PROMPTS, keys(3), tokens=12)), 1)
    expected = [uncached(built, params, prompt, 12) for prompt in PROMPTS]
    assert len(np.unique(expected)) > 5, "a model that always says the same shows nothing"
    np.testing.assert_array_equal(found, expected)


def test_cached_logits_are_those_of_the_forward_pass(model) -> None:
    """Within float32's rounding, for a prompt read at once and in pieces."""
    built, params = model
    tokens = np.int32([[5, 9, 3, 17, 2, 30, 8, 11]])
    whole = built.apply(params, {"inputs": tokens})[0]
    for sizes in ((8,), (3, 3, 1, 1)):
        cache, start, parts = built.decoding.init_cache(params, 1, 8), 0, []
        for size in sizes:
            piece = tokens[:, start : start + size]
            logits, cache = built.decoding.decode_step(params, cache, piece, np.int32(start), np.zeros(1, np.int32))
            parts.append(logits)
            start += size
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_what_is_drawn_does_not_depend_on_the_other_rows(model) -> None:
    """The same prompt and key give the same text alone and in a batch; another key gives another one."""
    built, params = model
    generate = make_generate(built.decoding, Sampling(temperature=1.5, top_k=20))
    together = np.stack(list(generate(params, PROMPTS, keys(3), tokens=10)), 1)
    for row, prompt in enumerate(PROMPTS):
        alone = np.concatenate(list(generate(params, [prompt], keys(3)[row : row + 1], tokens=10)))
        np.testing.assert_array_equal(alone, together[row])
    other = np.stack(list(generate(params, PROMPTS, keys(3, seed=1), tokens=10)), 1)
    assert (other != together).any()


def test_a_row_ends_with_an_end_token_and_the_batch_with_its_last_row(model, greedy) -> None:
    """The ending token is yielded once, then `ENDED`; the others go on unchanged."""
    params = model[1]
    free = np.stack(list(greedy(params, PROMPTS, keys(3), tokens=12)), 1)
    end = int(free[1, 4])
    ended = np.stack(list(greedy(params, PROMPTS, keys(3), tokens=12, end=[end])), 1)
    for row, text in zip(ended, free, strict=True):
        stops = np.flatnonzero(text == end)
        length = stops[0] + 1 if len(stops) else len(text)
        np.testing.assert_array_equal(row[:length], text[:length])
        assert (row[length:] == ENDED).all()


def test_prompts_that_do_not_fit_are_refused() -> None:
    """An empty one, and one too long for learned positions."""
    built = MODELS["learned"].build(Spec(VOCABULARY))
    params = jax.eval_shape(built.init, jax.random.key(1), {"inputs": jnp.zeros((1, 8), jnp.int32)})
    generate = make_generate(built.decoding)
    with pytest.raises(UserError, match="no tokens"):
        next(generate(params, [np.zeros(0, np.int32)], keys(1), tokens=1))
    with pytest.raises(UserError, match="context of 128: ask for at most 118 tokens"):
        next(generate(params, PROMPTS, keys(3), tokens=119))


def test_text_comes_in_pieces_that_never_change() -> None:
    """Bytes of a character are held back until it is whole, and beginnings of a stop string until they are none."""

    def decode(ids):
        return bytes(ids).decode("utf-8", errors="replace")

    for text, stop, expected in (
        ("né €5 🙂!", (), "né €5 🙂!"),
        ("one\ntwo\n\nthree", ("\n\n",), "one\ntwo"),
        ("one <en> two <end> three", ("<end>",), "one <en> two "),
        ("held back: <en", ("<end>",), "held back: <en"),
    ):
        row = Text(decode, stop)
        pieces = [row.add(byte) for byte in text.encode()]
        assert "\ufffd" not in "".join(pieces)
        assert "".join(pieces) + row.finish() == expected


def test_the_input_of_an_encoder_may_be_used_again() -> None:
    """What the caller gives is not donated to the cache: a second text from the same arrays is the same."""

    def keep(params, batch, capacity, **context):
        return context  # the very arrays, if the caller's were not copied

    def step(params, cache, tokens, start, first):
        return jax.nn.one_hot((tokens + cache["inputs"].sum()) % 11, 11), cache

    context = {"inputs": jnp.ones((1, 3), jnp.int32), "segments": jnp.ones((1, 3), jnp.int32)}
    generate = make_generate(Decoding(keep, step), Sampling(temperature=0.0))
    prompt = [np.zeros(1, np.int32)]
    first, again = (list(generate({}, prompt, keys(1), tokens=3, context=context)) for _ in range(2))
    assert np.ravel(first).tolist() == np.ravel(again).tolist() == [3, 6, 9]
    assert not any(array.is_deleted() for array in context.values())
