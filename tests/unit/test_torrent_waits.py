"""Who waits for a torrent hears of its end; a daemon goes on without those that vanish."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libtorrent as lt
import pytest

from baremetalrt.core.errors import BareMetalError, CapacityError, UsageError
from baremetalrt.core.magnet_links import parse_magnet_link
from baremetalrt.core.tasks import Tasks, failures
from baremetalrt.node.listing import list_models
from baremetalrt.node.model import Use
from baremetalrt.node.node import Node
from baremetalrt.node.options import ModelOptions
from baremetalrt.node.seeding import ArrivingModels, Seeding
from baremetalrt.swarm import catalog
from baremetalrt.swarm.alerts import TorrentGoneError
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.metainfo import read_metainfo
from baremetalrt.swarm.obtaining import add_torrent
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.publishing import PublishOptions, publish_file
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent import Torrent
from raw_torrents import info_v1, torrent
from swarm_kit import LOOPBACK, make_home, publish_model, write_model

HANG_S = 120.0
CONFIG = SwarmConfig(
    offline=True, listen=LOOPBACK, port=0, local_discovery=False, dht=False, port_mapping=False
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = make_home(tmp_path / "home")
    monkeypatch.setenv("BMRT_HOME", str(home))
    return home


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def awaited(model: Path) -> StoredTorrent:
    """A torrent that nobody has."""
    return add_torrent(publish_model(model))


def run(work: Callable[[SwarmClient], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with SwarmClient(CONFIG) as client, asyncio.timeout(HANG_S):
            await work(client)

    asyncio.run(main())


# Waiting


@pytest.mark.parametrize("wait", [Torrent.finished, lambda t: t.wait_for(t.metainfo.model_ranges)])
def test_who_waits_hears_that_the_torrent_is_removed(
    wait: Callable[[Torrent], Coroutine[Any, Any, None]], model: Path
) -> None:
    """As an error that says so, now and later, and not never."""

    async def work(client: SwarmClient) -> None:
        running = await client.add(awaited(model))
        waiting = asyncio.ensure_future(wait(running))
        await asyncio.sleep(0)
        await client.remove(running)
        with pytest.raises(TorrentGoneError) as caught:
            await waiting
        assert isinstance(caught.value, BareMetalError) and caught.value.code == "torrent.removed"
        with pytest.raises(TorrentGoneError):
            await wait(running)
        # It can be started again.
        running.want_only(())
        again = await client.add(awaited(model))
        assert again.failure is None

    run(work)


def test_who_waits_hears_that_the_client_is_closed(model: Path) -> None:
    """For a torrent, and for what a magnet link leaves out."""

    async def main() -> None:
        async with SwarmClient(CONFIG) as client:
            running = await client.add(awaited(model))
            other = read_metainfo(torrent(info_v1(b"other.gguf", 50_000)), source="test")
            waits = [
                asyncio.ensure_future(running.finished()),
                asyncio.ensure_future(client.fetch_metainfo(parse_magnet_link(other.magnet))),
            ]
            await asyncio.sleep(0.3)
        async with asyncio.timeout(HANG_S):
            for ended in await asyncio.gather(*waits, return_exceptions=True):
                assert isinstance(ended, TorrentGoneError)

    asyncio.run(main())


def unreadable_torrent(folder: Path) -> StoredTorrent:
    """In two parts, of which the second is a folder by now; v2 alone, which libtorrent checks itself."""
    folder.mkdir()
    parts = [folder / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF" * 10_000)
    entries = [lt.create_file_entry(f"m/{part.name}", 40_000) for part in parts]
    made = lt.create_torrent(entries, 16 * 1024, lt.create_torrent.v2_only)
    shutil.copytree(folder, folder.parent / "scratch" / "m")
    lt.set_piece_hashes(made, str(folder.parent / "scratch"))
    metainfo = read_metainfo(lt.bencode(made.generate()), source="test")
    parts[1].unlink()
    parts[1].mkdir()
    record = Record(
        name=metainfo.name,
        infohash_v1=None,
        infohash_v2=metainfo.infohash_v2,
        num_bytes=metainfo.num_bytes,
        paths=[str(part) for part in parts],
        is_in_place=True,
    )
    return StoredTorrent(catalog.add(metainfo.id, metainfo.raw, record), metainfo)


def test_a_check_that_fails_is_an_error(tmp_path: Path) -> None:
    """And leaves nothing in the session: what is mended can be started."""
    stored = unreadable_torrent(tmp_path / "m")

    async def work(client: SwarmClient) -> None:
        with pytest.raises(CapacityError) as caught:
            await client.add(stored, fetches=False)
        assert caught.value.code == "disk.read"
        assert not client.torrents and not stored.entry.is_busy
        part = stored.entry.model_paths[1]
        part.rmdir()
        part.write_bytes(b"GGUF" * 10_000)
        running = await client.add(stored, fetches=False)
        assert running.is_complete

    run(work)


# Torrents that vanish


def seeding(node: Node | None = None) -> Seeding:
    none: Any = SimpleNamespace(models={}, stop_arriving=_nothing)
    return Seeding(node or none, SwarmOptions(), ArrivingModels())


async def _nothing() -> None:
    return None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_daemon_goes_on_when_torrents_vanish_under_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between listing them and looking at them, and while they run; others are seeded all the while."""
    monkeypatch.setattr("baremetalrt.node.seeding._LOOK_INTERVAL_S", 0.05)
    seeded = publish_file(model, PublishOptions()).entry
    gone = awaited_other("a")
    running = awaited_other("b")
    before = failures.total()
    listed = catalog.ids

    def ids() -> list[str]:
        known = sorted({*listed(), gone.entry.id})
        # Looked at before all others.
        known.remove(gone.entry.id)
        return [gone.entry.id, *known]

    monkeypatch.setattr(catalog, "ids", ids)
    shutil.rmtree(gone.entry.folder)

    async def main() -> None:
        daemon = seeding()
        await daemon.start()
        try:
            await until(
                lambda: {seeded.id, running.entry.id} <= {t.entry.id for t in daemon.torrents}
            )
            shutil.rmtree(running.entry.folder)
            await until(lambda: [t.entry.id for t in daemon.torrents] == [seeded.id])
            assert not daemon.failures
        finally:
            await daemon.stop()

    asyncio.run(main())
    assert failures.total() == before
    assert not gone.entry.folder.exists(), "not even a lock is left of it"


def awaited_other(name: str) -> StoredTorrent:
    return add_torrent(read_metainfo(torrent(info_v1(f"{name}.gguf".encode(), 50_000)), source="t"))


def test_what_is_wrong_with_one_torrent_is_not_wrong_with_others(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where nobody expected it."""
    monkeypatch.setattr("baremetalrt.node.seeding._LOOK_INTERVAL_S", 0.05)
    bad = awaited_other("a").entry.id
    seeded = publish_file(model, PublishOptions()).entry
    monkeypatch.setattr(catalog, "ids", lambda: [bad, seeded.id])
    opened = StoredTorrent.open

    def open_(entry: catalog.Entry) -> StoredTorrent:
        if entry.id == bad:
            raise OSError("the disk makes a noise")
        return opened(entry)

    monkeypatch.setattr(StoredTorrent, "open", open_)

    async def main() -> None:
        daemon = seeding()
        await daemon.start()
        await until(lambda: [t.entry.id for t in daemon.torrents] == [seeded.id])
        await daemon.stop()

    asyncio.run(main())


def test_lists_are_made_while_torrents_come_and_go() -> None:
    """Those that vanish in between are left out."""
    folders = [awaited_other(f"m{n}").entry.folder for n in range(8)]
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for folder in folders[1:]:
                away = folder.with_name(f".away-{folder.name}")
                folder.rename(away)
                away.rename(folder)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(40):
            names = {row["name"] for row in list_models()}
            assert "m0" in names
            found = catalog.find("m0")
            assert found is not None
    finally:
        stop.set()
        thread.join()


def test_of_a_torrent_that_is_gone_nothing_is_made_anew() -> None:
    """Neither by asking whether somebody has it, nor by trying to hold it."""
    entry = awaited_other("m").entry
    shutil.rmtree(entry.folder)
    for act in (lambda: entry.is_busy, entry.remove, lambda: StoredTorrent.open(entry)):
        with pytest.raises(UsageError) as caught:
            act()
        assert caught.value.code == "catalog.gone"
    with pytest.raises(UsageError), entry.locked():
        pass
    assert not entry.folder.exists()


# Models that come while others are listed


def stand_in(name: str) -> Any:
    """What a node asks of a model that is kept and ended."""
    return SimpleNamespace(
        name=name,
        use=Use(),
        spans=(),
        process=None,
        end_process=lambda: None,
        close=lambda: None,
    )


def test_models_come_while_the_list_is_walked() -> None:
    """What is asked for once stays what it was: threads make new lists."""
    node = Node(ModelOptions())
    stop = threading.Event()

    def add() -> None:
        made = 0
        while not stop.is_set():
            node.keep(stand_in(f"m{made % 500}"))
            made += 1

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2000):
            assert all(name == model.name for name, model in node.models.items())
        before = node.models
        size = len(before)
        node.keep(stand_in("another"))
        assert len(before) == size and "another" in node.models
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        node.close()
    assert not node.models


# Work that fails at first


def test_work_that_fails_is_tried_again_until_it_succeeds() -> None:
    """With pauses; an error that will not pass ends it."""
    tries: list[str] = []

    async def attempt() -> None:
        tries.append("try")
        if len(tries) == 1:
            raise CapacityError("no room yet")
        if len(tries) == 2:
            raise OSError("nobody thought of this")

    async def hopeless() -> None:
        tries.append("hopeless")
        raise UsageError("nothing is called that")

    async def main() -> None:
        async with Tasks() as tasks, asyncio.timeout(HANG_S):
            await tasks.persist("trying", attempt, first_pause_s=0.01)
            await tasks.persist(
                "trying",
                hopeless,
                goes_on=lambda e: isinstance(e, CapacityError),
                first_pause_s=0.01,
            )

    asyncio.run(main())
    assert tries == ["try"] * 3 + ["hopeless"]
