"""Half-open ranges: of transformer blocks, and of bytes in a file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class BlockSpan:
    """The transformer blocks `[start, end)` of a model."""

    start: int
    end: int

    def is_within(self, other: "BlockSpan") -> bool:
        """Whether `other` has all of these blocks."""
        return other.start <= self.start and self.end <= other.end

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"not a span of blocks: [{self.start}, {self.end})")

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __contains__(self, block: int) -> bool:
        return self.start <= block < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"


@dataclass(frozen=True, order=True)
class ByteRange:
    """The bytes `[start, end)` of one file; `file` counts the parts of a split GGUF from 0."""

    file: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not a byte range: [{self.start}, {self.end})")

    def __len__(self) -> int:
        return self.end - self.start


def merge(ranges: Iterable[ByteRange], *, gap_bytes: int = 0) -> tuple[ByteRange, ...]:
    """The same bytes in as few ranges as possible, sorted; holes of up to `gap_bytes` are closed."""
    merged: list[ByteRange] = []
    for r in sorted(r for r in ranges if len(r)):
        last = merged[-1] if merged else None
        if last is not None and last.file == r.file and r.start <= last.end + gap_bytes:
            merged[-1] = ByteRange(r.file, last.start, max(last.end, r.end))
        else:
            merged.append(r)
    return tuple(merged)
