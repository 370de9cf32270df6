"""What the models of this machine are called, by what names their bytes."""

from collections.abc import Iterator

from baremetalrt.core.errors import BareMetalError
from baremetalrt.node.naming import stored_model_of
from baremetalrt.swarm import catalog
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.weights.content import known_content_id
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel, stored_models


def names_here() -> dict[str, list[str]]:
    """The names under which `bmrt ls` lists each content; nothing is hashed for that. Blocks."""
    names: dict[str, list[str]] = {}
    for entry, content in _torrents():
        names.setdefault(content, []).append(entry.record.name)
    for model in stored_models():
        content_ = _content_of(model)
        if content_ is not None:
            names.setdefault(content_, []).append(model.name)
    return names


def model_here(content: str) -> StoredModel | None:
    """A whole model of this content, whatever it is called here; nothing is hashed for that. Blocks."""
    whole = (stored_model_of(entry) for entry, known in _torrents() if known == content)
    files = (model for model in stored_models() if _content_of(model) == content)
    return next((one for one in whole if one is not None), None) or next(files, None)


def _torrents() -> Iterator[tuple[catalog.Entry, str]]:
    for entry in catalog.entries():
        try:
            yield entry, StoredTorrent.open(entry).metainfo.content_id
        except (BareMetalError, OSError):
            continue  # `bmrt ls` says what is damaged


def _content_of(model: StoredModel) -> str | None:
    try:
        return known_content_id(GGUFFile.open(model.path))
    except (BareMetalError, OSError):
        return None
