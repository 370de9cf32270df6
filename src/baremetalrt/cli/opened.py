"""Opens the model that a command was given, wherever it is, and closes it in the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from baremetalrt.cli import options
from baremetalrt.cli.transfer import Display
from baremetalrt.serve.arriving import load_arriving
from baremetalrt.serve.library import TorrentReference
from baremetalrt.serve.torrents import memberships_for
from baremetalrt.swarm.client import SwarmClient

if TYPE_CHECKING:
    from baremetalrt.serve.node import Model, Node


@asynccontextmanager
async def arriving_model(
    model: TorrentReference, arguments: dict[str, Any]
) -> "AsyncIterator[tuple[Model, Display]]":
    """A model that is fetched while it is used, and the display that follows it."""
    config = options.swarm_config(arguments)

    def make_node() -> "Node":
        # Imported here, in a thread, while the first bytes are on their way.
        from baremetalrt.serve.node import Node

        return Node(options.node_config(arguments, max_sessions=1))

    async with (
        SwarmClient(config, memberships=memberships_for(arguments["swarm"])) as client,
        Display().shown() as display,
    ):
        node = asyncio.ensure_future(asyncio.to_thread(make_node))
        try:
            loaded = await load_arriving(
                node,
                client,
                model.reference,
                peers=arguments["peers"],
                swarm=arguments["swarm"],
                on_torrent=display.follow,
            )
            yield loaded, display
        finally:
            made = await node
            await made.stop_arriving()
            await asyncio.to_thread(made.close)
