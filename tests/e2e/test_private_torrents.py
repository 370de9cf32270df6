"""Models of a private swarm: members get them, others do not, and both sides say why."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from baremetalrt.membership import authority
from commands import bmrt
from swarm_kit import SeedProcess, join, make_home, pull, run_pull, sha256, write_model

REFUSED_AFTER_S = 4.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of whoever created the swarm."""
    home = make_home(tmp_path_factory.mktemp("founder"))
    assert bmrt("swarm", "create", "home", home=home).returncode == 0
    return home


@pytest.fixture
def seed(model: Path, founder: Path) -> Iterator[SeedProcess]:
    with SeedProcess(model, "--swarm", "home", home=founder) as process:
        yield process


def said_before_giving_up(magnet: str, *arguments: str, home: Path, peer: str) -> str:
    """What a pull that gets no connection says; it waits for peers until it is stopped."""
    with pytest.raises(subprocess.TimeoutExpired) as stopped:
        run_pull(magnet, *arguments, home=home, peers=[peer], timeout_s=REFUSED_AFTER_S)
    return (stopped.value.stderr or b"").decode()


def test_a_member_gets_the_model(
    model: Path, founder: Path, seed: SeedProcess, tmp_path: Path
) -> None:
    """From a link alone, over TLS with certificates on both sides."""
    home = make_home(tmp_path / "home")
    join(founder, home)
    result = pull(seed.magnet, "--swarm", "home", home=home, peers=[seed.peer])
    assert sha256(Path(result["path"])) == sha256(model)


def test_the_model_has_another_info_hash_in_every_swarm(
    model: Path, seed: SeedProcess, tmp_path: Path
) -> None:
    """Members of two swarms, and the public, never meet over the same file."""
    hashes = {seed.torrent["infohash_v2"]}
    for number, swarm in enumerate((None, "other")):
        home = make_home(tmp_path / str(number))
        arguments = []
        if swarm:
            bmrt("swarm", "create", swarm, home=home)
            arguments = ["--swarm", swarm]
        made = bmrt("seed", str(model), "--create-only", "--json", *arguments, home=home)
        hashes.add(json.loads(made.stdout)["infohash_v2"])
    assert len(hashes) == 3


def test_another_authority_is_refused_and_both_sides_say_so(
    model: Path, founder: Path, tmp_path: Path
) -> None:
    """A swarm of the same name that somebody else created is another swarm."""
    home = make_home(tmp_path / "home")
    bmrt("swarm", "create", "home", home=home)
    with SeedProcess(model, "--swarm", "home", home=founder) as seed:
        heard = said_before_giving_up(seed.magnet, "--swarm", "home", home=home, peer=seed.peer)
        told = seed.stop()
    # Which side refuses first, TLS decides; the other hears of it.
    assert "this swarm's authority" in heard
    assert "this swarm's authority" in told
    assert not list((home / "torrents").glob("*/data/*"))


def test_who_shows_no_certificate_is_refused(model: Path, founder: Path, tmp_path: Path) -> None:
    """A stranger with the link connects, and learns nothing, not even what the torrent is."""
    home = make_home(tmp_path / "home")
    with SeedProcess(model, "--swarm", "home", home=founder) as seed:
        # Or else it would not even try.
        link = seed.magnet.partition("&x.swarm=")[0]
        said_before_giving_up(link, home=home, peer=seed.peer)
        told = seed.stop()
    assert "it is no member" in told
    assert not (home / "torrents").exists()


def test_the_swarm_need_not_be_named_where_it_is_known(
    model: Path, founder: Path, seed: SeedProcess, tmp_path: Path
) -> None:
    """The link and the file say which it is, as far as members can tell, and what is here remembers."""
    for number, source in enumerate((seed.magnet, seed.torrent["torrent"])):
        home = make_home(tmp_path / f"home-{number}")
        join(founder, home)
        part = pull(source, "--blocks", "0:1", home=home, peers=[seed.peer])
        assert not part["complete"]
        for again in (source, part["name"]):
            found = pull(again, home=home, peers=[seed.peer])
        assert sha256(Path(found["path"])) == sha256(model)


def test_a_stranger_with_a_link_is_told_what_is_missing(seed: SeedProcess, tmp_path: Path) -> None:
    """Instead of waiting for peers that will not let it in."""
    done = run_pull(seed.magnet, home=make_home(tmp_path / "home"), peers=[seed.peer])
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "swarm.needed"


def test_a_stranger_with_the_torrent_file_is_told_what_is_missing(
    seed: SeedProcess, tmp_path: Path
) -> None:
    """The file says that it is of a private swarm: no packet is sent."""
    done = run_pull(seed.torrent["torrent"], home=make_home(tmp_path / "home"))
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "swarm.needed"


def test_an_expired_certificate_is_refused_here(
    founder: Path, seed: SeedProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent, with a hint of how to renew it."""
    home = make_home(tmp_path / "home")
    monkeypatch.setenv("BMRT_HOME", str(home))
    long_ago = datetime.now(UTC) - timedelta(days=800)
    swarm = authority.create_swarm("home", now=long_ago)
    # As if it had been joined: who created a swarm renews by itself.
    (swarm.folder / "authority.key").unlink()
    done = run_pull(seed.magnet, "--swarm", "home", home=home, peers=[seed.peer])
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "swarm.expired"


def test_a_member_runs_a_private_model_by_name_without_the_swarm(
    model: Path, founder: Path, seed: SeedProcess, tmp_path: Path
) -> None:
    """Once it is here, whole, `ls` lists it with its swarm, and nothing asks for a certificate."""
    home = make_home(tmp_path / "home")
    join(founder, home)
    name = pull(seed.magnet, "--swarm", "home", home=home, peers=[seed.peer])["name"]
    rows = {r["name"]: r for r in json.loads(bmrt("ls", "--json", home=home).stdout)}
    assert (rows[name]["swarm"], rows[name]["here"]) == ("home", "all")


def test_a_folder_is_seeded_whole(model: Path, tmp_path: Path) -> None:
    """Every GGUF file below it, in place: one torrent each."""
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "one.gguf").write_bytes(model.read_bytes())
    (folder / "notes.txt").write_text("not a model")
    made = bmrt("seed", str(folder), "--create-only", "--json", home=make_home(tmp_path / "home"))
    (line,) = made.stdout.splitlines()
    assert json.loads(line)["bytes"] == model.stat().st_size
