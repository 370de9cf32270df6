"""The same text twice, and nearly the same: found by hashes, and by MinHash over runs of five words.

Of the packages that do it, datasketch brings SciPy, and rensa is one person's compiled code; the sketch
is a dozen lines. Their indexes keep the first of two; which one that is would depend on the order of
files, hence the search here: sorting bands.

Source: Broder, On the resemblance and containment of documents (1997); multiply-shift hashing,
Dietzfelbinger et al. (1997).

Shapes: `N` documents, `P` permutations, `M` pairs, `S` runs of words.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

NUM_PERMUTATIONS: Final = 64
_SEED: Final = 5
_SHINGLE_WORDS: Final = 5
# 16 bands of 4: found are 99.98 % of pairs that are alike by 0.8, and 89 % by 0.6.
_BAND_ROWS: Final = 4
# In a band's bucket everybody is compared with so many others; form letters fill buckets of thousands.
_NEIGHBOURS: Final = 16
_WORD: Final = re.compile(r"\w+")
_SHINGLES_AT_ONCE: Final = 1 << 12
_PAIRS_AT_ONCE: Final = 1 << 14
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)

U32Array = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    """From `same` on, by Jaccard similarity, the shorter text goes; from `related` on, two are not split
    over training and held-out."""

    same: float = 0.8
    related: float = 0.6


@dataclass(frozen=True)
class Verdict:
    """`kept_N`: whether it stays. `exact_N`: whether it went for being the same to the letter.
    `group_N`: equal numbers for what is related."""

    kept_N: npt.NDArray[np.bool_]
    exact_N: npt.NDArray[np.bool_]
    group_N: IndexArray


def content_hash(text: str) -> bytes:
    """16 bytes that two texts share if they differ in spaces and letter case only."""
    return blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest()


def signature(text: str) -> bytes:
    """The MinHash signature of a text: `NUM_PERMUTATIONS` numbers of 32 bits."""
    words = _WORD.findall(text.casefold())
    if len(words) <= _SHINGLE_WORDS:
        shingles = {" ".join(words)}
    else:
        columns = (words[i:] for i in range(_SHINGLE_WORDS))
        shingles = {" ".join(run) for run in zip(*columns, strict=False)}
    digests = b"".join(blake2b(one.encode(), digest_size=8).digest() for one in shingles)
    hashes_S = np.frombuffer(digests, "<u8")
    least_P = np.full(NUM_PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    factors_P, summands_P = _permutations()
    for at in range(0, len(hashes_S), _SHINGLES_AT_ONCE):
        part_SP = hashes_S[at : at + _SHINGLES_AT_ONCE, None] * factors_P + summands_P
        np.minimum(least_P, part_SP.min(axis=0), out=least_P)
    return (least_P >> np.uint64(32)).astype(np.uint32).tobytes()


@functools.cache
def _permutations() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """What hashes are multiplied by, modulo 2**64, and what is added: odd numbers, and any."""
    drawn_2P = np.random.default_rng(_SEED).integers(0, 1 << 63, (2, NUM_PERMUTATIONS), np.uint64)
    return drawn_2P[0] * np.uint64(2) + np.uint64(1), drawn_2P[1]


def judge(
    hashes: Sequence[bytes],
    signatures_NP: U32Array,
    sizes: Sequence[int],
    families: Sequence[int] | None = None,
    config: DuplicateConfig | None = None,
) -> Verdict:
    """Which texts stay. It depends on the texts alone, not on their order; judging again keeps all.

    Texts of one family (a mail and what is attached to it) are related without being alike.
    """
    config = config or DuplicateConfig()
    num = len(hashes)
    # The longest of those that are alike stays; equally long ones are told apart by their hash.
    order = np.array(sorted(range(num), key=lambda i: (-sizes[i], hashes[i])), dtype=np.int64)
    kept_N, exact_N = np.ones(num, dtype=np.bool_), np.zeros(num, dtype=np.bool_)
    seen: set[bytes] = set()
    for i in order.tolist():
        exact_N[i] = hashes[i] in seen
        seen.add(hashes[i])
    kept_N &= ~exact_N
    # Once more after every time that something went: buckets are searched only so far, and now other
    # texts are within reach.
    while _drop_alike(order, signatures_NP, kept_N, config.same):
        pass
    groups = _Groups(num)
    oldest: dict[int, int] = {}
    for i, family in enumerate(families or ()):
        if kept_N[i]:
            groups.join(oldest.setdefault(family, i), i)
    for band in _bands(order[kept_N[order]], signatures_NP):
        for first_M, second_M in band:
            for a_M, b_M in _at_least(config.related, signatures_NP, first_M, second_M):
                for a, b in zip(a_M.tolist(), b_M.tolist(), strict=True):
                    groups.join(a, b)
    return Verdict(kept_N, exact_N, groups.numbers())


def _drop_alike(
    order: IndexArray, signatures_NP: U32Array, kept_N: npt.NDArray[np.bool_], least: float
) -> bool:
    """Drops the later ones of pairs that are alike; whether there were any."""
    has_dropped = False
    for band in _bands(order, signatures_NP, kept_N):
        for first_M, second_M in band:
            for a_M, b_M in _at_least(least, signatures_NP, first_M, second_M):
                for a, b in zip(a_M.tolist(), b_M.tolist(), strict=True):
                    # What went does not take others with it.
                    if kept_N[a] and kept_N[b]:
                        kept_N[b], has_dropped = False, True
    return has_dropped


def _bands(
    order: IndexArray, signatures_NP: U32Array, kept_N: npt.NDArray[np.bool_] | None = None
) -> Iterator[Iterator[tuple[IndexArray, IndexArray]]]:
    """For each band, pairs of texts that agree in it; the first of each pair comes first in `order`."""
    for start in range(0, NUM_PERMUTATIONS, _BAND_ROWS):
        present = order if kept_N is None else order[kept_N[order]]
        keys = np.zeros(len(present), dtype=np.uint64)
        for column in range(start, start + _BAND_ROWS):
            keys = (keys ^ signatures_NP[present, column]) * _MIX
            keys ^= keys >> np.uint64(29)
        by_key = np.argsort(keys, kind="stable")
        yield _pairs(present[by_key], keys[by_key])


def _pairs(
    texts: IndexArray, keys: npt.NDArray[np.uint64]
) -> Iterator[tuple[IndexArray, IndexArray]]:
    """Each text with the first of its bucket, and with those just before it."""
    if not len(keys):
        return
    is_first = np.append(True, keys[1:] != keys[:-1])
    firsts = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    yield texts[firsts[~is_first]], texts[~is_first]
    for distance in range(1, _NEIGHBOURS + 1):
        is_pair = keys[distance:] == keys[:-distance]
        if not is_pair.any():
            return
        yield texts[:-distance][is_pair], texts[distance:][is_pair]


def _at_least(
    least: float, signatures_NP: U32Array, first_M: IndexArray, second_M: IndexArray
) -> Iterator[tuple[IndexArray, IndexArray]]:
    """Those of the pairs whose estimated similarity is at least `least`."""
    for at in range(0, len(first_M), _PAIRS_AT_ONCE):
        a_M, b_M = first_M[at : at + _PAIRS_AT_ONCE], second_M[at : at + _PAIRS_AT_ONCE]
        is_alike = (signatures_NP[a_M] == signatures_NP[b_M]).mean(axis=1) >= least
        yield a_M[is_alike], b_M[is_alike]


class _Groups:
    """Which belong together, directly or through others (union-find)."""

    def __init__(self, num: int) -> None:
        self._parents = list(range(num))

    def join(self, a: int, b: int) -> None:
        a, b = self._root(a), self._root(b)
        self._parents[max(a, b)] = min(a, b)

    def numbers(self) -> IndexArray:
        return np.array([self._root(i) for i in range(len(self._parents))], dtype=np.int64)

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i
