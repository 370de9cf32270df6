"""Which of the files in a repository are meant. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes

_SPLIT: Final = re.compile(r"-(\d{5})-of-(\d{5})$")
# Parts of models, and not models: pictures, calibration, drafts of several tokens.
_PARTS: Final = re.compile(r"(^|[-_.])(mmproj|imatrix|mtp)([-_.]|$)", re.IGNORECASE)
# What most people take, from the best; then whatever is the largest that fits.
_USUAL: Final = ("Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "MXFP4")
# Of memory that is free, for weights; the rest is for texts.
_SHARE: Final = 0.7


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `sha256`, of what is in it, is known of large files."""

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class HubModel:
    """A model: one file, or the parts of a split one, in order."""

    name: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def models_among(files: Iterable[HubFile]) -> list[HubModel]:
    """The models of a repository, by their names; split ones with a part missing are left out."""
    groups: dict[str, list[HubFile]] = {}
    counts: dict[str, int] = {}
    for file in sorted(files, key=lambda one: one.path):
        path = PurePosixPath(file.path)
        if path.suffix.lower() != ".gguf" or _PARTS.search(path.stem):
            continue
        part = _SPLIT.search(path.stem)
        name = str(path.with_name(_SPLIT.sub("", path.stem)))
        groups.setdefault(name, []).append(file)
        counts[name] = int(part[2]) if part else 1
    return [
        HubModel(PurePosixPath(name).name, tuple(group))
        for name, group in groups.items()
        if len(group) == counts[name]
    ]


def choose(models: Sequence[HubModel], quant: str | None, free_bytes: int, where: str) -> HubModel:
    """The model that is meant; without a word on that, the one that fits this machine.

    Raises:
        UsageError: there is none, or several are meant.
    """
    if not models:
        raise UsageError(
            f"{where} has no GGUF files",
            code="hub.no-model",
            parameter="source",
            hint="repositories with GGUF in their names have; other formats are not read",
        )
    if quant is None:
        return models[0] if len(models) == 1 else _fitting(models, free_bytes)
    found = [one for one in models if _is_meant(one.name, quant)]
    exact = [one for one in found if one.name.lower() == quant.lower()] or found
    if len(exact) == 1:
        return exact[0]
    names = ", ".join(f"{one.name} ({format_bytes(one.size)})" for one in exact or models)
    raise UsageError(
        f"{len(exact) or 'none'} of the files of {where} {'are' if exact else 'is'} called {quant!r}",
        code="hub.quant",
        parameter="source",
        hint=f"there are: {names}",
    )


def _is_meant(name: str, quant: str) -> bool:
    """Whether a word of a name is that one: Q4_K is no part of Q4_K_M."""
    wanted = re.escape(quant.removesuffix(".gguf"))
    return re.search(rf"(^|[-.]){wanted}([-.]|$)", name, re.IGNORECASE) is not None


def _fitting(models: Sequence[HubModel], free_bytes: int) -> HubModel:
    fitting = [one for one in models if one.size <= _SHARE * free_bytes]
    for usual in _USUAL:
        for one in fitting:
            if _is_meant(one.name, usual):
                return one
    if fitting:
        return max(fitting, key=lambda one: one.size)
    # It streams from disk.
    return min(models, key=lambda one: one.size)
