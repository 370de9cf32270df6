"""`bmrt run` on a model that is fetched meanwhile, on one that was evicted, on one that rotted."""

import json
import subprocess
from pathlib import Path
from typing import Any

import libtorrent as lt
import msgspec
import pytest

from baremetalrt.swarm.catalog import Entry, FileSignature
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.weights.store import default_model
from commands import BMRT, bmrt, environment
from swarm_kit import Seeder, SeedProcess, make_home, publish_model, sha256

QUESTION = ("What is a torrent, in two sentences?", "-t", "0", "-n", "16", "--json")


@pytest.fixture(scope="module")
def model() -> Path:
    found = default_model()
    assert found is not None
    return found.path


@pytest.fixture(scope="module")
def torrent(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torrent") / "model.torrent"
    path.write_bytes(publish_model(model).raw)
    return path


@pytest.fixture(scope="module")
def tokens(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What the file itself answers."""
    home = make_home(tmp_path_factory.mktemp("resident"))
    return ask(model, home=home)["tokens"]


def ask(reference: object, *arguments: str, home: Path) -> dict[str, Any]:
    done = bmrt("run", str(reference), *QUESTION, *arguments, home=home)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"stderr": done.stderr}


def only_torrent(home: Path) -> Entry:
    (folder,) = (home / "torrents").iterdir()
    return Entry.open(folder)


def data(home: Path) -> Path:
    return only_torrent(home).model_paths[0]


def test_a_magnet_link_answers_like_the_file(
    model: Path, tokens: list[int], tmp_path: Path
) -> None:
    """From nothing but a link: the same tokens as from the resident model, and the file, whole."""
    with SeedProcess(model, home=make_home(tmp_path / "seed")) as seed:
        home = make_home(tmp_path / "home")
        assert ask(seed.magnet, "--peer", seed.peer, home=home)["tokens"] == tokens
    assert sha256(data(home)) == sha256(model)


def test_a_magnet_link_ends_as_the_whole_torrent(model: Path, tmp_path: Path) -> None:
    """The v2 hashes of pieces, which a link leaves out, are kept once they are known: to give them on."""
    with SeedProcess(model, home=make_home(tmp_path / "seed")) as seed:
        home = make_home(tmp_path / "home")
        bmrt("pull", seed.magnet, "--peer", seed.peer, home=home)
        published = lt.bdecode(Path(seed.torrent["torrent"]).read_bytes())
    assert lt.bdecode(only_torrent(home).metainfo_path.read_bytes()) == published


def test_the_second_run_needs_nobody(
    model: Path, torrent: Path, tokens: list[int], tmp_path: Path
) -> None:
    """What was fetched is a model like others: by name, without a peer."""
    home = make_home(tmp_path / "home")
    with Seeder(torrent.read_bytes(), model) as seed:
        ask(torrent, "--peer", seed.peer, home=home)
    name = only_torrent(home).record.name
    assert ask(name, home=home)["tokens"] == tokens
    assert name in bmrt("ls", home=home).stdout


def test_a_killed_run_goes_on_where_it_was(
    model: Path, torrent: Path, tokens: list[int], tmp_path: Path
) -> None:
    """`kill -9` in the middle: the second run fetches what is missing, and answers the same."""
    home, half = make_home(tmp_path / "home"), model.stat().st_size // 2
    with Seeder(torrent.read_bytes(), model, upload_limit=40_000_000) as seed:
        command = [*BMRT, "run", str(torrent), *QUESTION, "--peer", seed.peer]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
        )
        seed.wait_uploaded(half)
        process.kill()
        assert process.communicate()[0] == b""
        before = seed.uploaded_bytes
    with Seeder(torrent.read_bytes(), model) as seed:
        assert ask(torrent, "--peer", seed.peer, home=home)["tokens"] == tokens
        # What was on its way when the process died has to come twice.
        assert before + seed.uploaded_bytes < model.stat().st_size + 16_000_000
    assert sha256(data(home)) == sha256(model)


def test_evicted_blocks_come_back_when_they_are_needed(
    model: Path, torrent: Path, tokens: list[int], tmp_path: Path
) -> None:
    """`bmrt gc` gives disk space back; the next run fetches what is missing and no more."""
    home = make_home(tmp_path / "home")
    with Seeder(torrent.read_bytes(), model) as seed:
        ask(torrent, "--peer", seed.peer, home=home)
    entry = only_torrent(home)
    whole = entry.allocated_bytes()
    collected = json.loads(bmrt("gc", "--budget", "60MB", "--json", home=home).stdout)
    assert entry.allocated_bytes() < 62_000_000 < whole
    assert len(collected["evicted"][entry.record.name]) > 10
    shown = json.loads(bmrt("show", entry.record.name, "--json", home=home).stdout)
    here = set(shown["torrent"]["blocks_here"])
    assert here | set(collected["evicted"][entry.record.name]) == set(range(30))
    assert not here & set(collected["evicted"][entry.record.name])
    with Seeder(torrent.read_bytes(), model) as seed:
        assert ask(entry.record.name, "--peer", seed.peer, home=home)["tokens"] == tokens
        assert seed.uploaded_bytes < whole - 50_000_000
    assert sha256(data(home)) == sha256(model)


def test_an_evicted_model_seeds_what_it_still_has(
    model: Path, torrent: Path, tmp_path: Path
) -> None:
    """It claims no piece that is gone: together with a peer that has just those, it serves the rest."""
    home = make_home(tmp_path / "home")
    with Seeder(torrent.read_bytes(), model) as seed:
        bmrt("pull", str(torrent), "--peer", seed.peer, home=home)
    bmrt("gc", "--budget", "60MB", home=home)
    entry = only_torrent(home)
    gone = sorted(set(range(376)) - StoredTorrent.open(entry).resumed)
    assert len(gone) > 100
    other = make_home(tmp_path / "other")
    with (
        SeedProcess(entry.record.name, home=home) as partial,
        Seeder(torrent.read_bytes(), model, pieces=gone) as rest,
    ):
        done = bmrt(
            "pull", str(torrent), "--peer", partial.peer, "--peer", rest.peer, "--json", home=other
        )
        result = json.loads(done.stdout)
    assert (result["bad_pieces"], result["banned"]) == (0, [])
    assert sha256(data(other)) == sha256(model)
    assert only_torrent(home).record.is_complete is False


def test_a_file_that_somebody_wrote_to_is_checked_before_it_computes(
    model: Path, torrent: Path, tokens: list[int], tmp_path: Path
) -> None:
    """The piece that changed is fetched again, and the answer is the right one."""
    home = make_home(tmp_path / "home")
    with Seeder(torrent.read_bytes(), model) as seed:
        ask(torrent, "--peer", seed.peer, home=home)
        with data(home).open("r+b") as file:
            file.seek(50_000_000)
            file.write(b"rot")
        before = seed.uploaded_bytes
        again = ask(only_torrent(home).record.name, "--peer", seed.peer, home=home)
        assert again["tokens"] == tokens
        assert 0 < seed.uploaded_bytes - before < 1_000_000
    assert sha256(data(home)) == sha256(model)


def test_rot_that_leaves_no_trace_is_found_by_the_audit(
    model: Path, torrent: Path, tokens: list[int], tmp_path: Path
) -> None:
    """No time and no size has changed: a part is hashed at every run, and what is bad is forgotten."""
    home = make_home(tmp_path / "home")
    with Seeder(torrent.read_bytes(), model) as seed:
        ask(torrent, "--peer", seed.peer, home=home)
    entry = only_torrent(home)
    with data(home).open("r+b") as file:
        file.seek(10_000_000)
        file.write(b"rot")
    # The system cannot be made to forget that this test wrote: what is remembered is changed instead.
    entry.record.signatures = [FileSignature.of(data(home))]
    entry.save()
    assert "1 pieces" in ask(entry.record.name, home=home)["stderr"]
    assert not only_torrent(home).record.is_complete
    with Seeder(torrent.read_bytes(), model) as seed:
        assert ask(entry.record.name, "--peer", seed.peer, home=home)["tokens"] == tokens
    assert sha256(data(home)) == sha256(model)


def test_every_part_of_a_model_is_audited_in_turn(
    model: Path, torrent: Path, tmp_path: Path
) -> None:
    """The second run looks at what the first did not."""
    home = make_home(tmp_path / "home")
    with Seeder(torrent.read_bytes(), model) as seed:
        ask(torrent, "--peer", seed.peer, home=home)
    entry = only_torrent(home)
    seen = [entry.record.audited]
    for _ in range(2):
        ask(entry.record.name, home=home)
        seen.append(only_torrent(home).record.audited)
    assert seen == [0, 256, 0]


def test_a_file_in_place_that_changed_is_not_seeded(model: Path, tmp_path: Path) -> None:
    """It is no longer what was published: a clear error, and the file is left as it is."""
    home, copy = make_home(tmp_path / "home"), tmp_path / "mine.gguf"
    copy.write_bytes(model.read_bytes())
    name = json.loads(bmrt("seed", str(copy), "--create-only", "--json", home=home).stdout)["name"]
    with copy.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"mine")
    changed = sha256(copy)
    done = bmrt("seed", name, home=home)
    assert done.returncode == 3 and "no longer the file that was published" in done.stderr
    assert sha256(copy) == changed


def test_a_seeded_file_is_never_written_to(model: Path, tmp_path: Path) -> None:
    """Read-only, times untouched: it belongs to another program."""
    home, copy = make_home(tmp_path / "home"), tmp_path / "theirs.gguf"
    copy.write_bytes(model.read_bytes())
    copy.chmod(0o444)
    before = msgspec.json.encode(FileSignature.of(copy))
    with SeedProcess(copy, home=home) as seed:
        other = make_home(tmp_path / "other")
        assert bmrt("pull", seed.magnet, "--peer", seed.peer, home=other).returncode == 0
    assert msgspec.json.encode(FileSignature.of(copy)) == before


def test_rm_forgets_a_torrent_and_spares_files_in_place(model: Path, tmp_path: Path) -> None:
    """Of a file seeded in place only the torrent goes; of a fetched one, everything."""
    home, copy = make_home(tmp_path / "home"), tmp_path / "theirs.gguf"
    copy.write_bytes(model.read_bytes())
    made = json.loads(bmrt("seed", str(copy), "--create-only", "--json", home=home).stdout)
    assert bmrt("rm", made["name"], home=home).returncode == 0
    assert copy.exists() and list((home / "torrents").iterdir()) == []
    with SeedProcess(copy, home=make_home(tmp_path / "seed")) as seed:
        bmrt("pull", seed.magnet, "--peer", seed.peer, home=home)
    done = json.loads(bmrt("rm", made["name"], "--json", home=home).stdout)
    assert done[0]["freed_bytes"] >= copy.stat().st_size
    assert list((home / "torrents").iterdir()) == []
