"""Rules that tell running prose from lists, tables, spam and boilerplate: the quality and repetition filters of Gopher.

Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A.1.
The stop-word rule is for English; `research.data.cleaning.cleaning` offers the rules as one step.
"""

import re
from collections import Counter
from collections.abc import Sequence

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
TOP_NGRAM_LIMITS = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_NGRAM_LIMITS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def quality_fault(text: str) -> str | None:
    """Returns the first rule of Gopher's filters that a document breaks, or None for a good one."""
    words = text.split()
    return _form_fault(text, words) or _repetition_fault(text, words)


def _form_fault(text: str, words: Sequence[str]) -> str | None:
    if not 50 <= len(words) <= 100_000:
        return f"{len(words)} words, outside 50 to 100,000"
    mean_length = sum(map(len, words)) / len(words)
    if not 3 <= mean_length <= 10:
        return f"mean word length {mean_length:.1f}, outside 3 to 10"
    for name, symbols in (("hash marks", text.count("#")), ("ellipses", text.count("...") + text.count("…"))):
        if symbols > 0.1 * len(words):
            return f"more than 0.1 {name} per word"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.startswith(("•", "-", "*", "‣", "●")) for line in lines) > 0.9 * len(lines):
        return "more than 90 % of the lines start with a bullet"
    if sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return "more than 30 % of the lines end with an ellipsis"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return "fewer than 80 % of the words contain a letter"
    if len(STOP_WORDS & {word.casefold().strip(".,;:!?\"'()_") for word in words}) < 2:
        return "fewer than two of the stop words " + ", ".join(sorted(STOP_WORDS))
    return None


def _repetition_fault(text: str, words: Sequence[str]) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    for name, parts in (("lines", lines), ("paragraphs", paragraphs)):
        repeated = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
        if len(repeated) > 0.3 * len(parts):
            return f"more than 30 % of the {name} are repeats"
        if sum(map(len, repeated)) > 0.2 * len(text):
            return f"more than 20 % of the characters are in repeated {name}"
    characters = sum(map(len, words))
    for size, limit in TOP_NGRAM_LIMITS.items():
        ngram, count = Counter(zip(*(words[offset:] for offset in range(size)), strict=False)).most_common(1)[0]
        if count > 1 and count * sum(map(len, ngram)) > limit * characters:
            return f"more than {100 * limit:.0f} % of the characters are in the one {size}-gram {' '.join(ngram)!r}"
    for size, limit in DUPLICATE_NGRAM_LIMITS.items():
        if _characters_in_repeats(words, size) > limit * characters:
            return f"more than {100 * limit:.0f} % of the characters are in repeated {size}-grams"
    return None


def _characters_in_repeats(words: Sequence[str], size: int) -> int:
    """Counts the characters of words covered by n-grams seen before, each word once."""
    seen: set[tuple[str, ...]] = set()
    covered_to = 0
    characters = 0
    for start, ngram in enumerate(zip(*(words[offset:] for offset in range(size)), strict=False)):
        if ngram in seen:
            characters += sum(map(len, words[max(start, covered_to) : start + size]))
            covered_to = start + size
        seen.add(ngram)
    return characters
