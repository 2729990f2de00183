"""Splits depend on the group's key alone, and leaks are refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError
from research.data.cleaning.cleaning import Document
from research.data.splitting import check_no_leak, split, split_of, split_united, summary, united_groups

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
ALONE = "The family of Dashwood had long been settled in Sussex, their estate was large."


def documents(count: int, group_size: int = 1) -> list[Document]:
    return [Document(f"d{i}", f"g{i // group_size}", f"text number {i}") for i in range(count)]


@given(st.lists(st.text(max_size=20), max_size=30), st.lists(st.text(max_size=20), max_size=30))
def test_adding_data_moves_no_old_record(old: list[str], new: list[str]) -> None:
    """The split of a group is the same whatever other groups there are."""
    before = {group: split_of(group, FRACTIONS) for group in old}
    after = {group: split_of(group, FRACTIONS) for group in [*new, *old]}
    assert before.items() <= after.items()


def test_the_split_of_a_key_never_changes() -> None:
    """Golden: the first eight bytes of SHA-256 of salt, NUL and key (hashlib), against the cumulated fractions."""
    found = [split_of(f"chapter {number}", FRACTIONS, "salt") for number in range(6)]
    assert found == ["train", "train", "test", "validation", "train", "train"]


def test_groups_stay_together_and_fractions_are_met() -> None:
    """Every document is in one split with its whole group, in order, and the fractions are near those asked for."""
    every = documents(6000, group_size=3)
    splits = split(every, FRACTIONS)
    assert sum(map(len, splits.values())) == len(every)
    homes = {name: {document.group for document in members} for name, members in splits.items()}
    assert not homes["train"] & homes["validation"] and not homes["train"] & homes["test"]
    for name, row in summary(splits).items():
        assert row["share"] == pytest.approx(FRACTIONS[name], abs=0.02)
        assert row["groups"] == len(homes[name]) and row["documents"] == 3 * row["groups"]
        assert [d.key for d in splits[name]] == [d.key for d in every if d.group in homes[name]]


def test_another_salt_gives_another_split() -> None:
    """The salt changes which groups go where."""
    assert split(documents(100), FRACTIONS, "a") != split(documents(100), FRACTIONS, "b")


def test_a_fraction_of_zero_makes_no_split() -> None:
    """With a test fraction of 0 there is no test split."""
    assert set(split(documents(50), {"train": 0.5, "validation": 0.5, "test": 0.0})) == {"train", "validation"}


def test_an_empty_split_is_refused() -> None:
    """Too few groups are named with the remedy: where a salt is one, the salt."""
    with pytest.raises(UserError, match="got none of the 1 group of documents, which are not divided: give more"):
        split(documents(3, group_size=3), FRACTIONS)
    few = documents(5)
    with pytest.raises(UserError, match=r"got none of the 5 groups .*: --data\.salt \d+ gives it some; or") as error:
        split(few, FRACTIONS)
    (salt,) = re.findall(r"--data\.salt (\d+)", str(error.value))
    assert all(split(few, FRACTIONS, salt).values())


@pytest.mark.parametrize("fractions", [{"train": 0.5, "test": 0.4}, {"train": 1.5, "test": -0.5}])
def test_bad_fractions_are_refused(fractions: dict[str, float]) -> None:
    """Shares must be positive and sum to one."""
    with pytest.raises(UserError, match="sum to 1"):
        split_of("group", fractions)


def test_a_near_duplicate_across_splits_is_named() -> None:
    """The check names both documents, and lets the same pair pass inside one split."""
    copy = Document("late", "b", ALONE.upper())
    other = Document("other", "c", "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man.")
    original = Document("early", "a", ALONE)
    check_no_leak({"train": [original, copy], "test": [other]})
    with pytest.raises(
        UserError, match=r"'early' \(train\) and 'late' \(test\) are near-duplicates \(similarity 1.00\)"
    ):
        check_no_leak({"train": [original, other], "test": [copy]})


def test_a_group_in_two_splits_is_named() -> None:
    """Splits from elsewhere that divide a group are refused."""
    with pytest.raises(UserError, match="group 'a' is in both the train and the test split"):
        check_no_leak({"train": [Document("1", "a", "one two three")], "test": [Document("2", "a", "four five six")]})


LINKS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda link: link[0] != link[1]), max_size=15)


@given(LINKS, st.randoms(use_true_random=False))
def test_near_duplicates_are_united_on_one_side(links, random) -> None:
    """Whatever is linked: no link crosses the split, others stay where they were, and the order of links is nothing."""
    home = {f"g{number}": random.choice(["train", "validation"]) for number in range(13)}.__getitem__
    pairs = [((left, f"g{left}"), (right, f"g{right}")) for left, right in links]
    joins = united_groups(pairs, home)
    assert joins == united_groups([pair[::-1] for pair in reversed(pairs)], home)
    for (_, left), (_, right) in pairs:
        assert home(joins.get(left, left)) == home(joins.get(right, right))
    if all(home(left) == home(right) for (_, left), (_, right) in pairs):
        assert not joins


def test_documents_with_near_duplicates_across_the_split_move_to_the_first() -> None:
    """With their whole group; the leak check that would have refused them has nothing to say."""
    every = [Document(f"d{i}", f"g{i}", f"{ALONE} But this is sentence {i} of {i * i}.") for i in range(2, 40)]
    far = next(f"h{i}" for i in range(99) if split_of(f"h{i}", FRACTIONS) != split_of("a", FRACTIONS))
    every += [
        Document("early", "a", "Mr. Bennet was so odd a mixture of quick parts."),
        Document("late", far, "MR. BENNET was so odd a mixture of quick parts"),
        Document("with it", far, "A third text that is like no other one."),
    ]
    splits, count = split_united(every, FRACTIONS, "", 0.95)
    assert count == 1
    check_no_leak(splits, 0.95)
    keys = {document.key for document in splits[split_of("a", FRACTIONS)]}
    assert {"early", "late", "with it"} <= keys
    kept = [document for document in every if document.group != far]
    assert {name: [each for each in members if each.group != "a"] for name, members in splits.items()} == {
        name: [each for each in members if each.group != "a"] for name, members in split(kept, FRACTIONS).items()
    }
