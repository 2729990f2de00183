"""Continues text with a trained or published language model: `python -m research.generate RUN "Emma was"`.

RUN is a run directory, 'latest', or whatever `research.hub.load_pretrained` takes: a folder, a .gguf file, or a name
on the Hugging Face hub. One text is printed as it comes; several, or those of a beam search, when they are done.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from research.core import command_line, streams
from research.core.errors import UserError
from research.core.ranges import Prose, Range, Seed
from research.core.shapes import Params
from research.core.terminal import printable
from research.data.text.paired_text import boundary_ids
from research.data.text.tokenizers import Subwords
from research.decoding.beam_search import MOST_BEAMS, Beam, LengthPenalty, make_beam_search
from research.decoding.loop import ENDED, Generate, Text, Tokens, make_generate
from research.decoding.sampling import Sampling
from research.hub.pretrained import load_pretrained
from research.models.change_layer import fastest
from research.models.model import Decoding
from research.models.wrappers.lora import LoRA, merged
from research.runs.directory import find
from research.runtime import backend
from research.train.pretrained import PretrainedModel, is_run
from research.train.recorded_run import load_run

BEFORE = 8  # tokens of a prompt, more than any character has


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    model: Annotated[str, tyro.conf.Positional]
    """a run directory, 'latest', a folder or .gguf file of a published model, or its name on the Hugging Face hub"""
    prompt: Annotated[Prose, tyro.conf.Positional] = "\n"
    """what the text begins with; for translation and the like, what is to be translated"""
    tokens: Annotated[int, Range(1, 2**20)] = 200
    """the most tokens to add"""
    samples: Annotated[int, Range(1, 1024)] = 1
    """how many texts"""
    seed: Seed = 0
    stop: Annotated[tuple[Prose, ...], tyro.conf.UseAppendAction] = ()
    """a string before which a text ends; again for another"""
    beams: Annotated[int, Range(0, MOST_BEAMS)] = 0
    """search for the likeliest text with so many beams instead of drawing one"""
    length_penalty: LengthPenalty = 1.0
    """of the beams: a text's score is its log-probability over its length to this power"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling(temperature=0.8)
    trust: command_line.Trust = ()


class TextGenerator(NamedTuple):
    """A language model ready to write: its step-by-step form, its parameters, and its tokens."""

    decoding: Decoding
    params: Params
    encode: Callable[[str], Tokens]
    """a prompt's ids, with those that the model expects before every text"""
    decode: Callable[[Sequence[int]], str]
    end: tuple[int, ...] = ()
    """ids that end a text"""
    start: int | None = None
    """where an encoder reads the prompt: the id that the text begins with"""

    def before(self, prompt: Tokens) -> list[int]:
        """Returns the last tokens of what a text continues; none where an encoder reads the prompt."""
        return [] if self.start is not None else prompt[-BEFORE:].tolist()

    def begun(self, prompt: str, rows: int) -> tuple[list[Tokens], dict[str, Any]]:
        """Returns the tokens that so many texts begin with, and what an encoder reads."""
        ids = self.encode(prompt)
        if self.start is None:
            return [ids] * rows, {}
        source = jnp.asarray(np.stack([ids] * rows))
        return [np.array([self.start], np.int32)] * rows, {"inputs": source, "segments": jnp.ones_like(source)}


def main() -> None:
    options = command_line.parse(Options, description=__doc__ or "")
    if options.beams and (options.samples > 1 or options.stop):
        raise UserError("A beam search finds one text, and knows no stop strings: leave out --samples and --stop.")
    if any("\ud800" <= character <= "\udfff" for character in options.prompt):
        raise UserError(f"The prompt {options.prompt[:60]!r} is not UTF-8, as text has to be here: write it in UTF-8.")
    language = load_language(options.model, options.trust)
    prompts, context = language.begun(options.prompt, options.samples)
    shown = options.prompt if language.start is None else ""
    write = visibly if sys.stdout.isatty() else exactly
    if options.beams:
        search = make_beam_search(language.decoding, Beam(options.beams, options.length_penalty))
        ((ids, score),) = search(language.params, prompts, tokens=options.tokens, end=language.end, context=context)
        text = Text(language.decode, before=language.before(prompts[0]))
        text.ids += [int(token) for token in ids if token not in language.end]
        write(shown + text.finish() + "\n")
        print(f"score {score:.4f}", file=sys.stderr)
        return
    keys = jax.random.split(streams.stream(options.seed, "generate"), options.samples)
    generate = make_generate(language.decoding, options.sampling)
    texts = [Text(language.decode, options.stop, language.before(prompt)) for prompt in prompts]
    alone = options.samples == 1
    write(shown if alone else "")
    pieces: list[list[str]] = [[] for _ in prompts]
    for chosen in beyond_context(language, generate, prompts, keys, options.tokens, context):
        for row, token in enumerate(chosen):
            ended = token == ENDED or token in language.end
            pieces[row].append(texts[row].finish() if ended else texts[row].add(int(token)))
        if alone:
            write(pieces[0][-1])
        if all(text.ended for text in texts):
            break
    for row, text in enumerate(texts):
        pieces[row].append(text.finish())
    if alone:
        write(pieces[0][-1] + "\n")
    for number, parts in enumerate(pieces if not alone else [], start=1):
        write(f"--- {number} of {len(pieces)} ---\n{shown}{''.join(parts)}\n")


def exactly(text: str) -> None:
    """Writes text to standard output at once, as a file or another program gets it."""
    print(end=text, flush=True)


def visibly(text: str) -> None:
    """Writes text to a terminal at once: what a model writes may hold control characters."""
    exactly(printable(text))


def load_language(source: str, trusted: Sequence[str] = ()) -> TextGenerator:
    """Loads a language model; raises UserError where there is none, or it cannot continue text.

    Args:
        source: a run, or a published model.
        trusted: packages of the user's own whose classes a run may name.
    """
    if is_run(source):
        run = load_run(find(source), trusted=trusted)
        model, params, tokenizer = run.assembly.model, run.state.evaluated, run.assembly.data.tokenizer
        config = run.assembly.experiment.model
        if isinstance(config, PretrainedModel) and config.lora.rank:  # merged once, and not for every token
            model = dataclasses.replace(config, lora=LoRA()).build(run.assembly.data.spec)
            params = merged(params, config.lora)
    else:
        backend.start()
        loaded = load_pretrained(source)
        model, params, tokenizer = loaded.model, loaded.params, loaded.tokenizer
    if model.decoding is None:
        raise UserError(
            f"{source} holds no model that continues text step by step: name a run of a language model; one of your "
            "own writes if it is built with functional(..., cached=True): see 'A new architecture' in the README."
        )
    decoding = fastest(model.decoding, params)
    if tokenizer is None:
        raise UserError(f"{source} holds no tokenizer that can be read here: a prompt cannot be turned into tokens.")
    rules, decode = decoding.rules, tokenizer.decode
    if decoding.has_encoder:
        start, last = boundary_ids(tokenizer)

        def read(text: str) -> Tokens:
            return np.append(tokenizer.encode(text), np.int32(last))

        start = start if rules.start is None else rules.start
        return TextGenerator(decoding, params, read, decode, rules.end or (last,), start)
    if not (isinstance(tokenizer, Subwords) and tokenizer.kind == "pretrained"):
        return TextGenerator(decoding, params, tokenizer.encode, decode, rules.end)
    end = tokenizer.special_id("eos")
    ends = rules.end or (() if end is None else (end,))
    return TextGenerator(decoding, params, lambda text: tokenizer.encode_pair(text).ids, decode, ends)


def beyond_context(
    language: TextGenerator,
    generate: Generate,
    prompts: Sequence[Tokens],
    keys: Any,
    tokens: int,
    source: Mapping[str, Any],
) -> Iterator[np.ndarray]:
    """Yields as `generate` does; where a text outgrows the model's context, its last half is re-encoded."""
    texts, context, window = [list(prompt) for prompt in prompts], language.decoding.context, 0
    running = np.ones(len(texts), bool)
    while tokens > 0 and running.any():
        longest = max(len(text) for text in texts)
        if context and longest + 1 > context:
            texts = [text[-max(context // 2, 1) :] for text in texts]
            longest = max(len(text) for text in texts)
        count = min(tokens, context - longest) if context else tokens
        folded = jax.vmap(lambda key, number=window: jax.random.fold_in(key, number))(keys)
        rows = [np.array(text, np.int32) for text in texts]
        for chosen in generate(language.params, rows, folded, tokens=count, end=language.end, context=source):
            chosen = np.where(running, chosen, ENDED)
            yield chosen
            running &= ~np.isin(chosen, [ENDED, *language.end])
            for text, token in zip(texts, chosen, strict=True):
                text.extend([int(token)] if token != ENDED else [])
        tokens, window = tokens - count, window + 1


if __name__ == "__main__":
    command_line.run(main)
