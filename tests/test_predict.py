"""Promises of `research.predict`: inputs as a user has them get what evaluation computed for them, or one sentence."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import run_module

from research.core.errors import UserError
from research.data.pipeline import evaluation_batches
from research.data.sources import read_table
from research.data.tables import TableData
from research.data.text.labelled_text import LabelledText
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.answers import AnswersEvaluator
from research.evaluate.binary import BinaryEvaluator
from research.models.bert import BERT
from research.models.mlp import MLP
from research.tasks.answer_spans import AnswerSpans
from research.tasks.binary_classification import BinaryClassification
from research.tasks.task import evaluation_context
from research.train.experiment import Experiment
from research.train.predictions import predict_answers, predict_inputs
from research.train.run import train


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A run on a table of a number, a category and a label; and the path of the table."""
    folder, random = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    rows = [f"{x:.3f},{c},{'yes' if x > 0 else 'no'}" for x, c in zip(random.normal(size=96), "ab" * 48, strict=True)]
    path = folder / "table.csv"
    path.write_text("x,kind,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    experiment = Experiment(
        data=TableData(train=str(path), test=str(path), validation_fraction=0.2),
        model=MLP((4,)),
        task=BinaryClassification(),
        evaluators=(BinaryEvaluator(),),
        steps=2,
        batch_size=8,
    )
    return train(experiment, name="table", root=folder / "runs"), path


@pytest.fixture(scope="module")
def answers_run(tmp_path_factory):
    """A run that finds answers, of two steps."""
    folder = tmp_path_factory.mktemp("answers")
    data = LabelledText(
        kind="answers",
        text="question",
        other="context",
        label="answer",
        group=(),
        length=24,
        tokenizer=TokenizerConfig("wordpiece", vocabulary_size=160),
    ).small(folder)
    experiment = Experiment(
        data=data,
        model=BERT(depth=1, width=8, heads=2, context=24, vocabulary=160, head="span", dropout=0.0),
        task=AnswerSpans(longest=4),
        evaluators=(AnswersEvaluator(),),
        steps=2,
        batch_size=8,
    )
    return train(experiment, name="answers", root=folder / "runs")


@pytest.fixture(scope="module")
def image_run(tiny_image_run, tmp_path_factory):
    """A run on pictures of 8 x 8."""
    return train(dataclasses.replace(tiny_image_run, steps=2), name="pictures", root=tmp_path_factory.mktemp("runs"))


def evaluated(run, split):
    """The logits that an evaluator of the split measures, one row an example."""
    predict, context = run.assembly.task.predict, evaluation_context(run.assembly.experiment.seed)
    batches = list(evaluation_batches(run.assembly.data.splits[split], 16))
    found = [np.asarray(predict(run.state.evaluated, batch, context)["logits"]) for batch in batches]
    return np.concatenate(found)[: len(run.assembly.data.splits[split])]


def test_rows_of_a_table_get_what_evaluation_computes(table_run):
    """Standardised by the training rows; the probability of the second class is the sigmoid of its logit."""
    run, path = table_run
    table = read_table(str(path))
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    logits = evaluated(run, "test")
    np.testing.assert_allclose(predict_inputs(run, rows)[:, 1], jax.nn.sigmoid(logits), rtol=1e-5)
    np.testing.assert_allclose(predict_inputs(run, rows, logits=True)[:, 1], logits, rtol=1e-5, atol=1e-6)


def test_answers_are_the_words_of_the_text_that_evaluation_measures(answers_run):
    """Of each question of a split: the same tokens, as the text writes them; "" where they are not in the text."""
    data, task = answers_run.assembly.data, answers_run.assembly.task
    texts, context = data.texts["validation"], evaluation_context(answers_run.assembly.experiment.seed)
    found = predict_answers(answers_run, list(zip(texts["text"], texts["other"], strict=True)))
    assert len(found) == len(texts["text"]) and any(found)
    for batch in evaluation_batches(data.splits["validation"], 16):
        spans = np.asarray(task.predict(answers_run.state.evaluated, batch, context)["spans"])
        for row, example in zip(*np.nonzero(batch["mask"]), strict=True):
            number, (first, last) = batch["indices"][row, example], spans[row, example]
            assert found[number] in texts["other"][number]
            if found[number]:
                written = data.tokenizer.decode(batch["inputs"][row, first : last + 1])
                assert written.replace(" ", "").removeprefix("##") == found[number].replace(" ", "")


def test_images_get_what_evaluation_computes(image_run):
    """Given as arrays of the validation split, and as the files that it was read from."""
    images = image_run.assembly.data.splits["validation"].arrays["inputs"]
    logits = evaluated(image_run, "validation")
    np.testing.assert_allclose(predict_inputs(image_run, list(images), logits=True), logits, rtol=1e-5, atol=1e-6)


def test_an_image_of_another_size_or_colour_is_brought_to_that_of_the_training_images(image_run, tmp_path):
    """A file and the same pixels as an array give the same row; a grey one has three equal channels."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    rows = image_run.assembly.data.encode([str(tmp_path / "one.png"), pixels, pixels[..., 0]]).arrays["inputs"]
    assert rows.shape == (3, 8, 8, 3) and rows.dtype == np.uint8
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[2][..., 0], rows[2][..., 1])


@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({"kind": "classes"}, "good film"),
        ({"kind": "classes", "other": "second"}, ("good film", "bad book")),
        ({"kind": "words", "label": "tags"}, "good film"),
        ({"kind": "answers", "other": "second", "label": "answer"}, ("good", "a film")),
        ({"kind": "pairs", "other": "second", "label": "none"}, ("good film", "a bad book")),
    ],
)
def test_texts_are_encoded_as_those_of_the_splits(tmp_path, options, raw):
    """Every kind of labelled text: the fields are those of an unpacked split without labels, and so are the tokens."""
    rows = [f"{word} film,{word} book,{word},A B,film" for word in ("good", "bad", "sad", "glad") for _ in range(4)]
    rows = [row.replace(" film", f" film{'s' * n}", 1).replace(",film", ",book") for n, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("text,second,score,tags,answer\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config = LabelledText(
        train=(str(tmp_path / "t.csv"),),
        group=(),
        validation_fraction=0.3,
        test_fraction=0.0,
        length=32,
        packing=False,
        tokenizer=TokenizerConfig("wordpiece", vocabulary_size=64),
        **options,
    )
    data = config.build()
    split, texts = data.splits["validation"].arrays, data.texts["validation"]
    inputs = list(zip(texts["text"], texts["other"], strict=True)) if config.other else list(texts["text"])
    arrays = data.encode(inputs).arrays
    assert arrays.keys() == split.keys() - {"labels"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, split[name])
        assert array.dtype == split[name].dtype
    assert len(data.encode([raw])) == 1


def test_a_table_and_rows_are_predicted_from_the_command_line(table_run, image_run, tiny_images, capsys, monkeypatch):
    """Each row by its place in the file, or as it was given; each image by its name."""
    monkeypatch.setenv("COLUMNS", "300")  # a narrow terminal would cut the names
    run, path = table_run
    assert run_module("research.predict", str(run.folder), "--row", "x=0.5,kind=a", "--table", str(path)) == 0
    printed = capsys.readouterr().out
    (probability,) = predict_inputs(run, [{"x": 0.5, "kind": "a"}])[:, 1]
    assert "x=0.5,kind=a" in printed and "row 96" in printed and f"{probability:.4f}" in printed
    image = tiny_images / "dark" / "00.png"
    assert run_module("research.predict", str(image_run.folder), "--image", str(image)) == 0
    assert f"{predict_inputs(image_run, [image])[0, 0]:.4f}" in capsys.readouterr().out


def test_data_that_have_changed_since_training_are_named(table_run, capsys):
    """Columns are fitted to the training rows again, so that on other rows a prediction is another."""
    run, path = table_run
    asked = ("research.predict", str(run.folder), "--row", "x=1,kind=a")
    kept = path.read_bytes()
    try:
        path.write_bytes(kept + b"9.5,a,yes\n")
        assert run_module(*asked) == 0
        assert f"{path} changed since {run.folder} was trained" in " ".join(capsys.readouterr().err.split())
        path.unlink()
        assert run_module(*asked) == 2
        assert f"The data of {run.folder} cannot be read again: {path}" in " ".join(capsys.readouterr().err.split())
    finally:
        path.write_bytes(kept)
    assert run_module(*asked) == 0 and "changed" not in capsys.readouterr().err


def test_answers_are_printed_and_every_kind_as_json_lines(answers_run, table_run, image_run, tiny_images, capsys):
    """A question and a text give the words found; `--json` gives one object for each input, with its prediction."""
    pair = ("--text", "Which number?", "--other", "Anne sold 5 new boats.")
    (answer,) = predict_answers(answers_run, [(pair[1], pair[3])])
    assert run_module("research.predict", str(answers_run.folder), *pair) == 0
    assert answer in capsys.readouterr().out
    (run, path), image = table_run, str(tiny_images / "dark" / "00.png")
    (probabilities,) = predict_inputs(run, [{"x": 0.5, "kind": "a"}]).tolist()
    scores = dict(zip(run.assembly.data.class_names, probabilities, strict=True))
    best = max(scores, key=scores.get)
    for arguments, expected in (
        ((str(answers_run.folder), *pair), {"input": pair[1], "answer": answer}),
        ((str(run.folder), "--row", "x=0.5,kind=a"), {"input": "x=0.5,kind=a", "prediction": best, "scores": scores}),
    ):
        assert run_module("research.predict", *arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out) == expected
    assert run_module("research.predict", str(image_run.folder), "--image", image, image, "--json") == 0
    assert [json.loads(line)["input"] for line in capsys.readouterr().out.splitlines()] == [image, image]
    assert run_module("research.predict", str(run.folder), "--table", str(path), "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 96


def test_what_a_run_cannot_read_is_refused(answers_run, table_run, image_run, tiny_images, capsys):
    """An unknown category, a missing column, no image, or inputs of another kind: one sentence, exit code 2."""
    (run, path), image = table_run, str(tiny_images / "dark" / "00.png")
    table, images = str(run.folder), str(image_run.folder)
    for arguments, message in (
        ([table, "--row", "x=1,kind=c"], "'c' in the column 'kind', which no training row has: give one of a, b."),
        ([table, "--row", "x=1"], "no column 'kind'"),
        ([table, "--row", "x=one,kind=a"], "'one' in the column 'x': give a number"),
        ([table, "--row", "x"], "'x' where 'column=value' should be"),
        ([table, "--text", "Hi"], "These data are rows of a table"),
        ([table, "--image", image], "These data are rows of a table"),
        ([table, "--text", "Hi", "--row", "x=1"], "inputs of one kind"),
        ([images, "--text", "Hi"], "These data are images"),
        ([str(answers_run.folder), "--text", "Who?"], "Each example of these data is a pair of texts"),
        ([images, "--row", "x=1"], "These data are images, and input 1 is dict"),
        ([images, "--image", str(path)], "cannot be decoded as an image"),
        ([images, "--image", "nowhere.png"], "'nowhere.png', names no file"),
    ):
        assert run_module("research.predict", *arguments) == 2
        *_, sentence = capsys.readouterr().err.strip().split("\n")
        assert message in " ".join(sentence.split()), sentence
    with pytest.raises(UserError, match="no inputs to predict for"):
        predict_inputs(run, [])
