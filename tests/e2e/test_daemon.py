"""`bmrt serve` takes part in swarms while it answers."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from openai import OpenAI

from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt, torrents, wait_until
from swarm_kit import LOOPBACK, Seeder, make_home, publish_model, pull, sha256, write_model


@pytest.fixture(scope="module")
def model() -> Path:
    found = default_model()
    assert found is not None
    return found.path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 10 MB: enough for what is only fetched."""
    return write_model(tmp_path_factory.mktemp("small"))


def write_torrent(model: Path, folder: Path) -> Path:
    path = folder / "model.torrent"
    path.write_bytes(publish_model(model).raw)
    return path


def question(client: OpenAI) -> str:
    answer = client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": "What is a torrent?"}],
        max_tokens=12,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


def client_of(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=50, timeout=240)


def test_a_server_answers_with_a_model_that_is_arriving(model: Path, tmp_path: Path) -> None:
    """Started with a torrent and nothing on disk; asked at once; the same answer as from the file."""
    with ServerProcess(str(model), home=make_home(tmp_path / "file")) as server:
        expected = question(client_of(server))
    torrent = write_torrent(model, tmp_path)
    with (
        Seeder(torrent.read_bytes(), model, upload_limit=60_000_000) as seed,
        ServerProcess(str(torrent), "--peer", seed.peer, home=make_home(tmp_path / "h")) as server,
    ):
        assert question(client_of(server)) == expected
        wait_until(lambda: torrents(server.url)["data"][0]["complete"])


def test_a_server_seeds_what_it_has(small: Path, tmp_path: Path) -> None:
    """A model published on this machine is fetched by another from the server."""
    home = make_home(tmp_path / "home")
    made = json.loads(bmrt("seed", str(small), "--create-only", "--json", home=home).stdout)
    with ServerProcess(home=home) as server:
        wait_until(lambda: bool(torrents(server.url)["data"]))
        peer = f"{LOOPBACK}:{torrents(server.url)['port']}"
        other = pull(made["magnet"], home=make_home(tmp_path / "other"), peers=[peer])
    assert sha256(Path(other["path"])) == sha256(small)


def test_a_server_goes_on_with_what_was_begun(small: Path, tmp_path: Path) -> None:
    """A pull was killed; the server fetches the rest in the background."""
    home, torrent = make_home(tmp_path / "home"), write_torrent(small, tmp_path)
    with Seeder(torrent.read_bytes(), small, upload_limit=2_000_000) as seed:
        command = ["pull", str(torrent), "--peer", seed.peer]
        with pytest.raises(subprocess.TimeoutExpired):
            bmrt(*command, home=home, timeout_s=2.5)
        # The seed is remembered: nobody names it again.
        with ServerProcess(home=home) as server:
            wait_until(lambda: [t["complete"] for t in torrents(server.url)["data"]] == [True])
    (fetched,) = (home / "torrents").glob("*/data/*.gguf")
    assert sha256(fetched) == sha256(small)


def test_a_killed_server_loses_at_most_what_was_in_flight(small: Path, tmp_path: Path) -> None:
    """`kill -9` while it fetches: what is on disk is believed only after its hash, and is not lost."""
    home, torrent = make_home(tmp_path / "home"), write_torrent(small, tmp_path)
    with Seeder(torrent.read_bytes(), small, upload_limit=4_000_000) as seed:
        server = ServerProcess(str(torrent), "--peer", seed.peer, home=home)
        seed.wait_uploaded(small.stat().st_size // 2)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.communicate()
        before = seed.uploaded_bytes
        result = pull(torrent, home=home, peers=[seed.peer])
        assert before + result["downloaded_bytes"] < small.stat().st_size + 4_000_000
        assert result["bad_pieces"] == 0
    assert sha256(Path(result["path"])) == sha256(small)


def test_metered_means_that_nothing_happens_by_itself(small: Path, tmp_path: Path) -> None:
    """No torrent runs; once the settings say otherwise, and SIGHUP that they be read, they do."""
    home = make_home(tmp_path / "home", metered=True)
    bmrt("seed", str(small), "--create-only", home=home)
    with ServerProcess(home=home) as server:
        time.sleep(1)  # longer than a start takes
        assert torrents(server.url) == {"object": "list", "port": 0, "data": []}
        make_home(home, metered=False)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(torrents(server.url)["data"]) == 1)
        make_home(home, metered=True)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: torrents(server.url)["data"] == [])


def test_settings_that_make_no_sense_change_nothing(small: Path, tmp_path: Path) -> None:
    """The server goes on with those it has."""
    home = make_home(tmp_path / "home")
    bmrt("seed", str(small), "--create-only", home=home)
    with ServerProcess(home=home) as server:
        wait_until(lambda: len(torrents(server.url)["data"]) == 1)
        (home / "config.toml").write_text("[swarm]\nmeterd = true\n")
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert len(torrents(server.url)["data"]) == 1


def test_the_disk_budget_is_kept(small: Path, tmp_path: Path) -> None:
    """What was fetched is evicted block by block, until it fits; the rest is still seeded."""
    home, torrent = make_home(tmp_path / "home"), write_torrent(small, tmp_path)
    with Seeder(torrent.read_bytes(), small) as seed:
        pull(torrent, home=home, peers=[seed.peer])
    make_home(home, disk_budget="6 MB")
    (folder,) = (home / "torrents").iterdir()
    with ServerProcess(home=home) as server:
        used = lambda: sum(p.stat().st_blocks * 512 for p in folder.glob("data/*"))  # noqa: E731
        wait_until(lambda: used() < 6_000_000)
        wait_until(lambda: len(torrents(server.url)["data"]) == 1)
        (row,) = torrents(server.url)["data"]
        assert 0 < row["have_bytes"] < 6_000_000
        assert not row["complete"]


def test_a_full_disk_stops_a_fetch_until_there_is_room(small: Path, tmp_path: Path) -> None:
    """It says so, keeps what it has, goes on by itself, and ends with the right bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        home, torrent = make_home(disk / "home"), write_torrent(small, tmp_path)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(96 * 1024 * 1024 - small.stat().st_size // 2))
        with (
            Seeder(torrent.read_bytes(), small) as seed,
            ServerProcess(str(torrent), "--peer", seed.peer, home=home) as server,
        ):
            wait_until(
                lambda: bool(
                    torrents(server.url)["data"] and torrents(server.url)["data"][0]["error"]
                )
            )
            assert "space" in torrents(server.url)["data"][0]["error"].lower()
            ballast.unlink()
            # While it starts again, it is not listed.
            wait_until(lambda: any(t["complete"] for t in torrents(server.url)["data"]))
        (fetched,) = (home / "torrents").glob("*/data/*.gguf")
        assert sha256(fetched) == sha256(small)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
