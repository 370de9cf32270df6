"""Torrents key by key, so that every name, length and count in them can be a lie.

The hashes in them are those of nothing: for tests that read a torrent and fetch nothing.
"""

from collections.abc import Sequence
from typing import Any

import libtorrent as lt

KIB = 1024
LEAF_BYTES = 16 * KIB
Info = dict[bytes, Any]
# Components of a path, and a length.
FileEntry = tuple[Sequence[bytes], int]


def info_v1(
    name: bytes, content: int | Sequence[FileEntry], piece_bytes: int = LEAF_BYTES, **more: Any
) -> Info:
    """The info section of a v1 torrent: of one file (its length), or of several."""
    total = content if isinstance(content, int) else sum(size for _, size in content)
    info: Info = {
        b"name": name,
        b"piece length": piece_bytes,
        b"pieces": b"h" * 20 * -(-total // piece_bytes),
    }
    if isinstance(content, int):
        info[b"length"] = content
    else:
        info[b"files"] = [{b"length": size, b"path": list(path)} for path, size in content]
    return info | {key.encode(): value for key, value in more.items()}


def info_v2(
    name: bytes, content: Sequence[FileEntry], piece_bytes: int = LEAF_BYTES, **more: Any
) -> Info:
    """The info section of a v2 torrent, without piece layers."""
    tree: dict[bytes, Any] = {}
    for path, size in content:
        folder = tree
        for component in path:
            folder = folder.setdefault(component, {})
        folder[b""] = {b"length": size} | ({b"pieces root": b"r" * 32} if size else {})
    info: Info = {
        b"name": name,
        b"piece length": piece_bytes,
        b"meta version": 2,
        b"file tree": tree,
    }
    return info | {key.encode(): value for key, value in more.items()}


def info_hybrid(
    name: bytes, content: Sequence[FileEntry], piece_bytes: int = LEAF_BYTES, **more: Any
) -> Info:
    """Both at once: every file starts at a piece, after padding. The files must be sorted."""
    padded: list[dict[bytes, Any]] = []
    total = 0
    for path, size in content:
        if gap := -total % piece_bytes:
            padded.append({b"attr": b"p", b"length": gap, b"path": [b".pad", b"%d" % gap]})
        padded.append({b"length": size, b"path": list(path)})
        total += gap + size
    v1: Info = {b"files": padded, b"pieces": b"h" * 20 * -(-total // piece_bytes)}
    return info_v2(name, content, piece_bytes) | v1 | {k.encode(): v for k, v in more.items()}


def torrent(info: Info, **outer: Any) -> bytes:
    """A `.torrent` file."""
    values = {key.encode(): value for key, value in outer.items()}
    return bytes(lt.bencode({b"info": info, **values}))
