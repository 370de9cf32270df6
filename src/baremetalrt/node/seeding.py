"""What `bmrt serve` does beside answering: seeds, fetches what is wanted, keeps the disk budget."""

import asyncio
import logging
import shutil
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.core.places import torrents_folder
from baremetalrt.core.tasks import Tasks, note_failure
from baremetalrt.core.units import MIB
from baremetalrt.membership.authority import memberships
from baremetalrt.node import list_keeper
from baremetalrt.node.local_model import load_arriving
from baremetalrt.node.node import Node
from baremetalrt.swarm import catalog
from baremetalrt.swarm.alerts import TorrentGoneError
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.eviction import evict, plan_collection
from baremetalrt.swarm.fetching import FetchedModel, blocks_here, wait_for_header
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import GGUFFile

_log = logging.getLogger("baremetalrt.swarm")
# How often new torrents are looked for, and torrents that a full disk stopped are tried again.
_LOOK_INTERVAL_S: Final = 5.0
_ROOM_TO_GO_ON_BYTES: Final = 64 * MIB


@dataclass(frozen=True, kw_only=True)
class ArrivingModels:
    """Models that a server was started with and that have to be fetched, by what names their torrents."""

    references: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    swarm: str | None = None


class Seeding:
    """Everything runs on the event loop of the server, between `start` and `stop`."""

    def __init__(self, node: Node, swarm: SwarmOptions, arriving: ArrivingModels) -> None:
        """`swarm`: what the command line says; `config.toml` has the rest, now and later."""
        self._node = node
        self._options = swarm
        self._config = swarm.config()
        self._arriving = arriving
        self._client: SwarmClient | None = None
        self._starting = asyncio.Lock()
        self._tasks = Tasks()
        self._files: dict[str, GGUFFile] = {}
        # torrents whose weights a model here computes with
        self._used: set[str] = set()
        self._taking_up: set[str] = set()
        self.failures: dict[str, BareMetalError] = {}
        self._lists = list_keeper.ListKeeper(self.running_client)

    @property
    def torrents(self) -> tuple[Torrent, ...]:
        return self._client.torrents if self._client else ()

    @property
    def port(self) -> int:
        """Where peers reach this machine; 0 before there is a torrent."""
        return self._client.listen_port if self._client else 0

    @property
    def client(self) -> SwarmClient | None:
        """What runs them; None before there is a torrent."""
        return self._client

    @property
    def is_expecting(self) -> bool:
        """Whether no model can be asked yet, and one is on its way."""
        return bool(self._arriving.references) and not self._node.models

    async def start(self) -> None:
        """Begins; what is wanted arrives while the server already answers."""
        for reference in self._arriving.references:
            self._tasks.persist(
                f"serving {reference[:80]}", partial(self._load, reference), goes_on=_may_pass
            )
        self._tasks.repeat("looking after torrents", self._look_around, lambda: _LOOK_INTERVAL_S)
        if not self._config.metered:
            self._tasks.repeat("looking after lists", self._lists.round, lambda: list_keeper.LOOK_S)

    async def running_client(self) -> SwarmClient:
        """The client, which takes no port before there is a torrent."""
        async with self._starting:
            if self._client is None:
                known = await asyncio.to_thread(memberships)
                client = SwarmClient(self._config, memberships=known)
                self._client = await client.__aenter__()
                _log.info("torrents on port %d", client.listen_port)
        return self._client

    async def stop(self) -> None:
        """Ends everything and writes down where it stood."""
        await self._node.stop_arriving()
        await self._tasks.close()
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    async def reload(self) -> None:
        """Reads `config.toml` again, below what the command line says.

        While torrents run, that is about limits, the disk budget and the metered switch.
        """
        try:
            config = await asyncio.to_thread(self._options.config)
        except BareMetalError as error:
            _log.error("settings are left as they were: %s", error.message)
            return
        before, self._config = self._config, config
        if self._client is not None:
            self._config = before.taking_over(config)
            if self._config != config:
                _log.warning("some of the settings count from the next start of the server on")
            await self._client.set_limits(self._config)
            if config.metered:
                for torrent in self.torrents:
                    if torrent.entry.id not in self._used:
                        await self._client.remove(torrent)
        _log.info("settings read again: metered %s", "on" if config.metered else "off")

    async def status(self) -> list[dict[str, Any]]:
        """How every torrent is doing."""
        if self._client is not None:
            await self._client.refresh()
        return [self._describe(torrent) for torrent in self.torrents]

    def _describe(self, torrent: Torrent) -> dict[str, Any]:
        progress = torrent.progress()
        file = self._files.get(torrent.entry.id)
        return {
            "name": torrent.metainfo.name,
            "infohash": torrent.metainfo.infohash_v2 or torrent.metainfo.infohash_v1,
            "complete": torrent.is_complete,
            "wanted_bytes": progress.wanted_bytes,
            "have_bytes": progress.have_bytes,
            "download_bytes_per_s": progress.download_rate,
            "upload_bytes_per_s": progress.upload_rate,
            "downloaded_bytes": progress.downloaded_bytes,
            "uploaded_bytes": progress.uploaded_bytes,
            "peers": progress.num_peers,
            "blocks_here": [i for i, here in enumerate(blocks_here(torrent, file)) if here]
            if file
            else None,
            "error": torrent.failure.message if torrent.failure else None,
        }

    # models that arrive

    async def _load(self, reference: str) -> None:
        client = await self.running_client()
        node: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
        node.set_result(self._node)
        try:
            model = await load_arriving(
                node,
                client,
                reference,
                peers=self._arriving.peers,
                swarm=self._arriving.swarm,
                on_torrent=self._follow,
            )
        except BareMetalError as error:
            self.failures[reference] = error
            raise
        self.failures.pop(reference, None)
        _log.info("%s: %d tokens of context, arriving", model.name, model.context_limit)

    def _follow(self, torrent: Torrent, file: GGUFFile | None) -> None:
        self._used.add(torrent.entry.id)
        if file is not None:
            self._files[torrent.entry.id] = file

    def keep(self, fetched: FetchedModel) -> None:
        """Something here computes with these weights: they are not to be evicted."""
        self._follow(fetched.torrent, fetched.file)

    # the catalogue

    async def _look_around(self) -> None:
        known = await asyncio.to_thread(catalog.ids)
        await self._let_go()
        for id_ in known:
            try:
                await self._look_at(id_)
            except Exception as error:
                # Whatever is wrong with one torrent, the others are looked after.
                note_failure("looking after a torrent", error)
        await self._keep_budget()

    async def _let_go(self) -> None:
        """Ends torrents whose folder somebody removed; a model that computes with one keeps its file."""
        for torrent in self.torrents:
            if self._client is not None and await asyncio.to_thread(torrent.entry.is_gone):
                _log.warning("%s: its folder is gone; it is not seeded", torrent.metainfo.name)
                await self._client.remove(torrent)
                self._files.pop(torrent.entry.id, None)
                self._used.discard(torrent.entry.id)

    async def _look_at(self, id_: str) -> None:
        running = self._client.find(id_) if self._client else None
        if running is None:
            if not self._config.metered:
                await self._take_up(id_)
        elif running.failure is not None and _has_room() and self._client is not None:
            _log.info("%s: there is room again", running.metainfo.name)
            try:
                await self._client.restart(running)
            except BareMetalError as error:
                _log.error("%s: %s", running.metainfo.name, error.message)

    async def _take_up(self, id_: str) -> None:
        """Seeds a torrent, and fetches what is wanted of it, unless another process does."""
        if id_ in self._taking_up:
            return
        self._taking_up.add(id_)
        try:
            stored = await asyncio.to_thread(_open_free, id_)
            if stored is None:
                return
            client = await self.running_client()
            fetches = not stored.entry.record.is_in_place
            torrent = await client.find_or_add(stored, fetches=fetches)
        except BareMetalError as error:
            if error.code == "catalog.gone":
                return  # it was removed since it was listed
            if id_ not in self.failures:
                _log.error("%s: %s", id_[:12], error.message)
            self.failures[id_] = error
        else:
            self.failures.pop(id_, None)
            self._tasks.start("reading a header", self._narrow(torrent))
        finally:
            self._taking_up.discard(id_)

    async def _narrow(self, torrent: Torrent) -> None:
        """Once the header says where blocks lie, wants no others than were asked for."""
        try:
            file = await wait_for_header(torrent)
        except TorrentGoneError:
            return
        except BareMetalError as error:
            _log.error("%s: %s", torrent.metainfo.name, error.message)
            return
        self._files[torrent.entry.id] = file
        # As it is now: it may have changed since.
        wanted = torrent.entry.record.wanted
        if wanted is not None:
            blocks = [file.blocks[i] for i in wanted if i < len(file.blocks)]
            outer = [t.byte_range for t in file.outer_tensors.values()]
            torrent.want_only(
                [*file.header_ranges, *outer, *(r for b in blocks for r in b.byte_ranges)]
            )

    # room

    async def _keep_budget(self) -> None:
        """Evicts what is worth least, of torrents that no model here computes with."""
        budget = self._config.disk_budget
        if not budget or self._client is None:
            return
        idle = {t.entry.id: t for t in self.torrents if t.entry.id not in self._used}
        collection = await asyncio.to_thread(
            plan_collection, budget, now=time.time(), held=idle.keys()
        )
        for id_, blocks in collection.by_torrent().items():
            torrent = idle.get(id_)
            if torrent is not None:
                await self._client.remove(torrent)
            try:
                entry = (
                    torrent.entry if torrent else await asyncio.to_thread(catalog.open_entry, id_)
                )
                await asyncio.to_thread(evict, entry, blocks)
            except BareMetalError as error:
                _log.error("%s: %s", id_[:12], error.message)
                continue
            _log.info("%s: evicted %d blocks", entry.record.name, len(blocks))
            if torrent is not None:
                await self._take_up(id_)


def _open_free(id_: str) -> StoredTorrent | None:
    """A torrent that no process has; raises like `Entry.open` and `StoredTorrent.open`.

    Not what stands in for a file of a hub until it was compared with it: nobody here named that torrent.
    """
    entry = catalog.open_entry(id_)
    return None if entry.is_busy or entry.record.is_unchecked else StoredTorrent.open(entry)


def _may_pass(error: BareMetalError) -> bool:
    """Whether it may be over in a moment: no room, or another process that has the torrent."""
    return isinstance(error, CapacityError) or error.code == "torrent.busy"


def arriving_error(name: str) -> CapacityError:
    """What a client hears of a model whose header has not come yet."""
    return CapacityError(
        f"the model {name!r} is still arriving",
        code="model.arriving",
        hint="ask again in a moment; /torrents says how far it is",
    )


def _has_room() -> bool:
    try:
        return shutil.disk_usage(torrents_folder()).free > _ROOM_TO_GO_ON_BYTES
    except OSError:
        return False
