"""What names the bytes of a model: the v2 root of its file, as a torrent of it would say.

Source: BEP 52 for the tree of hashes. A split model is named by a hash of the roots of its parts, as in
`swarm/metainfo.py`. Hashing runs at the speed of the disk, so what was found is remembered beside the
size, times and inode of each file; whoever writes to a file changes those.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from baremetalrt.core.places import home
from baremetalrt.core.units import KIB, MIB
from baremetalrt.weights.gguf import GGUFFile

_LEAF_BYTES: Final = 16 * KIB
_CHUNK_BYTES: Final = 16 * MIB
_THREADS: Final = 2
_MAX_REMEMBERED: Final = 256


def content_id(file: GGUFFile) -> str:
    """What names this model in every torrent. Reads all of it once, unless that was done before."""
    known = _remembered()
    roots = []
    for path in file.paths:
        key = _signature(path)
        if key not in known:
            known[key] = _file_root(path)
            _remember(known)
        roots.append(known[key])
    return roots[0] if len(roots) == 1 else hashlib.sha256("".join(roots).encode()).hexdigest()


def known_content_id(file: GGUFFile) -> str | None:
    """The same, if it can be told without reading the model."""
    known = _remembered()
    return content_id(file) if all(_signature(path) in known for path in file.paths) else None


def quick_id(file: GGUFFile) -> str:
    """Names the bytes without reading them: by content where that is known, else as they lie here.

    Nothing else has this name, but the same bytes may have had another one before.
    """
    known = known_content_id(file)
    return known or hashlib.sha256("".join(map(_signature, file.paths)).encode()).hexdigest()


def _file_root(path: Path) -> str:
    """The root of the tree of hashes over pieces of 16 KiB (BEP 52)."""
    size = path.stat().st_size
    starts = range(0, size, _CHUNK_BYTES)

    def leaves(start: int) -> list[bytes]:
        with path.open("rb") as f:
            f.seek(start)
            data = memoryview(f.read(_CHUNK_BYTES))
        return [
            hashlib.sha256(data[i : i + _LEAF_BYTES]).digest()
            for i in range(0, len(data), _LEAF_BYTES)
        ]

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="hashing") as threads:
        layer = [leaf for chunk in threads.map(leaves, starts) for leaf in chunk]
    padding = bytes(32)
    while len(layer) > 1:
        if len(layer) % 2:
            layer.append(padding)
        layer = [hashlib.sha256(layer[i] + layer[i + 1]).digest() for i in range(0, len(layer), 2)]
        padding = hashlib.sha256(padding + padding).digest()
    return layer[0].hex() if layer else bytes(32).hex()


def _signature(path: Path) -> str:
    s = path.stat()
    place = f"{path.resolve()}"
    return f"{place}|{s.st_size}|{s.st_mtime_ns}|{s.st_ctime_ns}|{s.st_ino}"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_memory().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)}


def _remember(known: dict[str, str]) -> None:
    newest: Iterable[str] = list(known)[-_MAX_REMEMBERED:]
    path = _memory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({key: known[key] for key in newest}))
        temporary.replace(path)
    except OSError:
        pass  # it is computed again next time


def _memory() -> Path:
    return home() / "content-ids.json"
