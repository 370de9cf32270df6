"""The models of this machine, described: those in the store, and those of torrents."""

from collections import Counter
from pathlib import Path
from typing import Any

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.ids import folded
from baremetalrt.node.naming import find_torrent, require_one, stored_model_of
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel, find_model, stored_models


def list_models() -> list[dict[str, Any]]:
    """A row for each torrent, and for each model in the store; damaged records are logged."""
    rows = [_torrent_row(entry) for entry in catalog.entries()]
    return rows + [_row(model) for model in stored_models()]


def whole_models() -> list[StoredModel]:
    """Every model that is whole on this machine, by its name; of several with one name, none.

    Files whose format is not read, or that are no models by themselves, are found out when they load.
    """
    torrents = (stored_model_of(entry) for entry in catalog.entries())
    # A file has the name that it was given, whatever its torrent is called.
    found = {one.path: one for one in (*torrents, *stored_models()) if one is not None}
    names = Counter(folded(one.name) for one in found.values())
    return sorted(
        (one for one in found.values() if names[folded(one.name)] == 1),
        key=lambda one: folded(one.name),
    )


def _row(model: StoredModel) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": model.name,
        "path": str(model.path),
        "default": model.is_default,
        "infohash": None,
        "swarm": None,
        "here": "all",
        "architecture": None,
        "bytes": None,
        "error": None,
    }
    try:
        file = GGUFFile.open(model.path)
    except (BareMetalError, OSError) as error:
        # One that was removed since it was listed is no reason to list no others.
        message = error.message if isinstance(error, BareMetalError) else str(error)
        return row | {"error": message, "bytes": _size_of(model.path)}
    return row | {"architecture": file.architecture, "bytes": file.num_bytes}


def _torrent_row(entry: Entry) -> dict[str, Any]:
    record = entry.record
    row = _row(StoredModel(record.name, entry.model_paths[0], is_default=False))
    here = "in place" if record.is_in_place else "all"
    if not record.is_complete:
        fraction = min(1.0, entry.allocated_bytes() / max(1, record.num_bytes))
        here = f"{100 * fraction:.0f} %"
        if row["architecture"] is None:
            row["error"] = "arriving"
    return row | {
        "here": here,
        "bytes": record.num_bytes,
        "infohash": record.infohash_v2 or record.infohash_v1,
        "swarm": record.swarm,
    }


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def describe_model(reference: str | None) -> dict[str, Any]:
    """What is in a model file, as far as it has arrived; only the header has to be there.

    Raises:
        UsageError: there is no such model.
        IntegrityError: its header is damaged.
    """
    entry = find_torrent(reference) if reference else None
    if entry is not None and reference:
        require_one(reference, entry)
    if entry is None:
        stored = find_model(reference)
        return _describe(stored, GGUFFile.open(stored.path))
    stored = StoredModel(entry.record.name, entry.model_paths[0], is_default=False)
    file = GGUFFile.open(stored.path)
    return _describe(stored, file) | _describe_torrent(entry, file)


def describe_file(path: Path) -> dict[str, Any]:
    """The same of a file, with its chat template; raises `IntegrityError`."""
    file = GGUFFile.open(path)
    about = _describe(StoredModel(path.stem, path, is_default=False), file)
    return about | {"template": file.text("tokenizer.chat_template")}


def _describe(stored: StoredModel, file: GGUFFile) -> dict[str, Any]:
    from baremetalrt.blocks.architectures import read_model
    from baremetalrt.blocks.outline import runs_whole

    types: dict[str, Counter[str]] = {}
    for tensor in file.tensors.values():
        count = types.setdefault(tensor.type_name, Counter())
        count.update(tensors=1, elements=tensor.num_elements, bytes=tensor.num_bytes)
    description: dict[str, Any] = {
        "name": stored.name,
        "files": [str(p) for p in file.paths],
        "bytes": file.num_bytes,
        "complete": not file.missing(t.byte_range for t in file.tensors.values()),
        "title": file.text("general.name"),
        "license": file.text("general.license"),
        "architecture": file.architecture,
        "parameters": sum(t.num_elements for t in file.tensors.values()),
        "types": {name: dict(count) for name, count in types.items()},
        "blocks": [
            {
                "index": block.index,
                "bytes": block.num_bytes,
                "ranges": [[r.file, r.start, r.end] for r in block.byte_ranges],
            }
            for block in file.blocks
        ],
        "outside_blocks_bytes": sum(t.num_bytes for t in file.outer_tensors.values()),
        "chat_template": file.text("tokenizer.chat_template") is not None,
        "vocabulary": file.array_length("tokenizer.ggml.tokens"),
    }
    try:
        if runs_whole(file):
            return description | _describe_whole(stored, file)
        _, h = read_model(file)
    except BareMetalError as error:
        return description | {"runnable": False, "problem": error.message}
    return description | {
        "runnable": True,
        "runs_whole": False,
        "context": h.training_context,
        "width": h.width,
        "heads": h.num_heads,
        "kv_heads": h.num_kv_heads,
        "head_size": h.head_size,
        "feed_forward_width": h.feed_forward_width,
        "experts": h.num_experts,
        "experts_used": h.num_experts_used,
        "sliding_window": h.window or None,
    }


def _describe_whole(stored: StoredModel, file: GGUFFile) -> dict[str, Any]:
    """A model without graphs of ours; raises what speaks against running it."""
    from baremetalrt.blocks.outline import read_outline
    from baremetalrt.node.opening import Opening
    from baremetalrt.node.whole_model import tokenizer_of

    outline = read_outline(file)
    # Whether the library knows the architecture, it says of the vocabulary.
    tokenizer_of(Opening(stored, file)).close()
    return {
        "runnable": True,
        "runs_whole": True,
        "context": outline.training_context,
        "width": outline.width,
    }


def _describe_torrent(entry: Entry, file: GGUFFile) -> dict[str, Any]:
    # Here and not above: a model that came otherwise is described without libtorrent.
    from baremetalrt.swarm.stored_torrent import StoredTorrent

    stored, record = StoredTorrent.open(entry), entry.record
    metainfo = stored.metainfo
    return {
        "complete": record.is_complete,
        "torrent": {
            "magnet": metainfo.magnet,
            "infohash_v1": metainfo.infohash_v1,
            "infohash_v2": metainfo.infohash_v2,
            "pieces": metainfo.pieces.num_pieces,
            "piece_bytes": metainfo.pieces.piece_bytes,
            "swarm": record.swarm,
            "in_place": record.is_in_place,
            "blocks_here": [i for i, is_here in enumerate(stored.blocks_here(file)) if is_here],
        },
    }
