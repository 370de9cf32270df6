"""Models that other programs have on this machine: Ollama's blobs by their manifests, LM Studio's files.

Source: the folders as those programs leave them; nothing in them is changed.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import open_regular, read_regular
from baremetalrt.core.units import MIB

_MODEL_LAYER: Final = "application/vnd.ollama.image.model"
_LIBRARY: Final = "library"
_GGUF: Final = b"GGUF"


@dataclass(frozen=True)
class ForeignModel:
    """A model file of another program, and the name that it has there."""

    name: str
    path: Path


class _Layer(msgspec.Struct):
    digest: str = ""
    media_type: str = msgspec.field(default="", name="mediaType")


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def ollama_models() -> Iterator[ForeignModel]:
    """Those of Ollama, as `name:tag`."""
    for folder in _ollama_folders():
        manifests = folder / "manifests"
        for path in sorted(manifests.rglob("*")):
            if path.is_file() and (blob := _blob_of(path, folder / "blobs")) is not None:
                yield ForeignModel(_ollama_name(path.relative_to(manifests)), blob)


def _ollama_folders() -> list[Path]:
    named = os.environ.get("OLLAMA_MODELS")
    if named:
        return [Path(named).expanduser()]
    places = (Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))
    return [one for one in places if one.is_dir()]


def _ollama_name(path: Path) -> str:
    """`HOST/OWNER/NAME/TAG`, as Ollama shows it."""
    *owner, name, tag = path.parts[1:] if len(path.parts) > 2 else path.parts
    before = "/".join(one for one in owner if one != _LIBRARY)
    return f"{before}/{name}:{tag}" if before else f"{name}:{tag}"


def _blob_of(manifest: Path, blobs: Path) -> Path | None:
    """The file with the weights, if it is there and of a format that is read here."""
    try:
        layers = msgspec.json.decode(read_regular(manifest, MIB), type=_Manifest).layers
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    for layer in layers:
        kind, _, digest = layer.digest.partition(":")
        if layer.media_type == _MODEL_LAYER and kind == "sha256" and digest.isalnum():
            path = blobs / f"sha256-{digest}"
            return path if _is_gguf(path) else None
    return None


def lmstudio_models() -> Iterator[ForeignModel]:
    """Those of LM Studio, as `OWNER/REPO/FILE`; of split ones the first part."""
    for folder in (Path.home() / ".lmstudio" / "models", Path.home() / ".cache/lm-studio/models"):
        for path in sorted(folder.rglob("*.gguf")):
            is_later_part = "-of-" in path.stem and "-00001-of-" not in path.stem
            if not (is_later_part or path.name.startswith("mmproj")) and _is_gguf(path):
                yield ForeignModel(str(path.relative_to(folder).with_suffix("")), path)


def _is_gguf(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(len(_GGUF)) == _GGUF
    except OSError:
        return False


PROGRAMS: Final[dict[str, Callable[[], Iterator[ForeignModel]]]] = {
    "ollama": ollama_models,
    "lmstudio": lmstudio_models,
}


def models_of(program: str, wanted: tuple[str, ...] = ()) -> list[ForeignModel]:
    """The models of a program, or those of some names.

    Raises:
        UsageError: it has none, or none of such a name.
    """
    found = list(PROGRAMS[program]())
    if not found:
        raise UsageError(
            f"{program} has no models on this machine",
            code="import.nothing",
            hint="OLLAMA_MODELS says where those of Ollama are, if not in their usual place"
            if program == "ollama"
            else None,
        )
    names = {one.name.removesuffix(":latest"): one for one in found} | {o.name: o for o in found}
    for name in wanted:
        if name not in names:
            raise UsageError(
                f"{program} has no model {name!r}",
                code="model.not-found",
                parameter="name",
                hint="it has: " + ", ".join(one.name for one in found),
            )
    return [names[name] for name in wanted] if wanted else found
