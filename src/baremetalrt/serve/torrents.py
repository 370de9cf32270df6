"""From what a user names (a file, a magnet link, an info-hash, a name) to a torrent of the catalogue."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.inventory import take_inventory
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.serve.library import is_magnet_or_hash
from baremetalrt.swarm import catalog
from baremetalrt.swarm.arrival import header_ranges
from baremetalrt.swarm.authority import Membership, find_membership
from baremetalrt.swarm.catalog import Entry, FileSignature, Record
from baremetalrt.swarm.checking import signatures
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.files import disk_errors, write_durably
from baremetalrt.swarm.magnets import parse_magnet
from baremetalrt.swarm.metainfo import MAX_TORRENT_BYTES, Metainfo, read_metainfo
from baremetalrt.swarm.publishing import PublishOptions, publish
from baremetalrt.swarm.resume import pieces_in_resume_data
from baremetalrt.weights.gguf import GGUFFile


def publish_file(
    path: Path,
    options: PublishOptions,
    *,
    swarm: Membership | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[Entry, Metainfo]:
    """Makes the torrent of a GGUF file and puts it into the catalogue, with the file where it is.

    Raises:
        UsageError, IntegrityError, CapacityError: see `GGUFFile.open`, `publish`, `catalog.add`.
    """
    file = GGUFFile.open(path)
    metainfo = publish(file, options, on_progress)
    paths = tuple(p.absolute() for p in file.paths)
    record = Record(
        name=metainfo.name,
        infohash_v1=metainfo.infohash_v1,
        infohash_v2=metainfo.infohash_v2,
        num_bytes=metainfo.num_bytes,
        paths=[str(p) for p in paths],
        is_in_place=True,
        is_complete=True,
        swarm=swarm.name if swarm else None,
        num_have=metainfo.pieces.num_pieces,
        signatures=signatures(paths),
    )
    entry = catalog.add(metainfo.id, metainfo.raw, record)
    known = entry.record()
    if not known.is_complete or (known.is_in_place and known.paths != record.paths):
        # The file was moved, or is better than what was fetched of it so far.
        with entry.locked(), disk_errors():
            entry.resume_path.unlink(missing_ok=True)
            shutil.rmtree(entry.data_folder, ignore_errors=True)
            write_durably(entry.metainfo_path, metainfo.raw)
            entry.save(record)
    return entry, metainfo


def torrent_of(file: GGUFFile, swarm: Membership) -> tuple[Entry, Metainfo]:
    """The torrent of a file; one that has none is hashed, and its torrent is for members alone.

    Raises:
        IntegrityError, CapacityError: see `publish_file`.
    """
    paths = [path.absolute() for path in file.paths]
    for entry in catalog.entries():
        try:
            record = entry.record()
        except IntegrityError:
            continue
        if list(entry.model_paths(record)) != paths:
            continue
        is_unchanged = record.signatures == [FileSignature.of(path) for path in paths]
        # What is still being fetched changes all the time; what of it may be read, its torrent knows.
        if is_unchanged if record.is_complete else not record.is_in_place:
            return entry, read_torrent_file(entry.metainfo_path)
    options = PublishOptions(authority_pem=swarm.authority_pem)
    return publish_file(file.path, options, swarm=swarm)


def content_id(file: GGUFFile, swarm: Membership) -> str:
    """What names the bytes of a model in its swarm; raises like `torrent_of`."""
    return torrent_of(file, swarm)[1].content_id


def read_torrent_file(path: Path) -> Metainfo:
    """A `.torrent` file; raises like `read_metainfo`, and `UsageError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TORRENT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", code="torrent.unreadable"
        ) from error
    return read_metainfo(raw, source=str(path))


def is_torrent_reference(text: str) -> bool:
    """Whether `text` is a magnet link, a `.torrent` file or an info-hash: what needs no catalogue."""
    return is_magnet_or_hash(text) or (text.lower().endswith(".torrent") and os.path.isfile(text))


async def obtain(
    client: SwarmClient, reference: str, *, peers: Iterable[str] = (), swarm: str | None = None
) -> tuple[Entry, list[str]]:
    """The torrent that `reference` names, put into the catalogue if it is new, and who has it.

    Raises:
        UsageError: nothing is called that.
        IntegrityError: what it names is no model's torrent.
    """
    asked = list(peers)
    known = catalog.find(reference)
    if known is not None:
        return known[0], asked
    membership = find_membership(swarm) if swarm else None
    if reference.lower().endswith(".torrent"):
        return add_torrent(read_torrent_file(Path(reference)), swarm=swarm), asked
    if not is_torrent_reference(reference):
        raise UsageError(
            f"no torrent {reference!r}: neither a magnet link, a .torrent file, an info-hash, "
            "nor a name from `bmrt ls`",
            code="model.not-found",
            parameter="model",
        )
    hashes = parse_magnet(reference).info_hashes
    for infohash in (str(hashes.v2), str(hashes.v1)):
        if infohash.strip("0") and (known := catalog.find(infohash)):
            return known[0], asked
    metainfo, connected = await client.fetch_metainfo(reference, peers=asked, swarm=membership)
    return add_torrent(metainfo, swarm=swarm), [*asked, *connected]


def add_torrent(metainfo: Metainfo, *, swarm: str | None = None) -> Entry:
    """Puts a torrent that is to be fetched into the catalogue."""
    if metainfo.needs_certificate and swarm is None:
        raise UsageError(
            f"{metainfo.name} belongs to a private swarm",
            code="swarm.needed",
            hint="name the swarm with --swarm; `bmrt swarm ls` lists yours",
        )
    record = Record(
        name=metainfo.name,
        infohash_v1=metainfo.infohash_v1,
        infohash_v2=metainfo.infohash_v2,
        num_bytes=metainfo.num_bytes,
        paths=[f"data/{file.name}" for file in metainfo.files],
        swarm=swarm,
    )
    return catalog.add(metainfo.id, metainfo.raw, record)


def memberships_for(swarm: str | None) -> list[Membership]:
    """What a client of one private swarm has to show; nothing for a public torrent."""
    return [find_membership(swarm)] if swarm else []


def blocks_here(entry: Entry, record: Record, metainfo: Metainfo, file: GGUFFile) -> list[bool]:
    """For every block of a torrent that is not running, whether it was verified and is on disk."""
    if record.is_complete:
        return [True] * len(file.blocks)
    have = pieces_in_resume_data(entry)
    return [metainfo.pieces.contains(block.byte_ranges, have) for block in file.blocks]


def whole_model(metainfo: Metainfo) -> tuple[ByteRange, ...]:
    """All bytes of a model."""
    return tuple(ByteRange(i, 0, f.part.num_bytes) for i, f in enumerate(metainfo.files))


def require_blocks(num_blocks: int, span: BlockSpan) -> None:
    """Raises `UsageError` unless a model of so many blocks has these."""
    if span.end > num_blocks:
        raise UsageError(
            f"the model has blocks 0:{num_blocks}, not {span}",
            code="blocks.range",
            parameter="blocks",
        )


def span_needs(file: GGUFFile, span: BlockSpan) -> tuple[ByteRange, ...]:
    """What a span needs: the header, its blocks, and embedding or head if it is an end.

    Raises:
        UsageError: the model has fewer blocks, or an architecture that cannot be run here.
    """
    architecture, h = read_model(file)
    require_blocks(h.num_blocks, span)
    inventory = take_inventory(file, architecture, h, span)
    return (*header_ranges(file), *inventory.byte_ranges)
