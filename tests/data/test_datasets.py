"""The embedded data sets: counts, splits, labels and content, against the facts that each README states."""

import gzip
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from research.core.errors import UserError
from research.data import catalogue, embedded
from research.data.datasets.adult.adult_dataset_builder import FACTS, question_about, read_people
from research.data.datasets.austen.austen_dataset_builder import BOOKS, read_book, split_chapters
from research.data.datasets.fashion_mnist import idx_files, make_mini

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "adult": {"train": 32_561, "test": 16_281},
    "asterisk_prompts": {"train": 551},
    "austen": {"train": 269},
    "bible_en_es": {"train": 31_077},
    "fashion_mnist": {"train": 10_000, "test": 2_000},
    "sentences": {"train": 23_703},
    "twemoji": {"train": 1_911},
}
LARGE = {"adult", "bible_en_es", "sentences"}
PREPARE_ALL = """
import json, pathlib, sys
from research.data import catalogue, embedded
caches = {name: None if name in sys.argv[2:] else pathlib.Path(sys.argv[1]) for name in embedded.names()}
print(json.dumps({name: {split: len(records) for split, records in catalogue.load(name, cache=cache).items()
                         if records[0]} for name, cache in caches.items()}))
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> tuple[Path, dict]:
    """A cache folder with every data set but the large ones, and the counts that the process which prepared it printed.

    That process sees a package `tensorflow` that ends it on import. It prepares the large ones where no other test has
    done so in the suite's own cache: half a minute, for kinds of features that the others have as well.
    """
    cache = tmp_path_factory.mktemp("cache")
    trap = tmp_path_factory.mktemp("trap")
    (trap / "tensorflow").mkdir()
    (trap / "tensorflow" / "__init__.py").write_text("import os; os._exit(99)")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{trap}"}
    command = [sys.executable, "-c", PREPARE_ALL, str(cache), *LARGE]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode != 99, "tensorflow was imported"
    assert process.returncode == 0, process.stderr
    return cache, json.loads(process.stdout)


def column(records, name: str) -> list:
    """Reads one field of every record."""
    return [record[name] for record in records.__getitems__(list(range(len(records))))]


def test_all_prepare_and_load_without_tensorflow(prepared):
    """Each embedded data set has its splits and counts, even where importing tensorflow would end the process."""
    assert prepared[1] == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_folder_documents_and_pins_its_data(name):
    """Each data set states source, licence and citation, and lists the digest of every raw file."""
    folder = embedded.DATASETS / name
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"- **{word}:** " in readme for word in ("Content", "Fields", "Source", "Licence", "Good to know"))
    assert (folder / "CITATIONS.bib").read_text(encoding="utf-8").startswith("@")
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    assert listed == {path.relative_to(folder).as_posix() for path in (folder / "raw").iterdir()}


def test_embedded_data_stay_small():
    """A clone carries less than 30 MB of data."""
    assert sum(path.stat().st_size for path in embedded.DATASETS.glob("*/raw/*")) < 30e6


def test_adult_asks_what_its_texts_answer():
    """Each answer stands once in its context, and the same row gives the same; without one are those with a `?`."""
    people = read_people(embedded.DATASETS / "adult/raw/adult.test.gz")
    asked = [question_about(person, random.Random(key)) for key, person in enumerate(people)]
    assert asked[:9] == [question_about(person, random.Random(key)) for key, person in enumerate(people[:9])]
    assert {each["context"].count(each["answer"]) for each in asked if each["answer"]} == {1}
    assert 0.01 < sum(not each["answer"] for each in asked) / len(asked) < 0.03
    assert {each["question"] for each in asked} == {question for question, _, _ in FACTS.values()}


def test_austen_has_the_chapters_of_the_novels(prepared):
    """Chapters are those of the printed novels, numbered from 1 through the volumes."""
    records = list(catalogue.load("austen", cache=prepared[0])["train"])
    assert Counter(record["book"].decode() for record in records) == {
        "Sense and Sensibility": 50,
        "Pride and Prejudice": 61,
        "Mansfield Park": 48,
        "Emma": 55,
        "Northanger Abbey": 31,
        "Persuasion": 24,
    }
    emma = [record for record in records if record["book"] == b"Emma"]
    assert [record["chapter"] for record in emma] == list(range(1, 56))
    assert [record["heading"] for record in emma[17:20]] == [b"CHAPTER XVIII", b"VOLUME II CHAPTER I", b"CHAPTER II"]


def test_austen_loses_no_text(prepared):
    """The records of a novel, joined, are the novel's file, byte for byte."""
    texts: dict[str, bytes] = {}
    for record in catalogue.load("austen", cache=prepared[0])["train"]:
        book = record["book"].decode()
        texts[book] = texts.get(book, b"") + record["text"]
    for book, stem in BOOKS.items():
        assert texts[book] == gzip.decompress((embedded.DATASETS / f"austen/raw/{stem}.txt.gz").read_bytes())


def test_austen_chapters_begin_with_their_headings():
    """Only a heading on a line of its own, not the word in a sentence, opens a chapter."""
    for stem in BOOKS.values():
        chapters = split_chapters(read_book(stem))
        assert all(" ".join(text[:60].split()).startswith(heading) for heading, text in chapters[1:])


@given(st.lists(st.sampled_from(["Chapter 1", "CHAPTER XII", "VOLUME II", "", "Chapter the last", "a line"])))
def test_splitting_chapters_keeps_every_character(lines):
    """Whatever surrounds the headings, the chapters joined are the text."""
    text = "\n".join(["TITLE", "CHAPTER I", *lines])
    chapters = split_chapters(text)
    assert "".join(part for _, part in chapters) == text
    assert len(chapters) == 1 + lines.count("Chapter 1") + lines.count("CHAPTER XII")


def test_bible_is_in_canonical_order():
    """66 books, each in one piece, references that agree with their parts, both languages on every verse."""
    records = catalogue.load("bible_en_es")["train"]
    verses = records.__getitems__(list(range(len(records))))
    books = list(dict.fromkeys(verse["book"] for verse in verses))
    changes = sum(before["book"] != after["book"] for before, after in itertools.pairwise(verses))
    assert len(books) == 66 and changes == 65
    assert (books[0], books[-1]) == (b"Genesis", b"Revelation of John")
    for verse in verses:
        assert verse["reference"].decode() == f"{verse['book'].decode()} {verse['chapter']}:{verse['verse']}"
        assert verse["en"] and verse["es"]
    assert verses[0]["es"].decode() == "EN el principio crió Dios los cielos y la tierra."


def test_sentences_have_four_domains_and_bounded_scores():
    """Counts by domain are those of the source; scores lie in [-4, 4]; documents group sentences of one text."""
    records = catalogue.load("sentences")["train"]
    rows = records.__getitems__(list(range(len(records))))
    assert Counter(row["domain"] for row in rows) == {
        b"movieReviewSnippets": 10_605,
        b"nytEditorialSnippets": 5_190,
        b"tweets": 4_200,
        b"amazonReviewSnippets": 3_708,
    }
    assert all(-4 <= row["score"] <= 4 for row in rows)
    by_id = {(row["domain"], row["id"]): row["document"] for row in rows}
    assert by_id[b"nytEditorialSnippets", b"1_3"] == by_id[b"nytEditorialSnippets", b"1_1"] == b"nytEditorialSnippets/1"
    assert by_id[b"amazonReviewSnippets", b"1_1"] == b"amazonReviewSnippets/1"


def test_twemoji_pictures_are_decoded(prepared):
    """Pictures are 64 x 64 RGBA bytes with both full and no opacity, in ten categories."""
    source = catalogue.load("twemoji", cache=prepared[0])["train"]
    labels = catalogue.info("twemoji", cache=prepared[0])["labels"]["category"]
    assert len(labels) == 10
    assert Counter(column(source, "category"))[labels.index("Flags")] == 270
    names = column(source, "name")
    grinning = source[names.index(b"grinning face")]
    assert grinning["image"].shape == (64, 64, 4) and grinning["image"].dtype == np.uint8
    assert {0, 255} <= set(grinning["image"][..., 3].ravel())
    assert grinning["image"][8, 32, 0] > grinning["image"][8, 32, 2], "a face is more red than blue"


def test_asterisk_prompts_keep_sound_encoded(prepared):
    """Every clip is an Ogg stream with its length and its words; 24.3 minutes in all."""
    source = catalogue.load("asterisk_prompts", cache=prepared[0])["train"]
    assert all(record["ogg"].startswith(b"OggS") and record["transcript"] for record in source)
    assert sum(column(source, "seconds")) / 60 == pytest.approx(24.3, abs=0.05)


def test_adult_test_split_is_that_of_uci():
    """Labels lose the full stop of UCI's test file: 3,846 of 16,281 earn more (23.62 %, UCI's adult.names: 24 %)."""
    source = catalogue.load("adult")["test"]
    assert catalogue.info("adult")["labels"] == {"label": ["<=50K", ">50K"]}
    assert Counter(column(source, "label"))[1] == 3_846
    first = source[0]
    assert first["age"] == 25.0 and first["workclass"] == b"Private" and first["native_country"] == b"United-States"
    assert source[4]["workclass"] == b"?" and len(first) == 15


def test_fashion_mnist_mini_is_balanced(prepared):
    """The subset has as many pictures of each of the ten classes, 28 x 28 x 1 bytes."""
    splits = catalogue.load("fashion_mnist/mini", cache=prepared[0])
    assert set(Counter(column(splits["train"], "label")).values()) == {1_000}
    assert set(Counter(column(splits["test"], "label")).values()) == {200}
    picture = splits["train"][0]["image"]
    assert picture.shape == (28, 28, 1) and picture.dtype == np.uint8
    # The first training picture of the original is an ankle boot, and so must be that of the subset.
    assert (
        catalogue.info("fashion_mnist", cache=prepared[0])["labels"]["label"][splits["train"][0]["label"]]
        == "Ankle boot"
    )


def test_fashion_mnist_full_refuses_other_files(tmp_path, monkeypatch):
    """The complete set is taken from a folder only where its files are there and are the original's."""
    monkeypatch.setenv("ONTOGENY_FASHION_MNIST", str(tmp_path))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        catalogue.load("fashion_mnist/full", cache=tmp_path / "cache")
    for name in idx_files.FULL_SHA256:
        (tmp_path / name).write_bytes(gzip.compress(idx_files.format_idx(np.zeros((2, 28, 28), np.uint8))))
    with pytest.raises(UserError, match=r"holds SHA-256 .* in place of the original's c59f468a2f67"):
        catalogue.load("fashion_mnist/full", cache=tmp_path / "cache")


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_idx_format_keeps_arrays(array):
    """Writing an array in idx format and reading it back changes nothing."""
    np.testing.assert_array_equal(idx_files.parse_idx(idx_files.format_idx(array)), array)


@given(hnp.arrays(np.uint8, st.integers(1, 50), elements=st.integers(0, 3)), st.integers(1, 10))
def test_subset_takes_the_first_of_each_class(labels, count):
    """The subset keeps the original order and takes the earliest examples of every class."""
    chosen = make_mini.first_of_each_class(labels, count)
    assert list(chosen) == [
        position for position, label in enumerate(labels) if list(labels[:position]).count(label) < count
    ]
