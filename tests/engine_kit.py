"""Archives of engines, made of the bundled library, and entries of a catalogue that know their hashes."""

import base64
import ctypes
import gzip
import hashlib
import io
import platform
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from baremetalrt.engines.catalogue import Engine
from baremetalrt.native.library import load_library, packaged

FOLDER = "package/bins/test"
LIBRARY = "libllama.test.so"
# One that cannot be executed, and one that says "done" without having done anything.
FAULT = {"x86_64": "0f0b", "aarch64": "00000000"}[platform.machine()]
RETURN_ZERO = {"x86_64": "31c0c3", "aarch64": "00008052c0035fd6"}[platform.machine()]

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    """One member of an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def packed(members: Iterable[Member], level: int = 0) -> bytes:
    """An archive; nothing is made smaller unless a test is about that."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=level) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as archive,
    ):
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(archive: bytes, unpacked_bytes: int) -> Engine:
    """What a catalogue would say of that archive."""
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    return Engine(
        name="test",
        purpose="tests",
        system="any",
        glibc="2.0",
        package="@test/engine",
        version="1",
        ggml=load_library().ggml_version,
        integrity=f"sha512-{digest}",
        archive_bytes=len(archive),
        unpacked_bytes=unpacked_bytes,
        folder=FOLDER,
        library=LIBRARY,
    )


def write(members: list[Member], path: Path) -> Engine:
    """Writes an archive, and returns its entry."""
    archive = packed(members)
    path.write_bytes(archive)
    return entry(archive, sum(len(data) for _, data in members))


def bundled_library() -> bytes:
    """The bundled library, which is an engine of one file."""
    return next(packaged()).path.read_bytes()


def working(path: Path) -> Engine:
    """An archive of an engine that works."""
    licence = member("package/LICENSE", b"as you like")
    return write([licence, member(f"{FOLDER}/{LIBRARY}", bundled_library())], path)


def broken(path: Path, code: str) -> Engine:
    """One in which the function that computes graphs is something else: machine code in hex."""
    data = bytearray(bundled_library())
    at = place_in_file(load_library().c.ggml_backend_graph_compute)
    data[at : at + len(code) // 2] = bytes.fromhex(code)
    return write([member(f"{FOLDER}/{LIBRARY}", bytes(data))], path)


def place_in_file(function: Any) -> int:
    """Where in its file a function is that this process has loaded."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in words[0].split("-"))
        if start <= address < end:
            return address - start + int(words[2], 16)
    raise AssertionError("the function is nowhere")


def renamed(engine: Engine, version: str) -> Engine:
    """The same, as another release."""
    return replace(engine, version=version)
