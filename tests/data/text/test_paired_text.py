"""Pairs of texts become rows: aligned, by group, packed with little waste, source and target side by side."""

import json
from pathlib import Path

import numpy as np
import pytest

from research.core.errors import UserError
from research.data.text.paired_text import PairedText, boundary_ids
from research.data.text.tokenizers import TokenizerConfig

DRAW = np.random.default_rng(0)
WORDS = "light day night earth water heaven good evening morning first".split()
SMALL = TokenizerConfig("bpe", vocabulary_size=400, special="bert")


def pairs(path, rows):
    lines = ["en\tes\tbook", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return (str(path),)


@pytest.fixture
def table(tmp_path):
    """200 sentences and their words backwards, in 40 books."""
    rows = []
    for number, size in enumerate(DRAW.integers(2, 16, 200)):
        words = [str(number), *DRAW.choice(WORDS, size)]
        rows.append((" ".join(words), " ".join(words[::-1]), number // 5))
    return pairs(tmp_path / "pairs.tsv", rows)


def test_every_pair_stands_in_one_row_with_one_number(table):
    """Each source has its target under the same segment number, and teacher forcing is a shift by one."""
    data = PairedText(train=table, tokenizer=SMALL, length=64).build()
    start, end = boundary_ids(data.tokenizer)
    for split, rows in data.splits.items():
        found = []
        for row in (rows[index] for index in range(len(rows))):
            for segment in range(1, row["segments"].max() + 1):
                source = row["inputs"][row["segments"] == segment]
                here = row["decoder_segments"] == segment
                target, read = row["targets"][here], row["decoder_inputs"][here]
                assert source[-1] == target[-1] == end
                assert read[0] == start
                assert read[1:].tolist() == target[:-1].tolist()
                assert row["decoder_positions"][here].tolist() == list(range(here.sum()))
                assert row["mask"][here].all()
                found.append((data.tokenizer.decode(source[:-1]), data.tokenizer.decode(target[:-1])))
            assert row["mask"].sum() == (row["decoder_segments"] > 0).sum()
        texts = data.texts[split]
        assert sorted(found) == sorted(zip(texts["source"], texts["target"], strict=True))
        assert all(source.split() == target.split()[::-1] for source, target in found)


def test_packed_rows_waste_less_than_a_twentieth(table):
    """Of both sides together; only training pairs are packed, so that every other row can be written anew."""
    data = PairedText(train=table, tokenizer=SMALL, length=64).build()
    facts = data.summary["splits"]
    assert facts["train"]["padding"] < 0.05
    assert facts["train"]["rows"] < facts["train"]["examples"]
    assert facts["test"]["rows"] == facts["test"]["examples"]
    assert data.splits["test"].arrays["segments"].max() == 1
    unpacked = PairedText(train=table, tokenizer=SMALL, length=64, packing=False).build()
    assert unpacked.summary["splits"]["train"]["padding"] > 0.2


def test_a_book_is_in_one_split(table):
    """Whole groups are held out."""
    data = PairedText(train=table, tokenizer=SMALL, length=64, validation_fraction=0.3, test_fraction=0.2).build()
    homes = {}
    for split, texts in data.texts.items():
        for source in texts["source"]:
            homes.setdefault(int(source.split()[0]) // 5, set()).add(split)
    assert len(homes) == 40
    assert max(map(len, homes.values())) == 1
    assert {split for home in homes.values() for split in home} == {"train", "validation", "test"}


def test_misaligned_pairs_are_dropped_and_counted(tmp_path):
    """By the ratio of lengths, measured against the median; short texts may differ."""
    rows = [(f"{n} " + "word " * 10, f"{n} " + "palabra " * 10, n) for n in range(40)]
    train = pairs(
        tmp_path / "train.tsv", [*rows, ("a " * 40, "b", 41), ("b", "a " * 90, 42), ("no", "jamás de los", 43)]
    )
    test = pairs(tmp_path / "test.tsv", [("word " * 9, "palabra " * 9, 1), ("word " * 9, "palabra", 2)])
    options = {"train": train, "test": test, "validation_fraction": 0.0, "tokenizer": SMALL, "length": 200}
    data = PairedText(**options).build()
    assert data.summary["splits"]["train"]["misaligned"] == 2
    assert data.summary["splits"]["test"]["misaligned"] == 1
    assert "no" in data.texts["train"]["source"]
    assert PairedText(**options, ratio=0.0).build().summary["splits"]["train"]["misaligned"] == 0


def test_long_pairs_are_dropped_or_cut(table):
    """Counted, or with `cut` the source loses its end and keeps its boundary."""
    dropped = PairedText(train=table, tokenizer=SMALL, length=12).build().summary["splits"]["train"]
    assert dropped["too_long"] > 0
    data = PairedText(train=table, tokenizer=SMALL, length=12, cut=True).build()
    assert dropped["too_long"] >= data.summary["splits"]["train"]["too_long"]
    _, end = boundary_ids(data.tokenizer)
    rows = data.splits["train"].arrays
    last = (rows["segments"] > 0) & (np.roll(rows["segments"], -1, 1) != rows["segments"])
    assert (rows["inputs"][last] == end).all()


def test_boundaries_are_those_that_models_know():
    """BERT's first and separator; T5 begins with padding and has an end."""
    text = ["some text to learn from"] * 3
    bert, t5 = (TokenizerConfig("bpe", 400, special=kind).train(text) for kind in ("bert", "t5"))
    assert boundary_ids(bert) == (bert.special_id("cls"), bert.special_id("sep"))
    assert boundary_ids(t5) == (t5.special_id("pad"), t5.special_id("eos")) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": TokenizerConfig("bpe", 300)}, "need a tokenizer with special tokens: .*special bert"),
        ({"tokenizer": TokenizerConfig("bytes")}, "need a tokenizer with special tokens"),
        ({"target": "fr"}, "has no 'fr', it has en, es, book: .* --data.target"),
        ({"length": 3}, "No pair of the train split fits in 3 tokens"),
        ({"ratio": 0.5}, "The ratio of lengths is 0.5"),
        ({"group": ("book", "verse")}, "Record 1 of the train split has no 'verse', it has .* --data.group"),
        ({"source": "verse"}, "Record 1 of the train split has no 'verse'"),
        ({"target": "book"}, "Record 1 of the train split has '0' in 'book', which is int, not text"),
        (
            {"validation": "long"},
            "No pair of the validation split has sides of matching lengths by the ratio 2: .*ratio",
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, options, message):
    """With what was found and what to do."""
    records = [{"en": f"the first light {n}", "es": f"la primera luz {n}", "book": n // 5} for n in range(200)]
    records[2]["verse"] = "1"
    train, long = (str(tmp_path / name) for name in ("train.jsonl", "long.jsonl"))
    Path(train).write_text("".join(json.dumps(record) + "\n" for record in records))
    Path(long).write_text(json.dumps({"en": "day " * 30, "es": "a"}))
    options = {**options, "validation": (long,)} if "validation" in options else options
    with pytest.raises(UserError, match=message):
        PairedText(**{"train": (train,), "tokenizer": SMALL, "length": 64, **options}).build()
