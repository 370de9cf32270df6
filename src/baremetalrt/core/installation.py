"""How this program was installed, and how parts that are not there yet are added to it.

The package index knows another program by the name of our import package, so no hint may make pip look a
name of ours up: parts come from the folder that this program came from, or by their own names.
"""

import importlib.metadata
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

# What pip calls this program; the import package and the command keep their names.
DISTRIBUTION: Final = "bmrt-swarm"
# What `make learn` installs.
_MADE: Final = frozenset({"learn", "tune"})


def how_to_add(*extras: str) -> str:
    """One command that installs what the extras need into this environment."""
    pip, folder = f"{shlex.quote(sys.executable)} -m pip install", _folder()
    if folder is None:
        return f"{pip} {' '.join(shlex.quote(one) for one in _requirements(extras))}"
    is_ours = Path(sys.prefix) == folder / ".venv" and _MADE.issuperset(extras)
    if is_ours and shutil.which("make"):
        return f"make -C {shlex.quote(str(folder))} learn"
    wanted = f"[{','.join(extras)}]"
    return f"{pip} --editable {shlex.quote(str(folder) + wanted)}"


def how_to_reinstall(package: str) -> str:
    """One command that puts a library that this program needs right again, in its own release."""
    wanted = next((one for one in _requirements(()) if one.startswith(package)), package)
    return f"{shlex.quote(sys.executable)} -m pip install --force-reinstall {shlex.quote(wanted)}"


def _folder() -> Path | None:
    """The folder that this program was installed from, where it was."""
    try:
        said = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    parts = urlsplit(json.loads(said)["url"]) if said else None
    if parts is None or parts.scheme != "file":
        return None
    path = Path(url2pathname(parts.path))
    return path if path.is_dir() else None


def _requirements(extras: tuple[str, ...]) -> Iterator[str]:
    """What the metadata of this program asks for: besides, or for some extras."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in declared:
        requirement, _, marker = line.partition(";")
        is_wanted = any(f'"{e}"' in marker or f"'{e}'" in marker for e in extras)
        if is_wanted if extras else "extra" not in marker:
            yield requirement.strip()
