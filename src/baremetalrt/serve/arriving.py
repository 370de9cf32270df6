"""A model that is used while it is fetched: swarm and engine, put together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from baremetalrt.serve.opening import Opening
from baremetalrt.serve.torrents import obtain
from baremetalrt.swarm.arrival import header_ranges, wait_for_header
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.serve.node import Model, Node


async def load_arriving(
    node: "Awaitable[Node]",
    client: SwarmClient,
    reference: str,
    *,
    peers: Sequence[str] = (),
    swarm: str | None = None,
    on_torrent: Callable[[Torrent, GGUFFile | None], None] = lambda torrent, file: None,
) -> "Model":
    """A model that can be asked as soon as its header is here.

    `node` may still be in the making: it is needed once the header has come.

    Raises:
        UsageError, IntegrityError, CapacityError: see `obtain`, `SwarmClient.add`, `Node.load`.
    """
    entry, asked = await obtain(client, reference, peers=peers, swarm=swarm)
    torrent = await client.add(entry, peers=asked)
    on_torrent(torrent, None)
    file = await wait_for_header(torrent)
    on_torrent(torrent, file)
    stored = StoredModel(torrent.metainfo.name, file.path, is_default=False)
    opening = Opening(stored, file)
    model = await asyncio.to_thread((await node).load, opening, torrent)
    entry.note_use(model.hyperparameters.num_blocks, time.time())
    torrent.set_units([header_ranges(file), *model.unit_ranges()])
    return model
