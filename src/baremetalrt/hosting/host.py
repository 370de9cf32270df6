"""Hosts models for the peers of a private swarm, as options and settings say."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.tasks import Tasks
from baremetalrt.hosting.config import ShareConfig, load_share_config
from baremetalrt.hosting.events import NotYet, OnEvent
from baremetalrt.hosting.hostable import Swarms
from baremetalrt.hosting.neighbours import local_network
from baremetalrt.hosting.open_model import begin
from baremetalrt.hosting.options import RouteOptions, ShareOptions
from baremetalrt.hosting.remote_model import open_remote
from baremetalrt.hosting.sharing import SharedModel, Sharing, SharingConfig
from baremetalrt.hosting.standing import Standing
from baremetalrt.membership.authority import the_membership
from baremetalrt.node.naming import NamedModel
from baremetalrt.node.node import Node
from baremetalrt.swarm.fetching import TorrentSource
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.weights.store import StoredModel

_TRY_AGAIN_S: Final = 5.0


def host(
    node: Node,
    models: Sequence[NamedModel],
    options: ShareOptions,
    config: ShareConfig,
    swarm: SwarmOptions,
    swarms: Swarms | None,
    *,
    peers: Sequence[str] = (),
) -> Sharing:
    """What hosts these models, or, without any, whatever the swarm lacks. It begins when it is entered.

    `peers` are asked besides those that the local network names.

    Raises:
        UsageError: it is not clear which swarm is meant, or blocks are named of several models.
    """
    if options.blocks is not None and len(models) != 1:
        raise UsageError("--share-blocks is about one model", parameter="share-blocks")
    membership = the_membership(swarm.swarm)
    address = options.listen or config.listen
    memory = config.memory if options.memory is None else options.memory
    return Sharing(
        node,
        membership,
        [SharedModel(_source(model, swarm), options.blocks) for model in models],
        SharingConfig(
            address=address,
            budget_bytes=memory or None,
            network=local_network(membership, address.rpartition(":")[0]),
            peers=peers,
            allowed=frozenset(config.allow) or None,
            rebalance_s=config.rebalance_s,
        ),
        swarms,
    )


@asynccontextmanager
async def as_member() -> AsyncIterator[None]:
    """Has the certificates of this machine renewed, if need be, while its torrents of a swarm run."""
    async with Standing((), None, listen=None, shared=None):
        yield


def keep_standing(
    options: ShareOptions,
    shares: ShareConfig | None,
    swarm: SwarmOptions,
    swarms: Swarms | None,
    *,
    peers: Sequence[str] = (),
) -> Standing:
    """What keeps the memberships of this machine good; `shares` where it hosts for the members of one."""
    if shares is not None:
        shared = the_membership(swarm.swarm).name
        return Standing(peers, swarms, listen=options.listen or shares.listen, shared=shared)
    # The port of a host is left to one that may begin later.
    host = parse_address(load_share_config().listen)[0]
    listen = options.listen or format_address(host, 0)
    return Standing(peers, swarms, listen=listen, shared=None)


def _source(model: NamedModel, swarm: SwarmOptions) -> StoredModel | TorrentSource:
    if isinstance(model, StoredModel):
        return model
    return TorrentSource(model.reference, swarm.peers, swarm.swarm)


@asynccontextmanager
async def answer_when_hosted(
    node: Node,
    model: NamedModel,
    route: RouteOptions,
    swarm: SwarmOptions,
    on_event: OnEvent,
) -> AsyncIterator[None]:
    """Answers with a model over peers as soon as they, and this machine, host all of its blocks."""
    is_told = False

    async def attempt() -> None:
        nonlocal is_told
        try:
            async with open_remote(node, begin(model), route, swarm, on_event):
                await asyncio.Event().wait()
        except BareMetalError as error:
            if not is_told:
                name = model.name if isinstance(model, StoredModel) else model.reference
                on_event(NotYet(name, error.message))
            is_told = True

    async with Tasks() as tasks:
        tasks.repeat("answering over peers", attempt, lambda: _TRY_AGAIN_S)
        yield
