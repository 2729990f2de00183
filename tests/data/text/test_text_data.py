"""Text becomes rows of tokens: from your own files or a data set, without a leak, and with its numbers right."""

import dataclasses
import json

import numpy as np
import pytest

from research.core.errors import UserError
from research.data import catalogue
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig


def words(seed: int, count: int) -> str:
    random = np.random.default_rng(seed)
    return " ".join("".join(random.choice(list("abcdefgh"), 4)) for _ in range(count))


@pytest.fixture
def two_files(tmp_path):
    """Two texts that have nothing in common."""
    for name, seed, count in (("train.txt", 0, 400), ("validation.txt", 1, 100)):
        (tmp_path / name).write_text(words(seed, count) + "\n", encoding="utf-8")
    return tmp_path


def test_validation_files_are_the_validation_split(two_files):
    """Separate paths are not divided again; the tokenizer knows the training text alone."""
    (two_files / "validation.txt").write_text(words(1, 100) + " ÿ\n", encoding="utf-8")
    data = TextData(train=(str(two_files / "train.txt"),), validation=(str(two_files / "validation.txt"),)).build()
    assert set(data.splits) == {"train", "validation"}
    assert data.tokenizer.decode(data.tokens["train"]).startswith(words(0, 400)[:50])
    assert data.tokenizer.decode(data.tokens["validation"]).rstrip().endswith("\ufffd")
    assert data.outputs == data.tokenizer.vocabulary_size == 11  # eight letters, space, line end, and the unknown
    assert set(data.summary["files"]) == {str(two_files / "train.txt"), str(two_files / "validation.txt")}


def test_one_file_is_divided_by_sections(tiny_text):
    """The held-out share is of sections, and no section is on both sides."""
    data = TextData(train=(str(tiny_text),), length=16, validation_fraction=0.3).build()
    text = tiny_text.read_text()
    parts = {name: data.tokenizer.decode(tokens) for name, tokens in data.tokens.items()}
    assert abs(sum(map(len, parts.values())) - len(text)) < 20
    assert not set(parts["train"].split("\n\n")) & set(parts["validation"].split("\n\n"))
    shares = {name: facts["share"] for name, facts in data.summary["splits"].items()}
    assert 0 < shares["validation"] < 1
    assert sum(shares.values()) == pytest.approx(1)
    assert data.summary["splits"]["train"]["tokens"] == len(data.tokens["train"])


def test_training_sees_every_window_and_evaluation_every_token_once(tiny_text):
    """Rows overlap in training; in evaluation each token but the first is a target exactly once."""
    data = TextData(train=(str(tiny_text),), length=16, validation_fraction=0.3).build()
    train, validation = data.splits["train"], data.splits["validation"]
    assert len(train) == len(data.tokens["train"]) - 16
    np.testing.assert_array_equal(train[7]["inputs"], data.tokens["train"][7:23])
    np.testing.assert_array_equal(train[7]["targets"], data.tokens["train"][8:24])
    rows = validation.gather(np.arange(len(validation)))
    np.testing.assert_array_equal(rows["targets"][rows["mask"] > 0], data.tokens["validation"][1:])


def test_packed_documents_stay_apart(two_files):
    """`documents` gives segments and positions, and a document is one JSON line."""
    path = two_files / "lines.jsonl"
    texts = [words(seed, 12) for seed in range(40)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = TextData(train=(str(path),), packing="documents", length=64, validation_fraction=0.2).build()
    row = data.splits["train"][0]
    assert set(row) == {"inputs", "targets", "segments", "positions", "mask"}
    first = data.tokenizer.decode(row["inputs"][row["segments"] == 1])
    assert any(text.startswith(first) for text in texts)


def test_characters_per_token_turn_nats_into_bits(two_files):
    """For byte-pair tokens, the characters of the split divided by its tokens."""
    paths = {"train": (str(two_files / "train.txt"),), "validation": (str(two_files / "validation.txt"),)}
    data = TextData(**paths, tokenizer=TokenizerConfig("bpe", vocabulary_size=300), length=8).build()
    for name, tokens in data.tokens.items():
        characters = len(data.tokenizer.decode(tokens))
        assert data.characters_per_token[name] == pytest.approx(characters / len(tokens))
        assert data.characters_per_token[name] > 1


def test_a_split_stays_when_data_are_added(tmp_path):
    """New lines never move an old one across."""
    path = tmp_path / "lines.jsonl"

    def validation(count: int) -> set[str]:
        path.write_text("".join(json.dumps({"text": words(seed, 20)}) + "\n" for seed in range(count)))
        data = TextData(train=(str(path),), length=8, validation_fraction=0.3).build()
        return set(data.tokenizer.decode(data.tokens["validation"]).split("\n\n"))

    assert validation(20) < validation(40)


def test_a_leak_is_refused(two_files):
    """The same text on both sides, but for a few words, ends in a sentence with both places."""
    (two_files / "validation.txt").write_text(words(0, 390) + " " + words(5, 5))
    config = TextData(train=(str(two_files / "train.txt"),), validation=(str(two_files / "validation.txt"),))
    with pytest.raises(UserError, match=r"train.txt.* \(train\) and .*validation.txt.* are near-duplicates"):
        config.build()


def test_near_duplicates_are_united_on_one_side_of_the_split(tmp_path, capsys):
    """Own text whose split is made here trains, says how many groups moved, and the flag keeps the refusal."""
    texts = [f"{words(seed % 12, 40)} {words(seed + 50, 2)}" for seed in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = TextData(train=(str(tmp_path / "own.jsonl"),), length=8, validation_fraction=0.3)
    with pytest.raises(UserError, match=r"are near-duplicates .* --data.near-duplicates unite"):
        dataclasses.replace(config, near_duplicates="refuse").build()
    data = config.build()
    assert f"{data.summary['united_groups']} groups of documents have near-duplicates" in capsys.readouterr().err
    sides = [set(data.tokenizer.decode(data.tokens[side]).split("\n\n")) for side in ("train", "validation")]
    assert sides[0] | sides[1] == set(texts)
    originals = [
        {words(seed, 40) for seed in range(12) if any(words(seed, 40) in text for text in side)} for side in sides
    ]
    assert originals[0] and originals[1] and not originals[0] & originals[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": ("v.txt",)}, "Validation files need training files"),
        ({"train": ("nothing/*.txt",)}, "matches no file"),
        ({"length": 5000}, r"The train split has \d+ tokens, too few for one row of 5000: .* --data.length \d+"),
        ({"length": 600}, r"The validation split has \d+ tokens, too few for one row of 600"),
        ({"length": 0}, "The stride is 1; give 1 to the context length, 0"),
    ],
)
def test_what_cannot_become_rows_is_refused(two_files, options, message):
    """Files and lengths, with what to do."""
    paths = {"train": (str(two_files / "train.txt"),), "validation": (str(two_files / "validation.txt"),)}
    with pytest.raises(UserError, match=message):
        TextData(**({**paths, **options} if "length" in options else options)).build()


def test_a_field_that_a_data_set_lacks_is_named(monkeypatch):
    """With the fields that there are."""
    records = [{"text": b"some text", "book": b"Emma"}]
    monkeypatch.setattr(catalogue, "load", lambda name: {"train": records})
    monkeypatch.setattr(catalogue, "info", lambda name: {})
    with pytest.raises(UserError, match="have no field 'chapter', they have text, book: name the right ones"):
        TextData(dataset="any").build()
