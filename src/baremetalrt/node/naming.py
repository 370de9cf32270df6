"""What a user can name: a path, a model of the store, the default, or a torrent that may still arrive.

`bmrt run` is judged by its first token: the catalogue is imported only where there are torrents.
"""

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_magnet_or_hash
from baremetalrt.core.places import swarms_folder, torrents_folder
from baremetalrt.weights.store import StoredModel, find_model, looks_like_model, stored_models

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
        UsageError: nothing is called that.
    """
    if not reference or os.path.isfile(reference):
        is_torrent = bool(reference) and str(reference).lower().endswith(".torrent")
        return TorrentReference(str(reference)) if is_torrent else find_model(reference)
    entry = find_torrent(reference)
    if entry is not None:
        return stored_model_of(entry) or TorrentReference(reference)
    if is_magnet_or_hash(reference):
        return TorrentReference(reference)
    return find_model(reference)


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


def has_private_swarm() -> bool:
    """Whether this machine is in one; told without reading its keys."""
    return swarms_folder().is_dir() and any(swarms_folder().iterdir())


def names_like(beginning: str) -> list[str]:
    """Models of the store whose names begin so, whatever the case."""
    return [m.name for m in stored_models() if m.name.lower().startswith(beginning.lower())]


def find_torrent(reference: str) -> "Entry | None":
    """The torrent of the catalogue that a name, an info-hash or a magnet link means."""
    if not torrents_folder().is_dir():
        return None
    from baremetalrt.swarm import catalog

    return catalog.find(_infohash(reference) or reference)


def stored_model_of(entry: "Entry") -> StoredModel | None:
    """The model of a torrent that is whole on disk, as it was when it was verified."""
    from baremetalrt.swarm.catalog import FileSignature

    record, paths = entry.record, entry.model_paths
    if not record.is_complete or record.signatures != [FileSignature.of(p) for p in paths]:
        return None
    return StoredModel(record.name, paths[0], is_default=False)


def names_model(argument: str) -> bool:
    """Whether a single argument names a model rather than being a prompt."""
    return (
        looks_like_model(argument)
        or is_magnet_or_hash(argument)
        or (argument.lower().endswith(".torrent") and os.path.isfile(argument))
        or find_torrent(argument) is not None
    )


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


def _infohash(reference: str) -> str | None:
    """The info-hash in a magnet link, the v2 one if it has both."""
    if not reference.lower().startswith("magnet:"):
        return None
    from urllib.parse import parse_qsl

    topics = [v for k, v in parse_qsl(reference.partition("?")[2]) if k.lower() == "xt"]
    for prefix in ("urn:btmh:1220", "urn:btih:"):
        for topic in topics:
            if topic.lower().startswith(prefix):
                return topic[len(prefix) :].lower()
    return None
