"""Promises of `python -m research.export`: what others load is what the run has learned."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import run_module

from research.core.errors import UserError
from research.core.shapes import Spec
from research.data.text.labelled_text import LabelledText
from research.data.text.tokenizers import TokenizerConfig
from research.export.adapter import export_adapter
from research.export.hugging_face import export_model
from research.hub.pretrained import load_pretrained, save_pretrained
from research.models.bert import BERT
from research.models.wrappers.lora import LoRA, merged
from research.tasks.task import evaluation_context
from research.tasks.text_classification import TextClassification
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.pretrained import PretrainedModel, PretrainedTokenizer
from research.train.run import train


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of low-rank updates and a new head for two classes, over a folder with a small encoder."""
    folder = tmp_path_factory.mktemp("tuned")
    texts = [f"{word} {a} {b}" for word in ("good", "bad") for a in "abcd" for b in "ijkl"]
    (folder / "mine.csv").write_text("text,kind\n" + "".join(f"{text},{text.split()[0]}\n" for text in texts))
    config, tokenizer = BERT(1, 16, 2, context=16, head="masked"), TokenizerConfig("wordpiece", 48).train(texts)
    params = config.build(Spec(tokenizer.vocabulary_size)).init(
        jax.random.key(0), {"inputs": jnp.zeros((1, 1), jnp.int32)}
    )
    save_pretrained(folder / "base", config, params, tokenizer)
    source = str(folder / "base")
    experiment = Experiment(
        data=LabelledText(
            train=(str(folder / "mine.csv"),),
            label="kind",
            group=(),
            test_fraction=0.0,
            length=16,
            packing=False,
            tokenizer=PretrainedTokenizer(source),
        ),
        model=PretrainedModel(source, head="sequence", dropout=0.0, lora=LoRA(rank=2, trained="^head/")),
        task=TextClassification(),
        optimizer=Optimizer("adamw", learning_rate=0.1),
        evaluators=(),
        steps=1,
        batch_size=4,
    )
    return train(experiment, name="tuned", root=folder / "runs")


def logits(run, folder):
    """Of the validation texts: the run's own, and those of the model in a folder."""
    split = run.assembly.data.splits["validation"]
    batch = split.gather(np.arange(len(split)))
    loaded = load_pretrained(folder)
    outputs, _ = loaded.apply(loaded.params, jax.tree.map(jnp.asarray, batch))
    return run.assembly.task.predict(run.state.evaluated, jax.tree.map(jnp.asarray, batch), evaluation_context(0))[
        "logits"
    ], outputs


@pytest.mark.parametrize("options", [(), ("--format", "adapter")], ids=["whole", "adapter"])
def test_an_exported_run_gives_the_same_logits(options, tuned, tmp_path) -> None:
    """Merged or as an adapter over its base, with the tokenizer."""
    assert run_module("research.export", str(tuned.folder), str(tmp_path / "out"), *options) == 0
    expected, found = logits(tuned, tmp_path / "out")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(expected)) > 0.01
    ids = load_pretrained(tmp_path / "out").tokenizer.encode_pair("good a").ids
    np.testing.assert_array_equal(ids, tuned.assembly.data.tokenizer.encode_pair("good a").ids)


def test_the_classes_keep_their_names(tuned, tmp_path) -> None:
    """A pipeline of the transformers library then answers with them."""
    export_model(tuned, str(tmp_path), tokenizer=False)
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["id2label"] == {"0": "bad", "1": "good"} and described["label2id"] == {"bad": 0, "good": 1}
    assert not (tmp_path / "tokenizer.json").exists()


def with_model(run, config, params):
    """The run, had its model been another."""
    experiment = dataclasses.replace(run.assembly.experiment, model=config)
    return run._replace(
        assembly=run.assembly._replace(experiment=experiment),
        state=run.state.replace(params=params, fixed={}, variables={}, average=None),
    )


def test_a_run_of_a_plain_model_is_exported_too(tuned, tmp_path) -> None:
    """Its configuration and parameters need no unwrapping; it has no adapter."""
    model = tuned.assembly.experiment.model
    plain = with_model(tuned, model.configuration, merged(tuned.state.merged, model.lora))
    export_model(plain, str(tmp_path))
    expected, found = logits(tuned, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="no low-rank updates: leave out --format adapter"):
        export_adapter(plain, str(tmp_path))


def test_what_others_have_no_form_for_is_refused(tuned, tmp_path, capsys) -> None:
    """In one sentence that says what to do, and with exit code 2."""
    model = dataclasses.replace(tuned.assembly.experiment.model, pooling="mean")
    with pytest.raises(UserError, match=r"--model\.pooling first"):
        export_model(with_model(tuned, model, tuned.state.merged), str(tmp_path))
    model = dataclasses.replace(model, source=str(tuned.folder))
    with pytest.raises(UserError, match="with --base"):
        export_adapter(with_model(tuned, model, tuned.state.merged), str(tmp_path))
    for arguments, message in (
        (["nowhere", "out"], "nowhere"),
        ([str(tuned.folder), "out", "--base", "x"], "needs no base"),
        ([str(tuned.folder), "out", "--format", "adapter", "--base", "../x"], "without '..'"),
    ):
        assert run_module("research.export", *arguments) == 2
        assert message in capsys.readouterr().err
