"""Tries a library in a process of its own: one that faults there ends nothing else.

There are virtual machines that name instructions among their features and fault at the first one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.native.apart import Apart, run_apart

_WORKER: Final = Path(__file__).with_name("trial_worker.py")
# What the objects for generations of processors are called, as against those for graphics cards.
_PROCESSOR_OBJECT: Final = "ggml-cpu-"


@dataclass(frozen=True, kw_only=True)
class TriedDevice:
    """A device that multiplied right. `features`: what the library is compiled to use there."""

    name: str
    kind: str
    features: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A library that works here. `objects`: those of its files that this machine needed."""

    ggml: str
    objects: tuple[str, ...]
    devices: tuple[TriedDevice, ...]


def try_library(path: Path) -> Trial:
    """Loads the library and multiplies matrices on each of its devices; takes a second or so.

    Raises:
        UsageError: it cannot be loaded, computes wrong, faults, or does not come to an end.
    """
    tried = run_apart(_WORKER, path)
    if tried.status is None:
        raise _unusable(f"it {tried.end}")
    if tried.status:
        raise _faulted(tried)
    return _judged(tried.said)


def _judged(said: Sequence[Mapping[str, Any]]) -> Trial:
    """A trial out of what was said until the end."""
    for line in said:
        if "error" in line:
            raise _unusable(line["error"])
        if line.get("wrong"):
            raise _unusable(f"{line['device']} multiplies wrong")
    return Trial(
        ggml=said[0]["ggml"],
        objects=tuple(said[0]["objects"]),
        devices=tuple(
            TriedDevice(name=line["device"], kind=line["kind"], features=tuple(line["features"]))
            for line in said
            if "kind" in line
        ),
    )


def _faulted(tried: Apart) -> UsageError:
    """What is said of a process that died. Its last words tell where it was."""
    said = tried.said
    where = f" on {said[-1]['device']}" if said and "device" in said[-1] else ""
    objects = said[0].get("objects", ()) if said else ()
    guilty = next((one for one in objects if _PROCESSOR_OBJECT in one), None)
    return UsageError(
        f"it {tried.end}{where} when it was tried",
        code="engine.faulted",
        hint=f"leave out what it used: --without {guilty}" if guilty else None,
    )


def _unusable(why: str) -> UsageError:
    return UsageError(why, code="engine.unusable")
