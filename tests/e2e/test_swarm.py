"""Models that travel: `bmrt seed` and `bmrt pull` as processes, on the loopback address.

Every state at the end is compared with the file that was published, by hash or byte for byte.
"""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.core.units import MIB
from baremetalrt.node.naming import find_whole_model
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.session_settings import parse_peer
from baremetalrt.weights.gguf import GGUFFile
from commands import bmrt
from peers_kit import at_home
from swarm_kit import (
    LOOPBACK,
    Mirror,
    OddPeer,
    PullProcess,
    Seeder,
    SeedProcess,
    corrupted,
    free_ports,
    hang_up,
    make_home,
    publish_model,
    pull,
    run_pull,
    say_nothing,
    sha256,
    talk_nonsense,
    write_model,
)
from tiny_models import TinyModel, write

MB = 1_000_000
# What may be on its way to a process that is killed: in the sockets, or not yet a whole piece on disk.
IN_FLIGHT_BYTES = 3 * MIB
# What may come unasked while the header is awaited, of a seed that sends 4 MB/s.
SURPLUS_BYTES = 3 * MIB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that travels."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def metainfo(model: Path) -> Metainfo:
    """Its torrent."""
    return publish_model(model)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of whoever pulls."""
    return make_home(tmp_path / "home")


@pytest.fixture
def online_home(tmp_path: Path) -> Path:
    """One that may use mirrors and trackers; still nobody is told of it, and it looks for nobody."""
    return make_home(tmp_path / "online", offline=False, local_hosts=[LOOPBACK])


def is_whole(result: dict[str, Any], model: Path) -> bool:
    return result["complete"] is True and sha256(Path(result["path"])) == sha256(model)


def torrent_file(path: Path, metainfo: Metainfo, *web_seeds: str) -> Path:
    """A `.torrent` file with these mirrors."""
    values: dict[bytes, Any] = lt.bdecode(metainfo.raw)
    if web_seeds:
        values[b"url-list"] = [url.encode() for url in web_seeds]
    path.write_bytes(lt.bencode(values))
    return path


# How a model is named


def test_a_model_is_pulled_by_link_by_file_and_by_hash(model: Path, tmp_path: Path) -> None:
    """Whatever names it, from one seed that was started with the file alone, each byte once."""
    with SeedProcess(model, home=make_home(tmp_path / "seed")) as seed:
        torrent = seed.torrent
        names = [seed.magnet, torrent["torrent"], torrent["infohash_v1"], torrent["infohash_v2"]]
        for number, name in enumerate(names):
            home = make_home(tmp_path / f"home-{number}")
            found = pull(name, home=home, peers=[seed.peer])
            assert is_whole(found, model)
            assert Path(found["path"]).is_relative_to(home)
            assert found["downloaded_bytes"] == model.stat().st_size == torrent["bytes"]
            assert (found["bad_pieces"], found["banned"], found["wasted_bytes"]) == (0, [], 0)


@pytest.fixture(scope="module")
def several(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A folder with two models and what looks at pictures for one, and its v1 torrent."""
    folder = tmp_path_factory.mktemp("several") / "tiny"
    folder.mkdir()
    files = {"tiny-Q4_0.gguf": model, "mmproj-tiny-F16.gguf": write_tiny(folder.parent / "a.gguf")}
    files["tiny-Q8_0.gguf"] = write_tiny(folder.parent / "b.gguf")
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    entries = [lt.create_file_entry(f"tiny/{n}", p.stat().st_size) for n, p in files.items()]
    made = lt.create_torrent(entries, 256 * 1024, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(folder.parent))
    return folder, bytes(lt.bencode(made.generate()))


def write_tiny(path: Path) -> Path:
    return write(TinyModel("llama"), path)


@pytest.mark.parametrize("by_link", [False, True])
def test_one_model_of_several_in_a_torrent_is_fetched(
    by_link: bool, several: tuple[Path, bytes], model: Path, home: Path, tmp_path: Path
) -> None:
    """The one that is chosen, by option or behind a colon, and hardly a byte of the others.

    Without a choice they are listed, and nothing is remembered. Another one is not put over it.
    """
    folder, raw = several
    file = tmp_path / "tiny.torrent"
    file.write_bytes(raw)
    info = lt.load_torrent_buffer(raw).ti
    assert info is not None
    source = f"magnet:?xt=urn:btih:{info.info_hashes().v1}" if by_link else str(file)
    with Seeder(raw, folder) as seed:
        unclear = run_pull(source, home=home, peers=[seed.peer])
        error = json.loads(unclear.stdout)["error"]
        assert unclear.returncode == 2 and error["code"] == "torrent.several-models"
        assert all(path.stem in error["message"] for path in folder.iterdir())
        assert not (home / "torrents").exists()
        found = pull(source, "--file", "Q4_0", home=home, peers=[seed.peer])
        assert is_whole(found, model) and found["name"] == "tiny-Q4_0"
        assert found["downloaded_bytes"] < model.stat().st_size + 2 * 256 * 1024
        other = run_pull(source, "--file", "Q8_0", home=home, peers=[seed.peer])
        assert json.loads(other.stdout)["error"]["code"] == "torrent.other-model"
    # It is one like others, known by its name and by that of its torrent; who has it now seeds it.
    shown = bmrt("show", "tiny:Q4_0", "--json", home=home)
    assert json.loads(shown.stdout)["complete"] is True, shown.stderr
    other_home = make_home(tmp_path / "other")
    colon = f"{info.info_hashes().v1}:q4_0" if by_link else f"{file}:q4_0"
    with SeedProcess("tiny-Q4_0", home=home) as again:
        second = pull(colon, home=other_home, peers=[again.peer])
    assert is_whole(second, model)


def test_a_model_that_was_pulled_is_one_like_others(
    metainfo: Metainfo, model: Path, home: Path
) -> None:
    """Whoever tunes or measures names it; while a part is missing, they are told what to type."""
    with Seeder(metainfo.raw, model) as seed, at_home(home):
        pull(metainfo.magnet, "--blocks", "0:1", home=home, peers=[seed.peer])
        for name in (metainfo.name, metainfo.magnet):
            with pytest.raises(UsageError) as caught:
                find_whole_model(name)
            assert caught.value.code == "model.arriving" and "bmrt pull" in str(caught.value.hint)
        whole = pull(metainfo.name, home=home, peers=[seed.peer])
        assert find_whole_model(metainfo.name).path == Path(whole["path"])


def test_what_is_here_is_not_fetched_again(metainfo: Metainfo, model: Path, home: Path) -> None:
    """By any of its names, with nobody there to ask."""
    with Seeder(metainfo.raw, model) as seed:
        first = pull(metainfo.magnet, home=home, peers=[seed.peer])
    for name in (metainfo.magnet, metainfo.name, f"{metainfo.name}.gguf", metainfo.id[:12]):
        again = pull(name, home=home)
        assert again["downloaded_bytes"] == 0 and again["path"] == first["path"]
        assert is_whole(again, model)


def test_seeding_leaves_the_file_as_it_is(model: Path, tmp_path: Path) -> None:
    """In place, under its own name, without a copy; a torrent and a record is all that is kept."""
    before = (sha256(model), model.stat().st_mtime_ns, sorted(model.parent.iterdir()))
    home = make_home(tmp_path / "seed")
    with SeedProcess(model, home=home) as seed:
        pull(seed.magnet, home=make_home(tmp_path / "home"), peers=[seed.peer])
    assert (sha256(model), model.stat().st_mtime_ns, sorted(model.parent.iterdir())) == before
    assert sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) < MIB


def test_a_model_that_was_pulled_is_seeded_by_name(
    metainfo: Metainfo, model: Path, tmp_path: Path
) -> None:
    """From one home to the next, and from there to a third."""
    first, second = make_home(tmp_path / "first"), make_home(tmp_path / "second")
    with Seeder(metainfo.raw, model) as origin:
        pull(metainfo.magnet, home=first, peers=[origin.peer])
    with SeedProcess(metainfo.name, home=first) as seed:
        assert seed.torrent["infohash_v2"] == metainfo.infohash_v2
        assert is_whole(pull(seed.magnet, home=second, peers=[seed.peer]), model)


def test_a_file_that_is_no_longer_the_one_that_was_published_is_not_seeded(
    model: Path, tmp_path: Path
) -> None:
    """Even where its length and its time are the same."""
    home, copy = make_home(tmp_path / "seed"), tmp_path / "mine.gguf"
    shutil.copy(model, copy)
    with SeedProcess(copy, home=home) as seed:
        name = seed.torrent["name"]
    times = (copy.stat().st_atime_ns, copy.stat().st_mtime_ns)
    with copy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(copy, ns=times)
    refused = bmrt("seed", name, "--json", home=home)
    assert refused.returncode == 3 and "Traceback" not in refused.stderr
    assert '"file.changed"' in refused.stdout


def other_torrent(model: Path, folder: Path, kind: str) -> tuple[bytes, Path]:
    """The model as other programs publish it, and where a seed finds it."""
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only}.get(kind, 0)
    entries = [lt.create_file_entry("their name.gguf", model.stat().st_size)]
    where = folder / "theirs"
    where.mkdir()
    (where / "their name.gguf").symlink_to(model)
    if kind == "folder":
        (where / "README.md").write_bytes(b"# Read me\n" * 1000)
        entries = [
            lt.create_file_entry("theirs/README.md", 10_000),
            lt.create_file_entry("theirs/their name.gguf", model.stat().st_size),
        ]
    torrent = lt.create_torrent(entries, MIB, flags)
    lt.set_piece_hashes(torrent, str(folder if kind == "folder" else where))
    return lt.bencode(torrent.generate()), where if kind == "folder" else model


@pytest.mark.parametrize("kind", ["v1", "v2", "folder"])
def test_torrents_of_other_programs_are_pulled(
    kind: str, model: Path, home: Path, tmp_path: Path
) -> None:
    """The old format alone, the new one alone, and a model in a folder with something to read."""
    raw, where = other_torrent(model, tmp_path, kind)
    path = tmp_path / "their.torrent"
    path.write_bytes(raw)
    with Seeder(raw, where) as seed:
        found = pull(path, home=home, peers=[seed.peer])
    assert is_whole(found, model)
    assert is_whole(pull(found["name"], home=home), model)


# From several


def test_three_seeds_are_used_together(metainfo: Metainfo, model: Path, home: Path) -> None:
    """Each sends a good part of the model, and together little more than the model."""
    size = model.stat().st_size
    with ExitStack() as stack:
        seeds = [
            stack.enter_context(Seeder(metainfo.raw, model, upload_limit=6 * MB)) for _ in range(3)
        ]
        found = pull(metainfo.magnet, home=home, peers=[seed.peer for seed in seeds])
        sent = [seed.uploaded_bytes for seed in seeds]
    assert is_whole(found, model)
    assert min(sent) > size / 8
    assert size <= sum(sent) < 1.1 * size


def test_two_halves_make_a_whole(metainfo: Metainfo, model: Path, tmp_path: Path) -> None:
    """Two who each have half of the blocks are enough for a third."""
    homes = [make_home(tmp_path / name) for name in ("lower", "upper")]
    with Seeder(metainfo.raw, model, upload_limit=8 * MB) as seed:
        for blocks, home in zip(("0:4", "4:8"), homes, strict=True):
            half = pull(metainfo.magnet, "--blocks", blocks, home=home, peers=[seed.peer])
            assert half["complete"] is False
            assert half["downloaded_bytes"] < 0.9 * model.stat().st_size
    with ExitStack() as stack:
        seeds = [stack.enter_context(SeedProcess(metainfo.name, home=home)) for home in homes]
        home = make_home(tmp_path / "whole")
        found = pull(metainfo.magnet, home=home, peers=[seed.peer for seed in seeds])
    assert is_whole(found, model) and found["bad_pieces"] == 0


def test_a_slow_seed_holds_nobody_up(
    metainfo: Metainfo, model: Path, home: Path, tmp_path: Path
) -> None:
    """What it would have sent comes from the quick one; it would take minutes."""
    slow_home = make_home(tmp_path / "slow")
    with (
        SeedProcess(model, "--limit-up", "20KB/s", home=slow_home) as slow,
        Seeder(metainfo.raw, model, upload_limit=20 * MB) as quick,
    ):
        found = pull(metainfo.magnet, home=home, peers=[slow.peer, quick.peer])
        assert quick.uploaded_bytes > 0.95 * model.stat().st_size
    assert is_whole(found, model) and found["banned"] == []


def test_what_is_no_peer_at_all_does_no_harm(metainfo: Metainfo, model: Path, home: Path) -> None:
    """A port that takes everything, one that talks nonsense, one that hangs up."""
    with ExitStack() as stack:
        odd = [
            stack.enter_context(OddPeer(serve)) for serve in (say_nothing, talk_nonsense, hang_up)
        ]
        seed = stack.enter_context(Seeder(metainfo.raw, model, upload_limit=20 * MB))
        found = pull(metainfo.magnet, home=home, peers=[*(o.peer for o in odd), seed.peer])
        assert all(o.was_called.is_set() for o in odd)
    assert is_whole(found, model) and found["bad_pieces"] == 0


def test_a_liar_is_banned_and_the_result_is_right(
    metainfo: Metainfo, model: Path, home: Path, tmp_path: Path
) -> None:
    """Every block of the liar's is bad; the ban names who it was.

    On a busy machine libtorrent may ban the honest one with it, for pieces mixed of both.
    """
    bad = corrupted(model, tmp_path / "corrupted")
    with (
        Seeder(metainfo.raw, bad, upload_limit=12 * MB) as liar,
        SeedProcess(model, "--limit-up", "12MB/s", home=make_home(tmp_path / "seed")) as honest,
    ):
        found = pull(metainfo.magnet, home=home, peers=[liar.peer, honest.peer])
        assert liar.uploaded_bytes > 0
        assert is_whole(found, model)
        assert found["bad_pieces"] > 0 and found["wasted_bytes"] > 0
        assert liar.peer in found["banned"]


def test_with_more_liars_than_honest_seeds_the_result_is_right(
    metainfo: Metainfo, model: Path, home: Path, tmp_path: Path
) -> None:
    """Pieces mixed from three liars and one who is honest."""
    bad = corrupted(model, tmp_path / "corrupted")
    with ExitStack() as stack:
        liars = [
            stack.enter_context(Seeder(metainfo.raw, bad, upload_limit=12 * MB)) for _ in range(3)
        ]
        honest = stack.enter_context(Seeder(metainfo.raw, model, upload_limit=12 * MB))
        peers = [*(liar.peer for liar in liars), honest.peer]
        found = pull(metainfo.magnet, home=home, peers=peers)
    assert is_whole(found, model)
    assert set(found["banned"]) & {liar.peer for liar in liars}


def test_an_honest_seed_that_was_banned_is_asked_again(
    metainfo: Metainfo, model: Path, home: Path
) -> None:
    """When nobody else is there: it may have been banned with one that lied, or libtorrent lost count."""
    with Seeder(metainfo.raw, model, upload_limit=6 * MB) as seed:
        with PullProcess(metainfo.magnet, home=home, peers=[seed.peer]) as process:
            seed.wait_uploaded(6 * MB)
            process.kill()
        (path,) = home.rglob("resume")
        resume = lt.read_resume_data(path.read_bytes())
        resume.banned_peers = [parse_peer(seed.peer, offline=True)]
        path.write_bytes(lt.write_resume_data_buf(resume))
        found = pull(metainfo.magnet, home=home, peers=[seed.peer])
    assert is_whole(found, model)


# Interruptions


def test_a_killed_pull_goes_on_where_it_was(metainfo: Metainfo, model: Path, home: Path) -> None:
    """What had arrived is not fetched again; only what was on its way is lost."""
    size = model.stat().st_size
    with Seeder(metainfo.raw, model, upload_limit=6 * MB) as seed:
        with PullProcess(metainfo.magnet, home=home, peers=[seed.peer]) as process:
            seed.wait_uploaded(6 * MB)
            process.kill()
        sent = seed.uploaded_bytes
        assert sent < 0.9 * size
        found = pull(metainfo.magnet, home=home, peers=[seed.peer])
    assert is_whole(found, model)
    assert found["downloaded_bytes"] <= size - sent + IN_FLIGHT_BYTES


def test_bytes_that_changed_on_disk_are_fetched_again(
    metainfo: Metainfo, model: Path, home: Path
) -> None:
    """One byte, under the old length and time: that piece, and no other."""
    with Seeder(metainfo.raw, model) as seed:
        path = Path(pull(metainfo.magnet, home=home, peers=[seed.peer])["path"])
        times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        with path.open("r+b") as file:
            file.seek(5 * MB)
            byte = file.read(1)[0]
            file.seek(5 * MB)
            file.write(bytes([byte ^ 1]))
        os.utime(path, ns=times)
        found = pull(metainfo.magnet, home=home, peers=[seed.peer])
    assert is_whole(found, model)
    assert found["downloaded_bytes"] == metainfo.pieces.piece_bytes


def test_seeds_may_come_and_go(metainfo: Metainfo, model: Path, tmp_path: Path) -> None:
    """Killed, stopped and started while it runs, in an order drawn by lot; all of it arrives."""
    rng = random.Random(11)
    own_port, *ports = free_ports(4)
    home = make_home(tmp_path / "home")
    homes = {port: make_home(tmp_path / f"seed-{port}") for port in ports}
    seeds: dict[int, SeedProcess] = {}
    ends = [SeedProcess.kill, SeedProcess.stop, SeedProcess.kill]
    rng.shuffle(ends)

    def start(port: int, rate: str) -> None:
        """Seeds call whom they know, as those do who were here before."""
        options = ("--swarm-port", str(port), "--limit-up", rate)
        caller = ("--peer", f"127.0.0.1:{own_port}")
        seeds[port] = SeedProcess(model, *options, *caller, home=homes[port])

    with ExitStack() as stack:
        stack.callback(lambda: [seed.stop() for seed in seeds.values()])
        start(ports[0], "1MB/s")
        process = stack.enter_context(
            PullProcess(
                metainfo.magnet,
                *("--swarm-port", str(own_port)),
                home=home,
                peers=[f"127.0.0.1:{port}" for port in ports],
            )
        )
        for fraction in process.progress():
            assert fraction < 1, "it was over before the seeds were"
            port = rng.choice(ports)
            if port not in seeds:
                start(port, "1MB/s")
            elif fraction:
                ends.pop()(seeds.pop(port))
                if not ends:
                    break
        for port in ports:
            if port not in seeds:
                start(port, "20MB/s")
        found = process.result()
    assert is_whole(found, model) and found["banned"] == []


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """A file system of this size; what it gives makes it larger. Skips where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if mounted.returncode:
        pytest.skip("file systems may not be mounted here")

    def resize(num_bytes: int) -> None:
        remount = ["mount", "-o", f"remount,size={num_bytes}", str(folder)]
        subprocess.run(remount, check=True, capture_output=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def test_a_full_disk_is_said_and_the_pull_goes_on_once_there_is_room(
    metainfo: Metainfo, model: Path, tmp_path: Path
) -> None:
    """A clear error with a hint; what had arrived is kept."""
    disk = tmp_path / "disk"
    with (
        small_disk(disk, 5 * MIB) as resize,
        Seeder(metainfo.raw, model, upload_limit=30 * MB) as seed,
    ):
        make_home(disk)
        full = run_pull(metainfo.magnet, home=disk, peers=[seed.peer])
        assert full.returncode == 4, full.stdout + full.stderr
        error = json.loads(full.stdout)["error"]
        assert error["code"] == "disk.full" and "make room" in error["hint"]
        assert full.stderr.count("error: ") == 1 and "Traceback" not in full.stderr
        resize(64 * MIB)
        found = pull(metainfo.magnet, home=disk, peers=[seed.peer])
        assert is_whole(found, model)
        assert found["downloaded_bytes"] < model.stat().st_size - 2 * MIB
    lines = full.stderr.splitlines()
    assert len(set(lines)) == len(lines)  # said once


# Spans


def needed_pieces(path: Path, metainfo: Metainfo, span: BlockSpan) -> frozenset[int]:
    """Header, blocks, and at an end of the model the embedding or the head: whole pieces of them."""
    file = GGUFFile.open(path)
    ranges = [ByteRange(0, 0, file.data_offsets[0])]
    for name, tensor in file.tensors.items():
        _, _, rest = name.partition("blk.")
        if rest:
            is_needed = int(rest.partition(".")[0]) in span
        elif name.startswith("token_embd"):
            is_needed = span.start == 0
        else:
            is_needed = span.end == len(file.blocks)
        if is_needed:
            ranges.append(tensor.byte_range)
    return metainfo.pieces.pieces(ranges)


@pytest.mark.parametrize("span", [BlockSpan(0, 1), BlockSpan(3, 5), BlockSpan(7, 8)], ids=str)
def test_a_span_brings_its_blocks_and_little_else(
    span: BlockSpan, metainfo: Metainfo, model: Path, home: Path
) -> None:
    """Header, blocks, embedding or head, rounded to pieces; a little more while the header came."""
    pieces = needed_pieces(model, metainfo, span)
    starts_and_ends = [metainfo.pieces.piece_range(piece) for piece in pieces]
    num_bytes = sum(end - start for start, end in starts_and_ends)
    with Seeder(metainfo.raw, model, upload_limit=4 * MB) as seed:
        found = pull(metainfo.magnet, "--blocks", str(span), home=home, peers=[seed.peer])
        assert found["bytes"] == num_bytes and found["complete"] is False
        assert num_bytes <= found["downloaded_bytes"] <= num_bytes + SURPLUS_BYTES
        path = Path(found["path"])
        assert path.stat().st_size == model.stat().st_size
        assert 512 * path.stat().st_blocks <= num_bytes + SURPLUS_BYTES
        data, original = path.read_bytes(), model.read_bytes()
        assert all(data[start:end] == original[start:end] for start, end in starts_and_ends)
    with Seeder(metainfo.raw, model) as seed:
        rest = pull(metainfo.name, home=home, peers=[seed.peer])
    assert is_whole(rest, model)
    assert rest["downloaded_bytes"] <= model.stat().st_size - num_bytes


def test_a_slow_peer_does_not_make_a_span_the_whole(
    metainfo: Metainfo, model: Path, home: Path
) -> None:
    """While it sits on a part of the header, the quick one is not asked for all the rest."""
    span = BlockSpan(2, 4)
    with (
        Seeder(metainfo.raw, model, upload_limit=3_000) as slow,
        Seeder(metainfo.raw, model, upload_limit=10 * MB) as quick,
    ):
        peers = [slow.peer, quick.peer]
        found = pull(metainfo.magnet, "--blocks", str(span), home=home, peers=peers)
    assert found["downloaded_bytes"] <= found["bytes"] + 2 * SURPLUS_BYTES


@pytest.mark.parametrize("blocks", ["0:9", "3:3", "a:b", "3", "-1:2"])
def test_spans_that_cannot_be_are_refused(
    blocks: str, metainfo: Metainfo, model: Path, home: Path
) -> None:
    """At once where they make no sense, else when the header says how many blocks there are."""
    with Seeder(metainfo.raw, model, upload_limit=20 * MB) as seed:
        refused = run_pull(metainfo.magnet, f"--blocks={blocks}", home=home, peers=[seed.peer])
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "blocks.range"


# Mirrors


def test_a_mirror_alone_is_enough(model: Path, online_home: Path, tmp_path: Path) -> None:
    """As `bmrt seed` writes it into the torrent; each byte is asked for once."""
    path = tmp_path / "mirrored.torrent"
    with Mirror(model) as mirror:
        options = ("--web-seed", mirror.url, "-o", str(path), "--create-only")
        made = bmrt("seed", str(model), *options, home=make_home(tmp_path / "seed"))
        assert made.returncode == 0, made.stderr
        found = pull(path, home=online_home)
        assert mirror.num_bytes_sent == model.stat().st_size
    assert is_whole(found, model)


def test_mirrors_in_a_link_are_used(metainfo: Metainfo, model: Path, online_home: Path) -> None:
    """A seed says what the torrent is, the mirror sends most of it."""
    with Mirror(model) as mirror, Seeder(metainfo.raw, model, upload_limit=MB) as seed:
        link = f"{metainfo.magnet}&ws={mirror.url}"
        found = pull(link, home=online_home, peers=[seed.peer])
        assert mirror.num_bytes_sent > 0.5 * model.stat().st_size
    assert is_whole(found, model)


def test_offline_no_mirror_is_asked(
    metainfo: Metainfo, model: Path, online_home: Path, tmp_path: Path
) -> None:
    """Not even one on this machine; peers on the network are enough."""
    with Mirror(model) as mirror, Seeder(metainfo.raw, model, upload_limit=10 * MB) as seed:
        path = torrent_file(tmp_path / "mirrored.torrent", metainfo, mirror.url)
        found = pull(path, "--offline", home=online_home, peers=[seed.peer])
        assert mirror.num_requests == 0
    assert is_whole(found, model)


@pytest.mark.parametrize("manner", ["missing", "stalling"])
def test_a_mirror_that_does_not_deliver_keeps_nobody_from_it(
    manner: Any, metainfo: Metainfo, model: Path, online_home: Path, tmp_path: Path
) -> None:
    """One that has no such file, one that begins and then says nothing more: the seed is enough."""
    with Mirror(model, manner) as mirror, Seeder(metainfo.raw, model, upload_limit=20 * MB) as seed:
        path = torrent_file(tmp_path / "mirrored.torrent", metainfo, mirror.url)
        found = pull(path, home=online_home, peers=[seed.peer])
        assert mirror.was_asked.is_set() and mirror.num_bytes_sent == 0
    assert is_whole(found, model) and found["banned"] == []


def test_a_mirror_that_lies_is_banned_and_the_seed_is_not(
    metainfo: Metainfo, model: Path, online_home: Path, tmp_path: Path
) -> None:
    """What it sent is thrown away; the result is right."""
    with (
        Mirror(model, "lying") as mirror,
        Seeder(metainfo.raw, model, upload_limit=12 * MB) as seed,
    ):
        path = torrent_file(tmp_path / "mirrored.torrent", metainfo, mirror.url)
        found = pull(path, home=online_home, peers=[seed.peer])
        assert mirror.num_bytes_sent > 0
    assert is_whole(found, model)
    assert found["bad_pieces"] > 0 and set(found["banned"]) == {mirror.address}
