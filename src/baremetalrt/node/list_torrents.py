"""Signed lists as torrents: a list travels as a GGUF file with one string and no tensors.

So whatever holds for torrents of models holds for them. They are kept beside the catalogue, not in it.
"""

import asyncio
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import BareMetalError, CapacityError, IntegrityError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.magnet_links import parse_magnet_link
from baremetalrt.core.places import lists_folder
from baremetalrt.core.units import KIB
from baremetalrt.index.signed import MAX_LIST_BYTES, SignedList
from baremetalrt.swarm.catalog import Entry, Record
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.piece_checker import signatures
from baremetalrt.swarm.publishing import PublishOptions, publish
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.writing import write_gguf

_KEY: Final = "bmrt.list"
_FILE: Final = "list.gguf"
_ARCHITECTURE: Final = "bmrt-list"
_HEADER_BYTES: Final = 64 * KIB


def infohash_of_list(signed: SignedList) -> str | None:
    """The v1 info-hash of the torrent of a list, the same on every machine. Blocks."""
    with tempfile.TemporaryDirectory(prefix="bmrt-list-") as scratch:
        return _publish(signed, Path(scratch)).infohash_v1


def torrent_of_list(signed: SignedList) -> StoredTorrent:
    """The torrent of a list, with the file where it is seeded. Blocks.

    Raises:
        CapacityError: the disk is full or forbidden.
    """
    folder = _torrents() / f"{signed.key[:20]}-{signed.number}"
    metainfo = _publish(signed, folder)
    path = folder / _FILE
    record = _record(metainfo, [str(path.absolute())])
    record.is_in_place = record.is_complete = True
    record.num_have = metainfo.pieces.num_pieces
    record.signatures = signatures((path,))
    return _stored(folder, metainfo, record)


def _publish(signed: SignedList, folder: Path) -> Metainfo:
    out = io.BytesIO()
    values = {"general.architecture": _ARCHITECTURE, "general.name": signed.name}
    write_gguf(out, {**values, _KEY: signed.raw.decode()}, {})
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / _FILE, out.getvalue())
    return publish(GGUFFile.open(folder / _FILE), PublishOptions())


def forget_torrent(torrent: StoredTorrent) -> None:
    """Removes what was written for a list that is no longer the newest. Blocks."""
    shutil.rmtree(torrent.entry.folder, ignore_errors=True)


def sweep() -> None:
    """Removes what earlier servers have left, unless one that runs has it. Blocks."""
    for folder in _torrents().glob("*") if _torrents().is_dir() else ():
        try:
            is_busy = Entry.open(folder).is_busy
        except (BareMetalError, OSError):
            is_busy = False
        if not is_busy:
            shutil.rmtree(folder, ignore_errors=True)


async def fetch_list(
    client: SwarmClient, link: str, peers: Sequence[str], *, timeout_s: float
) -> bytes:
    """What a magnet link of a list brings; whether it is a list is for who reads it.

    Raises:
        CapacityError: nobody has it, or not in time.
        IntegrityError: it is something else.
    """
    try:
        async with asyncio.timeout(timeout_s):
            raw, connected = await client.fetch_metainfo(parse_magnet_link(link), peers=peers)
            metainfo = await asyncio.to_thread(read_metainfo, raw, source="the torrent of the list")
            if metainfo.num_bytes > MAX_LIST_BYTES + _HEADER_BYTES:
                raise IntegrityError(
                    "what comes instead of a list of models is too large for one",
                    code="index.huge",
                    source=link,
                )
            return await _fetched(client, metainfo, [*peers, *connected])
    except TimeoutError as error:
        raise CapacityError(
            "nobody who has the list answers",
            code="index.unreachable",
            hint="its publisher's `bmrt serve` has to run; or take the file: `bmrt index follow FILE`",
        ) from error


async def _fetched(client: SwarmClient, metainfo: Metainfo, peers: Sequence[str]) -> bytes:
    folder = _torrents() / f"fetched-{metainfo.id}"
    record = _record(metainfo, [f"data/{file.name}" for file in metainfo.files])
    stored = await asyncio.to_thread(_stored, folder, metainfo, record)
    torrent: Torrent | None = None
    try:
        torrent = await client.add(stored, peers=peers)
        await torrent.finished()
        return await asyncio.to_thread(list_in, stored.entry.model_paths[0])
    finally:
        if torrent is not None:
            await client.remove(torrent)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def list_in(path: Path) -> bytes:
    """The list in a file as torrents have it; raises `IntegrityError` where there is none. Blocks."""
    text = GGUFFile.open(path).text(_KEY)
    if not text:
        raise IntegrityError(
            f"{path.name} has no list of models", code="index.damaged", source=str(path)
        )
    return text.encode()


def _record(metainfo: Metainfo, paths: list[str]) -> Record:
    return Record(
        name=metainfo.name,
        infohash_v1=metainfo.infohash_v1,
        infohash_v2=metainfo.infohash_v2,
        num_bytes=metainfo.num_bytes,
        paths=paths,
    )


def _stored(folder: Path, metainfo: Metainfo, record: Record) -> StoredTorrent:
    entry = Entry(folder, record)
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(entry.metainfo_path, metainfo.raw)
        entry.save()
    return StoredTorrent(entry, metainfo)


def _torrents() -> Path:
    return lists_folder() / "torrents"
