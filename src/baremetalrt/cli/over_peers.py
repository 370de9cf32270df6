"""Opens a model that runs on peers, for the commands that answer with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from baremetalrt.cli import options, output
from baremetalrt.core.errors import BareMetalError
from baremetalrt.serve.fetching import RemoteSource, fetch_header
from baremetalrt.serve.forecast import is_faster_over_peers
from baremetalrt.serve.library import TorrentReference, find_torrent
from baremetalrt.serve.meeting import beyond
from baremetalrt.serve.neighbours import Neighbours, local_network, the_membership
from baremetalrt.serve.node import Model, Node
from baremetalrt.serve.offers import source_of
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.remote import model_over_peers
from baremetalrt.serve.torrents import is_torrent_reference
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.weights.store import StoredModel

_TRY_AGAIN_S: Final = 5.0


@asynccontextmanager
async def neighbours_of(
    arguments: dict[str, Any],
) -> AsyncIterator[tuple[Neighbours, SwarmClient | None]]:
    """The peers that the options name, or, where they name none, those of the local network.

    With `--route swarm` also those that the DHT names, and the client that asks it.
    """
    membership, addresses = the_membership(arguments["swarm"]), arguments["via"]
    async with AsyncExitStack() as stack:
        client = look = None
        if arguments["route"] == "swarm":
            client = SwarmClient(options.swarm_config(arguments), memberships=[membership])
            look = beyond(await stack.enter_async_context(client), membership)
        network = None if addresses else local_network(membership)
        neighbours = Neighbours(membership, addresses, network, look)
        yield await stack.enter_async_context(neighbours), client


async def reports(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """What the peers that answer now say of themselves, the nearest first."""
    async with neighbours_of(arguments) as (neighbours, _):
        found = await neighbours.look()
    return [one.report() for one in sorted(found, key=lambda one: one.round_trip_s)]


@asynccontextmanager
async def model_of_peers(
    node: Node, model: StoredModel | TorrentReference, arguments: dict[str, Any]
) -> AsyncIterator[Model]:
    """A model on the route that the options ask for; of one that is not here, the header is fetched."""
    async with AsyncExitStack() as stack:
        neighbours, client = await stack.enter_async_context(neighbours_of(arguments))
        fetched = None
        if isinstance(model, StoredModel):
            opening = Opening(model)
        else:
            membership = neighbours.membership
            if client is None:
                client = SwarmClient(options.swarm_config(arguments), memberships=[membership])
                await stack.enter_async_context(client)
            source = RemoteSource(model, arguments["peers"], arguments["swarm"])
            is_name = not is_torrent_reference(model.reference)
            if is_name and find_torrent(model.reference) is None:
                known = await neighbours.look()
                source = source_of(known, model.reference, membership.name) or source
            with output.progress(f"asking for {model.reference[:40]}"):
                fetched = await fetch_header(client, source)
            # It keeps the name by which it was asked for.
            name = model.reference if is_name else fetched.stored.name
            opening = Opening(replace(fetched.stored, name=name), fetched.file)
        yield await stack.enter_async_context(
            model_over_peers(
                node,
                opening,
                neighbours,
                source=fetched.torrent if fetched else None,
                activations=arguments["activations"],
                on_event=output.note,
            )
        )


@asynccontextmanager
async def model_of_peers_later(
    node: Node, model: StoredModel | TorrentReference, arguments: dict[str, Any]
) -> AsyncIterator[None]:
    """The same, as soon as peers, this machine among them, host all of its blocks."""

    async def keep_trying() -> None:
        is_told = False
        while True:
            try:
                async with model_of_peers(node, model, arguments) as opened:
                    output.note(
                        f"{opened.name}: {opened.context_limit} tokens of context, over peers"
                    )
                    await asyncio.Event().wait()
            except BareMetalError as error:
                if not is_told:
                    output.note(f"not answered over peers yet: {error.message}")
                is_told = True
            await asyncio.sleep(_TRY_AGAIN_S)

    trying = asyncio.ensure_future(keep_trying())
    try:
        yield
    finally:
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)


def faster_over_peers(model: StoredModel, arguments: dict[str, Any]) -> bool:
    """Whether peers would answer faster than this machine; asks them, and times a few blocks here."""

    async def ask() -> bool:
        async with neighbours_of(arguments) as (neighbours, _):
            config = options.node_config(arguments, max_sessions=1)
            return await is_faster_over_peers(Opening(model).file, config, neighbours)

    try:
        return asyncio.run(ask())
    except BareMetalError as error:
        # It was not asked for.
        output.note(f"peers are not asked: {error.message}")
        return False


@asynccontextmanager
async def opened_over_peers(
    model: StoredModel | TorrentReference, arguments: dict[str, Any]
) -> AsyncIterator[Model]:
    """The same, on a node of its own."""
    node = Node(options.node_config(arguments, max_sessions=1))
    try:
        async with model_of_peers(node, model, arguments) as opened:
            yield opened
    finally:
        node.close()
