"""What a torrent says of itself, checked before it is believed.

Source: BEP 3 and BEP 52 (hybrid torrents), BEP 9 (magnet links).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import libtorrent as lt

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.spans import ByteRange
from baremetalrt.core.units import KIB, MIB, format_bytes
from baremetalrt.swarm.pieces import Part, PieceMap
from baremetalrt.swarm.torrent_names import file_names, part_number, slug

MAX_TORRENT_BYTES: Final = 16 * MIB
_MAX_PIECES: Final = 1 << 16
_MAX_FILES: Final = 4096
_MIN_PIECE_BYTES: Final = 16 * KIB
_MAX_PIECE_BYTES: Final = 256 * MIB
_SUFFIX: Final = ".gguf"


@dataclass(frozen=True)
class ModelFile:
    """One GGUF file of a torrent. `name` is what it is called here, whatever the torrent says."""

    index: int
    name: str
    part: Part


@dataclass(frozen=True, kw_only=True)
class Metainfo:
    """A torrent that holds one model, possibly split. `raw` is the `.torrent` file.

    `lacks_layers` says that it came by a magnet link, without the v2 hashes of its pieces. `content_id`
    names the bytes of the model, in every torrent of it: by the v2 hashes of its files, or else, where
    there is only v1, this torrent alone.
    """

    raw: bytes
    name: str
    infohash_v1: str | None
    infohash_v2: str | None
    content_id: str
    files: tuple[ModelFile, ...]
    num_files: int
    pieces: PieceMap
    is_private: bool
    needs_certificate: bool
    lacks_layers: bool
    trackers: tuple[str, ...]
    web_seeds: tuple[str, ...]

    @property
    def id(self) -> str:
        """What the torrent is called on disk: 40 hexadecimal digits of its best hash."""
        return (self.infohash_v2 or self.infohash_v1 or "")[:40]

    @property
    def num_bytes(self) -> int:
        return sum(file.part.num_bytes for file in self.files)

    @property
    def model_ranges(self) -> tuple[ByteRange, ...]:
        """All bytes of the model."""
        return tuple(ByteRange(i, 0, f.part.num_bytes) for i, f in enumerate(self.files))

    @cached_property
    def magnet(self) -> str:
        params = lt.load_torrent_buffer(self.raw)
        params.name = self.name
        return str(lt.make_magnet_uri(params))


def read_metainfo(raw: bytes, *, source: str) -> Metainfo:
    """Checks a `.torrent` file, or what a magnet link brought.

    Raises:
        IntegrityError: it is damaged, absurd, or dangerous.
        UsageError: it is a torrent, but not of one GGUF model.
    """
    if len(raw) > MAX_TORRENT_BYTES:
        raise _bad(source, f"is larger than {format_bytes(MAX_TORRENT_BYTES)}")
    try:
        params = lt.load_torrent_buffer(raw)
        trackers, web_seeds = tuple(params.trackers), tuple(params.url_seeds)
        needs_certificate = bool(params.ti.ssl_cert()) if params.ti else False
    except (RuntimeError, TypeError, ValueError) as error:
        raise _bad(source, f"cannot be read: {error}") from error
    info = params.ti
    if info is None or not info.is_valid():
        raise _bad(source, "has no description of its files")
    layout = info.layout()
    if not 0 < layout.num_pieces() <= _MAX_PIECES:
        raise _bad(source, f"has {layout.num_pieces()} pieces, more than {_MAX_PIECES}")
    if not _MIN_PIECE_BYTES <= layout.piece_length() <= _MAX_PIECE_BYTES:
        raise _bad(source, f"has pieces of {format_bytes(layout.piece_length())}")
    if layout.num_files() > _MAX_FILES:
        raise _bad(source, f"has {layout.num_files()} files, more than {_MAX_FILES}")
    hashes = info.info_hashes()
    files = _model_files(layout, info.name(), source)
    return Metainfo(
        raw=raw,
        name=slug(_without_suffix(info.name())) or "model",
        infohash_v1=str(hashes.v1) if hashes.has_v1() else None,
        infohash_v2=str(hashes.v2) if hashes.has_v2() else None,
        content_id=_content_id(layout, files) if hashes.has_v2() else str(hashes.v1),
        files=files,
        num_files=layout.num_files(),
        pieces=PieceMap(
            layout.piece_length(), layout.total_size(), tuple(file.part for file in files)
        ),
        is_private=info.priv(),
        needs_certificate=needs_certificate,
        lacks_layers=hashes.has_v2() and b"12:piece layers" not in raw,
        trackers=trackers,
        web_seeds=web_seeds,
    )


def _content_id(layout: lt.file_storage, files: tuple[ModelFile, ...]) -> str:
    """The root of the one file, or a hash of the roots of all parts (BEP 52)."""
    roots = [str(layout.root(file.index)) for file in files]
    return roots[0] if len(roots) == 1 else hashlib.sha256("".join(roots).encode()).hexdigest()


def _model_files(layout: lt.file_storage, torrent_name: str, source: str) -> tuple[ModelFile, ...]:
    """The parts of the one model in a torrent, in order, under names of our own."""
    found: list[tuple[str, int]] = []
    seen: set[str] = set()
    for index in range(layout.num_files()):
        flags = layout.file_flags(index)
        if flags & lt.file_storage.flag_pad_file:
            continue
        path = layout.file_path(index)
        if path.casefold() in seen:
            raise _bad(source, f"has two files called {path}")
        seen.add(path.casefold())
        if flags & lt.file_storage.flag_symlink:
            raise _bad(source, f"has a symbolic link, {path}")
        if path.lower().endswith(_SUFFIX) and layout.file_size(index):
            found.append((layout.file_name(index), index))
    if not found:
        raise UsageError(
            f"the torrent {torrent_name!r} has no GGUF file",
            code="torrent.no-model",
            hint="models are shared as the .gguf file itself",
        )
    ordered = _in_order(found, torrent_name)
    stem = slug(_without_suffix(torrent_name)) or "model"
    names = file_names(stem, len(ordered))
    return tuple(
        ModelFile(index, name, Part(layout.file_offset(index), layout.file_size(index)))
        for name, index in zip(names, ordered, strict=True)
    )


def _in_order(found: list[tuple[str, int]], torrent_name: str) -> list[int]:
    if len(found) == 1:
        return [found[0][1]]
    numbered = {}
    stems = set()
    for name, index in found:
        part = part_number(name)
        if part is not None and part[2] == len(found):
            stems.add(part[0])
            numbered[part[1]] = index
    if len(stems) != 1 or set(numbered) != set(range(1, len(found) + 1)):
        raise UsageError(
            f"the torrent {torrent_name!r} has {len(found)} GGUF files that are not parts of one model",
            code="torrent.several-models",
            hint="a model is shared as one file, or as parts named -00001-of-0000N.gguf",
        )
    return [numbered[number] for number in sorted(numbered)]


def _without_suffix(name: str) -> str:
    return name[: -len(_SUFFIX)] if name.lower().endswith(_SUFFIX) else name


def _bad(source: str, what: str) -> IntegrityError:
    return IntegrityError(f"the torrent {what}", code="torrent.invalid", source=source)
