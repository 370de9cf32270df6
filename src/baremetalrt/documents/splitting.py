"""What is held out, to measure on what was not trained: several short stretches, from all over."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Final, NamedTuple

from baremetalrt.documents.passages import cut_near

_SCALE: Final = 1 << 64
# Less than this says little about a model; but what is judged by must stay the smaller part.
_MIN_BYTES: Final = 2000
_MAX_MIN_SHARE: Final = 0.2
# About so many stretches at least, as long as they are not shorter than a few sentences, and none is
# longer than a page; of large corpora a thousand of them tell enough.
_STRETCHES: Final = (8, 1000)
_STRETCH_BYTES: Final = (300, 2000)
# Where less than so many times what is wanted is unrelated to the rest, related texts are cut, too.
_WANTED_CHOICE: Final = 4


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """About `fraction` of the text is held out, by bytes; zero holds out nothing.

    Of little text it is more, so that there is something to judge by: 2,000 bytes, or a fifth of all.
    Another `seed` holds out others.
    """

    fraction: float = 0.05
    seed: int = 0


class Text(NamedTuple):
    """What is known of a text: a hash of its content, equal groups for what is related, its size.

    `is_whole`: it is on one side or the other, and not cut.
    """

    digest: bytes
    group: int
    num_bytes: int
    is_whole: bool = False


@dataclass(frozen=True)
class Stretches:
    """A text in `num` consecutive stretches of like length; the numbers in `held_out` are held out."""

    num: int = 1
    held_out: frozenset[int] = frozenset()


class _Unit(NamedTuple):
    """What is held out or trained on together: one stretch of one text, or several whole texts."""

    draw: float
    num_bytes: float
    texts: tuple[int, ...]
    stretch: int


def choose_held_out(texts: Sequence[Text], config: SplitConfig | None = None) -> list[Stretches]:
    """What of each text is held out; those of a group all are, or none is.

    What decides is the content and the seed, not the order. Groups that are too large to be held out are
    trained on, unless there is hardly anything else.
    """
    config = config or SplitConfig()
    wanted = _wanted_bytes(sum(text.num_bytes for text in texts), config)
    if not wanted:
        return [Stretches()] * len(texts)
    length = _stretch_bytes(wanted)
    units, too_large = _units(texts, max(wanted / 2, 1.5 * length), length, config.seed)
    if sum(unit.num_bytes for unit in units) < _WANTED_CHOICE * wanted:
        units += too_large
    nums = [1] * len(texts)
    chosen: dict[int, set[int]] = defaultdict(set)
    held_out = 0.0
    for unit in sorted(units):
        is_nearer = held_out + unit.num_bytes / 2 < wanted
        if is_nearer:
            held_out += unit.num_bytes
            for at in unit.texts:
                chosen[at].add(unit.stretch)
        if len(unit.texts) == 1:
            nums[unit.texts[0]] = max(nums[unit.texts[0]], unit.stretch + 1)
    return [
        Stretches(nums[at], frozenset(chosen[at])) if at in chosen else Stretches()
        for at in range(len(texts))
    ]


def cut(text: str, stretches: Stretches) -> list[tuple[str, bool]]:
    """The parts of a text, and whether each is held out; joined, they are the text again.

    Stretches end where the text pauses; those side by side that are on one side are one part.
    """
    sides = [number in stretches.held_out for number in range(stretches.num)]
    ends = [*_ends(text, stretches.num), len(text)]
    starts = [0, *ends[:-1]]
    parts = []
    for is_held_out, run in groupby(zip(sides, starts, ends, strict=True), key=lambda s: s[0]):
        spans = list(run)
        parts.append((text[spans[0][1] : spans[-1][2]], is_held_out))
    return parts


def _ends(text: str, num: int) -> Iterator[int]:
    """Where all stretches but the last one end."""
    last, reach = 0, len(text) // num // 3
    for number in range(1, num):
        target = len(text) * number // num
        last = max(last, cut_near(text, target - reach, target, target + reach))
        yield last


def _wanted_bytes(total: int, config: SplitConfig) -> float:
    if not config.fraction:
        return 0.0
    return max(config.fraction * total, min(_MIN_BYTES, _MAX_MIN_SHARE * total))


def _stretch_bytes(wanted: float) -> float:
    few, many = _STRETCHES
    low, high = _STRETCH_BYTES
    return max(low, min(wanted / few, high), wanted / many)


def _units(
    texts: Sequence[Text], largest: float, length: float, seed: int
) -> tuple[list[_Unit], list[_Unit]]:
    """What can be held out, and what can in need: of a group that is too large its largest text in
    stretches, or all of it where nothing can be cut."""
    groups: dict[int, list[int]] = defaultdict(list)
    for at, text in enumerate(texts):
        groups[text.group].append(at)
    units: list[_Unit] = []
    too_large: list[_Unit] = []
    for members in groups.values():
        if len(members) == 1 and not texts[members[0]].is_whole:
            units += _stretches_of(texts[members[0]], members[0], length, seed)
            continue
        num_bytes = sum(texts[at].num_bytes for at in members)
        first = min(texts[at].digest for at in members)
        together = _Unit(_draw(first, 0, seed), num_bytes, tuple(members), 0)
        cuttable = [at for at in members if not texts[at].is_whole]
        if num_bytes <= largest:
            units.append(together)
        elif cuttable:
            at = max(cuttable, key=lambda at: (texts[at].num_bytes, texts[at].digest))
            too_large += _stretches_of(texts[at], at, length, seed)
        else:
            too_large.append(together)
    return units, too_large


def _stretches_of(text: Text, at: int, length: float, seed: int) -> list[_Unit]:
    num = max(1, round(text.num_bytes / length))
    size = text.num_bytes / num
    return [_Unit(_draw(text.digest, i, seed), size, (at,), i) for i in range(num)]


def _draw(digest: bytes, number: int, seed: int) -> float:
    """A number from 0 to 1 that belongs to a stretch of a content and a seed."""
    key = seed.to_bytes(8, "little", signed=True) + number.to_bytes(8, "little")
    return int.from_bytes(blake2b(digest, digest_size=8, key=key).digest(), "little") / _SCALE
