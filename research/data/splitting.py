"""Splits that cannot leak: whole groups (books, chapters, authors) go to a split decided by a hash of the group's key.

The decision depends on nothing but the key, so adding data never moves an old record across. Groups that share a
near-duplicate text all the same are made one by `united_groups`; `check_no_leak` refuses them instead.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from research.core.errors import UserError
from research.data.cleaning.cleaning import Document


def split_of(group: str, fractions: Mapping[str, float], salt: str = "") -> str:
    """Returns the name of the split that a group belongs to.

    Args:
        group: key of the group, the unit that is never divided.
        fractions: fraction of the groups by split name, in a fixed order; they sum to 1.
        salt: another salt gives another split of the same groups.

    Raises:
        UserError: the fractions are negative or do not sum to 1.
    """
    if not (all(fraction >= 0 for fraction in fractions.values()) and abs(sum(fractions.values()) - 1) <= 1e-6):
        raise UserError(f"The split fractions are {dict(fractions)}; give fractions of at least 0 that sum to 1.")
    digest = hashlib.sha256(f"{salt}\0{group}".encode()).digest()
    point = int.from_bytes(digest[:8]) / 2**64
    names = [name for name, fraction in fractions.items() if fraction > 0]
    bound = 0.0
    for name in names:
        bound += fractions[name]
        if point < bound:
            return name
    return names[-1]


def split(documents: Sequence[Document], fractions: Mapping[str, float], salt: str = "") -> dict[str, list[Document]]:
    """Divides documents by their group, in their order; a fraction of 0 makes no split.

    With few groups the fractions are only approximate: `summary` gives the true ones.

    Raises:
        UserError: a split asked for stays empty, or the fractions are wrong.
    """
    check_fractions(fractions)
    splits: dict[str, list[Document]] = {name: [] for name, fraction in fractions.items() if fraction > 0}
    for document in documents:
        splits[split_of(document.group, fractions, salt)].append(document)
    groups = {name: {document.group for document in members} for name, members in splits.items()}
    check_none_empty({name: len(members) for name, members in groups.items()}, fractions, set().union(*groups.values()))
    return splits


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raises UserError where the fractions are out of range, or leave nothing to train on."""
    if not fractions.get("train", 1) > 0:
        raise UserError(f"The split fractions are {dict(fractions)}, which leaves nothing to train on: give less away.")
    split_of("", fractions)


def check_none_empty(groups: Mapping[str, int], fractions: Mapping[str, float], known: Iterable[str] = ()) -> None:
    """Raises UserError where a split with a fraction above 0 has none of the groups.

    Args:
        groups: how many there are by split.
        fractions: by split.
        known: the groups, where they are known: the message then names a salt that gives each split some.
    """
    for name, fraction in fractions.items():
        if fraction > 0 and not groups.get(name):
            number = sum(groups.values())
            salt = _filling_salt(list(known), fractions)
            raise UserError(
                f"The split {name!r} (fraction {fraction:g}) got none of the {number} group{'s' * (number != 1)} of "
                f"documents, which are not divided: {f'--data.salt {salt} gives it some; or ' if salt else ''}give "
                "more or smaller groups, a larger fraction, or separate files for each split."
            )


def _filling_salt(groups: Sequence[str], fractions: Mapping[str, float]) -> str:
    """Returns the first of some salts by which every split gets a group, "" where none does."""
    asked = {name for name, fraction in fractions.items() if fraction > 0}
    if len(groups) < len(asked):
        return ""
    salts = map(str, range(1, 100))
    return next((salt for salt in salts if asked == {split_of(group, fractions, salt) for group in groups}), "")


def united_groups(
    links: Iterable[tuple[tuple[int, str], tuple[int, str]]], home: Callable[[str], str]
) -> dict[str, str]:
    """Returns {group: group that it joins}, so that no near-duplicates stand in two splits.

    Of groups that are linked, be it through others, all join the one with the earliest document. Those that stand in
    one split already stay as they are.

    Args:
        links: pairs of near-duplicates, of each its place among all documents and its group; in any order.
        home: group to split.
    """
    from research.data.cleaning.near_duplicates import first_of_linked  # as in `check_no_leak`

    pairs = [pair for pair in links if pair[0][1] != pair[1][1]]
    first_places: dict[str, int] = {}
    for place, group in sorted(member for pair in pairs for member in pair):
        first_places.setdefault(group, place)
    order = list(first_places)
    numbers = {group: number for number, group in enumerate(order)}
    joins = first_of_linked((numbers[left], numbers[right]) for (_, left), (_, right) in pairs)
    divided = {first for member, first in joins.items() if home(order[member]) != home(order[first])}
    return {order[member]: order[first] for member, first in joins.items() if first in divided}


def split_united(
    documents: Sequence[Document], fractions: Mapping[str, float], salt: str, threshold: float
) -> tuple[dict[str, list[Document]], int]:
    """Divides documents as `split`, near-duplicates on one side, and counts the groups that joined another for it.

    Raises:
        UserError: as `split`, or `threshold` is out of range.
    """
    from research.data.cleaning.near_duplicates import near_duplicate_pairs  # as in `check_no_leak`

    check_fractions(fractions)
    pairs = near_duplicate_pairs([document.text for document in documents], threshold)
    links = (((left, documents[left].group), (right, documents[right].group)) for left, right, _ in pairs)
    joins = united_groups(links, partial(split_of, fractions=fractions, salt=salt))
    regrouped = [dataclasses.replace(each, group=joins.get(each.group, each.group)) for each in documents]
    return split(regrouped, fractions, salt), len(joins)


def say_united(count: int) -> None:
    """Says on the terminal how many groups of documents were united, if any."""
    if count:
        print(
            f"{count} groups of documents have near-duplicates in others across the split and were united with those "
            "(--data.near-duplicates refuse stops here instead)",
            file=sys.stderr,
        )


def summary(splits: Mapping[str, Sequence[Document]]) -> dict[str, dict[str, Any]]:
    """Returns, by split name and as JSON values, the documents, groups, characters and true fraction of characters."""
    return with_fractions(
        {
            name: {
                "documents": len(members),
                "groups": len({document.group for document in members}),
                "characters": sum(len(document.text) for document in members),
            }
            for name, members in splits.items()
        }
    )


def with_fractions(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    """Adds each split's fraction of all characters to its counts."""
    total = sum(count["characters"] for count in counts.values())
    return {name: {**count, "share": count["characters"] / max(total, 1)} for name, count in counts.items()}


def check_no_leak(splits: Mapping[str, Sequence[Document]], threshold: float = 0.8) -> None:
    """Checks that no group and no near-duplicate text is in two splits.

    Args:
        splits: documents by split name.
        threshold: Jaccard similarity of word shingles from which two texts count as near-duplicates.

    Raises:
        UserError: names the first group, or the first two documents, that straddle a split.
    """
    # Here, as it takes scipy along, which would cost every start half a second.
    from research.data.cleaning.near_duplicates import near_duplicate_pairs

    members = [(name, document) for name, documents in splits.items() for document in documents]
    check_groups_apart((document.group, name) for name, document in members)
    for left, right, similarity in near_duplicate_pairs([document.text for _, document in members], threshold):
        (first_name, first), (second_name, second) = members[left], members[right]
        if first_name != second_name:
            raise UserError(
                f"{first.key!r} ({first_name}) and {second.key!r} ({second_name}) are near-duplicates "
                f"(similarity {similarity:.2f}) in different splits; take one of them out, put both in one group, or "
                "let the split be made here with --data.near-duplicates unite."
            )


def check_groups_apart(homes: Iterable[tuple[str, str]]) -> None:
    """Raises UserError for the first of the pairs (group, split) that has a group in a second split."""
    home: dict[str, str] = {}
    for group, name in homes:
        if home.setdefault(group, name) != name:
            raise UserError(
                f"The group {group!r} is in both the {home[group]} and the {name} split; "
                "give each split its own files or groups."
            )
