"""Language modelling: the loss by hand, packed rows, and samples that are functions of the key."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.errors import UserError
from research.data.dataset import Data
from research.data.text.packing import Windows, pack_documents
from research.data.text.tokenizers import Characters
from research.models.gpt import GPT
from research.models.model import Decoding
from research.tasks.language_modelling import LanguageModelling, sample
from research.tasks.task import Context, evaluation_context

KEY = jax.random.key(0)
LENGTH = 5
STREAM = np.random.default_rng(0).integers(1, 6, 60).astype(np.int32)
ALPHABET = Characters("abcde")
DATA = Data(
    {"train": Windows(STREAM, LENGTH, stride=1), "validation": Windows(STREAM[:20], LENGTH, stride=LENGTH)},
    outputs=ALPHABET.vocabulary_size,
    tokenizer=ALPHABET,
)
MODEL = GPT(depth=1, width=8, heads=2, context=LENGTH)


def build(data=DATA, **options):
    task = LanguageModelling(**options).build(MODEL, data)
    return task._replace(loss=jax.jit(task.loss), predict=jax.jit(task.predict))


@pytest.fixture(scope="module")
def params():
    """Of `MODEL` for `DATA`."""
    return jax.jit(build().init)(KEY)


def test_the_loss_is_the_masked_sum_of_negative_log_probabilities(params):
    """Sum, weight and accuracy by hand from the logits, whatever stands under the mask."""
    task = build()
    batch = DATA.splits["train"].gather(np.arange(3))
    batch["mask"] = np.float32([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    scores = np.asarray(task.predict(params, batch, evaluation_context(0))["logits"], np.float64)
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    right = np.take_along_axis(logs, batch["targets"][..., None], -1)[..., 0]
    loss = task.loss(params, batch, Context(KEY, 0, train=True))
    np.testing.assert_allclose(loss.sum, -(right * batch["mask"]).sum(), rtol=1e-5)
    assert loss.weight == loss.metrics["accuracy"].weight == 5
    hits = (scores.argmax(-1) == batch["targets"]) * batch["mask"]
    assert loss.metrics["accuracy"].sum == hits.sum()
    hidden = {**batch, "targets": np.where(batch["mask"] > 0, batch["targets"], 0)}
    assert task.loss(params, hidden, Context(KEY, 0, train=True)).sum == loss.sum


def test_packed_documents_weigh_like_separate_ones(params):
    """Rows packed from documents have the loss of each document by itself."""
    documents = [STREAM[:3], STREAM[3:6], STREAM[6:10]]
    packed = pack_documents(documents, LENGTH)
    task = build(Data({"train": packed, "validation": packed}, outputs=6))
    whole = task.loss(params, packed.gather(np.arange(len(packed))), Context(KEY, 0, train=False))
    rows = [pack_documents([document], LENGTH) for document in documents]
    parts = [task.loss(params, row.gather(np.arange(1)), Context(KEY, 0, train=False)) for row in rows]
    np.testing.assert_allclose(whole.sum, sum(part.sum for part in parts), rtol=1e-5)
    assert whole.weight == 7


def test_a_sample_is_a_function_of_the_key(params):
    """Equal keys write equal text of the length asked for; another key another text."""
    task = build(sample_tokens=12)
    first, again, other = (task.sample(params, Context(jax.random.key(seed), 0, train=False)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 12
    assert set(first) <= set(ALPHABET.alphabet) | {"\ufffd"}


def counting(params, cache, tokens, start, first):
    """A model that is sure of the next token: one more than the sum of all it has read, modulo 11."""
    sums = cache[:, None] + jnp.cumsum(tokens, 1)
    return 50 * jax.nn.one_hot((sums + 1) % 11, 11), sums[:, -1]


def no_sum(params, batch, capacity):
    return jnp.zeros(batch, jnp.int32)


@pytest.mark.parametrize("length", [1, 3, 4, 20])
def test_a_full_cache_begins_again_with_the_last_half(length):
    """A sure model writes what the same rule writes by hand, from all that was read since the cache was last empty."""
    prompt = np.int32([2, 5])[-length:]
    draw = partial(sample, Decoding(no_sum, counting), length=length, tokens=9, temperature=1.0)
    found = jax.jit(draw)({}, KEY, jnp.asarray(prompt))
    text, read = prompt.tolist(), prompt[:-1].tolist()
    for _ in range(9):
        read = [*read, text[-1]] if len(read) < length else text[-((length + 1) // 2) :]
        text.append((sum(read) + 1) % 11)
    assert found.tolist() == text[len(prompt) :]


def test_temperature_sharpens_the_choice():
    """Near 0 the likeliest token is always drawn; at 1 tokens are drawn by their probabilities."""
    logits = jnp.log(jnp.array([0.1, 0.6, 0.3]))

    def fixed(params, cache, tokens, start, first):
        return jnp.broadcast_to(logits, (*tokens.shape, 3)), cache

    def drawn(temperature):
        draw = partial(sample, Decoding(no_sum, fixed), length=2, tokens=3000, temperature=temperature)
        return np.bincount(np.asarray(jax.jit(draw)({}, KEY, jnp.zeros(1, jnp.int32))), minlength=3) / 3000

    np.testing.assert_array_equal(drawn(0.01), [0, 1, 0])
    np.testing.assert_allclose(drawn(1.0), [0.1, 0.6, 0.3], atol=0.03)


def test_data_without_a_tokenizer_gives_no_sample():
    """Token streams without text can be learned, but not shown."""
    assert build(dataclasses.replace(DATA, tokenizer=None)).sample is None


def test_rows_longer_than_the_context_are_refused():
    """Both numbers, and the option for each."""
    long = dataclasses.replace(DATA, splits={"train": Windows(STREAM, 9, stride=1)})
    with pytest.raises(UserError, match=r"rows of 9 tokens .* context of 5: set --model.context 9 or --data.length 5"):
        build(long)
