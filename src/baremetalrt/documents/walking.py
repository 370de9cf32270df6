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
_MAILDIR: Final = frozenset(("cur", "new", "tmp"))
_MAX_DEPTH: Final = 64


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file to read. `kind` is set where its place says more than its name: messages in a Maildir."""

    path: bytes
    origin: Origin
    num_bytes: int
    kind: Literal["mail"] | None = None


def walk(paths: Sequence[Path]) -> Iterator[FoundFile | Unread]:
    """The files below `paths`, in order of their names, each once.

    Links are not followed, except where they are among `paths`.

    Raises:
        UsageError: one of `paths` does not exist.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            resolved = path.expanduser().resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
            raise UsageError(
                f"there is no {path}", code="documents.not-found", parameter="paths"
            ) from error
        yield from _visit(os.fsencode(resolved), None, 0, seen)


def _visit(
    path: bytes, kind: Literal["mail"] | None, depth: int, seen: set[tuple[int, int]]
) -> Iterator[FoundFile | Unread]:
    origin = Origin(path.decode("utf-8", "replace"))
    try:
        status = os.lstat(path)
    except OSError as error:
        yield _unreadable(origin, error)
        return
    mode = status.st_mode
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return
    # Windows gives no inodes here; then nothing is the same.
    if status.st_ino:
        seen.add(identity)
    if stat.S_ISLNK(mode):
        yield _skipped(origin, "file.link", "it is a link: name what it points to")
    elif stat.S_ISDIR(mode):
        yield from _visit_folder(path, origin, depth, seen)
    elif not stat.S_ISREG(mode):
        yield _skipped(origin, "file.special", "it is no file, but a pipe, a socket or a device")
    else:
        yield FoundFile(path=path, origin=origin, num_bytes=status.st_size, kind=kind)


def _visit_folder(
    path: bytes, origin: Origin, depth: int, seen: set[tuple[int, int]]
) -> Iterator[FoundFile | Unread]:
    if depth > _MAX_DEPTH:
        yield _skipped(origin, "file.nested", f"it is more than {_MAX_DEPTH} folders deep")
        return
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        yield _unreadable(origin, error)
        return
    is_maildir = _is_maildir(path, names)
    for name in names:
        inner = os.path.join(path, name)
        text = os.fsdecode(name)
        inner_origin = Origin(inner.decode("utf-8", "replace"))
        if is_maildir and text in _MAILDIR:
            # What is in `tmp` is still being delivered.
            if text != "tmp":
                yield from _visit_messages(inner, depth + 1, seen)
        elif text.startswith(".") and not (is_maildir and _is_folder(inner)):
            if text not in (".DS_Store", ".gitignore", ".gitattributes"):
                yield _skipped(inner_origin, "file.hidden", "it is hidden: name it to have it read")
        elif is_maildir and not _is_folder(inner):
            continue  # indexes of the mail server
        elif text in _MACHINERY and _is_folder(inner):
            yield _skipped(
                inner_origin, "file.machinery", "programs fill it: name it to have it read"
            )
        else:
            yield from _visit(inner, None, depth + 1, seen)


def _visit_messages(
    path: bytes, depth: int, seen: set[tuple[int, int]]
) -> Iterator[FoundFile | Unread]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        yield _unreadable(Origin(path.decode("utf-8", "replace")), error)
        return
    for name in names:
        if not name.startswith(b"."):
            yield from _visit(os.path.join(path, name), "mail", depth + 1, seen)


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
