"""Texts on disk whose beginnings need not be computed again, in one folder for all models.

Another process may use the folder at the same time: nothing is remembered of it between two calls.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks import prefix_file
from baremetalrt.blocks.extents import CELL_QUANTUM
from baremetalrt.blocks.prefix_file import PrefixFile, PrefixReader, PrefixText, digest
from baremetalrt.blocks.prefix_store import Match, PrefixKind, common_prefix
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.files import durable_file, open_regular

# Shorter texts are soon computed again. They would not share their first chunk, by which files are found.
MIN_TOKENS: Final = CELL_QUANTUM
_SUFFIX: Final = ".kv"
# Whatever the budget: the rest of what the disk has left is for others.
_SHARE_OF_DISK: Final = 0.1
# A file that nobody has finished by then was left by a process that was killed.
_ABANDONED_S: Final = 3600.0


class PrefixFolder:
    """The texts of one model, kept in one way: a `PrefixStore`. Safe to use from several threads.

    `made_by`: everything that numbers depend on besides tokens and kind, as JSON knows it. Files that
    say otherwise are not used. `budget_bytes` is for the texts of all models. `window`: what blocks with
    a sliding window see.
    """

    def __init__(
        self, root: Path, made_by: Mapping[str, Any], *, budget_bytes: int, window: int = 0
    ) -> None:
        self._root = root
        self._made_by: Mapping[str, Any] = json.loads(json.dumps(made_by))
        self._budget_bytes = budget_bytes
        self._window = window
        self.folder = root / digest(self._made_by)

    def match(self, kind: PrefixKind, tokens: Sequence[int]) -> Match[PrefixFile]:
        wanted = np.asarray(tokens, dtype=np.int32)
        best: Match[PrefixFile] = Match(0, None)
        for stored in self._beginning(kind, wanted):
            length = common_prefix(stored.tokens, wanted)
            is_there = not stored.floor or stored.floor <= length - self._window + 1
            if is_there and length > best.length:
                best = Match(length, stored)
        return best

    def insert(self, text: PrefixText) -> None:
        """Writes a text, unless it is there; in place of those that it goes on from.

        Raises:
            OSError: the disk takes no more; nothing is left of the text then.
        """
        tokens = np.frombuffer(text.tokens, np.int32)
        found = self.match(text.kind, text.tokens)
        if found.stored is not None and found.length == len(tokens):
            os.utime(found.stored.path)
            return
        if len(tokens) < MIN_TOKENS or not self._make_room(sum(text.chunk_bytes)):
            return
        for folder in (self._root, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{_start_of(text.kind, tokens)}-{digest(tokens.tobytes())}{_SUFFIX}"
        with durable_file(path) as file:
            prefix_file.write(file, self._made_by, text)
        for older in self._beginning(text.kind, tokens):
            is_held = common_prefix(older.tokens, tokens) == len(older.tokens)
            if older.path != path and is_held:
                self.drop(older)

    @contextmanager
    def lock(self, stored: PrefixFile) -> Iterator[PrefixReader]:
        """For reading it: an open file stays whole, though its name may go. Raises `OSError`."""
        with open_regular(stored.path, follow=False) as file:
            os.utime(stored.path)
            yield PrefixReader(stored, file)

    def evict(self, size: int) -> int:
        """Of the texts of all models, in bytes of the budget."""
        listing = _Listing.of(self._root)
        free = self._allowed_bytes(listing) - listing.num_bytes
        for _, path, num_bytes in sorted(listing.texts):
            if free >= size:
                break
            path.unlink(missing_ok=True)
            free += num_bytes
        return free

    def check(self) -> None:
        for path in self._texts():
            stored = prefix_file.read(path, self._made_by, None)
            if stored is None:
                raise IntegrityError(f"{path} is no text of this model", source=str(path))
            with self.lock(stored) as reader:
                for i, num_bytes in enumerate(stored.chunk_bytes):
                    if not reader.read(i, [np.empty(num_bytes, np.uint8)]):
                        raise IntegrityError(f"{path} has rotted", source=str(path))

    def drop(self, stored: PrefixFile) -> None:
        """Forgets a text: it is not what it says, or another holds all of it."""
        stored.path.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> bool:
        listing = _Listing.of(self._root)
        listing.remove_abandoned()
        fits = num_bytes <= self._allowed_bytes(listing)
        return fits and self.evict(num_bytes) >= num_bytes

    def _allowed_bytes(self, listing: "_Listing") -> int:
        place = next(p for p in (self._root, *self._root.parents) if p.exists())
        left = shutil.disk_usage(place).free + listing.num_bytes
        return min(self._budget_bytes, int(left * _SHARE_OF_DISK))

    def _texts(self) -> list[Path]:
        try:
            return [p for p in self.folder.iterdir() if _is_text(p)]
        except OSError:
            return []

    def _beginning(self, kind: PrefixKind, tokens: NDArray[np.int32]) -> Iterator[PrefixFile]:
        """Texts of that kind whose first chunk is the one of `tokens`."""
        if len(tokens) < MIN_TOKENS:
            return
        start = _start_of(kind, tokens)
        for path in self._texts():
            stored = (
                prefix_file.read(path, self._made_by, kind) if path.name.startswith(start) else None
            )
            if stored is not None:
                yield stored


@dataclass(frozen=True)
class _Listing:
    """What lies in the folder of all texts: when it was used last, where, and how large it is."""

    texts: list[tuple[float, Path, int]]
    unfinished: list[tuple[float, Path, int]]

    @classmethod
    def of(cls, root: Path) -> Self:
        listing = cls([], [])
        for path in root.glob(f"*/*{_SUFFIX}*"):
            try:
                found = path.lstat()
            except OSError:
                continue
            kind = listing.texts if _is_text(path) else listing.unfinished
            kind.append((found.st_mtime, path, found.st_size))
        return listing

    @property
    def num_bytes(self) -> int:
        return sum(size for _, _, size in (*self.texts, *self.unfinished))

    def remove_abandoned(self) -> None:
        for written_at, path, _ in self.unfinished:
            if time.time() - written_at > _ABANDONED_S:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class HeldTexts:
    """How many texts a folder holds, and how many bytes they take."""

    count: int
    num_bytes: int


def held_in(root: Path) -> HeldTexts:
    """What is kept of all models."""
    listing = _Listing.of(root)
    return HeldTexts(len(listing.texts), listing.num_bytes)


def empty(root: Path) -> HeldTexts:
    """Removes every text; says what there was. Raises `OSError`."""
    listing = _Listing.of(root)
    for _, path, _ in (*listing.texts, *listing.unfinished):
        path.unlink(missing_ok=True)
    return HeldTexts(len(listing.texts), listing.num_bytes)


def _is_text(path: Path) -> bool:
    return path.suffix == _SUFFIX and not path.name.startswith(".")


def _start_of(kind: PrefixKind, tokens: NDArray[np.int32]) -> str:
    """What the names of files begin with whose texts may begin with the same chunk."""
    return digest([prefix_file.in_words(kind), tokens[:MIN_TOKENS].tolist()])
