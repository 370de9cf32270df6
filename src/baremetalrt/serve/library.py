"""What a user can name: a path, a model of the store, the default, or a torrent that may still arrive."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from baremetalrt.core.errors import IntegrityError
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry, FileSignature, Record
from baremetalrt.weights.store import StoredModel, find_model, looks_like_model, stored_models

_log = logging.getLogger("baremetalrt.swarm")


@dataclass(frozen=True)
class TorrentReference:
    """A model that has to be fetched, or checked, before it can be used."""

    reference: str


def resolve(reference: str | None) -> StoredModel | TorrentReference:
    """What `reference` means; a torrent that is complete and untouched is a stored model like others.

    Raises:
        UsageError: nothing is called that.
    """
    if not reference or os.path.isfile(reference):
        is_torrent = bool(reference) and str(reference).lower().endswith(".torrent")
        return TorrentReference(str(reference)) if is_torrent else find_model(reference)
    found = catalog.find(_infohash(reference) or reference)
    if found is not None:
        entry, record = found
        return stored(entry, record) or TorrentReference(reference)
    if is_magnet_or_hash(reference):
        return TorrentReference(reference)
    return find_model(reference)


def stored(entry: Entry, record: Record) -> StoredModel | None:
    """The model of a torrent that is whole on disk, as it was when it was verified."""
    paths = entry.model_paths(record)
    if not record.is_complete or record.signatures != [FileSignature.of(p) for p in paths]:
        return None
    return StoredModel(record.name, paths[0], is_default=False)


def models_and_torrents() -> tuple[list[StoredModel], list[tuple[Entry, Record]]]:
    """Every model in the store, and every torrent. Damaged records are left out, and logged."""
    torrents = []
    for entry in catalog.entries():
        try:
            torrents.append((entry, entry.record()))
        except IntegrityError as error:
            _log.warning("%s (%s)", error.message, error.hint)
    return stored_models(), torrents


def names_model(argument: str) -> bool:
    """Whether a single argument names a model rather than being a prompt."""
    return (
        looks_like_model(argument)
        or is_magnet_or_hash(argument)
        or (argument.lower().endswith(".torrent") and os.path.isfile(argument))
        or catalog.find(argument) is not None
    )


def is_magnet_or_hash(text: str) -> bool:
    """Whether `text` is a magnet link or an info-hash."""
    return text.lower().startswith("magnet:") or catalog.is_infohash(text)


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


def look_after(model: StoredModel) -> int:
    """Counts a use of a fetched model and audits a part of it; returns how many pieces rotted."""
    found = next((e for e, r in _torrents_at(model)), None)
    if found is None:
        return 0
    from baremetalrt.swarm.audit import audit
    from baremetalrt.weights.gguf import GGUFFile

    found.note_use(len(GGUFFile.open(model.path).blocks), time.time())
    return len(audit(found))


def _torrents_at(model: StoredModel) -> Iterator[tuple[Entry, Record]]:
    for entry, record in models_and_torrents()[1]:
        if model.path in entry.model_paths(record):
            yield entry, record
