"""What is remembered of torrents, on disk."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import write_durably
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry, FileSignature, Record

V1 = "0123456789abcdef0123456789abcdef01234567"
V2 = "fedcba9876543210" * 4
OTHER = "aa" * 32


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def record(name: str = "Tiny-Q4_0", v1: str | None = V1, v2: str | None = V2) -> Record:
    return Record(
        name=name, infohash_v1=v1, infohash_v2=v2, num_bytes=5, paths=[f"data/{name}.gguf"]
    )


def add(name: str = "Tiny-Q4_0", v1: str | None = V1, v2: str | None = V2) -> Entry:
    return catalog.add((v2 or v1 or "")[:40], b"metainfo", record(name, v1, v2))


def test_what_is_added_is_there_for_the_next_process() -> None:
    """The torrent byte for byte, the record as it was, and where the model will be."""
    assert catalog.entries() == []
    entry = add()
    (found,) = catalog.entries()
    assert found.id == entry.id == V2[:40]
    assert found.metainfo_path.read_bytes() == b"metainfo"
    assert found.record == entry.record and found.record.added_at > 0
    assert found.model_paths == (found.folder / "data" / "Tiny-Q4_0.gguf",)


def test_a_record_comes_back_as_it_was_saved() -> None:
    """Spans, counts, and signatures of files that are there and of those that are not."""
    entry = add()
    changed = record()
    changed.wanted = [2, 3, 4]
    changed.is_complete = changed.is_in_place = True
    changed.swarm = "family"
    changed.num_have, changed.audited = 3, 2
    changed.signatures = [FileSignature.of(entry.metainfo_path), None]
    entry.record = changed
    entry.save()
    assert Entry.open(entry.folder).record == changed


def test_adding_twice_keeps_what_is_known() -> None:
    """Progress is not forgotten because somebody names the torrent again."""
    entry = add()
    known = entry.record
    known.is_complete = True
    entry.save()
    again = catalog.add(entry.id, b"other metainfo", record(name="Other"))
    assert again.record == known and again.metainfo_path.read_bytes() == b"metainfo"


def test_files_in_place_are_named_where_they_are(tmp_path: Path) -> None:
    """Absolute paths stay what they are."""
    there = tmp_path / "elsewhere.gguf"
    entry = add()
    entry.record.paths = [str(there)]
    assert entry.model_paths == (there,)


def test_a_torrent_is_found_by_name_and_by_hash() -> None:
    """In any case of letters, with the suffix or without; v1, v2, v2 cut short, or a beginning."""
    entry, other = add(), add("Other-F16", None, OTHER)
    for reference in (
        "Tiny-Q4_0",
        "tiny-q4_0.GGUF",
        V1,
        V2,
        V2.upper(),
        V2[:40],
        V1[:8],
        V2[:8].upper(),
        V2[:50],
    ):
        found = catalog.find(reference)
        assert found is not None and found.id == entry.id, reference
    found = catalog.find("other-f16")
    assert found is not None and found.id == other.id


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "Tiny",
        "Q4_0",
        ".gguf",
        V1[:7],
        V2[:7],
        V1[1:],
        V1 + "0",
        V2 + "0",
        "00000000",
        "../Tiny",
    ],
)
def test_what_nothing_is_called_finds_nothing(reference: str) -> None:
    """No part of a name is a name; fewer than eight digits are not enough of a hash."""
    add("Tiny-Q4_0", V1, None)
    add("Other-F16", None, OTHER)
    assert catalog.find(reference) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"name": "Tiny-Q4_0"}',
        b'{"name":5,"infohash_v1":null,"infohash_v2":null,"num_bytes":5,"paths":[]}',
        bytes(4096),
    ],
)
def test_a_damaged_record_is_named_and_harms_no_other(damage: bytes) -> None:
    """It is an error for who asks for that torrent; all others are found as before."""
    entry, other = add(), add("Other-F16", None, OTHER)
    (entry.folder / "record.json").write_bytes(damage)
    with pytest.raises(IntegrityError) as caught:
        Entry.open(entry.folder)
    assert caught.value.code == "catalog.damaged" and entry.id in caught.value.message
    assert "bmrt rm" in (caught.value.hint or "")
    found = catalog.find("Other-F16")
    assert found is not None and found.id == other.id
    assert catalog.find("Tiny-Q4_0") is None
    with pytest.raises(IntegrityError):
        catalog.find(entry.id)
    assert [one.id for one in catalog.entries()] == [other.id]
    assert len(catalog.ids()) == 2


def test_leftovers_are_no_torrents(home: Path) -> None:
    """Of an interrupted beginning or removal, of other programs, and of people."""
    entry = add()
    folder = home / "torrents"
    for name in (".removed-" + V2[:40] + "-1", "notes", V1[:39], V1 + "x", V1.upper()):
        (folder / name).mkdir()
        (folder / name / "record.json").write_bytes(b"{}")
    (folder / V1).mkdir()  # killed before the record was there
    (folder / OTHER).write_bytes(b"a file")
    assert [e.id for e in catalog.entries()] == [entry.id]


HOLD = """
import sys
from pathlib import Path
from baremetalrt.swarm.catalog import Entry

with Entry.open(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(entry: Entry) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that has the torrent, until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(entry.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_one_process_at_a_time_has_a_torrent() -> None:
    """The other hears who is in the way; whoever only reads does not mind."""
    entry = add()
    assert not entry.is_busy
    with holder(entry):
        assert entry.is_busy
        with pytest.raises(UsageError) as caught, entry.locked():
            pass
        assert caught.value.code == "torrent.busy" and entry.id[:12] in caught.value.message
        assert catalog.find("Tiny-Q4_0") is not None
    assert not entry.is_busy
    with entry.locked():
        assert entry.is_busy


def test_a_killed_process_lets_go() -> None:
    """Nobody has to remove a lock by hand."""
    entry = add()
    with holder(entry) as process:
        process.kill()
        process.wait()
        with entry.locked():
            pass


def test_removing_frees_what_was_fetched_and_spares_what_was_not(tmp_path: Path) -> None:
    """The folder goes, with its data; a file in place stays, byte for byte."""
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    entry = add()
    entry.record.paths, entry.record.is_in_place = [str(mine)], True
    entry.save()
    assert entry.remove() == 0
    assert mine.read_bytes() == b"GGUF" and catalog.entries() == []

    fetched = add()
    (fetched.data_folder / "Tiny-Q4_0.gguf").write_bytes(os.urandom(1 << 20))
    assert fetched.allocated_bytes() >= 1 << 20
    assert fetched.remove() >= 1 << 20
    assert catalog.entries() == [] and list(catalog.torrents_folder().iterdir()) == []


def test_holes_take_no_room() -> None:
    """A file at full length of which little has arrived counts as little."""
    entry = add()
    with (entry.data_folder / "Tiny-Q4_0.gguf").open("wb") as file:
        file.write(os.urandom(4096))
        file.truncate(1 << 30)
    assert entry.allocated_bytes() < 1 << 20


def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing beside it."""
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_durably(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_home_that_cannot_be_written_to_is_said_so(home: Path) -> None:
    """As an error of ours, with what can be done."""
    home.parent.mkdir(exist_ok=True)
    home.write_bytes(b"a file where the folder should be")
    with pytest.raises(CapacityError) as caught:
        add()
    assert caught.value.code == "disk.write" and "BMRT_HOME" in (caught.value.hint or "")


def test_a_signature_tells_when_others_wrote(tmp_path: Path) -> None:
    """Another length, other bytes of the same length with the old time, or another file in its place."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    before = FileSignature.of(path)
    assert before is not None and FileSignature.of(path) == before
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"GGUf")
    os.utime(path, ns=times)
    assert FileSignature.of(path) != before
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(b"GGUF")
    os.utime(copy, ns=times)
    copy.replace(path)
    assert FileSignature.of(path) != before
    path.unlink()
    assert FileSignature.of(path) is None


@pytest.mark.parametrize("text", [V1, V2, V1.upper(), V2.upper()])
def test_hashes_have_forty_or_sixty_four_digits(text: str) -> None:
    assert catalog.is_infohash(text)
    for other in (text[1:], text + "0", "g" + text[1:], f" {text[1:]}", f"{text}\n", ""):
        assert not catalog.is_infohash(other)
