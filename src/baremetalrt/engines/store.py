"""The engines that are installed, one folder for each, and which of them is in use.

A folder is moved to its place when everything in it is on disk and was tried; what is not finished has a
hidden name, and goes with the next change.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, read_regular, sync_folder, try_lock, write_durably
from baremetalrt.core.places import engines_folder
from baremetalrt.core.units import MIB
from baremetalrt.native.library import SELECTION, selected_engine
from baremetalrt.native.trial import TriedDevice

_RECORD: Final = "engine.json"
_LOCK: Final = ".lock"
_UNFINISHED: Final = ".new-"


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How many times as fast as the bundled library it was here, on one device."""

    device: str
    prefill: float
    decode: float


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An engine on disk, as it was when it was tried. `left_out`: objects that would have faulted."""

    name: str
    version: str
    library: str
    ggml: str
    devices: tuple[TriedDevice, ...]
    left_out: tuple[str, ...] = ()
    gain: Gain | None = None

    @property
    def title(self) -> str:
        return f"{self.name}-{self.version}"

    @property
    def folder(self) -> Path:
        return engines_folder() / self.title

    @property
    def path(self) -> Path:
        """The library itself."""
        return self.folder / self.library


def installed() -> list[Installed]:
    """Every engine that is whole, by name."""
    found = (_read(path.parent) for path in sorted(engines_folder().glob(f"[!.]*/{_RECORD}")))
    return [engine for engine in found if engine is not None]


def _read(folder: Path) -> Installed | None:
    """The record of an engine; None where it, or the library, is not there."""
    try:
        engine = msgspec.json.decode(read_regular(folder / _RECORD, MIB), type=Installed)
    except (OSError, msgspec.MsgspecError):
        return None
    return engine if engine.folder == folder and engine.path.is_file() else None


def find(name: str) -> Installed:
    """The installed engine that `name` means, with or without its version; the newest of several.

    Raises:
        UsageError: there is none.
    """
    for engine in reversed(installed()):
        if name in (engine.name, engine.title):
            return engine
    raise _unknown(name)


def find_folder(name: str) -> Path:
    """The folder of an engine, be it whole or damaged; raises like `find`."""
    for folder in sorted(engines_folder().glob("[!.]*/"), reverse=True):
        if name in (folder.name, folder.name.rpartition("-")[0]):
            return folder
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    return UsageError(
        f"no engine {name!r} is installed",
        code="engine.not-found",
        parameter="name",
        hint="`bmrt engine ls` lists what is here, and what `bmrt engine install` can bring",
    )


def in_use() -> str | None:
    """The title of the engine that was chosen, be it there or not; None: the bundled library."""
    path = selected_engine()
    return path.parent.name if path else None


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Holds the folder of engines, for one change at a time, and clears away what was left unfinished.

    Raises:
        UsageError: another process changes something now.
        CapacityError: the disk is full or forbidden.
    """
    with disk_errors():
        engines_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with disk_errors():
            is_ours = stack.enter_context(try_lock(engines_folder() / _LOCK))
        if not is_ours:
            raise UsageError(
                "another process installs or removes an engine now",
                code="engine.busy",
                hint="let it end, or end it (Ctrl-C)",
            )
        for folder in engines_folder().glob(f"{_UNFINISHED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        yield


@contextlib.contextmanager
def unfinished() -> Iterator[Path]:
    """A folder to make an engine in, beside the place where it belongs; what is left there goes."""
    with disk_errors():
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=engines_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(engine: Installed, folder: Path) -> None:
    """Makes a finished folder the engine of this title, instead of an older one."""
    with disk_errors():
        _write_record(engine, folder)
        if engine.folder.exists():
            engine.folder.rename(folder.parent / "replaced")
        folder.rename(engine.folder)
        sync_folder(engines_folder())


def note(engine: Installed) -> None:
    """Writes down what was found out about an engine that is in its place."""
    with disk_errors():
        _write_record(engine, engine.folder)


def _write_record(engine: Installed, folder: Path) -> None:
    write_durably(folder / _RECORD, msgspec.json.format(msgspec.json.encode(engine)))


def select(engine: Installed | None) -> None:
    """From now on processes that start compute with this engine; None: with the bundled library."""
    selection = engines_folder() / SELECTION
    with disk_errors():
        if engine is None:
            selection.unlink(missing_ok=True)
        else:
            write_durably(selection, f"{engine.title}/{engine.library}\n".encode())


def num_bytes(folder: Path) -> int:
    """What an engine takes on the disk."""
    return sum(path.stat().st_size for path in folder.iterdir())


def remove(folder: Path) -> None:
    """Deletes an engine. If it was in use, the bundled library is; who has it loaded goes on with it."""
    if in_use() == folder.name:
        select(None)
    with disk_errors():
        # Moved away first: half an engine would still have its record.
        gone = engines_folder() / f"{_UNFINISHED}{folder.name}"
        folder.rename(gone)
        shutil.rmtree(gone)
