"""Adapters and swarms: nothing is kept of what is no adapter, or names no base."""

import asyncio
from dataclasses import replace

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import format_bytes
from baremetalrt.node.events import OnEvent
from baremetalrt.node.watching import Watch, watched
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import wait_for_header
from baremetalrt.swarm.obtaining import memberships_of, obtain
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.weights.adapters import store
from baremetalrt.weights.adapters.adapter import bad
from baremetalrt.weights.adapters.gguf_lora import (
    BASE_CONTENT_ID,
    MAX_ADAPTER_BYTES,
    is_adapter,
    read_gguf_lora,
)
from baremetalrt.weights.adapters.store import StoredAdapter


async def pull_adapter(
    reference: str, name: str | None, swarm: SwarmOptions, on_event: OnEvent
) -> StoredAdapter:
    """Fetches the torrent of an adapter, and puts it into the store under `name` or its own.

    Raises:
        UsageError: the torrent is of something else, or there is an adapter of that name.
        IntegrityError: the adapter is damaged or hostile, or does not name its base.
    """
    known = await asyncio.to_thread(memberships_of, reference, swarm.swarm)
    async with (
        SwarmClient(swarm.config(), memberships=known) as client,
        watched(client, reference, on_event) as watch,
    ):
        return await _fetch(client, watch, reference, name, swarm)


async def _fetch(
    client: SwarmClient, watch: Watch, reference: str, name: str | None, swarm: SwarmOptions
) -> StoredAdapter:
    stored, asked = await obtain(client, reference, peers=swarm.peers, swarm=swarm.swarm)
    torrent = await client.add(stored, peers=asked)
    metainfo = torrent.metainfo
    watch.follow(torrent, None)
    called = store.check_name(name or metainfo.name[:64])
    if store.is_taken(called):
        raise store.exists(called)
    if metainfo.num_bytes > MAX_ADAPTER_BYTES:
        size = format_bytes(metainfo.num_bytes)
        raise bad(metainfo.id, f"{metainfo.name} is too large for one: {size}")
    file = await wait_for_header(torrent)
    if not is_adapter(file):
        raise UsageError(
            f"{metainfo.name} is a model, not an adapter",
            code="adapter.type",
            hint="`bmrt pull` fetches models",
        )
    if not file.text(BASE_CONTENT_ID):
        raise bad(metainfo.id, f"{metainfo.name} does not say which model it belongs to")
    torrent.want_only(metainfo.model_ranges)
    await torrent.finished()
    await client.save(torrent)
    adapter = await asyncio.to_thread(read_gguf_lora, file.path)
    return await asyncio.to_thread(store.add, replace(adapter, name=called))


def torrents_of(adapter: StoredAdapter) -> list[Entry]:
    """The torrents that seed an adapter where it lies."""
    path = adapter.gguf_path.absolute()
    return [entry for entry in catalog.entries() if path in entry.model_paths]


def forget_torrents(adapter: StoredAdapter) -> None:
    """Ends the torrents that seed an adapter where it lies.

    Raises:
        UsageError: a process is seeding it now.
    """
    for entry in torrents_of(adapter):
        with entry.locked():
            entry.remove()
