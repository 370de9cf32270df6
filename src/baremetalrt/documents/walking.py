"""Which files there are to read: all below the given paths, but for what nobody wrote as a text."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from baremetalrt.core.errors import UsageError
from baremetalrt.documents.document import Origin, Unread

# Folders that programs fill.
_MACHINERY: Final = frozenset(("node_modules", "__pycache__", "site-packages", "venv"))
_MEANINGLESS: Final = frozenset(
    (".DS_Store", ".gitignore", ".gitattributes", "Thumbs.db", "desktop.ini")
)
_SEPARATOR: Final = os.fsencode(os.sep)
_MAX_DEPTH: Final = 64


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file to read. `kind` is set where its place says more than its name: messages in a Maildir."""

    path: bytes
    origin: Origin
    num_bytes: int
    kind: Literal["mail"] | None = None


def walk(paths: Sequence[Path], *, without: Path | None = None) -> Iterator[FoundFile | Unread]:
    """The files below `paths`, in order of their names, each once; none below `without`.

    Links are not followed, except where they are among `paths`.

    Raises:
        UsageError: one of `paths` does not exist.
    """
    walker = _Walker(without)
    for path in paths:
        try:
            resolved = path.expanduser().resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
            raise UsageError(
                f"there is no {path}", code="documents.not-found", parameter="paths"
            ) from error
        yield from walker.visit(os.fsencode(resolved))


class _Walker:
    """Goes through folders, and remembers what it has seen."""

    def __init__(self, without: Path | None) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._without = None if without is None else os.fsencode(without.expanduser().resolve())

    def visit(
        self, path: bytes, depth: int = 0, kind: Literal["mail"] | None = None
    ) -> Iterator[FoundFile | Unread]:
        """The file at `path`, or what is below it."""
        origin = _origin(path)
        if self._without and (path + _SEPARATOR).startswith(self._without + _SEPARATOR):
            yield _skipped(origin, "file.own", "this program keeps its own files there")
            return
        try:
            status = os.lstat(path)
        except OSError as error:
            yield _unreadable(origin, error)
            return
        identity = (status.st_dev, status.st_ino)
        if identity in self._seen:
            return
        # Windows gives no inodes here; then nothing is the same.
        if status.st_ino:
            self._seen.add(identity)
        if stat.S_ISLNK(status.st_mode):
            yield _skipped(origin, "file.link", "it is a link: name what it points to")
        elif stat.S_ISDIR(status.st_mode):
            yield from self._visit_folder(path, depth)
        elif not stat.S_ISREG(status.st_mode):
            yield _skipped(
                origin, "file.special", "it is no file, but a pipe, a socket or a device"
            )
        else:
            yield FoundFile(path=path, origin=origin, num_bytes=status.st_size, kind=kind)

    def _visit_folder(self, path: bytes, depth: int) -> Iterator[FoundFile | Unread]:
        if depth > _MAX_DEPTH:
            reason = f"it is more than {_MAX_DEPTH} folders deep"
            yield _skipped(_origin(path), "file.nested", reason)
            return
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            yield _unreadable(_origin(path), error)
            return
        visit = self._visit_in_maildir if _is_maildir(path, names) else self._visit_named
        for name in names:
            yield from visit(os.path.join(path, name), os.fsdecode(name), depth + 1)

    def _visit_named(self, path: bytes, name: str, depth: int) -> Iterator[FoundFile | Unread]:
        if name in _MEANINGLESS:
            return
        if name.startswith("."):
            yield _skipped(_origin(path), "file.hidden", "it is hidden: name it to have it read")
        elif name in _MACHINERY and _is_folder(path):
            reason = "programs fill it: name it to have it read"
            yield _skipped(_origin(path), "file.machinery", reason)
        else:
            yield from self.visit(path, depth)

    def _visit_in_maildir(self, path: bytes, name: str, depth: int) -> Iterator[FoundFile | Unread]:
        # What is in `tmp` is still being delivered; files beside the folders are the server's.
        if not _is_folder(path) or name == "tmp":
            return
        if name not in ("cur", "new"):
            yield from self.visit(path, depth)
            return
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            yield _unreadable(_origin(path), error)
            return
        for one in names:
            if not one.startswith(b"."):
                yield from self.visit(os.path.join(path, one), depth + 1, "mail")


def _origin(path: bytes) -> Origin:
    # Names are bytes; where they are no text, people see what can be shown of them.
    return Origin(path.decode("utf-8", "replace"))


def _is_maildir(path: bytes, names: Sequence[bytes]) -> bool:
    return {b"cur", b"new"} <= set(names) and all(
        _is_folder(os.path.join(path, name)) for name in (b"cur", b"new")
    )


def _is_folder(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _skipped(origin: Origin, code: str, reason: str) -> Unread:
    return Unread(origin=origin, reason=reason, code=code)


def _unreadable(origin: Origin, error: OSError) -> Unread:
    if isinstance(error, PermissionError):
        return _skipped(origin, "file.permission", "you may not read it")
    return _skipped(origin, "file.unreadable", f"it cannot be read: {error.strerror or error}")
