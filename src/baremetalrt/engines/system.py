"""What an engine must fit: the operating system, the processor, and the C library."""

import os
import platform
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.engines.catalogue import Engine, engines_for

# What systems call the same processor.
_PROCESSORS: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def this_system() -> str:
    """This operating system and processor, as the catalogue names them."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{_PROCESSORS.get(machine, machine)}"


def glibc_version() -> tuple[int, ...] | None:
    """The release of GNU's C library that runs here; None where there is another one."""
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return None
    return numbers(said.partition(" ")[2]) or None


def numbers(version: str) -> tuple[int, ...]:
    """`2.34` as numbers that can be compared."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def named(name: str, system: str) -> Engine:
    """The engine of the catalogue that `name` means on a system, with or without its version.

    Raises:
        UsageError: there is none of that name, or none at all for this system.
    """
    here = list(engines_for(system))
    for engine in here:
        if name in (engine.name, engine.title):
            return engine
    if not here:
        raise UsageError(
            f"no engine is known for {system}",
            code="engine.system",
            hint="a llama-cpp-python that is compiled on this machine is used when it is installed "
            "beside; BMRT_LIBRARY names any other libllama",
        )
    raise UsageError(
        f"no engine {name!r} for {system}",
        code="engine.not-found",
        parameter="name",
        hint="there are: " + ", ".join(engine.name for engine in here),
    )


def require_libc(engine: Engine, version: tuple[int, ...] | None) -> None:
    """Raises `UsageError` unless the engine runs with a C library of this version."""
    if version is None or version < numbers(engine.glibc):
        here = ".".join(map(str, version)) if version else "none"
        raise UsageError(
            f"{engine.title} needs glibc {engine.glibc}, and here is {here}",
            code="engine.libc",
            hint="a llama-cpp-python that is compiled on this machine is used when it is installed "
            "beside; BMRT_LIBRARY names any other libllama",
        )
