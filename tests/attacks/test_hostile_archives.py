"""Package archives of which the hash is right, and nothing else."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.units import MIB
from baremetalrt.engines.archives import unpack
from engine_kit import FOLDER, LIBRARY, Member, entry, member, packed, write

GOOD = member(f"{FOLDER}/{LIBRARY}", b"a library")
OUTSIDE = "outside.so"


def sparse() -> Member:
    """A file of a terabyte that takes no room in the archive, as GNU tar writes it."""
    info, data = member(f"{FOLDER}/libggml-huge.so")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.map": f"{1 << 40},0",
    }
    return info, data


HOSTILE = {
    "a path upwards": member(f"{FOLDER}/../../../../{OUTSIDE}", b"x"),
    "a path from the root": member(f"/tmp/{OUTSIDE}", b"x"),
    "a path of Windows": member(f"{FOLDER}\\..\\{OUTSIDE}", b"x"),
    "a link": member(f"{FOLDER}/libggml-base.so", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": member(f"{FOLDER}/libggml-base.so", kind=tarfile.LNKTYPE, link="/etc/passwd"),
    "a pipe": member(f"{FOLDER}/libggml-base.so", kind=tarfile.FIFOTYPE),
    "a device": member(f"{FOLDER}/libggml-base.so", kind=tarfile.CHRTYPE),
    "the same file twice": GOOD,
    "a sparse file": sparse(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_with_anything_but_plain_files_is_refused(what: str, tmp_path: Path) -> None:
    """Though its hash is that of the catalogue: nothing is written beside the new folder."""
    place = tmp_path / "deep" / "down"
    place.mkdir(parents=True)
    engine = write([GOOD, HOSTILE[what]], tmp_path / "engine.tgz")
    with pytest.raises(IntegrityError) as caught:
        unpack(tmp_path / "engine.tgz", engine, place / "new")
    assert caught.value.code == "engine.archive"
    assert not list(tmp_path.rglob(OUTSIDE)) and not Path("/tmp", OUTSIDE).exists()
    assert {path.name for path in tmp_path.rglob("*.so")} <= {LIBRARY}


@pytest.mark.parametrize("name", ["libggml-base.so", "readme.txt"])
def test_what_expands_to_more_than_it_should_is_refused(name: str, tmp_path: Path) -> None:
    """Whether it is in a file that is wanted or in one that is passed over."""
    archive = packed([member(f"{FOLDER}/{name}", bytes(64 * MIB)), GOOD], level=9)
    assert len(archive) < MIB
    (tmp_path / "engine.tgz").write_bytes(archive)
    with pytest.raises(IntegrityError, match="expands to more"):
        unpack(tmp_path / "engine.tgz", entry(archive, MIB), tmp_path / "new")
    assert sum(path.stat().st_size for path in (tmp_path / "new").iterdir()) < 4 * MIB


@pytest.mark.parametrize("kept", [0, 10, 200, 600])
def test_a_truncated_archive_is_refused(kept: int, tmp_path: Path) -> None:
    """By its size, and if the catalogue had that wrong, too, by what is missing."""
    whole = packed([member(f"{FOLDER}/{LIBRARY}", bytes(range(256)) * 8)])
    archive = whole[:kept]
    (tmp_path / "engine.tgz").write_bytes(archive)
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "engine.tgz", entry(whole, MIB), tmp_path / "new")
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "engine.tgz", entry(archive, MIB), tmp_path / "new")


def test_one_changed_bit_is_noticed(tmp_path: Path) -> None:
    """Nothing is unpacked: the folder is not even made."""
    engine = write([GOOD], tmp_path / "engine.tgz")
    archive = bytearray((tmp_path / "engine.tgz").read_bytes())
    archive[len(archive) // 2] ^= 1
    (tmp_path / "engine.tgz").write_bytes(archive)
    with pytest.raises(IntegrityError, match="sha512 differs"):
        unpack(tmp_path / "engine.tgz", engine, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_archive_without_its_library_is_refused(tmp_path: Path) -> None:
    """A catalogue that names a wrong file is noticed before anything is loaded."""
    engine = write([GOOD], tmp_path / "engine.tgz")
    with pytest.raises(IntegrityError, match=r"holds no libllama\.so"):
        unpack(tmp_path / "engine.tgz", replace(engine, library="libllama.so"), tmp_path / "new")


def test_only_objects_and_the_licence_are_unpacked(tmp_path: Path) -> None:
    """Programs of the package, and what belongs to them, stay where they are."""
    others = ("package/package.json", "package/dist/index.js", f"{FOLDER}/llama-addon.node")
    more = (f"{FOLDER}/libllama-common.so", f"{FOLDER}/deeper/libggml.so", f"{FOLDER}/libother.so")
    members = [member(name, b"x") for name in (*others, *more)]
    wanted = [GOOD, member(f"{FOLDER}/libggml-base.so", b"y"), member("package/LICENSE", b"z")]
    engine = write([*members, *wanted], tmp_path / "engine.tgz")
    unpack(tmp_path / "engine.tgz", engine, tmp_path / "new")
    found = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert found == {LIBRARY: b"a library", "libggml-base.so": b"y", "LICENSE": b"z"}
