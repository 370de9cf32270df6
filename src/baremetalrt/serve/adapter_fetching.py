"""Adapters and swarms: nothing is kept of what is no adapter, or names no base."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.units import format_bytes
from baremetalrt.serve.torrents import obtain, whole_model
from baremetalrt.swarm import catalog
from baremetalrt.swarm.arrival import wait_for_header
from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.weights.adapters import store
from baremetalrt.weights.adapters.adapter import bad
from baremetalrt.weights.adapters.gguf_lora import (
    BASE_CONTENT_ID,
    MAX_ADAPTER_BYTES,
    is_adapter,
    read_gguf_lora,
)
from baremetalrt.weights.adapters.store import StoredAdapter


async def fetch_adapter(
    client: SwarmClient,
    reference: str,
    *,
    name: str | None = None,
    peers: Sequence[str] = (),
    swarm: str | None = None,
) -> StoredAdapter:
    """Fetches the torrent of an adapter, and puts it into the store under `name` or its own.

    Raises:
        UsageError: the torrent is of something else, or there is an adapter of that name.
        IntegrityError: the adapter is damaged or hostile, or does not name its base.
    """
    entry, asked = await obtain(client, reference, peers=peers, swarm=swarm)
    torrent = await client.add(entry, peers=asked)
    metainfo = torrent.metainfo
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
    torrent.want_only(whole_model(metainfo))
    await torrent.finished()
    await client.save(torrent)
    adapter = await asyncio.to_thread(read_gguf_lora, file.path)
    return await asyncio.to_thread(store.add, replace(adapter, name=called))


def torrents_of(adapter: StoredAdapter) -> list[Entry]:
    """The torrents that seed an adapter where it lies."""
    found = []
    for entry in catalog.entries():
        try:
            paths = entry.model_paths(entry.record())
        except IntegrityError:
            continue
        if adapter.gguf_path.absolute() in paths:
            found.append(entry)
    return found


def forget_torrents(adapter: StoredAdapter) -> None:
    """Ends the torrents that seed an adapter where it lies.

    Raises:
        UsageError: a process is seeding it now.
    """
    for entry in torrents_of(adapter):
        with entry.locked():
            entry.remove()
