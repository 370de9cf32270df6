"""Puts an engine into place: fetched, checked, unpacked, tried."""

from dataclasses import dataclass
from pathlib import Path

from baremetalrt.core.errors import UsageError
from baremetalrt.engines import archives, fetching, store
from baremetalrt.engines.catalogue import Engine
from baremetalrt.engines.events import Fetching, OnEvent, Trying
from baremetalrt.engines.store import Installed
from baremetalrt.native.trial import Trial, try_library


@dataclass(frozen=True, kw_only=True)
class InstallRequest:
    """Which engine; `archive`: its package archive, where it was fetched elsewhere.

    `left_out`: names of shared objects that fault on this machine.
    """

    engine: Engine
    archive: Path | None = None
    left_out: tuple[str, ...] = ()


def install(request: InstallRequest, on_event: OnEvent) -> Installed:
    """Installs an engine, instead of one of the same title; it is not in use yet.

    Whatever goes wrong, or ends this process, what was there before stays.

    Raises:
        UsageError: it cannot be fetched, or does not work here.
        IntegrityError: the archive is not the one that the catalogue knows.
        CapacityError: the disk is full.
    """
    engine = request.engine
    with store.changing(), store.unfinished() as workplace:
        fetching.require_room(engine, workplace)
        archive = request.archive
        if archive is None:
            fetching.require_client(engine)
            on_event(Fetching(f"{engine.package}@{engine.version}", engine.archive_bytes))
            archive = fetching.fetch(engine, workplace)
        folder = workplace / engine.title
        archives.unpack(archive, engine, folder, request.left_out)
        on_event(Trying(engine.title))
        trial = try_library(folder / engine.library)
        require_device(engine, trial)
        made = Installed(
            name=engine.name,
            version=engine.version,
            library=engine.library,
            ggml=trial.ggml,
            devices=trial.devices,
            left_out=request.left_out,
        )
        store.put_in_place(made, folder)
    return made


def require_device(engine: Engine, trial: Trial) -> None:
    """Raises `UsageError` where an engine for graphics cards finds none."""
    if not any(device.name.startswith(engine.device) for device in trial.devices):
        raise UsageError(
            f"{engine.title} finds no {engine.device} device here",
            code="engine.no-device",
            hint=f"it needs {engine.needs}; `bmrt engine install cpu` is for the processor alone",
        )
