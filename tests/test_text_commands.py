"""Promises of the commands on text: a run continues a text, and labels one, from the command line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import only_run, run_module

from research.core import trees
from research.data.text.labelled_text import LabelledText
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.classification import ClassificationEvaluator
from research.generate import load_language
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.wrappers.lora import BRANCH, LoRA
from research.tasks.language_modelling import LanguageModelling
from research.tasks.text_classification import TextClassification
from research.train import predictions
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.predictions import predict_inputs
from research.train.pretrained import PretrainedModel, PretrainedTokenizer
from research.train.run import train


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A run that has learned to tell texts with "good" from texts with "bad"."""
    folder = tmp_path_factory.mktemp("labels")
    rows = [f"{word} {a} {b},{word}" for word in ("good", "bad") for a in "abcdefgh" for b in "ijklmnop"]
    (folder / "mine.csv").write_text("text,kind\n" + "\n".join(rows) + "\n", encoding="utf-8")
    experiment = Experiment(
        data=LabelledText(
            train=(str(folder / "mine.csv"),),
            label="kind",
            group=(),
            test_fraction=0.0,
            length=16,
            tokenizer=TokenizerConfig("wordpiece", vocabulary_size=64),
        ),
        model=BERT(depth=1, width=32, heads=2, context=16, vocabulary=64, head="sequence"),
        task=TextClassification(),
        optimizer=Optimizer("adamw", learning_rate=1e-2),
        evaluators=(ClassificationEvaluator(),),
        steps=40,
        batch_size=8,
    )
    return train(experiment, name="labels", root=folder / "runs")


def test_a_run_continues_a_text(tiny_runs, capsys) -> None:
    """It begins with the prompt, is the same for a seed, and as long as asked for, beyond the model's context."""
    run = str(only_run(tiny_runs / "clean"))
    printed = []
    for seed in ("0", "0", "1"):
        assert run_module("research.generate", run, "She was ", "--tokens", "40", "--seed", seed) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert printed[0].startswith("She was ") and len(printed[0]) == len("She was ") + 40 + 1


def test_several_texts_and_beams(tiny_runs, capsys) -> None:
    """Several are numbered; a search gives one, with its score."""
    run = str(only_run(tiny_runs / "clean"))
    assert run_module("research.generate", run, "She ", "--tokens", "5", "--samples", "2") == 0
    assert capsys.readouterr().out.count("of 2 ---") == 2
    assert run_module("research.generate", run, "She ", "--tokens", "5", "--beams", "3") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("She ") and printed.err.startswith("score -")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "neither a folder"),
        (["{run}", "Hi", "--tokens", "0"], "--tokens is 0"),
        (["{run}", "Hi", "--top-p", "2"], "--top-p is 2"),
        (["{labels}", "Hi"], "no model that continues text"),
    ],
)
def test_generating_what_cannot_be_is_refused(arguments, message, tiny_runs, labels, capsys) -> None:
    """In one sentence, with exit code 2."""
    places = {"run": only_run(tiny_runs / "clean"), "labels": labels.folder}
    assert run_module("research.generate", *(argument.format(**places) for argument in arguments)) == 2
    assert message in capsys.readouterr().err


def test_texts_are_labelled(labels, capsys) -> None:
    """Probabilities of the classes, in the order of their names, right for what was learned; or logits."""
    found = predict_inputs(labels, ["good a i", "bad b j"])
    assert labels.assembly.data.class_names == ("bad", "good")
    assert found[0, 1] > 0.8 and found[1, 0] > 0.8
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    logits = predict_inputs(labels, ["good a i", "bad b j"], logits=True)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), found, rtol=1e-4)
    assert run_module("research.predict", str(labels.folder), "--text", "good a i", "--text", "bad b j") == 0
    printed = capsys.readouterr().out
    assert "good a i" in printed and f"{found[0, 1]:.4f}" in printed


def test_labelling_what_cannot_be_is_refused(labels, tiny_runs, capsys) -> None:
    """No text, a run of another kind, or a second text where none is read."""
    run = str(labels.folder)
    for arguments, message in (
        ([run], "There is nothing to predict for"),
        ([str(only_run(tiny_runs / "clean")), "--text", "Hi"], "has no predictions for inputs of your own"),
        ([run, "--text", "Hi", "--other", "Ho"], "Each example of these data is one text"),
        ([run, "--text", "Hi", "--text", "Ho", "--other", "Ha"], "2 texts and 1 others"),
    ):
        assert run_module("research.predict", *arguments) == 2
        assert message in capsys.readouterr().err


def test_packing_changes_no_prediction(labels) -> None:
    """A text asked about alone and one among others in a row get the same answer."""
    data = dataclasses.replace(labels.assembly.experiment.data, packing=False).build()
    texts = data.texts["validation"]["text"][:4]
    alone = np.concatenate([predict_inputs(labels, [text]) for text in texts])
    np.testing.assert_allclose(predict_inputs(labels, texts), alone, rtol=1e-4, atol=1e-6)


def test_many_texts_go_through_in_batches(labels, monkeypatch) -> None:
    """Of one shape, the last one filled up; every text gets its own answer."""
    shapes = []

    def predict(params, batch, context):
        shapes.append(batch["inputs"].shape)
        return labels.assembly.task.predict(params, batch, context)

    texts = [f"{'good' if n % 3 else 'bad'} {n}" for n in range(7)]
    together = predict_inputs(labels, texts)
    monkeypatch.setattr(predictions, "BATCH", 3)
    assembly = labels.assembly._replace(task=labels.assembly.task._replace(predict=predict))
    found = predict_inputs(labels._replace(assembly=assembly), texts)
    assert shapes == [(3, 16)]  # traced once
    assert found.shape == (7, 2)
    np.testing.assert_allclose(found, together, rtol=1e-4, atol=1e-6)


def test_a_run_with_low_rank_updates_writes_what_its_model_would(tiny_text, tmp_path) -> None:
    """They are merged once before writing, and the logits stay those of the run."""
    text = TextData(train=(str(tiny_text),), length=8, validation_fraction=0.3)
    base = Experiment(data=text, model=GPT(depth=1, width=16, heads=2, context=8), task=LanguageModelling(), steps=2)
    source = str(train(base, name="base", root=tmp_path).folder)
    tuned = dataclasses.replace(
        base,
        data=dataclasses.replace(text, tokenizer=PretrainedTokenizer(source)),
        model=PretrainedModel(source, lora=LoRA(rank=2)),
        optimizer=Optimizer("adamw", learning_rate=0.1),
    )
    run = train(tuned, name="tuned", root=tmp_path)
    language = load_language(str(run.folder))
    assert not [path for path in trees.flatten(language.params) if path.startswith(BRANCH)]
    ids = language.encode("abcd efg")[None]
    cache = language.decoding.init_cache(language.params, 1, 8)
    zero = jnp.int32(0)
    step, apply = jax.jit(language.decoding.decode_step), jax.jit(run.assembly.model.apply)
    logits, _ = step(language.params, cache, jnp.asarray(ids), zero, jnp.zeros(1, jnp.int32))
    expected = apply(run.state.merged, {"inputs": jnp.asarray(ids)})[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
