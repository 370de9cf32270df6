"""Opens a model that runs on peers, for the commands that answer with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from baremetalrt.cli import options, output
from baremetalrt.serve.neighbours import Neighbours, local_network, the_membership
from baremetalrt.serve.node import Model, Node
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.remote import model_over_peers
from baremetalrt.weights.store import StoredModel


def neighbours_of(arguments: dict[str, Any]) -> Neighbours:
    """The peers that the options name, or, where they name none, those of the local network."""
    membership = the_membership(arguments["swarm"])
    addresses = arguments["via"]
    return Neighbours(membership, addresses, None if addresses else local_network(membership))


async def reports(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """What the peers that answer now say of themselves, the nearest first."""
    async with neighbours_of(arguments) as neighbours:
        found = await neighbours.look()
    return [one.report() for one in sorted(found, key=lambda one: one.round_trip_s)]


@asynccontextmanager
async def served_over_peers(
    node: Node, stored: StoredModel, arguments: dict[str, Any]
) -> AsyncIterator[None]:
    """A model of a server on the route that the options ask for."""
    async with (
        neighbours_of(arguments) as neighbours,
        model_over_peers(node, Opening(stored), neighbours, on_event=output.note),
    ):
        yield


@asynccontextmanager
async def opened_over_peers(stored: StoredModel, arguments: dict[str, Any]) -> AsyncIterator[Model]:
    """A model on the route that the options ask for."""
    opening = Opening(stored)
    node = Node(options.node_config(arguments, max_sessions=1))
    try:
        async with (
            neighbours_of(arguments) as neighbours,
            model_over_peers(node, opening, neighbours, on_event=output.note) as model,
        ):
            yield model
    finally:
        node.close()
