"""Which documents are held out, to measure on what was not trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from baremetalrt.documents.passages import cut_near

_SCALE: Final = 1 << 64
# A group of related documents that is more than this part of everything is needed for training.
_MAX_GROUP_SHARE: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """`fraction` of the documents is held out. Another `seed` holds out others."""

    fraction: float = 0.05
    seed: int = 0


def choose_held_out(
    hashes: Sequence[bytes],
    groups: Sequence[int],
    sizes: Sequence[int],
    config: SplitConfig | None = None,
) -> list[bool]:
    """Whether each document is held out; those of a group all are, or none is.

    What decides is the content and the seed. Others coming or going does not move a document, unless
    there are so few that none or all would be held out.
    """
    config = config or SplitConfig()
    first: dict[int, bytes] = {}
    size_of: dict[int, int] = {}
    for digest, group, size in zip(hashes, groups, sizes, strict=True):
        first[group] = min(first.get(group, digest), digest)
        size_of[group] = size_of.get(group, 0) + size
    if len(first) < 2:
        return [False] * len(hashes)
    draws = {group: _draw(digest, config.seed) for group, digest in first.items()}
    total = sum(size_of.values())
    chosen = {
        group
        for group, draw in draws.items()
        if draw < config.fraction and size_of[group] <= _MAX_GROUP_SHARE * total
    }
    if not chosen and config.fraction > 0:
        # Few documents: one of them, and not the largest.
        largest = max(first, key=lambda group: (size_of[group], first[group]))
        chosen = {min((g for g in first if g != largest), key=lambda group: draws[group])}
    return [group in chosen for group in groups]


def cut_tail(text: str, config: SplitConfig | None = None) -> tuple[str, str]:
    """One document alone: what is trained on, and its end, which is held out."""
    fraction = (config or SplitConfig()).fraction
    num_held_out = round(fraction * len(text))
    if not num_held_out:
        return text, ""
    low, high = len(text) - 3 * num_held_out, len(text) - num_held_out // 3
    at = cut_near(text, max(len(text) // 4, low), len(text) - num_held_out, high)
    return text[:at].rstrip("\n"), text[at:].strip("\n")


def _draw(digest: bytes, seed: int) -> float:
    """A number from 0 to 1 that belongs to a content and a seed."""
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(blake2b(digest, digest_size=8, key=key).digest(), "little") / _SCALE
