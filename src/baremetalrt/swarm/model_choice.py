"""Which of the models in one torrent is meant: quantizations, and towers of vision beside them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import folded
from baremetalrt.core.units import format_bytes
from baremetalrt.swarm.torrent_names import part_number

SUFFIX: Final = ".gguf"
# What looks at pictures for a model, and is none by itself.
_TOWER: Final = "mmproj"
_MAX_LISTED: Final = 12


@dataclass(frozen=True)
class TorrentModel:
    """One model of a torrent. `path` is its file, or those of its parts without their numbers.

    `indices` are its files in the torrent, in the order of the parts.
    """

    path: str
    indices: tuple[int, ...]
    num_bytes: int

    @property
    def name(self) -> str:
        return without_suffix(self.path.rpartition("/")[2])


def models_of(files: Sequence[tuple[str, int, int]]) -> list[TorrentModel]:
    """The models in GGUF files of a torrent: path, index and bytes of each.

    Raises:
        UsageError: of a model in parts, some are missing.
    """
    whole = [TorrentModel(p, (i,), size) for p, i, size in files if part_number(_name(p)) is None]
    split: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for path, index, size in files:
        part = part_number(_name(path))
        if part is not None:
            stem, number, total = part
            folder = path[: len(path) - len(_name(path))]
            split.setdefault((f"{folder}{stem}{SUFFIX}", total), []).append((number, index, size))
    for (path, total), parts in split.items():
        parts.sort()
        if [number for number, _, _ in parts] != list(range(1, total + 1)):
            raise UsageError(
                f"the torrent has {len(parts)} of the {total} parts of {_name(path)}",
                code="torrent.several-models",
                hint="a model is shared as one file, or as parts named -00001-of-0000N.gguf",
            )
        indices = tuple(index for _, index, _ in parts)
        whole.append(TorrentModel(path, indices, sum(size for _, _, size in parts)))
    return sorted(whole, key=lambda model: model.indices)


def choose_model(models: Sequence[TorrentModel], wanted: str | None, torrent: str) -> TorrentModel:
    """The model that is meant by its path, its name, or a part of that such as `Q4_K_M`.

    Raises:
        UsageError: none is, or it is not clear which.
    """
    if wanted is None and len(models) == 1:
        return models[0]
    found = models if wanted is None else matching(models, wanted)
    if len(found) == 1:
        return found[0]
    if found:
        what = f"the torrent {torrent!r} has several models"
        what += f" called {wanted!r}" if wanted else ""
    else:
        found, what = models, f"the torrent {torrent!r} has no model {wanted!r}"
    raise UsageError(
        f"{what}: {_listed(found)}",
        code="torrent.several-models" if len(found) > 1 or wanted is None else "torrent.no-model",
        parameter="model",
        hint=f"choose one with --file {found[-1].name}, or put it behind a colon: NAME:Q4_K_M",
    )


def matching(models: Sequence[TorrentModel], wanted: str) -> list[TorrentModel]:
    """Those that `wanted` may mean; by a part of a name, a tower of vision only if nothing else is."""
    whole = folded(wanted)
    exact = [m for m in models if whole in (folded(m.path), folded(_name(m.path)), folded(m.name))]
    if exact:
        return exact
    for separators in (r"[-. ]", r"[-._ ]"):
        part = re.compile(rf"(?:^|{separators}){re.escape(whole)}(?:$|{separators})")
        found = [m for m in models if part.search(folded(m.name))]
        if found:
            return [m for m in found if not folded(m.name).startswith(_TOWER)] or found
    return []


def is_meant(path: str, wanted: str) -> bool:
    """Whether `wanted` may mean the model of that path."""
    return bool(matching([TorrentModel(path, (), 0)], wanted))


def without_suffix(name: str) -> str:
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _listed(models: Sequence[TorrentModel]) -> str:
    shown = [f"{m.name} ({format_bytes(m.num_bytes)})" for m in models[:_MAX_LISTED]]
    return ", ".join([*shown, *(["…"] if len(models) > _MAX_LISTED else [])])
