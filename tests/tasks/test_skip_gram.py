"""The skip-gram: its loss by hand, and that words used alike come to lie together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.core.errors import UserError
from research.core.shapes import Spec
from research.core.trees import flatten, match_rules
from research.data.dataset import Data
from research.data.text.word_pairs import Pairs
from research.data.text.words import Words
from research.models.word_embedding import WordEmbedding
from research.tasks.skip_gram import SkipGram, nearest_words
from research.tasks.task import Context, evaluation_context
from research.train.optimizers import WEIGHT_DECAY_MULTIPLIERS

KEY = jax.random.key(0)
SEA, LAND = ("ship", "sail", "wave", "deck"), ("hill", "field", "hedge", "farm")
TOKENIZER = Words((*SEA, *LAND))


def text(length=2000):
    """Runs of five words of the sea, then five of the land, and so on."""
    random = np.random.default_rng(0)
    return (random.integers(1, 5, length) + 4 * (np.arange(length) // 5 % 2)).astype(np.int32)


DATA = Data({"train": Pairs(text(), 2)}, TOKENIZER.vocabulary_size, tokenizer=TOKENIZER, tokens={"train": text()})
MODEL = WordEmbedding(width=8)


def drawn(task):
    shapes = jax.eval_shape(task.init, KEY)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), jnp.float32), shapes)


def test_the_loss_is_that_of_the_paper():
    """Mikolov et al. 2013, eq. 4, in the mean over many draws; true neighbours drawn by chance do not count."""
    task = SkipGram(negatives=3).build(MODEL, DATA)
    params = drawn(task)
    batch = {"inputs": np.int32([1, 6]), "targets": np.int32([2, 5]), "mask": np.float32([1, 0])}
    keys = jax.random.split(KEY, 4000)
    found = jax.jit(jax.vmap(lambda key: task.loss(params, batch, Context(key, 0, train=True))))(keys)
    assert (found.weight == 1).all()
    scores = np.asarray(params["word_embedding"])[1] @ np.asarray(params["context_embedding"]).T
    counts = np.bincount(DATA.tokens["train"], minlength=9) ** 0.75
    counts[0] = 0
    noise = counts / counts.sum()
    noise[2] = 0
    expected = np.log1p(np.exp(-scores[2])) + 3 * (noise * np.log1p(np.exp(scores))).sum()
    np.testing.assert_allclose(found.sum.mean(), expected, rtol=0.02)


def test_words_used_alike_come_to_lie_together():
    """After training, the three nearest words are those of the same kind, and predictions give them the mass."""
    task = SkipGram(neighbours=3, words=("ship", "nowhere", "farm")).build(MODEL, DATA)
    optimizer, records = optax.adam(0.02), DATA.splits["train"]
    batches = [records.gather(np.random.default_rng(step).integers(0, len(records), 256)) for step in range(200)]

    @jax.jit
    def learn(params, batches):
        def step(carry, inputs):
            params, state = carry
            gradient = jax.grad(
                lambda params: task.loss(params, inputs[0], Context(inputs[1], 0, train=True)).sum / 256
            )(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), batches)[0][0]

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    params = learn(task.init(KEY), (stacked, jax.random.split(KEY, 200)))
    ship, farm = (
        set(line.replace(",", "").split()) for line in task.sample(params, Context(KEY, 0, train=False)).splitlines()
    )
    assert {"sail", "wave", "deck"} <= ship and {"hill", "field", "hedge"} <= farm
    logits = task.predict(params, {"inputs": jnp.arange(1, 9)}, evaluation_context(0))["logits"]
    near = jax.nn.softmax(logits)[:, 1:].reshape(2, 4, 2, 4).sum(-1)
    assert near[0, :, 0].min() > 0.55 and near[1, :, 1].min() > 0.55


def test_neighbours_are_ordered_by_the_cosine():
    """Lengths do not matter; a word is not its own neighbour, and word 0 is nobody's."""
    vectors = jnp.float32([[1, 0], [1, 0], [5, 1], [0, 1], [-1, 0]])
    ids, cosines = nearest_words(vectors, jnp.int32([1, 3]), 2)
    assert ids.tolist() == [[2, 3], [2, 1]]
    np.testing.assert_allclose(cosines, [[5 / 26**0.5, 0], [1 / 26**0.5, 0]], atol=1e-6)


def test_every_parameter_has_one_sharding_and_one_decay():
    """The rules fit both tables, whose rows are all decayed."""
    params = jax.eval_shape(SkipGram().build(MODEL, DATA).init, KEY)
    shardings = match_rules(MODEL.build(Spec(9)).sharding, params, what="sharding")
    decays = match_rules(WEIGHT_DECAY_MULTIPLIERS, params, what="weight decay")
    assert flatten(shardings).keys() == flatten(params).keys() == flatten(decays).keys()
    assert set(flatten(decays).values()) == {1.0}


def test_data_without_words_are_refused():
    """Nothing to show neighbours of."""
    with pytest.raises(UserError, match="needs words"):
        SkipGram().build(MODEL, dataclasses.replace(DATA, tokenizer=None))
