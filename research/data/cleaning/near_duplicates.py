"""Near-duplicate texts: pairs whose sets of word shingles overlap (Broder 1997), found by MinHash and checked exactly.

Locality-sensitive hashing proposes pairs in about linear time, the true Jaccard similarity of the shingle sets then
decides, so there are no false alarms. Cleaning drops such texts, and the split check refuses them across splits.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from jaxtyping import UInt64

from research.core.errors import UserError

SHINGLE = 3  # words
PERMUTATIONS = 128
SEED = 1
CHUNK = 8192  # shingles hashed at once, which bounds memory for a text of any size

# A Chinese character or a Japanese kana counts as a word: those scripts set no spaces between words.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def near_duplicate_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Finds all pairs of texts at least as similar as `threshold`.

    Words are compared without case and punctuation, in shingles of three. With a threshold of 0.5 or
    more the hashing finds over 98 in 100 of the pairs at the threshold itself, and practically all well above it.

    Args:
        texts: any number of texts of any length.
        threshold: Jaccard similarity in (0, 1].

    Returns:
        (first index, second index, similarity) with first < second, sorted.

    Raises:
        UserError: `threshold` is out of range.
    """
    index = _index(threshold)
    sets: list[UInt64[np.ndarray, " shingles"]] = []
    pairs = []
    for position, (shingles, signature) in enumerate(_signatures(texts)):
        for other in sorted(index.query(signature)):
            similarity = jaccard(sets[other], shingles)
            if similarity >= threshold:
                pairs.append((other, position, similarity))
        index.insert(position, signature)
        sets.append(shingles)
    return sorted(pairs)


def duplicates_of_earlier(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Chooses which texts to drop so that, of every group of near-duplicates, the first is kept.

    Returns:
        {index to drop: index of the kept text it repeats}. A text is compared with kept texts only, so a chain of
        small changes never drops a text that resembles none of those kept.

    Raises:
        UserError: `threshold` is out of range.
    """
    index = _index(threshold)
    kept: dict[int, UInt64[np.ndarray, " shingles"]] = {}
    dropped = {}
    for position, (shingles, signature) in enumerate(_signatures(texts)):
        candidates = sorted(index.query(signature))
        original = next((other for other in candidates if jaccard(kept[other], shingles) >= threshold), None)
        if original is None:
            index.insert(position, signature)
            kept[position] = shingles
        else:
            dropped[position] = original
    return dropped


def bands(text: str, threshold: float) -> list[bytes]:
    """Returns the keys of a text, as many for every text: only texts that share one of them are ever compared.

    Raises:
        UserError: `threshold` is out of range.
    """
    ((_, signature),) = _signatures([text])
    ranges = enumerate(_index(threshold).hashranges)
    return [bytes([number]) + signature.hashvalues[start:end].tobytes() for number, (start, end) in ranges]


def first_of_linked(links: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Returns {member: first member linked to it, be it through others} for all but those first, by union-find.

    Args:
        links: pairs of different numbers, in any order.
    """
    earlier: dict[int, int] = {}

    def first(member: int) -> int:
        path = []
        while member in earlier:
            path.append(member)
            member = earlier[member]
        earlier.update(dict.fromkeys(path, member))
        return member

    for link in links:
        low, high = sorted(map(first, link))
        if low != high:
            earlier[high] = low
    return {member: first(member) for member in list(earlier)}


def jaccard(left: UInt64[np.ndarray, " left"], right: UInt64[np.ndarray, " right"]) -> float:
    """Returns the fraction of common members, |left & right| / |left | right|, of two sets of distinct numbers."""
    common = np.intersect1d(left, right, assume_unique=True).size
    return common / (left.size + right.size - common)


def shingle_hashes(text: str, words: dict[str, int]) -> UInt64[np.ndarray, " shingles"]:
    """Returns the distinct 64-bit hashes of the text's shingles; `words` remembers the hashes of words already seen."""
    found = WORD.findall(text.casefold()) or [text.strip()]
    for word in found:
        if word not in words:
            words[word] = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())
    hashes = np.array([words[word] for word in found], dtype=np.uint64)
    size = min(SHINGLE, hashes.size)
    combined = np.zeros(hashes.size - size + 1, dtype=np.uint64)
    for offset in range(size):
        # Multiplying by an odd constant before each addition makes the sum depend on the order of the words.
        combined = combined * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + combined.size]
    return np.unique(combined)


def _signatures(texts: Sequence[str]) -> Iterator[tuple[UInt64[np.ndarray, " shingles"], MinHash]]:
    words: dict[str, int] = {}
    empty = MinHash(PERMUTATIONS, seed=SEED, hashfunc=int)
    for text in texts:
        shingles = shingle_hashes(text, words)
        signature = empty.copy()
        for start in range(0, shingles.size, CHUNK):
            signature.update_batch(shingles[start : start + CHUNK] >> np.uint64(32))
        yield shingles, signature


def _index(threshold: float) -> MinHashLSH:
    if not 0 < threshold <= 1:
        raise UserError(
            f"The near-duplicate threshold is {threshold}; give a similarity above 0 and at most 1, such as 0.8."
        )
    return MinHashLSH(num_perm=PERMUTATIONS, params=_bands_and_rows(threshold))


@functools.cache
def _bands_and_rows(threshold: float) -> tuple[int, int]:
    # A false candidate costs only an exact comparison and a missed pair is lost, so the hashing looks lower.
    index = MinHashLSH(threshold=0.8 * threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    return index.b, index.r
