"""The builds of the library that are known to work here: what `catalogue.toml` says."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

_CATALOGUE: Final = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One build, and the package archive that it comes in.

    `system` is an operating system and a processor, `glibc` the oldest C library that it runs with.
    `integrity` is how package registries write a hash: `sha512-` and base64. Of the archive, `library` is
    the file in `folder` that is loaded, and `unpacked_bytes` what all its files take. `device`: what the
    names of devices that it is for begin with, where that is not the processor; it `needs` what they do.
    """

    name: str
    purpose: str
    system: str
    glibc: str
    package: str
    version: str
    ggml: str
    integrity: str
    archive_bytes: int
    unpacked_bytes: int
    folder: str
    library: str
    device: str = "cpu"
    needs: str = ""

    @property
    def title(self) -> str:
        """What the folder of an installed one is called."""
        return f"{self.name}-{self.version}"


def catalogue() -> tuple[Engine, ...]:
    """All of them, for every system."""
    tables = tomllib.loads(_CATALOGUE.read_text(encoding="utf-8"))
    return msgspec.convert(tables["engine"], tuple[Engine, ...])


def engines_for(system: str) -> Iterator[Engine]:
    """Those for one system, in the catalogue's order."""
    return (engine for engine in catalogue() if engine.system == system)
