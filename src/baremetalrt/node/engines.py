"""The builds of the library that this machine has and could have, and which one is in use."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.places import engines_folder
from baremetalrt.devices.processor import has_graphics, processor_features
from baremetalrt.devices.survey import DeviceSurvey
from baremetalrt.engines import installing, store
from baremetalrt.engines.catalogue import Engine, engines_for
from baremetalrt.engines.events import Event as Event
from baremetalrt.engines.events import Fetching as Fetching
from baremetalrt.engines.events import Measuring as Measuring
from baremetalrt.engines.events import OnEvent
from baremetalrt.engines.events import Trying as Trying
from baremetalrt.engines.installing import InstallRequest
from baremetalrt.engines.store import Gain as Gain
from baremetalrt.engines.store import Installed
from baremetalrt.engines.system import glibc_version, named, require_libc, this_system
from baremetalrt.native.library import ENVIRONMENT_VARIABLE, packaged
from baremetalrt.native.trial import Trial, try_library
from baremetalrt.node.engine_gain import measure_gain

BUNDLED: Final = "bundled"
# Below this it is slower than what was here, and not only by chance.
_WORTH_IT: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class EngineInstall:
    """What a user asks for. `name`: None for the best one here. `archive`: fetched elsewhere.

    `left_out`: shared objects that fault on this machine. `measured`: compare it with the bundled one.
    """

    name: str | None = None
    archive: Path | None = None
    left_out: tuple[str, ...] = ()
    measured: bool = True


@dataclass(frozen=True, kw_only=True)
class EngineInstalled:
    """What came of it. Not `selected`: it turned out to be slower here than the bundled library."""

    engine: Installed
    selected: bool


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One library. `where`: a path, or the package that brings it.

    `purpose`: what it is for, or what ails it. `state`: in use, here, gone (though it was chosen), or not
    installed.
    """

    name: str
    state: str
    where: str
    ggml: str = ""
    devices: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    gain: Gain | None = None
    num_bytes: int = 0
    purpose: str = ""


def install_engine(request: EngineInstall, on_event: OnEvent) -> EngineInstalled:
    """Installs an engine, compares it with the bundled library, and takes it unless it is slower.

    Raises:
        UsageError, IntegrityError, CapacityError: as `engines.installing.install`.
    """
    engine = named(request.name or best_for_this_machine(), this_system())
    require_libc(engine, glibc_version())
    made = installing.install(
        InstallRequest(engine=engine, archive=request.archive, left_out=request.left_out),
        on_event,
    )
    if request.measured:
        on_event(Measuring(made.title))
        made = replace(made, gain=measure_gain(made))
    with store.changing():
        store.note(made)
        selected = made.gain is None or _is_worth_it(made.gain)
        if selected:
            store.select(made)
        elif store.in_use() == made.title:
            store.select(None)
    return EngineInstalled(engine=made, selected=selected)


def _is_worth_it(gain: Gain) -> bool:
    return gain.prefill * gain.decode >= _WORTH_IT**2


def best_for_this_machine() -> str:
    """The engine to take where none is named: for a graphics card, where there is one.

    Not the one for NVIDIA's own interface, which needs libraries that are rarely there.
    """
    names = [engine.name for engine in engines_for(this_system())]
    return "vulkan" if has_graphics() and "vulkan" in names else "cpu"


def use_engine(name: str) -> Installed | None:
    """Takes an installed engine from now on, after trying it once more; None: the bundled library.

    Raises:
        UsageError: there is none of that name, or it does not work here any more.
    """
    with store.changing():
        if name == BUNDLED:
            store.select(None)
            return None
        engine = store.find(name)
        tried = try_library(engine.path)
        engine = replace(engine, ggml=tried.ggml, devices=tried.devices)
        store.note(engine)
        store.select(engine)
        return engine


def remove_engine(name: str) -> tuple[str, int]:
    """Deletes an installed engine: its title, and the bytes that are free now."""
    if name == BUNDLED:
        raise UsageError(
            "the bundled library came with its package",
            code="engine.bundled",
            hint="remove it with the tool that installed it",
        )
    with store.changing():
        folder = store.find_folder(name)
        freed_bytes = store.num_bytes(folder)
        store.remove(folder)
        return folder.name, freed_bytes


def list_engines() -> list[EngineRow]:
    """What is here, and then what `bmrt engine install` can bring."""
    named_one = os.environ.get(ENVIRONMENT_VARIABLE)
    chosen = None if named_one else store.in_use() or BUNDLED
    rows = []
    if named_one:
        rows.append(_tried(EngineRow(name=ENVIRONMENT_VARIABLE, state="in use", where=named_one)))
    bundled = next(packaged(), None)
    if bundled:
        rows.append(_tried(EngineRow(name=BUNDLED, state="here", where=str(bundled.path))))
    here = store.installed()
    rows += map(_row_of, here)
    rows = [replace(row, state="in use") if row.name == chosen else row for row in rows]
    if chosen and chosen not in {row.name for row in rows}:
        rows.append(EngineRow(name=chosen, state="gone", where=str(engines_folder() / chosen)))
    titles = {engine.title for engine in here}
    return rows + [_offer(e) for e in engines_for(this_system()) if e.title not in titles]


def _tried(row: EngineRow) -> EngineRow:
    """With what a library says of itself, in a process of its own."""
    try:
        return _told(row, try_library(Path(row.where)))
    except UsageError as error:
        return replace(row, purpose=error.message)


def _told(row: EngineRow, about: Trial | Installed) -> EngineRow:
    features = (device.features for device in about.devices if device.kind == "cpu")
    return replace(
        row,
        ggml=about.ggml,
        devices=tuple(device.name for device in about.devices),
        features=next(features, ()),
    )


def _row_of(engine: Installed) -> EngineRow:
    row = EngineRow(
        name=engine.title,
        state="here",
        where=str(engine.path),
        gain=engine.gain,
        num_bytes=store.num_bytes(engine.folder),
    )
    return _told(row, engine)


def _offer(engine: Engine) -> EngineRow:
    return EngineRow(
        name=engine.name,
        state="not installed",
        where=f"{engine.package}@{engine.version}",
        ggml=engine.ggml,
        num_bytes=engine.archive_bytes,
        purpose=engine.purpose,
    )


def unused_features(devices: Sequence[DeviceSurvey]) -> tuple[str, ...]:
    """What this machine has, the library in use does not know, and an engine would: in ggml's words."""
    offered = {engine.name for engine in engines_for(this_system())} if devices else set()
    used = {name for device in devices if device.kind == "cpu" for name in device.features}
    # An engine has taken its best object; what that leaves is left by all.
    is_bundled = bool(offered) and store.in_use() is None
    found = [name for name in processor_features() if name not in used] if is_bundled else []
    is_driven = any(device.kind != "cpu" for device in devices)
    if has_graphics() and not is_driven and "vulkan" in offered:
        found.append("a graphics card")
    return tuple(found)
