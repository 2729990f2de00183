"""The tasks on rows of text: losses by hand from what the model gives, and packed rows equal to unpacked ones."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.core import trees
from research.core.errors import UserError
from research.data.dataset import Data
from research.data.pipeline import gather, make_batch
from research.data.text.packing import Windows
from research.data.text.paired_text import PairedText, boundary_ids
from research.data.text.text_examples import Example, rows_of
from research.data.text.tokenizers import TokenizerConfig
from research.models.bert import BERT
from research.models.t5 import T5
from research.models.transformer import Transformer
from research.tasks.answer_spans import AnswerSpans, best_spans
from research.tasks.contrastive_sentences import ContrastiveSentences
from research.tasks.masked_language_modelling import MaskedLanguageModelling, corrupt
from research.tasks.packed_text import smoothed_cross_entropy
from research.tasks.sequence_to_sequence import SequenceToSequence
from research.tasks.span_corruption import Gaps, SpanCorruption, noise_mask
from research.tasks.span_corruption import corrupt as corrupt_spans
from research.tasks.task import Context, evaluation_context, row_keys
from research.tasks.text_classification import TextClassification
from research.tasks.text_regression import TextRegression

KEY = jax.random.key(0)
LENGTH, CLASSES = 24, 3
DRAW = np.random.default_rng(0)
TOKENIZER = TokenizerConfig("wordpiece", vocabulary_size=40).train(["abc bcd cda dab"] * 3)
VOCABULARY = TOKENIZER.vocabulary_size
ENCODER = BERT(depth=1, width=8, heads=2, context=LENGTH, vocabulary=VOCABULARY)


def tokens(size):
    return np.int32([2, *DRAW.integers(5, VOCABULARY, size - 2), 3])


def part(size, **more):
    return {"inputs": tokens(size), "token_types": np.int32([0] * (size // 2) + [1] * (size - size // 2)), **more}


SIZES = [9, 4, 7, 12, 5, 3, 8, 16, 4]
EXAMPLES = {
    "classes": [Example((part(size),), int(size % CLASSES)) for size in SIZES],
    "numbers": [Example((part(size),), size / 10) for size in SIZES],
    "answers": [Example((part(size),), (size // 2, size - 1)) for size in SIZES],
    "words": [Example((part(size, labels=np.int32([-1, *range(size - 2), -1]) % 4 - 1),)) for size in SIZES],
    "pairs": [Example(({"inputs": tokens(size)}, {"inputs": tokens(4)})) for size in SIZES],
}
TASKS = {
    "classes": (TextClassification(), dataclasses.replace(ENCODER, head="sequence"), CLASSES),
    "numbers": (TextRegression(), dataclasses.replace(ENCODER, head="sequence", pooling="mean"), 1),
    "answers": (AnswerSpans(), dataclasses.replace(ENCODER, head="span"), VOCABULARY),
    "words": (TextClassification(), dataclasses.replace(ENCODER, head="token"), CLASSES),
    "pairs": (ContrastiveSentences(), dataclasses.replace(ENCODER, head="embedding", pooling="mean"), VOCABULARY),
    "masked": (MaskedLanguageModelling(mask_rate=0.5), dataclasses.replace(ENCODER, head="masked"), VOCABULARY),
}


def compiled(task):
    return task._replace(init=jax.jit(task.init), loss=jax.jit(task.loss), predict=jax.jit(task.predict))


def drawn(task):
    """Parameters of the task's shapes, drawn so that nothing is zero."""
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape, np.float32)), jax.eval_shape(task.init, KEY)
    )


@cache
def built(kind, *, packing=True):
    """Returns the task of a kind, its parameters, and all rows as a batch of ten, the last ones of padding."""
    task, model, outputs = TASKS[kind]
    rows, _ = rows_of(EXAMPLES["classes" if kind == "masked" else kind], LENGTH, packing=packing)
    data = Data({"train": rows}, outputs=outputs, tokenizer=TOKENIZER)
    functions = compiled(task.build(model, data))
    return functions, drawn(functions), make_batch(rows, np.arange(10), len(rows))


@pytest.mark.parametrize("kind", [kind for kind in TASKS if kind != "masked"])
def test_packed_rows_are_worth_what_single_ones_are(kind):
    """The sum of the loss, its weight and every metric, however the examples share rows and many rows are padding."""
    task, params, packed = built(kind)
    _, _, single = built(kind, packing=False)
    assert packed["real"].sum() < single["real"].sum() < 10
    together, apart = (task.loss(params, batch, Context(KEY, 0, train=False)) for batch in (packed, single))
    np.testing.assert_allclose(together.sum, apart.sum, rtol=2e-5)
    assert together.weight == apart.weight > 0
    for name, mean in together.metrics.items():
        np.testing.assert_allclose(mean.sum, apart.metrics[name].sum, rtol=2e-5)


@pytest.mark.parametrize("kind", list(TASKS))
def test_what_is_masked_weighs_nothing(kind):
    """A row of padding, as at the end of an evaluation, adds neither to the sum nor to the weight."""
    task, params, padded = built(kind)
    real = padded["real"] > 0
    assert not real.all()
    other = {name: np.concatenate([array[real], array[: sum(~real)]]) for name, array in padded.items()}
    batches = [padded, {**other, "mask": padded["mask"]}]
    if kind == "masked":  # the others are compared with fewer rows of padding above
        batches.append({name: array[real] for name, array in padded.items()})
    found, *others = (task.loss(params, each, Context(KEY, 0, train=False)) for each in batches)
    for each in others:
        np.testing.assert_allclose(found.sum, each.sum, rtol=1e-5)
        assert found.weight == each.weight


@pytest.mark.parametrize("kind", ["classes", "words"])
def test_the_loss_of_classes_is_the_cross_entropy(kind):
    """By hand, from the predicted logits."""
    task, params, batch = built(kind)
    logits = np.asarray(task.predict(params, batch, evaluation_context(0))["logits"], np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = np.take_along_axis(logs, batch["labels"][..., None], -1)[..., 0]
    loss = task.loss(params, batch, Context(KEY, 0, train=True))
    np.testing.assert_allclose(loss.sum, -(right * batch["mask"]).sum(), rtol=1e-5)
    hits = ((logits.argmax(-1) == batch["labels"]) * batch["mask"]).sum()
    assert loss.metrics["accuracy"].sum == hits


def test_the_loss_of_numbers_is_the_squared_error():
    """By hand, from the predictions."""
    task, params, batch = built("numbers")
    outputs = np.asarray(task.predict(params, batch, evaluation_context(0))["outputs"])
    error = (outputs - batch["labels"]) * batch["mask"]
    np.testing.assert_allclose(task.loss(params, batch, Context(KEY, 0, train=True)).sum, (error**2).sum(), rtol=1e-5)


SPANS = jax.jit(best_spans, static_argnums=2)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 9]))
@settings(max_examples=20, deadline=None)
def test_the_best_span_is_the_best_of_all(seed, longest):
    """Of every first and last token of the example, not further apart than is allowed."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(1, 8, 2)).astype(np.float32)
    members = (np.arange(8) // 4 == np.arange(2)[:, None])[None]
    found = np.asarray(SPANS(logits, members, longest))[0]
    for example, (first, last) in enumerate(found):
        spans = [
            (float(logits[0, i, 0] + logits[0, j, 1]), i, j)
            for i in range(4 * example, 4 * example + 4)
            for j in range(i, min(i + longest, 4 * example + 4))
        ]
        assert max(spans)[1:] == (first, last)


def test_partners_are_told_from_all_others_of_the_batch():
    """The cross entropy of cosines over the temperature, both ways, by hand."""
    task, params, batch = built("pairs")
    predictions = task.predict(params, batch, evaluation_context(0))
    counted = batch["mask"].reshape(-1) > 0
    first, second = (np.asarray(predictions[name]).reshape(-1, 8)[counted] for name in ("first", "second"))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    scores = np.float64(first @ second.T) / 0.05
    both = [each - np.log(np.exp(each).sum(-1, keepdims=True)) for each in (scores, scores.T)]
    expected = -sum(np.diag(each).sum() for each in both) / 2
    loss = task.loss(params, batch, Context(KEY, 0, train=True))
    np.testing.assert_allclose(loss.sum, expected, rtol=1e-4)
    assert loss.weight == len(SIZES)


def test_masked_tokens_are_chosen_by_the_key_in_training_alone():
    """Each key asks for others; evaluation asks for the same, whatever the key."""
    task, params, batch = built("masked")
    one, other = jax.random.key(1), jax.random.key(2)
    assert (
        task.loss(params, batch, Context(one, 0, train=True)).sum
        != task.loss(params, batch, Context(other, 0, train=True)).sum
    )
    evaluated, turned = evaluation_context(0), {name: rows[::-1] for name, rows in batch.items()}
    found = task.predict(params, batch, evaluated)["mask"]
    np.testing.assert_array_equal(found, task.predict(params, turned, evaluated)["mask"][::-1])
    predicted = task.predict(params, batch, evaluated)
    assert predicted["mask"].sum() == task.loss(params, batch, evaluated).weight
    special = np.isin(batch["inputs"], [0, 2, 3])
    assert not np.asarray(predicted["mask"])[special].any()


def test_of_the_chosen_most_are_masked_some_replaced_some_left():
    """15 % are chosen; 80 %, 10 % and 10 % of these, as in BERT; the others stay."""
    tokens = np.full((200, 100), 7, np.int32)
    draws = np.random.default_rng(0).random((3, 200, 100), np.float32)
    seen = jax.jit(corrupt, static_argnums=(3, 4, 5))(tokens, tokens > 0, draws, 0.15, 4, 1000)
    chosen, inputs = np.asarray(seen.chosen), np.asarray(seen.inputs)
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert (inputs[~chosen] == 7).all()
    shares = (inputs[chosen] == 4).mean(), (inputs[chosen] == 7).mean()
    assert shares == pytest.approx((0.8, 0.1), abs=0.02)
    assert inputs.max() > 900


NOISE = jax.jit(noise_mask, static_argnums=1)


@given(st.sampled_from([2, 9, 60]), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_gaps_have_the_sizes_asked_for(length, seed):
    """So many tokens in so many gaps, beginning with text and ending in a gap."""
    gaps = Gaps(length, hidden=max(1, length // 4), number=max(1, length // 8))
    noise = np.asarray(NOISE(jax.random.key(seed), gaps))
    begins = noise & ~np.insert(noise[:-1], 0, False)
    assert (noise.sum(), begins.sum()) == (gaps.hidden, gaps.number)
    assert not noise[0]
    assert noise[-1]


T5_TOKENIZER = TokenizerConfig("bpe", vocabulary_size=400, special="t5").train(["light and day and night"] * 3)


GAPS = Gaps(20, hidden=6, number=3)


@cache
def spans_task():
    stream = np.random.default_rng(0).integers(103, T5_TOKENIZER.vocabulary_size, 90).astype(np.int32)
    rows = Windows(stream, 20, stride=20)
    data = Data({"train": rows}, outputs=T5_TOKENIZER.vocabulary_size, tokenizer=T5_TOKENIZER)
    model = T5(depth=1, width=8, heads=2)
    return compiled(SpanCorruption(mask_rate=0.3, gap=2.0).build(model, data)), make_batch(
        rows, np.arange(len(rows)), len(rows)
    )


def test_source_and_target_together_are_the_text():
    """Each sentinel of the source stands for what follows it in the target; the row's padding weighs nothing."""
    _, batch = spans_task()

    @jax.jit
    def corrupted(batch):
        noise = jax.vmap(partial(noise_mask, gaps=GAPS))(row_keys(evaluation_context(0), batch))
        return corrupt_spans(batch["inputs"], batch["mask"] > 0, noise, GAPS, jnp.arange(3, 6), 0, 1)

    made = jax.device_get(corrupted(batch))
    assert made["targets"].shape == made["mask"].shape == (5, 6 + 3 + 1)
    np.testing.assert_array_equal(made["decoder_inputs"], np.insert(made["targets"][:, :-1], 0, 0, axis=1))
    for row in range(4):  # the last has padding
        source, target = made["inputs"][row], made["targets"][row]
        assert target[-1] == 1
        hidden = np.split(target[:-1], np.flatnonzero(target[:-1] < 6))[1:]
        parts = np.split(source, np.flatnonzero(source < 6))
        text = [*parts[0]]
        for gap, rest in zip(hidden, parts[1:], strict=True):
            assert gap[0] == rest[0]
            text += [*gap[1:], *rest[1:]]
        assert text == batch["inputs"][row].tolist()
    assert made["mask"][:4].all()
    assert 0 < made["mask"][4].sum() < 10
    assert (made["segments"] == 0).sum() + (made["mask"] == 0).sum() >= (batch["mask"] == 0).sum()


def test_spans_follow_the_key_in_training_alone():
    """As for masked tokens."""
    task, batch = spans_task()
    params = drawn(task)
    one, other = jax.random.key(1), jax.random.key(2)
    assert (
        task.loss(params, batch, Context(one, 0, train=True)).sum
        != task.loss(params, batch, Context(other, 0, train=True)).sum
    )
    evaluated, turned = evaluation_context(0), {name: rows[::-1] for name, rows in batch.items()}
    found = task.predict(params, batch, evaluated)["targets"]
    np.testing.assert_array_equal(found, task.predict(params, turned, evaluated)["targets"][::-1])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The configuration of 60 short pairs."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    draw = np.random.default_rng(0)
    rows = [" ".join(draw.choice("light day night earth".split(), size)) for size in draw.integers(1, 5, 60)]
    lines = [f"{number} {row}\t{row} {number}" for number, row in enumerate(rows)]
    path.write_text("en\tes\n" + "\n".join(lines) + "\n")
    tokenizer = TokenizerConfig("bpe", vocabulary_size=300, special="bert")
    return PairedText(
        train=(str(path),), group=(), validation_fraction=0.0, test_fraction=0.3, tokenizer=tokenizer, length=LENGTH
    )


@pytest.mark.parametrize(
    "model",
    [T5(depth=1, width=8, heads=2), Transformer(depth=1, width=8, heads=2, context=LENGTH)],
    ids=["t5", "transformer"],
)
def test_packed_pairs_are_worth_what_single_ones_are(pairs, model):
    """For encoder-decoders: neither attention crosses from a pair to the next."""
    packed, single = pairs.build(), dataclasses.replace(pairs, packing=False).build()
    task = compiled(SequenceToSequence().build(model, packed))
    params = drawn(task)
    together, apart = (
        task.loss(
            params, gather(data.splits["train"], np.arange(len(data.splits["train"]))), Context(KEY, 0, train=False)
        )
        for data in (packed, single)
    )
    np.testing.assert_allclose(together.sum, apart.sum, rtol=2e-5)
    assert together.weight == apart.weight > 0


def test_what_a_model_writes_is_its_likeliest_text(pairs):
    """Token by token as the uncached model gives them, and nothing but the end after the end."""
    data = pairs.build()
    model = T5(depth=1, width=8, heads=2)
    task = compiled(SequenceToSequence().build(model, data))
    params = drawn(task)
    batch = gather(data.splits["test"], np.arange(4))
    written = np.asarray(task.predict(params, batch, evaluation_context(0))["tokens"])
    start, end = boundary_ids(data.tokenizer)
    apply = jax.jit(model.build(data.spec).apply)
    known = np.full((4, written.shape[1] + 1), start, np.int32)
    known[:, 1:] = written
    source = {name: batch[name] for name in ("inputs", "segments")}
    logits, _ = apply(params, {"decoder_inputs": known[:, :-1], **source})
    expected = np.asarray(logits).argmax(-1)
    over = np.cumsum(expected == end, 1) - (expected == end) > 0
    np.testing.assert_array_equal(np.where(over, end, expected), written)
    assert len(np.unique(written)) > 1


def test_a_sample_shows_what_was_read_written_and_expected(pairs, monkeypatch):
    """Pairs of the validation split by the key, fetched from all processes; without such a split there is none."""
    fetched, fetch = [], trees.fetch
    monkeypatch.setattr(trees, "fetch", lambda leaf: fetched.append(leaf.shape) or fetch(leaf))
    data = dataclasses.replace(pairs, validation_fraction=0.3).build()
    model = T5(depth=1, width=8, heads=2)
    task = compiled(SequenceToSequence().build(model, data))
    lines = task.sample(drawn(task), Context(KEY, 0, train=False)).split("\n")
    sources, targets = data.texts["validation"]["source"], data.texts["validation"]["target"]
    assert [(lines[place], lines[place + 2].strip(" ()")) for place in (0, 4, 8)] == [
        (source, target) for line in lines for source, target in zip(sources, targets, strict=True) if line == source
    ]
    assert lines[1].startswith("-> ")
    assert [shape[0] for shape in fetched] == [3]
    assert SequenceToSequence().build(model, pairs.build()).sample is None


@given(st.floats(0, 0.9), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_smoothing_spreads_a_share_of_the_mass(smoothing, seed):
    """The cross entropy with the smoothed target as a whole array."""
    logits = np.random.default_rng(seed).normal(size=(3, 5))
    labels = np.array([0, 4, 2])
    target = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    expected = -(target * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)
    found = smoothed_cross_entropy(jnp.asarray(logits.astype(np.float32)), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "model", "tokenizer", "message"),
    [
        (TextClassification(), dataclasses.replace(ENCODER, context=8), TOKENIZER, "rows of 24 .* context of 8"),
        (TextClassification(), dataclasses.replace(ENCODER, vocabulary=9), TOKENIZER, r"\d+ ids .* takes 9"),
        (MaskedLanguageModelling(), BERT(context=LENGTH), T5_TOKENIZER, "special token 'mask'"),
        (SpanCorruption(), T5(), T5_TOKENIZER, "one stream of text: set --data.packing stream"),
        (SequenceToSequence(), T5(), None, "tokenizer with special tokens"),
    ],
)
def test_what_cannot_work_is_refused(task, model, tokenizer, message):
    """Sizes, tokens and rows that do not fit, with what to set."""
    rows, _ = rows_of(EXAMPLES["classes"], LENGTH, packing=True)
    with pytest.raises(UserError, match=message):
        task.build(model, Data({"train": rows}, outputs=CLASSES, tokenizer=tokenizer))
