"""Which documents meet on one worker of a Beam pipeline: those that may repeat each other, for `prepare_beam.py`.

They share a key, or are linked by others that do. By these, near-duplicates across the split are united or refused.
"""

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from research.data import splitting
from research.data.cleaning.cleaning import Document
from research.data.cleaning.near_duplicates import bands, first_of_linked, near_duplicate_pairs
from research.data.text.text_data import TextData

if importlib.util.find_spec("apache_beam"):
    import apache_beam as beam

Collection = Any  # a beam.PCollection
Alike = Callable[[str], Sequence[bytes]]
Member = tuple[int, str, Document]  # rank in the sources, side of the sources and later split, document


def gather(collection: Collection, label: str) -> Collection:
    """Brings all elements to one place, as one iterable in no order."""
    keyed = collection | f"{label}: one place" >> beam.WithKeys(0)
    return keyed | f"{label}: gather" >> beam.GroupByKey() | f"{label}: gathered" >> beam.Values()


def together(members: Collection, alike: Alike | None, label: str, *, across: bool = False) -> Collection:
    """Groups the members of a side, or `across` sides, that share a key or, where they have several, are so linked."""
    if alike is None:
        return members | f"{label}: alone" >> beam.Map(lambda member: [member])
    keyed = members | f"{label}: keys" >> beam.FlatMap(_keyed, alike, across)
    if len(alike("")) > 1:
        ranks = keyed | f"{label}: ranks" >> beam.MapTuple(lambda key, member: (key, member[0]))
        shared = ranks | f"{label}: alike" >> beam.GroupByKey() | f"{label}: shared" >> beam.Values()
        links = gather(shared | f"{label}: links" >> beam.FlatMap(lambda ranks: itertools.pairwise(ranks)), label)
        firsts = links | f"{label}: firsts" >> beam.FlatMap(lambda links: first_of_linked(links).items())
        ranked = members | f"{label}: ranked" >> beam.Map(lambda member: (member[0], member))
        joined = (ranked, firsts) | f"{label}: join" >> beam.CoGroupByKey()
        keyed = joined | f"{label}: by first" >> beam.MapTuple(_by_first)
    return keyed | f"{label}: together" >> beam.GroupByKey() | f"{label}: groups" >> beam.Values()


def _keyed(member: Member, alike: Alike, across: bool) -> list[tuple[Any, Member]]:
    return [(("" if across else member[1], key), member) for key in alike(member[2].text)]


def _by_first(rank: int, found: tuple[Sequence[Member], Sequence[int]]) -> tuple[int, Member]:
    (member,), first = found
    return next(iter(first), rank), member


def found_joins(members: Collection, data: TextData) -> Collection:
    """Returns which groups join which, so that near-duplicates are on one side; nothing where none have any."""
    alike = together(members, lambda text: bands(text, data.leak_threshold), "near duplicates across")
    links = gather(alike | "pairs" >> beam.FlatMap(_pairs, data.leak_threshold), "pairs")
    home = partial(splitting.split_of, fractions=data.fractions(), salt=data.salt)
    return links | "joins" >> beam.Map(splitting.united_groups, home)


def _pairs(members: Iterable[Member], threshold: float) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    found = [(rank, document.group, document.text) for rank, _, document in members]
    pairs = near_duplicate_pairs([text for _, _, text in found], threshold) if len(found) > 1 else []
    return [(found[left][:2], found[right][:2]) for left, right, _ in pairs]


def unite(member: Member, joins: Mapping[str, str]) -> Member:
    """Returns a member whose group has joined another, where it has."""
    rank, side, document = member
    return rank, side, dataclasses.replace(document, group=joins.get(document.group, document.group))


def leaks(divided: Collection, homes: Collection, threshold: float) -> Collection:
    """Returns an empty collection; its workers raise UserError for a group or text on both sides of the split."""
    by_group = homes | "by group" >> beam.GroupByKey() | "groups apart" >> beam.FlatMapTuple(_refuse_group)
    alike = together(divided, lambda text: bands(text, threshold), "leaks", across=True)
    return (by_group, alike | "texts apart" >> beam.FlatMap(_refuse_leak, threshold)) | "leaks" >> beam.Flatten()


def _refuse_group(group: str, splits: Iterable[str]) -> list[Any]:
    splitting.check_groups_apart((group, split) for split in sorted(splits))
    return []


def _refuse_leak(members: Iterable[Member], threshold: float) -> list[Any]:
    splits: dict[str, list[Document]] = {}
    for _, split, document in sorted(members, key=lambda member: (member[1], member[0])):
        splits.setdefault(split, []).append(document)
    if len(splits) > 1:
        splitting.check_no_leak(splits, threshold)
    return []
