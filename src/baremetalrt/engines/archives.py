"""Package archives: the right bytes, and out of them only what an engine is made of.

What is in an archive is known by its hash. It is unpacked as if it were not: a hash in the catalogue may
be of something that nobody has looked at closely.
"""

import base64
import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, BinaryIO, Final

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, open_regular, sync_folder
from baremetalrt.core.units import MIB, format_bytes
from baremetalrt.engines.catalogue import Engine

_CHUNK_BYTES: Final = MIB
# Heads of files, and what fills their last blocks.
_OVERHEAD_BYTES: Final = MIB
_LICENCE: Final = "package/LICENSE"
_OBJECT: Final = re.compile(r"lib(?:ggml|llama)[\w.-]*\.so")
# Of several that do the same, the library takes the best one that is there.
_REPLACEABLE: Final = re.compile(r"libggml-cpu-[\w.-]+\.so")
# Of what lies beside, the parts for JavaScript need this one; nothing else does.
_NOT_NEEDED: Final = frozenset({"libllama-common.so"})


def unpack(archive: Path, engine: Engine, folder: Path, left_out: Collection[str] = ()) -> None:
    """Checks an archive against the catalogue, and puts shared objects and licence into a new folder.

    Everything is on disk for good when it returns. `left_out` are names of objects.

    Raises:
        IntegrityError: it is not the archive that the catalogue knows, or it holds what it should not.
        UsageError: it cannot be read, or has nothing called as in `left_out`.
        CapacityError: the disk is full or forbidden.
    """
    try:
        file = open_regular(archive)
    except OSError as error:
        raise UsageError(
            f"{archive} cannot be read: {error.strerror or error}",
            code="file.unreadable",
            parameter="from",
        ) from error
    with file:
        _check(file, engine, archive)
        file.seek(0)
        with disk_errors(folder.parent):
            folder.mkdir(mode=0o700)
        found = _extract(file, engine, folder, archive)
    if engine.library not in found:
        raise _bad(archive, f"holds no {engine.library}")
    replaceable = {name for name in found if _REPLACEABLE.fullmatch(name)}
    for name in left_out:
        if name not in replaceable:
            raise UsageError(
                f"{engine.title} has no object {name!r} that could be left out",
                code="engine.object",
                parameter="without",
                hint="there are: " + ", ".join(sorted(replaceable)),
            )
        (folder / name).unlink()
    with disk_errors(folder.parent):
        sync_folder(folder)


def _check(file: BinaryIO, engine: Engine, archive: Path) -> None:
    """Size first: whoever names a wrong file need not wait until it is read."""
    size = os.fstat(file.fileno()).st_size
    if size != engine.archive_bytes:
        raise _bad(
            archive,
            f"has {format_bytes(size)}, {engine.package} {engine.version} "
            f"{format_bytes(engine.archive_bytes)} ({size} and {engine.archive_bytes} bytes)",
        )
    digest = hashlib.sha512()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    if f"sha512-{base64.b64encode(digest.digest()).decode()}" != engine.integrity:
        raise _bad(archive, f"is not {engine.package} {engine.version}: its sha512 differs")


class _Bounded(io.RawIOBase):
    """What is expanded, until it is more than there should be."""

    def __init__(self, source: gzip.GzipFile, max_bytes: int) -> None:
        self._source, self._left = source, max_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(min(size, _CHUNK_BYTES) if size >= 0 else _CHUNK_BYTES)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError("it expands to more than it should")
        return data


def _extract(file: BinaryIO, engine: Engine, folder: Path, archive: Path) -> set[str]:
    """The names of what was written."""
    found: set[str] = set()
    try:
        with gzip.GzipFile(fileobj=file) as expanded:
            bounded = _Bounded(expanded, engine.unpacked_bytes + _OVERHEAD_BYTES)
            # As a stream: nothing is looked for back and forth, and nothing is kept.
            with tarfile.open(fileobj=bounded, mode="r|") as members:
                for member in members:
                    name = _wanted(member, engine, archive)
                    if name is None:
                        continue
                    if name in found:
                        raise _bad(archive, f"holds {name} twice")
                    source = members.extractfile(member)
                    assert source is not None
                    with disk_errors(folder.parent):
                        _write(source, folder / name)
                    found.add(name)
    except (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad(archive, f"cannot be unpacked: {error}") from error
    return found


def _wanted(member: tarfile.TarInfo, engine: Engine, archive: Path) -> str | None:
    """What a member is to be called here; None for what is not needed."""
    # What is sparse expands to any size out of nothing.
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _bad(archive, f"holds {member.name!r}, which is no ordinary file")
    parts = member.name.split("/")
    if member.name.startswith("/") or "\\" in member.name or ".." in parts:
        raise _bad(archive, f"holds {member.name!r}, a name that leads elsewhere")
    if not member.isreg():
        return None
    if member.name == _LICENCE:
        return "LICENSE"
    where, _, name = member.name.rpartition("/")
    is_object = where == engine.folder and _OBJECT.fullmatch(name) is not None
    return name if is_object and name not in _NOT_NEEDED else None


def _write(source: IO[bytes], path: Path) -> None:
    """A whole new file, on disk for good, for its owner alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())


def _bad(archive: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"{archive.name} {what}",
        code="engine.archive",
        source=str(archive),
        hint="nothing of it was used; fetch it again, with `npm pack` where the package client may be "
        "asked",
    )
