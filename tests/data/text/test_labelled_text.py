"""Labelled text becomes rows: from a data set or your own files, without a leak, labels and places right."""

import itertools
import json

import numpy as np
import pytest

from research.core.errors import UserError
from research.data import catalogue
from research.data.pipeline import gather
from research.data.text.labelled_text import LabelledText
from research.data.text.tokenizers import PairTokenizer, TokenizerConfig

DRAW = np.random.default_rng(0)
NOUNS = "film plot actor scene story music camera light ending hero".split()
REVIEWS = [f"{'good' if number % 2 else 'bad'} {' '.join(DRAW.choice(NOUNS, 1 + number % 7))}" for number in range(60)]
SMALL = TokenizerConfig("wordpiece", vocabulary_size=150)


def csv(path, columns, rows):
    lines = [",".join(columns), *(",".join(f'"{value}"' for value in row) for row in rows)]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return (str(path),)


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return (str(path),)


@pytest.fixture
def reviews(tmp_path):
    """60 reviews in a table, numbered as the first word says."""
    rows = [(text, "yes" if text.startswith("good") else "no") for text in REVIEWS]
    return csv(tmp_path / "reviews.csv", ("review", "likes"), rows)


def examples(data, split):
    """Returns (text, label) of each example of a split, read from the rows."""
    found = []
    for row in (data.splits[split][index] for index in range(len(data.splits[split]))):
        for place in np.flatnonzero(row["mask"]):
            segment = row["segments"][row["starts"][place]]
            ids = row["inputs"][row["segments"] == segment]
            found.append((data.tokenizer.decode(ids), row["labels"][place].tolist()))
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_your_own_table_takes_three_options(reviews, packing, capsys):
    """File, text and label: classes by name, groups by content, every example once and with its label."""
    data = LabelledText(
        train=reviews, text="review", label="likes", tokenizer=SMALL, length=24, packing=packing, test_fraction=0.0
    ).build()
    assert data.class_names == ("no", "yes")
    assert data.outputs == 2
    found = [example for split in data.splits for example in examples(data, split)]
    assert len(found) + data.summary["repeats_removed"] == 60
    assert all((text.split()[1] == "good") == label for text, label in found)
    assert {text for text, _ in found} <= {f"[CLS] {text} [SEP]" for text in REVIEWS}
    said = capsys.readouterr().err
    assert "the labels 'likes' are no scores" in said
    assert "no column 'document' to keep together" in said


def test_packed_rows_waste_less_than_a_twentieth(tmp_path):
    """The record says how much; unpacked rows waste most of theirs."""
    draw = np.random.default_rng(1)
    rows = [(" ".join(draw.choice(NOUNS, size)), size % 2) for size in draw.integers(2, 30, 300)]
    options = {"train": csv(tmp_path / "a.csv", ("text", "label"), rows), "label": "label", "kind": "classes"}
    for packing, low, high in ((True, 0.0, 0.05), (False, 0.5, 0.9)):
        data = LabelledText(**options, tokenizer=SMALL, length=64, packing=packing).build()
        facts = data.summary["splits"]["train"]
        rows = data.splits["train"].arrays
        assert facts["padding"] == pytest.approx((rows["segments"] == 0).mean(), abs=1e-4)
        assert low <= facts["padding"] <= high


def test_scores_become_two_classes(monkeypatch):
    """Those in the middle are left out and counted; a group stays on one side; texts are not in two splits."""
    scores = np.random.default_rng(2).uniform(-4, 4, 200)
    records = [
        {
            "text": f"{number} {round(score, 3)}".encode(),
            "score": np.float32(score),
            "document": str(number // 5).encode(),
        }
        for number, score in enumerate(scores)
    ]
    monkeypatch.setattr(catalogue, "load", lambda name: {"train": records})
    monkeypatch.setattr(catalogue, "info", lambda name: {"name": name, "labels": {}})
    data = LabelledText(margin=1.0, validation_fraction=0.3, test_fraction=0.2, tokenizer=SMALL, length=32).build()
    assert data.class_names == ("negative", "positive")
    assert data.summary["left_out"] == (np.abs(scores.astype(np.float32)) <= 1).sum()
    groups = {}
    for split, texts in data.texts.items():
        for text, label in zip(texts["text"], texts["label"], strict=True):
            number, score = text.split()
            assert label == (float(score) > 0)
            groups.setdefault(int(number) // 5, set()).add(split)
    assert max(map(len, groups.values())) == 1
    assert set(data.splits) == {"train", "validation", "test"}


def test_numbers_are_targets(tmp_path):
    """As floats, one output; two texts are read together, with their kinds of tokens."""
    rows = [(f"hero {n}", f"plot {n}", n / 10) for n in range(40)]
    train = csv(tmp_path / "a.csv", ("a", "b", "alike"), rows)
    data = LabelledText(
        train=train, text="a", other="b", label="alike", kind="numbers", tokenizer=SMALL, length=40
    ).build()
    assert (data.outputs, data.class_names) == (1, ())
    row = data.splits["train"][0]
    assert row["labels"].dtype == np.float32
    first = row["segments"] == 1
    text = data.tokenizer.decode(row["inputs"][first])
    head, tail, _ = text.split("[SEP]")
    assert head.split()[2:] == tail.split()[1:] == str(round(row["labels"][0] * 10)).split()
    second = data.tokenizer.decode(row["inputs"][first & (row["token_types"] == 1)])
    assert second.split() == [*tail.split(), "[SEP]"]


@pytest.mark.parametrize("tokenizer", [SMALL, TokenizerConfig("bpe", vocabulary_size=300, special="bert")])
def test_each_word_has_its_label_at_its_first_token(tmp_path, tokenizer):
    """However many tokens a word becomes; the others carry none."""
    draw = np.random.default_rng(3)
    records = []
    for _ in range(30):
        words = list(draw.choice([*NOUNS, "Elizabeth", "D'Arcy"], 6))
        records.append({"words": words, "tags": ["B-PER" if word[0].isupper() else "O" for word in words]})
    train = json_lines(tmp_path / "a.jsonl", records)
    data = LabelledText(train=train, text="words", label="tags", kind="words", tokenizer=tokenizer, length=64).build()
    assert data.class_names == ("B-PER", "O")
    for row in (data.splits["train"][index] for index in range(len(data.splits["train"]))):
        for segment in range(1, row["segments"].max() + 1):
            here = (row["segments"] == segment) & (row["mask"] > 0)
            assert here.sum() == 6
            places = [*np.flatnonzero(here), np.flatnonzero(row["segments"] == segment)[-1]]
            words = [data.tokenizer.decode(row["inputs"][i:j]).strip() for i, j in itertools.pairwise(places)]
            capital = [word[0].isupper() for word in words]
            assert [data.class_names[label] == "B-PER" for label in row["labels"][here]] == capital


def test_an_answer_is_where_it_stands_in_the_row(tmp_path):
    """First and last token, counted in the row; no answer is the first token."""
    contexts = [" ".join(np.random.default_rng(n).permutation(NOUNS)) for n in range(24)]
    records = [
        {"question": f"what is {n}?", "context": text, "answer": " ".join(text.split()[3:5])}
        for n, text in enumerate(contexts)
    ]
    records += [{"question": "and this?", "context": contexts[0] + " so", "answer": ""}]
    options = {"text": "question", "other": "context", "label": "answer", "kind": "answers", "tokenizer": SMALL}
    data = LabelledText(train=json_lines(tmp_path / "a.jsonl", records), **options, length=80).build()
    answers = {
        text: answer for of in data.texts.values() for text, answer in zip(of["other"], of["label"], strict=True)
    }
    for rows in data.splits.values():
        for row in (rows[index] for index in range(len(rows))):
            for place in np.flatnonzero(row["mask"]):
                first, last = row["labels"][place]
                segment = row["segments"] == row["segments"][row["starts"][place]]
                context = data.tokenizer.decode(row["inputs"][segment & (row["token_types"] == 1)])
                expected = answers[context.removesuffix(" [SEP]")]
                found = data.tokenizer.decode(row["inputs"][first : last + 1])
                assert found == (expected or "[CLS]")


def test_an_answer_that_is_cut_off_is_never_taken_for_none(tmp_path):
    """It is dropped from what is learned, and counted; what is measured keeps it, with its text."""
    records = [
        {"question": "what?", "context": f"{number} film plot {'scene ' * 20 * (number % 2)}hero", "answer": "hero"}
        for number in range(20)
    ]
    train, test = (json_lines(tmp_path / f"{name}.jsonl", records[part])
                   for name, part in (("train", slice(12)), ("test", slice(12, 20))))  # fmt: skip
    options = {"text": "question", "other": "context", "label": "answer", "kind": "answers", "tokenizer": SMALL}
    data = LabelledText(train=train, test=test, **options, validation_fraction=0.0, length=24).build()
    facts = data.summary["splits"]
    assert (facts["train"]["examples"], facts["train"]["answers_lost"]) == (6, 6)
    assert (facts["test"]["examples"], facts["test"]["answers_lost"]) == (8, 4)
    assert [int(text.split()[0]) % 2 for text in data.texts["train"]["other"]] == [0] * 6
    assert data.texts["test"]["label"] == ["hero"] * 8
    for split, rows in data.splits.items():
        batch = gather(rows, np.arange(len(rows)))
        for row, place in zip(*np.nonzero(batch["mask"]), strict=True):
            first, last = batch["labels"][row, place]
            index, start = batch["indices"][row, place], batch["starts"][row, place]
            there = not int(data.texts[split]["other"][index].split()[0]) % 2
            assert data.tokenizer.decode(batch["inputs"][row][first : last + 1]) == ("hero" if there else "[CLS]")
            assert (first == start) == (not there)
    with pytest.raises(UserError, match=r"No answer stands in the first 8 tokens: set --data.length"):
        LabelledText(train=train, **options, length=8).build()


def test_partners_stand_beside_each_other(tmp_path):
    """Both texts of a pair in one row, each with a segment and a start of its own."""
    rows = [(f"good {n}", f"gut {n}") for n in range(40)]
    train = csv(tmp_path / "a.csv", ("en", "de"), rows)
    data = LabelledText(train=train, text="en", other="de", kind="pairs", tokenizer=SMALL, length=32).build()
    batch = gather(data.splits["train"], np.arange(3))
    assert batch["starts"].shape[1] == 2 * batch["mask"].shape[1]
    for row, place in zip(*np.nonzero(batch["mask"]), strict=True):
        starts = batch["starts"][row, 2 * place : 2 * place + 2]
        parts = [batch["inputs"][row][batch["segments"][row] == batch["segments"][row, start]] for start in starts]
        english, german = (data.tokenizer.decode(part).removeprefix("[CLS] ") for part in parts)
        assert english.replace("good", "gut") == german
    assert data.outputs == data.tokenizer.vocabulary_size


def test_long_texts_lose_their_end(tmp_path):
    """An example fills a row at most, with its special tokens."""
    rows = [(" ".join(NOUNS * 4), n % 2) for n in range(10)] + [("hero", 1), ("plot", 0)]
    train = csv(tmp_path / "a.csv", ("text", "label"), rows)
    data = LabelledText(
        train=train, validation=csv(tmp_path / "b.csv", ("text", "label"), [("ending", 1)]),
        label="label", kind="classes", tokenizer=SMALL, length=16, test_fraction=0.0,
    ).build()  # fmt: skip
    full = data.splits["train"][0]["inputs"]
    assert data.tokenizer.decode(full).startswith("[CLS] film plot actor")
    assert data.tokenizer.decode(full).endswith("[SEP]")


def test_training_texts_that_measure_are_removed(tmp_path):
    """Whatever their case and spaces, and said in the record."""
    train = csv(tmp_path / "a.csv", ("text", "label"), [("Good  film", 1), ("bad plot", 0), ("hero", 1)])
    validation = csv(tmp_path / "b.csv", ("text", "label"), [("good film", 1)])
    data = LabelledText(
        train=train, validation=validation, label="label", kind="classes", tokenizer=SMALL, length=16, test_fraction=0.0
    ).build()
    assert data.texts["train"]["text"] == ["bad plot", "hero"]
    assert data.summary["repeats_removed"] == 1


def test_a_saved_tokenizer_is_taken_as_it_is(reviews, tmp_path):
    """That of another run, by its file."""
    first = LabelledText(train=reviews, text="review", label="likes", tokenizer=SMALL, length=24).build()
    first.tokenizer.save(tmp_path / "tokenizer.json")
    again = LabelledText(
        train=csv(tmp_path / "a.csv", ("text", "label"), [(f"film {n}", n % 2) for n in range(30)]),
        label="label", kind="classes", length=24, tokenizer=TokenizerConfig(file=str(tmp_path / "tokenizer.json")),
    ).build()  # fmt: skip
    assert isinstance(again.tokenizer, PairTokenizer)
    assert again.tokenizer.vocabulary_size == first.tokenizer.vocabulary_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "words"}, "Record 1 of the train split has no 'words', it has review, likes: .* --data.text"),
        ({"label": "stars"}, "has no 'stars'.* --data.label"),
        ({"kind": "numbers"}, "The label '(yes|no)' in 'likes' is no finite number"),
        ({"kind": "pairs"}, "For pairs a second text is needed: .* --data.other"),
        ({"tokenizer": TokenizerConfig("bytes")}, "needs a tokenizer of subwords"),
        ({"length": 2}, "A length of 2 tokens has no room for text"),
        ({"train": (), "validation": ("x.csv",)}, "need training files beside them"),
        ({"train": ("x.csv",)}, "x.csv matches no file"),
        ({"validation_fraction": 1.2}, "leaves nothing to train on"),
    ],
)
def test_what_cannot_work_is_refused(reviews, options, message):
    """With what was found and what to do."""
    with pytest.raises(UserError, match=message):
        LabelledText(**{"train": reviews, "text": "review", "label": "likes", "tokenizer": SMALL, **options}).build()


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ({"text": 5}, {}, "Record 2 of the train split has '5' in 'text', which is int, not text: .* --data.text"),
        ({"label": ""}, {}, "Record 2 of the train split has an empty 'label'"),
        ({"label": "", "text": "a"}, {"kind": "threshold"}, "Record 2 of the train split has an empty 'label'"),
        ({"text": "half \ud800"}, {}, "a.jsonl:2: the text holds half of a surrogate pair"),
        ({"label": 3}, {"kind": "words"}, "Found 3 where words, or their labels, should be"),
        ({"other": 7}, {"other": "other", "kind": "pairs"}, "Record 2 .* has '7' in 'other', which is int"),
        ({"group": None}, {"group": ("group",)}, "Record 2 of the train split has no 'group'"),
    ],
)
def test_one_bad_record_is_named(tmp_path, records, options, message):
    """By its number, with what stands in it."""
    good = [{"text": f"film {n}", "other": "x", "group": n, "label": f"kind{n % 2}"} for n in range(20)]
    good[1].update(records)
    with pytest.raises(UserError, match=message):
        LabelledText(
            **{"train": json_lines(tmp_path / "a.jsonl", good), "label": "label", "kind": "classes", **options}
        ).build()


def test_a_split_that_the_margin_empties_is_refused(tmp_path):
    """With what to set."""
    train = csv(tmp_path / "a.csv", ("text", "label"), [(f"film {n}", n - 9.5) for n in range(20)])
    test = csv(tmp_path / "b.csv", ("text", "label"), [("hero", 0.5)])
    with pytest.raises(UserError, match=r"No score of the test split is further than 2 from the threshold 0: .*margin"):
        LabelledText(
            train=train, test=test, validation_fraction=0.0, label="label", margin=2.0, tokenizer=SMALL
        ).build()


def test_pairs_of_which_some_have_no_score_have_none(tmp_path):
    """Wherever the first one stands that has."""
    records = [{"text": f"good {n}", "other": f"gut {n}"} | ({"score": n} if n % 2 else {}) for n in range(40)]
    data = LabelledText(
        train=json_lines(tmp_path / "a.jsonl", records), other="other", kind="pairs", tokenizer=SMALL, length=32
    ).build()
    assert all("labels" not in data.splits[split][0] for split in data.splits)
    assert set(data.texts["train"]) == {"text", "other"}


def test_labels_that_decide_nothing_are_refused(tmp_path):
    """One class only, a class that training lacks, and scores on one side of the threshold."""
    one = csv(tmp_path / "one.csv", ("text", "label"), [(f"film {n}", 1) for n in range(20)])
    scores = csv(tmp_path / "scores.csv", ("text", "label"), [(f"film {n}", 1 + n % 5) for n in range(20)])
    other = csv(tmp_path / "other.csv", ("text", "label"), [("hero", "new")])
    options = {"label": "label", "tokenizer": SMALL, "test_fraction": 0.0}
    with pytest.raises(UserError, match="All training labels 'label' are '1'"):
        LabelledText(train=one, kind="classes", **options).build()
    with pytest.raises(UserError, match=r"No score is negative by the threshold 0 .* --data.threshold"):
        LabelledText(train=scores, **options).build()
    with pytest.raises(UserError, match="The label 'new' is not among the training labels, 1, 2, 3, 4, 5"):
        LabelledText(train=scores, validation=other, kind="classes", **options).build()
