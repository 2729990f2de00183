"""Text prepared beyond one machine: the stages of `TextData.prepare` as an Apache Beam pipeline, on any runner.

    python -m research.data.text.prepare_beam --data.train 'books/*.txt' --output prepared
    python -m experiments.gpt_austen --data.prepared prepared

The data are those of the local path to the byte, whatever the runner, the number of workers and their order. Every
document carries its rank in the sources, and all that depends on order goes by rank. Documents that may repeat each
other (they share a key of `Step.alike`, or are linked by others that do) meet on one worker, which runs the local step
on them. The links, and the training text of a subword tokenizer, are gathered in one place.

Beam's own options stand after `--`, such as `-- --runner FlinkRunner --flink_master host:8081`; sources and output
must be where every worker sees them under the same name, and one worker reads a file.
"""

import dataclasses
import hashlib
import heapq
import importlib.util
import itertools
import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.core import command_line
from research.core.errors import UserError
from research.data import splitting
from research.data.cleaning import cleaning
from research.data.cleaning.cleaning import Document, Step, StepReport
from research.data.dataset import Tokenizer
from research.data.text.beam_alike import Collection, Member, found_joins, gather, leaks, together, unite
from research.data.text.text_data import SEPARATOR, SUMMARY, TOKENIZER, Part, TextData, prepared_line

if importlib.util.find_spec("apache_beam"):
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pvalue import AsDict, AsList, AsSingleton

# What Beam itself calls DirectRunner first tries to fetch a program from the network; this one runs in the process.
DIRECT_RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
SHARD = 10_000  # documents of the sources, before any is dropped

Effect = tuple[int, str, Document, Document | None, str]  # rank, side, before a step, after it, reason of a removal
Total = tuple[list[int], list[Effect]]  # documents in, out and changed, characters removed; the first examples
Shard = tuple[str, str, str, int, int]  # split, file, SHA-256, documents, characters

log = logging.getLogger("research.data.text.prepare_beam")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to prepare, and where to put it; Beam's own options follow after `--`."""

    output: str
    """the folder to write"""
    data: TextData = TextData()


def main() -> None:
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = command_line.parse(Options, description=__doc__ or "", args=arguments[:end])
    logging.basicConfig(format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # its errors are raised as well
    prepare(options.data, options.output, arguments[end + 1 :])


def prepare(data: TextData, output: str, flags: Sequence[str] = ()) -> None:
    """Runs the pipeline; the folder it writes is what `TextData(prepared=output)` reads.

    Args:
        data: sources, cleaning, split and tokenizer; `length` and `packing` are not read.
        output: a folder, in any file system that Beam knows; without the summary, written last, it is unfinished.
        flags: Beam's options.

    Raises:
        UserError: Beam is not installed, the folder is taken, or what `TextData.build` refuses.
    """
    if not importlib.util.find_spec("apache_beam"):
        raise UserError("Preparing data with Beam needs a package that is not installed: pip install -e '.[beam]'.")
    if data.prepared:
        raise UserError(f"{data.prepared!r} is prepared already: train on it, or give --data.train or --data.dataset.")
    if FileSystems.exists(FileSystems.join(output, SUMMARY)):
        raise UserError(f"{output} holds prepared data: remove it, or name another folder with --output.")
    parts = data.parts()
    named = any(flag.partition("=")[0] == "--runner" for flag in flags)
    pipeline = beam.Pipeline(options=PipelineOptions([*flags, *(() if named else ("--runner", DIRECT_RUNNER))]))
    _build(pipeline, data, parts, output)
    log.info("preparing %d parts of the sources in %s", len(parts), output)
    try:
        pipeline.run().wait_until_finish()
    # Runners wrap a worker's error each in its own way, but all keep its text.
    except Exception as error:
        mistake = re.search(r"UserError: (.+?)(?: \[while running |\n|$)", f"{type(error).__name__}: {error}")
        if mistake is None:
            raise
        raise UserError(mistake[1]) from None
    log.info("complete: train with --data.prepared %s", output)


def _build(pipeline: Any, data: TextData, parts: Sequence[Part], output: str) -> None:
    steps = data.cleaning.steps()
    divided, totals = _clean(pipeline, _read(pipeline, data, parts), steps)
    joins: Any = {}
    if data.unites:
        joins = AsSingleton(found_joins(divided, data), default_value={})
        divided = divided | "unite" >> beam.Map(unite, joins)
    if not data.validation:
        divided = divided | "divide" >> beam.Map(_divide, data.fractions(), data.salt)
    tokenizer = AsSingleton(_tokenizer(pipeline, data, divided))
    lines = divided | "tokenise" >> beam.Map(_tokenise, tokenizer)
    shards = lines | "shards" >> beam.GroupByKey() | "write" >> beam.Map(_write_shard, output)
    homes = divided | "homes" >> beam.Map(lambda member: (member[2].group, member[1])) | "each once" >> beam.Distinct()
    groups = homes | "group homes" >> beam.Values() | "groups" >> beam.combiners.Count.PerElement()
    files = pipeline | "files" >> beam.Create(parts) | "digest" >> beam.Map(lambda part: (part.source, part.digest()))
    found = {
        "digests": AsDict(files),
        "totals": AsDict(totals),
        "shards": AsList(shards),
        "groups": AsDict(groups),
        "tokenizer": tokenizer,
        "joins": joins,
        "leaks": [] if data.unites else AsList(leaks(divided, homes, data.leak_threshold)),
    }
    _ = pipeline | "end" >> beam.Create([output]) | "finish" >> beam.Map(_finish, data, parts, steps, **found)


def _divide(member: Member, fractions: Mapping[str, float], salt: str) -> Member:
    rank, _, document = member
    return rank, splitting.split_of(document.group, fractions, salt), document


def _read(pipeline: Any, data: TextData, parts: Sequence[Part]) -> Collection:
    """Reads the sources; the ranks are the order of the local path."""
    numbered = pipeline | "parts" >> beam.Create(list(enumerate(parts))) | "spread parts" >> beam.Reshuffle()
    documents = numbered | "read" >> beam.FlatMap(_read_part, data) | "spread" >> beam.Reshuffle()
    sizes = documents | "part" >> beam.Map(lambda read: read[0]) | "sizes" >> beam.combiners.Count.PerElement()
    starts = AsSingleton(gather(sizes, "part sizes") | "starts" >> beam.Map(_starts))
    return documents | "rank" >> beam.Map(lambda read, starts: (starts[read[0]] + read[1], *read[2:]), starts)


def _read_part(numbered: tuple[int, Part], data: TextData) -> Iterator[tuple[int, int, str, Document]]:
    number, part = numbered
    documents = data.read(part)
    log.info("read %s: %d documents", part.source, len(documents))
    for position, document in enumerate(documents):
        yield number, position, part.side, document


def _starts(sizes: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Returns the rank of the first document of each part, by its number."""
    numbers, counts = zip(*sorted(sizes), strict=True)
    return dict(zip(numbers, itertools.accumulate(counts, initial=0), strict=False))


def _clean(pipeline: Any, members: Collection, steps: Sequence[Step]) -> tuple[Collection, Collection]:
    """Runs the steps; returns the members left, and {(side, number of the step): total}."""
    counts = []
    for number, step in enumerate(steps):
        groups = together(members, step.alike, step.name)
        effects = groups | step.name >> beam.FlatMap(_apply, step)
        members = effects | f"{step.name}: left" >> beam.FlatMap(_left)
        counts.append(effects | f"{step.name}: count" >> beam.Map(_count, number))
    return members, tuple(counts) | "counts" >> beam.Flatten(pipeline=pipeline) | "totals" >> beam.CombinePerKey(_total)


def _apply(members: Iterable[Member], step: Step) -> Iterator[Effect]:
    ordered = sorted(members, key=lambda member: member[0])
    documents = [document for _, _, document in ordered]
    alone = step.alike is not None and len(documents) == 1  # so that it repeats nothing
    kept, reasons = (documents, {}) if alone else step.apply(documents)
    after = {document.key: document for document in kept}
    for rank, side, document in ordered:
        yield rank, side, document, after.get(document.key), reasons.get(document.key, "")


def _left(effect: Effect) -> list[Member]:
    rank, side, _, after, _ = effect
    return [] if after is None else [(rank, side, after)]


def _count(effect: Effect, number: int) -> tuple[tuple[str, int], Total]:
    _, side, before, after, _ = effect
    text = "" if after is None else after.text
    changed = after is not None and text != before.text
    numbers = [1, int(after is not None), int(changed), len(before.text) - len(text)]
    return (side, number), (numbers, [effect] if changed or after is None else [])


def _total(totals: Iterable[Total]) -> Total:
    numbers, examples = [0, 0, 0, 0], list[Effect]()
    for more, others in totals:
        numbers = [left + right for left, right in zip(numbers, more, strict=True)]
        examples = heapq.nsmallest(cleaning.EXAMPLES, examples + others, key=lambda effect: effect[0])
    return numbers, examples


def _tokenizer(pipeline: Any, data: TextData, divided: Collection) -> Collection:
    """Trains on the training documents in order, or where that is enough on their distinct characters."""
    texts = divided | "train" >> beam.Filter(lambda member: member[1] == "train")
    texts = texts | "texts" >> beam.Map(lambda member: (member[0], member[2].text))
    if data.tokenizer.kind in ("bytes", "characters"):
        distinct = texts | "text" >> beam.Values() | "alphabet" >> beam.CombineGlobally(_distinct_characters)
        texts = distinct | "first" >> beam.Map(lambda characters: (0, characters))
    texts = (texts, pipeline | "separator" >> beam.Create([(sys.maxsize, SEPARATOR)])) | "all texts" >> beam.Flatten()
    in_order = gather(texts, "tokenizer") | "order" >> beam.Map(lambda ranked: [text for _, text in sorted(ranked)])
    return in_order | "train tokenizer" >> beam.Map(data.tokenizer.train)


def _distinct_characters(texts: Iterable[str]) -> str:
    return "".join(sorted(set().union(*texts)))


def _tokenise(member: Member, tokenizer: Tokenizer) -> tuple[tuple[str, int], tuple[int, int, str]]:
    rank, split, document = member
    line = prepared_line(document, tokenizer.encode(document.text))
    return (split, rank // SHARD), (rank, len(document.text), line)


def _write_shard(shard: tuple[tuple[str, int], Iterable[tuple[int, int, str]]], output: str) -> Shard:
    (split, number), lines = shard[0], sorted(shard[1])
    name, content = f"{split}-{number:05d}.jsonl", "".join(line for _, _, line in lines).encode()
    _write(output, name, content)
    log.info("wrote %s: %d documents", name, len(lines))
    return split, name, hashlib.sha256(content).hexdigest(), len(lines), sum(size for _, size, _ in lines)


def _write(output: str, name: str, content: bytes) -> None:
    with FileSystems.create(FileSystems.join(output, name)) as file:
        file.write(content)


def _finish(
    output: str,
    data: TextData,
    parts: Sequence[Part],
    steps: Sequence[Step],
    *,
    digests: Mapping[str, str],
    totals: Mapping[tuple[str, int], Total],
    shards: Sequence[Shard],
    groups: Mapping[str, int],
    tokenizer: Tokenizer,
    joins: Mapping[str, str],
    leaks: Sequence[Any],
) -> None:
    """Refuses what the local path refuses, then writes the tokenizer and, last of all, the summary."""
    reports = list(_reports(totals, steps))
    if not data.validation:
        splitting.check_none_empty(groups, data.fractions())
    files: dict[str, dict[str, str]] = {split: {} for split in sorted(groups)}
    counts = {split: {"documents": 0, "groups": groups[split], "characters": 0} for split in files}
    for split, name, digest, documents, characters in sorted(shards):
        files[split][name] = digest
        counts[split]["documents"] += documents
        counts[split]["characters"] += characters
    sources = {part.source: digests[part.source] for part in parts}
    splitting.say_united(len(joins))
    facts = data.facts(sources, reports, splitting.with_fractions(counts), tokenizer, len(joins))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / TOKENIZER)
        _write(output, TOKENIZER, (Path(folder) / TOKENIZER).read_bytes())
    summary = json.dumps({"shards": files, "facts": facts}, indent=1, ensure_ascii=False)
    _write(output, SUMMARY, f"{summary}\n".encode())


def _reports(totals: Mapping[tuple[str, int], Total], steps: Sequence[Step]) -> Iterator[StepReport]:
    mask = cleaning.mask_of(steps)
    for (side, number), ((before, after, changed, removed), effects) in sorted(totals.items()):
        name = steps[number].name
        examples = tuple(
            cleaning.example(name, old, None if new is None else new.text, why, mask) for _, _, old, new, why in effects
        )
        report = StepReport(name, before, after, changed, removed, examples)
        cleaning.check_some_left(report, totals[side, 0][0][0])
        yield report


if __name__ == "__main__":
    from research.data.text.prepare_beam import main as imported_main

    command_line.run(imported_main)
