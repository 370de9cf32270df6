"""What a user can name: a path, a model of the store, the default, or a torrent that may still arrive.

`bmrt run` is judged by its first token: the catalogue is imported only where there are torrents.
"""

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import folded, is_magnet_or_hash, split_choice
from baremetalrt.core.places import swarms_folder, torrents_folder
from baremetalrt.hub.names import is_hub_name as is_hub_name
from baremetalrt.weights.store import (
    StoredModel,
    ambiguous,
    find_model,
    looks_like_model,
    models_called,
    stored_models,
)

if TYPE_CHECKING:
    from baremetalrt.swarm.catalog import Entry


@dataclass(frozen=True)
class TorrentReference:
    """A model that has to be fetched, or checked, before it can be used."""

    reference: str


# What a name means.
NamedModel = StoredModel | TorrentReference


def resolve(reference: str | None) -> NamedModel:
    """What `reference` means; a torrent that is complete and untouched is a stored model like others.

    Raises:
        UsageError: nothing is called that, or several are.
    """
    if reference and is_hub_name(reference):
        from baremetalrt.node.hub_models import find_pulled

        return find_pulled(reference)
    if not reference or os.path.isfile(reference):
        is_torrent = bool(reference) and str(reference).lower().endswith(".torrent")
        return TorrentReference(str(reference)) if is_torrent else find_model(reference)
    entry = find_torrent(reference)
    if entry is not None:
        require_one(reference, entry)
        return stored_model_of(entry) or TorrentReference(reference)
    if _names_torrent(reference):
        return TorrentReference(reference)
    try:
        return find_model(reference)
    except UsageError as error:
        if error.code != "model.not-found":
            raise
        from baremetalrt.node.names import hint_for, meant_by

        source = meant_by(reference)
        if source == reference:
            error.hint = hint_for(reference) or error.hint
            raise
    return resolve(source)


def require_one(reference: str, entry: "Entry") -> None:
    """Raises `UsageError` if a file of the store, that is not the torrent's, has the same name."""
    paths = entry.model_paths
    others = [m.path for m in models_called(reference) if not m.is_default]
    twins = [path for path in others if path.absolute() not in paths]
    if twins:
        raise ambiguous(reference, [*map(str, twins), f"torrent {entry.id[:12]}"])


def find_whole_model(reference: str | None) -> StoredModel:
    """The model of that name, all of which is here: a file, or a torrent that is complete.

    Raises:
        UsageError: nothing is called that, or it is still to come.
    """
    model = resolve(reference)
    if isinstance(model, TorrentReference):
        raise UsageError(
            f"{model.reference[:60]} is not all here yet",
            code="model.arriving",
            parameter="model",
            hint="`bmrt pull` it first",
        )
    return model


def name_here(reference: str) -> str | None:
    """What a model that is here is called, by whatever it is meant; None where there is none yet."""
    try:
        model = resolve(reference)
    except UsageError as error:
        if error.code != "model.not-found":
            raise
        return None
    return model.name if isinstance(model, StoredModel) else None


def has_private_swarm() -> bool:
    """Whether this machine is in one; told without reading its keys."""
    return swarms_folder().is_dir() and any(swarms_folder().iterdir())


def names_like(beginning: str) -> list[str]:
    """Models of the store whose names begin so, whatever the case."""
    return [m.name for m in stored_models() if folded(m.name).startswith(folded(beginning))]


def find_torrent(reference: str) -> "Entry | None":
    """The torrent of the catalogue that a name, an info-hash or a magnet link means."""
    if not torrents_folder().is_dir():
        return None
    from baremetalrt.swarm import catalog

    if not is_magnet_or_hash(reference):
        return catalog.find(reference)
    # Here and not above: most models are named otherwise.
    from baremetalrt.core.magnet_links import parse_magnet_link

    link = parse_magnet_link(reference)
    found = (catalog.find(infohash) for infohash in link.infohashes)
    return next((e for e in found if e is not None and e.is_meant(link.file)), None)


def stored_model_of(entry: "Entry") -> StoredModel | None:
    """The model of a torrent that is whole on disk, as it was when it was verified."""
    if not entry.is_whole:
        return None
    return StoredModel(entry.record.name, entry.model_paths[0], is_default=False)


def names_model(argument: str) -> bool:
    """Whether a single argument names a model rather than being a prompt."""
    return (
        is_hub_name(argument)
        or looks_like_model(argument)
        or _names_torrent(argument)
        or find_torrent(argument) is not None
        or _is_listed(argument)
    )


def _is_listed(argument: str) -> bool:
    """Whether a list has such a name; raises `UsageError` for one with a size that there is not."""
    if " " in argument:
        return False
    from baremetalrt.node.names import meant_by

    return meant_by(argument) != argument


def look_after(model: StoredModel) -> int:
    """Counts a use of a fetched model and audits a part of it; returns how many pieces rotted."""
    if not torrents_folder().is_dir():
        return 0
    from baremetalrt.swarm import catalog

    entry = next((one for one in catalog.entries() if model.path in one.model_paths), None)
    if entry is None:
        return 0
    from baremetalrt.swarm.audit import audit
    from baremetalrt.weights.gguf import GGUFFile

    entry.note_use(len(GGUFFile.open(model.path).blocks), time.time())
    return len(audit(entry))


def _names_torrent(reference: str) -> bool:
    """Whether it is a link, a hash or a `.torrent` file, perhaps with one of its models behind it."""
    base, _ = split_choice(reference)
    is_file = any(t.lower().endswith(".torrent") and os.path.isfile(t) for t in (reference, base))
    return is_file or is_magnet_or_hash(base)
