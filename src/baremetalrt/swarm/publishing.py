"""Makes the torrent of a model: the same bytes give the same torrent on every machine."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import libtorrent as lt

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.units import format_bytes
from baremetalrt.membership.authority import Membership
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry, FileSignature, Record
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.piece_checker import signatures
from baremetalrt.swarm.pieces import choose_piece_bytes
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent_names import content_name, file_names
from baremetalrt.weights.gguf import GGUFFile


@dataclass(frozen=True)
class HubOrigin:
    """A file of a hub, as `OWNER/REPO/PATH`, and the hash that the hub says it has."""

    file: str
    sha256: str

    def note(self, record: Record) -> None:
        """Puts it into a record of the same content."""
        record.hub_files = list(dict.fromkeys([*record.hub_files, self.file]))
        record.sha256 = self.sha256


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What of a torrent is not in the model. Trackers and web seeds leave the info-hash as it is.

    `private` (BEP 27) and `authority_pem` (the certificate of a private swarm's authority) do not.
    """

    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    private: bool = False
    authority_pem: bytes | None = None


def publish(
    file: GGUFFile,
    options: PublishOptions,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Metainfo:
    """Hashes a model, or an adapter, into a hybrid torrent. Blocks; reads every byte once.

    Raises:
        IntegrityError: tensors reach past the end of the file, or the file changed meanwhile.
        CapacityError: the file cannot be read.
    """
    missing = file.missing(t.byte_range for t in file.tensors.values())
    if missing:
        lacking = format_bytes(sum(len(r) for r in missing))
        raise IntegrityError(
            f"{file.path.name} is incomplete: {lacking} of tensors lie past its end",
            code="gguf.truncated",
            source=str(file.path),
            hint="only whole files are published",
        )
    name = content_name(file)
    names = file_names(name, len(file.paths))
    folder = name if len(names) > 1 else ""
    sizes = [path.stat().st_size for path in file.paths]
    before = [_signature(path) for path in file.paths]
    entries = [
        lt.create_file_entry(os.path.join(folder, n), size)
        for n, size in zip(names, sizes, strict=True)
    ]
    piece_bytes = choose_piece_bytes(sum(sizes))
    torrent = lt.create_torrent(entries, piece_bytes, lt.create_torrent.canonical_files)
    torrent.set_creation_date(0)  # leaves the date out
    torrent.set_priv(options.private)
    for tier, tracker in enumerate(options.trackers):
        torrent.add_tracker(tracker, tier)
    for url in options.web_seeds:
        torrent.add_url_seed(url)
    if options.authority_pem is not None:
        torrent.set_root_cert(options.authority_pem.decode())
    num_pieces = torrent.num_pieces()
    # libtorrent wants the files under the names that the torrent has for them.
    with tempfile.TemporaryDirectory(prefix="bmrt-publish-") as scratch:
        Path(scratch, folder).mkdir(exist_ok=True)
        for n, path in zip(names, file.paths, strict=True):
            Path(scratch, folder, n).symlink_to(path.absolute())
        try:
            lt.set_piece_hashes(torrent, scratch, lambda p: on_progress((p + 1) / num_pieces))
        except RuntimeError as error:
            raise CapacityError(
                f"{file.path.name} cannot be read: {error}", code="disk.read"
            ) from error
    if [_signature(path) for path in file.paths] != before:
        raise IntegrityError(
            f"{file.path.name} changed while it was hashed",
            code="file.changed",
            source=str(file.path),
            hint="publish it once nothing writes to it any more",
        )
    return read_metainfo(lt.bencode(torrent.generate()), source=str(file.path))


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def publish_file(
    path: Path,
    options: PublishOptions,
    *,
    swarm: Membership | None = None,
    origin: HubOrigin | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> StoredTorrent:
    """Makes the torrent of a GGUF file and puts it into the catalogue, with the file where it is.

    `origin`: which file of a hub it is, where that has been compared.

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
        own_urls=[*options.trackers, *options.web_seeds],
        hub_files=[origin.file] if origin else [],
        sha256=origin.sha256 if origin else None,
    )
    entry = catalog.add(metainfo.id, metainfo.raw, record)
    known = entry.record
    if set(record.own_urls) - set(known.own_urls):
        _remember_urls(entry, record.own_urls)
    if not known.is_complete or (known.is_in_place and known.paths != record.paths):
        # The file was moved, or is better than what was fetched of it so far.
        with entry.locked(), disk_errors():
            entry.resume_path.unlink(missing_ok=True)
            shutil.rmtree(entry.data_folder, ignore_errors=True)
            write_durably(entry.metainfo_path, metainfo.raw)
            entry.record = record
            entry.save()
    elif origin is not None:
        remember_origin(entry, origin)
    return StoredTorrent(entry, metainfo)


def remember_origin(entry: Entry, origin: HubOrigin) -> bool:
    """Writes down which file of a hub a torrent is; False where another process has it in use."""
    record = entry.record
    if record.sha256 == origin.sha256 and origin.file in record.hub_files:
        return True
    try:
        with entry.locked(), disk_errors():
            origin.note(entry.record)
            entry.save()
    except UsageError:
        return False
    return True


def _remember_urls(entry: Entry, urls: Sequence[str]) -> None:
    """Trackers and mirrors that the user named for a torrent that was there already."""
    try:
        with entry.locked(), disk_errors():
            entry.record.own_urls = list(dict.fromkeys([*entry.record.own_urls, *urls]))
            entry.save()
    except UsageError:
        pass  # another process seeds it; whoever seeds it after that one names them again


def find_torrent_of(file: GGUFFile) -> StoredTorrent | None:
    """The torrent of a file in the catalogue, if there is one and the file is as it was."""
    paths = tuple(path.absolute() for path in file.paths)
    for entry in catalog.entries():
        record = entry.record
        if entry.model_paths != paths:
            continue
        is_unchanged = record.signatures == [FileSignature.of(path) for path in paths]
        # What is still being fetched changes all the time; what of it may be read, its torrent knows.
        if is_unchanged if record.is_complete else not record.is_in_place:
            return StoredTorrent.open(entry)
    return None


def torrent_of(file: GGUFFile, swarm: Membership) -> StoredTorrent:
    """The torrent of a file; one that has none is hashed, and its torrent is for members alone.

    Raises:
        IntegrityError, CapacityError: see `publish_file`.
    """
    options = PublishOptions(authority_pem=swarm.authority_pem)
    return find_torrent_of(file) or publish_file(file.path, options, swarm=swarm)
