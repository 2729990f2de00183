"""Data prepared as a Beam pipeline are those of the local path, to the byte, whoever does the work, in any order."""

import dataclasses
import importlib.util
import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import run_module

from research.core.errors import UserError
from research.data.cleaning.cleaning import Cleaning
from research.data.cleaning.near_duplicates import bands, first_of_linked, near_duplicate_pairs
from research.data.text import prepare_beam, text_data
from research.data.text.text_data import SEPARATOR, TextData
from research.data.text.tokenizers import TokenizerConfig

TWO_WORKERS = ("--direct_num_workers", "2", "--direct_running_mode", "multi_threading")
NO_CLEANING = Cleaning("none", False, False, False, 0, "", False, False, 0.0)
WORDS = [f"word{number}" for number in range(300)]


def passage(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=60))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """JSON lines in two files and a table, with exact and near copies across files, dirt, and personal data."""
    folder, generator = tmp_path_factory.mktemp("sources"), random.Random(0)
    texts = [passage(generator) for _ in range(50)]
    texts += [f"{words} and more" for words in texts[:8]] + texts[4:10]
    texts += [f"{words} and more" for words in texts[50:54]]  # copies of copies
    texts += ["", "Write  to a@example.com\r\n\r\n\r\n\r\n" + passage(generator), "e\u0301 " + passage(generator)]
    generator.shuffle(texts)
    for name, part in (("a.jsonl", texts[:30]), ("b.jsonl", texts[30:])):
        lines = (json.dumps({"text": words, "author": f"{name}{index % 20}"}) for index, words in enumerate(part))
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "c.csv").write_text("text,author\n" + "".join(f"{passage(generator)},{i}\n" for i in range(9)))
    (folder / "other.jsonl").write_text("".join(json.dumps({"text": passage(generator)}) + "\n" for _ in range(9)))
    return folder


def own(folder, **changes) -> TextData:
    """The configuration of the files in `sources` with every kind of step."""
    paths = tuple(str(folder / name) for name in ("c.csv", "[ab].jsonl"))
    cleaning = Cleaning(near_duplicates=0.8, minimum_characters=1)
    return dataclasses.replace(TextData(train=paths, cleaning=cleaning, length=16, validation_fraction=0.3), **changes)


def assert_same(data: TextData, folder) -> None:
    """Building from the sources and from the prepared folder gives equal bytes everywhere."""
    local, prepared = data.build(), dataclasses.replace(data, prepared=str(folder)).build()
    assert json.dumps(prepared.summary) == json.dumps(local.summary)
    assert prepared.characters_per_token == local.characters_per_token
    for name, built in (("local", local), ("prepared", prepared)):
        built.tokenizer.save(folder / f"{name}.json")
    assert (folder / "prepared.json").read_bytes() == (folder / "local.json").read_bytes()
    assert list(prepared.splits) == list(local.splits)
    for split, records in local.splits.items():
        assert prepared.tokens[split].dtype == local.tokens[split].dtype
        assert prepared.tokens[split].tobytes() == local.tokens[split].tobytes()
        assert len(prepared.splits[split]) == len(records)
        for index in range(0, len(records), max(1, len(records) // 20)):
            for field, values in records[index].items():
                assert prepared.splits[split][index][field].tobytes() == values.tobytes()


def summary(folder) -> list[dict]:
    return json.loads((folder / text_data.SUMMARY).read_text())["facts"]["cleaning"]


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_data_set_is_prepared_to_the_same_bytes(tmp_path):
    """Austen, with near-duplicates sought."""
    data = TextData("austen", cleaning=Cleaning(near_duplicates=0.5), length=64)
    prepare_beam.prepare(data, str(tmp_path / "prepared"))
    assert_same(data, tmp_path / "prepared")


@pytest.mark.slow
def test_one_worker_and_two_write_the_same_files(sources, tmp_path):
    """Of JSON lines and a table with copies of copies: shards, tokenizer, summary, and the local path's rows."""
    prepare_beam.prepare(own(sources), str(tmp_path / "one"))
    prepare_beam.prepare(own(sources), str(tmp_path / "two"), TWO_WORKERS)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert_same(own(sources), tmp_path / "one")
    removed = {report["name"]: report["documents_in"] - report["documents_out"] for report in summary(tmp_path / "one")}
    assert min(removed["length"], removed["exact duplicates"], removed["near duplicates"]) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": TokenizerConfig("bpe", 300), "packing": "documents", "validation": ("other.jsonl",)},
        pytest.param({"tokenizer": TokenizerConfig("wordpiece", 120), "group": ("author",)}, marks=pytest.mark.slow),
        pytest.param({"train": ("a.jsonl",), "cleaning": NO_CLEANING, "salt": "1"}, marks=pytest.mark.slow),
        pytest.param({"train": ("other.jsonl",), "cleaning": NO_CLEANING}, marks=pytest.mark.slow),
    ],
)
def test_every_configuration_is_prepared_to_the_same_bytes(sources, tmp_path, changes):
    """Subword tokenizers, validation files, named groups, copies united across the split, and no cleaning at all."""
    paths = {side: (str(sources / changes[side][0]),) for side in ("train", "validation") if side in changes}
    data = own(sources, **{**changes, **paths})
    prepare_beam.prepare(data, str(tmp_path / "prepared"))
    assert_same(data, tmp_path / "prepared")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_order_of_the_work_does_not_matter(sources, tmp_path, monkeypatch, seed):
    """Documents that arrive in any order, in bundles of any size, and leave in many shards, end in the same rows."""
    data = own(sources)
    monkeypatch.setattr(prepare_beam, "SHARD", 7)

    def shuffled(pipeline, data, parts):
        documents = [(part.side, document) for part in parts for document in data.read(part)]
        members = [(rank, *document) for rank, document in enumerate(documents)]
        random.Random(seed).shuffle(members)
        cuts = [len(members) * share // 10 for share in (0, 1, 4, 10)]
        bundles = [members[start:end] for start, end in itertools.pairwise(cuts)]
        created = pipeline | "bundles" >> prepare_beam.beam.Create(bundles) | "spread" >> prepare_beam.beam.Reshuffle()
        return created | "documents" >> prepare_beam.beam.FlatMap(lambda bundle: bundle)

    monkeypatch.setattr(prepare_beam, "_read", shuffled)
    prepare_beam.prepare(data, str(tmp_path / "prepared"), TWO_WORKERS)
    assert len(list((tmp_path / "prepared").glob("train-*.jsonl"))) > 5
    assert_same(data, tmp_path / "prepared")


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "body"},
        pytest.param({"cleaning": Cleaning(minimum_characters=100_000)}, marks=pytest.mark.slow),
        pytest.param({"validation": ("b.jsonl",)}, marks=pytest.mark.slow),
    ],
)
def test_what_the_local_path_refuses_is_refused_in_the_same_words(sources, tmp_path, changes):
    """A worker's sentence reaches the user whole, and the folder stays unfinished."""
    validation = tuple(str(sources / name) for name in changes.get("validation", ()))
    paths = {"train": (str(sources / "a.jsonl"),), "validation": validation}
    data = own(sources, **{**changes, **paths})
    with pytest.raises(UserError) as local:
        data.build()
    with pytest.raises(UserError) as prepared:
        prepare_beam.prepare(data, str(tmp_path / "prepared"))
    assert not (tmp_path / "prepared" / text_data.SUMMARY).exists()
    assert str(prepared.value) == str(local.value)


def test_the_command_prepares_once_and_hands_beam_its_options(sources, tmp_path, capsys):
    """What follows `--` is Beam's; a folder that holds prepared data is not written again."""
    data = TextData(train=(str(sources / "other.jsonl"),), validation_fraction=0.3, length=16)
    options = ("--data.train", *data.train, "--data.validation-fraction", "0.3", "--output", str(tmp_path / "prepared"))
    assert run_module("research.data.text.prepare_beam", *options, "--", *TWO_WORKERS) == 0
    assert_same(data, tmp_path / "prepared")
    assert run_module("research.data.text.prepare_beam", *options) == 2
    assert "holds prepared data: remove it" in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    """In one sentence, not a trace."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[beam\]'"):
        prepare_beam.prepare(TextData(), str(tmp_path))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda pair: pair[0] != pair[1])))
def test_linked_documents_find_the_first_of_all(links):
    """As by following the links one at a time, in any order."""
    reached = {member: {member} for link in links for member in link}
    for _ in reached:
        for left, right in links:
            reached[left] = reached[right] = reached[left] | reached[right]
    expected = {member: min(others) for member, others in reached.items() if min(others) != member}
    assert first_of_linked(links) == expected == first_of_linked([link[::-1] for link in reversed(links)])


@given(st.integers(0, 1000), st.integers(1, 59), st.sampled_from([0.5, 0.8, 1.0]))
def test_texts_that_are_near_duplicates_share_a_band(seed, changed, threshold):
    """The local path compares no others, so that grouping by bands loses nothing it finds."""
    words = random.Random(seed).choices(WORDS, k=60)
    copy = [*words[:changed], "changed", *words[changed:]]
    left, right = " ".join(words), " ".join(copy)
    if near_duplicate_pairs([left, right], threshold):
        assert set(bands(left, threshold)) & set(bands(right, threshold))
    assert len(bands(left, threshold)) == len(bands("", threshold))


@given(
    st.lists(st.text(st.sampled_from("ab ,\n."), min_size=1).map(str.strip).filter(bool), min_size=1, max_size=5),
    st.sampled_from(["bytes", "characters", "bpe", "wordpiece"]),
)
def test_documents_tokenised_apart_are_the_tokens_of_their_joined_text(texts, kind):
    """With the separator between two of them, for every kind of tokenizer and documents without blank edges."""
    tokenizer = TokenizerConfig(kind, 300).train(["a b, b a. aa bb\n\na b a b\n\nab", SEPARATOR])
    separator = tokenizer.encode(f"a{SEPARATOR}a")[1:-1]
    joined = text_data._joined([tokenizer.encode(each) for each in texts], separator)
    np.testing.assert_array_equal(joined, tokenizer.encode(SEPARATOR.join(texts)))


def test_a_prepared_folder_is_read_whole_or_not_at_all(tmp_path):
    """An unfinished folder, a changed shard and a damaged summary end in a sentence."""
    data = TextData(prepared=str(tmp_path), length=2)
    with pytest.raises(UserError, match=r"no finished preparation \(.*summary.json is missing\)"):
        data.build()
    TokenizerConfig("bytes").train([]).save(tmp_path / text_data.TOKENIZER)
    (tmp_path / text_data.SUMMARY).write_text(json.dumps({"shards": {"train": {"train-00000.jsonl": "0" * 64}}}))
    (tmp_path / "train-00000.jsonl").write_text('{"tokens": [1, 2]}\n')
    with pytest.raises(UserError, match=r"train-00000.jsonl is not as it was written"):
        data.build()
    (tmp_path / text_data.SUMMARY).write_text("{}")
    with pytest.raises(UserError, match=r"summary.json is damaged \(KeyError: 'shards'\)"):
        data.build()
