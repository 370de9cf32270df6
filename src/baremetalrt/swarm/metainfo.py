"""What a torrent says of itself, checked before it is believed.

Source: BEP 3 and BEP 52 (hybrid torrents), BEP 9 (magnet links).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import libtorrent as lt

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.magnet_links import with_file, with_swarm
from baremetalrt.core.spans import ByteRange
from baremetalrt.core.units import KIB, MIB, format_bytes
from baremetalrt.swarm.model_choice import (
    SUFFIX,
    TorrentModel,
    choose_model,
    models_of,
    without_suffix,
)
from baremetalrt.swarm.pieces import Part, PieceMap
from baremetalrt.swarm.torrent_names import file_names, slug

MAX_TORRENT_BYTES: Final = 16 * MIB
_MAX_PIECES: Final = 1 << 16
_MAX_FILES: Final = 4096
_MIN_PIECE_BYTES: Final = 16 * KIB
_MAX_PIECE_BYTES: Final = 256 * MIB
_NAMELESS: Final = "model"


@dataclass(frozen=True)
class ModelFile:
    """One GGUF file of a torrent. `name` is what it is called here, whatever the torrent says."""

    index: int
    name: str
    part: Part


@dataclass(frozen=True, kw_only=True)
class Metainfo:
    """A torrent and the one model of it that is meant, possibly split. `raw` is the `.torrent` file.

    `choice` is the path of that model in the torrent, None where it is the only one; `title` is what
    the torrent itself is called. `authority_pem`: members of its private swarm hold certificates of
    that authority. `lacks_layers` says that it came by a magnet link, without the v2 hashes of its
    pieces. `content_id` names the bytes of the model, in every torrent of it: by the v2 hashes of its
    files, or else, where there is only v1, this torrent alone.
    """

    raw: bytes
    name: str
    title: str
    choice: str | None
    infohash_v1: str | None
    infohash_v2: str | None
    content_id: str
    files: tuple[ModelFile, ...]
    num_files: int
    pieces: PieceMap
    is_private: bool
    authority_pem: bytes | None
    lacks_layers: bool
    trackers: tuple[str, ...]
    web_seeds: tuple[str, ...]

    @property
    def id(self) -> str:
        """What the torrent is called on disk: 40 hexadecimal digits of its best hash."""
        return (self.infohash_v2 or self.infohash_v1 or "")[:40]

    @property
    def needs_certificate(self) -> bool:
        """Whether it belongs to a private swarm."""
        return self.authority_pem is not None

    @property
    def num_bytes(self) -> int:
        return sum(file.part.num_bytes for file in self.files)

    @property
    def model_ranges(self) -> tuple[ByteRange, ...]:
        """All bytes of the model."""
        return tuple(ByteRange(i, 0, f.part.num_bytes) for i, f in enumerate(self.files))

    @cached_property
    def model_pieces(self) -> frozenset[int]:
        """Every piece that holds some of the model, and none of what may lie beside it."""
        return self.pieces.pieces(self.model_ranges)

    @cached_property
    def magnet(self) -> str:
        params = lt.load_torrent_buffer(self.raw)
        params.name = self.title
        link = str(lt.make_magnet_uri(params))
        if self.choice is not None:
            link = with_file(link, self.choice)
        return with_swarm(link, self.authority_pem) if self.authority_pem else link


def read_metainfo(raw: bytes, *, source: str, choice: str | None = None) -> Metainfo:
    """Checks a `.torrent` file, or what a magnet link brought; `choice`: which of its models is meant.

    Raises:
        IntegrityError: it is damaged, absurd, or dangerous.
        UsageError: it is a torrent, but not of a GGUF model, or of several, of which none is chosen.
    """
    if len(raw) > MAX_TORRENT_BYTES:
        raise _bad(source, f"is larger than {format_bytes(MAX_TORRENT_BYTES)}")
    try:
        params = lt.load_torrent_buffer(raw)
        trackers, web_seeds = tuple(params.trackers), tuple(params.url_seeds)
        authority = (params.ti.ssl_cert() if params.ti else b"") or None
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
    torrent_name = info.name()
    models = models_of(_gguf_files(layout, torrent_name, source))
    model = choose_model(models, choice, torrent_name)
    title = slug(without_suffix(torrent_name)) or _NAMELESS
    is_chosen = len(models) > 1
    name = slug(model.name) or title if is_chosen else title
    files = _model_files(layout, model, name)
    return Metainfo(
        raw=raw,
        name=name,
        title=title,
        choice=model.path if is_chosen else None,
        infohash_v1=str(hashes.v1) if hashes.has_v1() else None,
        infohash_v2=str(hashes.v2) if hashes.has_v2() else None,
        content_id=_content_id(layout, files)
        if hashes.has_v2()
        else _v1_id(str(hashes.v1), files, is_chosen=is_chosen),
        files=files,
        num_files=layout.num_files(),
        pieces=PieceMap(
            layout.piece_length(), layout.total_size(), tuple(file.part for file in files)
        ),
        is_private=info.priv(),
        authority_pem=authority.encode() if isinstance(authority, str) else authority,
        lacks_layers=hashes.has_v2() and b"12:piece layers" not in raw,
        trackers=trackers,
        web_seeds=web_seeds,
    )


def _content_id(layout: lt.file_storage, files: tuple[ModelFile, ...]) -> str:
    """The root of the one file, or a hash of the roots of all parts (BEP 52)."""
    roots = [str(layout.root(file.index)) for file in files]
    return roots[0] if len(roots) == 1 else hashlib.sha256("".join(roots).encode()).hexdigest()


def _v1_id(infohash: str, files: tuple[ModelFile, ...], *, is_chosen: bool) -> str:
    """This torrent, or this model of it."""
    if not is_chosen:
        return infohash
    which = ",".join(str(file.index) for file in files)
    return hashlib.sha256(f"{infohash} {which}".encode()).hexdigest()


def _gguf_files(
    layout: lt.file_storage, torrent_name: str, source: str
) -> list[tuple[str, int, int]]:
    """The GGUF files of a torrent: path below its folder, index, bytes."""
    found: list[tuple[str, int, int]] = []
    seen: set[str] = set()
    for index in range(layout.num_files()):
        flags = layout.file_flags(index)
        if flags & lt.file_storage.flag_pad_file:
            continue
        path = layout.file_path(index).replace("\\", "/")
        if path.casefold() in seen:
            raise _bad(source, f"has two files called {path}")
        seen.add(path.casefold())
        if flags & lt.file_storage.flag_symlink:
            raise _bad(source, f"has a symbolic link, {path}")
        if path.lower().endswith(SUFFIX) and layout.file_size(index):
            found.append((path.removeprefix(f"{torrent_name}/"), index, layout.file_size(index)))
    if not found:
        raise UsageError(
            f"the torrent {torrent_name!r} has no GGUF file",
            code="torrent.no-model",
            hint="models are shared as the .gguf file itself",
        )
    return found


def _model_files(layout: lt.file_storage, model: TorrentModel, name: str) -> tuple[ModelFile, ...]:
    """The parts of a model in a torrent, in order, under names of our own."""
    names = file_names(name, len(model.indices))
    return tuple(
        ModelFile(index, name, Part(layout.file_offset(index), layout.file_size(index)))
        for name, index in zip(names, model.indices, strict=True)
    )


def _bad(source: str, what: str) -> IntegrityError:
    return IntegrityError(f"the torrent {what}", code="torrent.invalid", source=source)
