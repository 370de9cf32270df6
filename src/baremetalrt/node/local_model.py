"""A model whose blocks run on this machine: one that is here, or one that is used while it arrives."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from baremetalrt.core.tasks import in_thread
from baremetalrt.node.events import Loaded, Loading, OnEvent
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions

if TYPE_CHECKING:
    from baremetalrt.node.model import Model
    from baremetalrt.node.node import Node
    from baremetalrt.node.watching import Watch
    from baremetalrt.swarm.client import SwarmClient
    from baremetalrt.swarm.options import SwarmOptions
    from baremetalrt.swarm.torrent import Torrent
    from baremetalrt.weights.gguf import GGUFFile


@asynccontextmanager
async def open_local(
    opening: Opening, options: ModelOptions, on_event: OnEvent
) -> "AsyncIterator[Model]":
    """A model that is here, on a node of its own; raises like `Node.load`."""
    on_event(Loading(opening.stored.name))
    # Here and not above: the vocabulary loads while this imports the engine.
    from baremetalrt.node.node import Node

    node = Node(options)
    try:
        model = await in_thread(node.load, opening)
        on_event(Loaded(model.name, model.context_limit))
        yield model
        if options.keeps_prefixes:
            from baremetalrt.node.text_keeping import keep_what_a_run_leaves

            await keep_what_a_run_leaves(node)
    finally:
        await asyncio.to_thread(node.close)


@asynccontextmanager
async def open_arriving(
    reference: str, options: ModelOptions, swarm: "SwarmOptions", on_event: OnEvent
) -> "AsyncIterator[tuple[Model, Watch]]":
    """A model that is fetched while it is used, on a node of its own; raises like `load_arriving`."""
    from baremetalrt.node.watching import watched
    from baremetalrt.swarm.client import SwarmClient
    from baremetalrt.swarm.obtaining import memberships_of

    def make_node() -> "Node":
        # Imported here, in a thread, while the first bytes are on their way.
        from baremetalrt.node.node import Node

        return Node(options)

    known = await asyncio.to_thread(memberships_of, reference, swarm.swarm)
    async with (
        SwarmClient(swarm.config(), memberships=known) as client,
        watched(client, reference, on_event) as watch,
    ):
        node = asyncio.ensure_future(asyncio.to_thread(make_node))
        try:
            # Whoever is cancelled while it waits for the node leaves it to be closed below.
            model = await load_arriving(
                asyncio.shield(node),
                client,
                reference,
                peers=swarm.peers,
                swarm=swarm.swarm,
                on_torrent=watch.follow,
            )
            on_event(Loaded(model.name, model.context_limit))
            yield model, watch
        finally:
            made = await node
            await made.stop_arriving()
            await asyncio.to_thread(made.close)


async def load_arriving(
    node: "Awaitable[Node]",
    client: "SwarmClient",
    reference: str,
    *,
    peers: Sequence[str] = (),
    swarm: str | None = None,
    on_torrent: "Callable[[Torrent, GGUFFile | None], None]" = lambda torrent, file: None,
) -> "Model":
    """A model that can be asked as soon as its header is here, or all of it, where it runs whole.

    `node` may still be in the making: it is needed once the header has come.

    Raises:
        UsageError, IntegrityError, CapacityError: see `obtain`, `SwarmClient.add`, `Node.load`.
    """
    from baremetalrt.swarm.fetching import FetchedModel, wait_for_header
    from baremetalrt.swarm.obtaining import obtain

    stored, asked = await obtain(client, reference, peers=peers, swarm=swarm)
    torrent = await client.find_or_add(stored, peers=asked)
    torrent.want_only(torrent.metainfo.model_ranges)
    on_torrent(torrent, None)
    file = await wait_for_header(torrent)
    on_torrent(torrent, file)
    fetched = FetchedModel(torrent, file)
    opening = Opening(fetched.stored, file)
    # Here and not above: the header comes while this is imported.
    from baremetalrt.blocks.outline import runs_whole
    from baremetalrt.node.whole_model import tokenizer_of

    if runs_whole(file):
        # Whether it can be used at all is known before the rest has come.
        await in_thread(tokenizer_of, opening)
        await torrent.finished()
        model = await in_thread((await node).load, opening)
    else:
        model = await in_thread((await node).load, opening, torrent)
        torrent.set_units([file.header_ranges, *model.unit_ranges()])
    torrent.entry.note_use(model.num_blocks, time.time())
    return model
