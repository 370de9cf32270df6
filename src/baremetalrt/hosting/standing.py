"""Keeps what this machine is in its private swarms good while a server runs.

It hears from other members who was put out, has its certificates renewed in time, and, where the swarm
was created here, renews those of others.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import Tasks
from baremetalrt.hosting.hostable import Swarms
from baremetalrt.hosting.hosted_span import host_profile
from baremetalrt.hosting.neighbours import Neighbours, local_network
from baremetalrt.hosting.offering import offers_of
from baremetalrt.hosting.rendezvous import dht_lookup, rendezvous
from baremetalrt.membership.authority import Membership, memberships
from baremetalrt.membership.identity import identity_of
from baremetalrt.membership.renewing import Renewals
from baremetalrt.peers.discovery import announced
from baremetalrt.peers.host import Host

_log = logging.getLogger("baremetalrt.swarm")
# Certificates have twenty days to be renewed in. A list of who was put out travels with every question
# of a peer to another; this is for machines that would ask none.
_LOOK_S: Final = 600.0


class Standing:
    """Looks around in every private swarm from time to time. Use as an async context manager."""

    def __init__(
        self,
        peers: Sequence[str],
        swarms: Swarms | None,
        *,
        listen: str | None,
        shared: str | None,
    ) -> None:
        """`peers` are asked besides those that are found; `listen` (`HOST:PORT`, or None) is where
        members reach the creator of a swarm, but for that named `shared`, which are answered anyway.
        """
        self._peers = peers
        self._swarms = swarms
        self._listen = listen
        self._shared = shared
        self._answered: set[str] = set()
        self._announcing: dict[str, Callable[[], None]] = {}
        self._tasks = Tasks()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tasks.repeat("looking after private swarms", self._look_around, lambda: _LOOK_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()
        await self._stack.aclose()

    async def _look_around(self) -> None:
        for membership in await asyncio.to_thread(memberships):
            is_answered = membership.name in {self._shared, *self._answered}
            if membership.is_creator and self._listen and not is_answered:
                await self._answer(membership, self._listen)
            if membership.name in self._announcing:
                self._announcing[membership.name]()
            lookup = None
            if self._swarms is not None:
                lookup = dht_lookup(await self._swarms.running_client(), membership)
            network = local_network(membership)
            async with Neighbours(membership, self._peers, network, lookup) as neighbours:
                await neighbours.look()

    async def _answer(self, membership: Membership, listen: str) -> None:
        """Renews certificates, though nothing is hosted here."""
        self._answered.add(membership.name)
        identity = identity_of(membership)
        host = Host(identity, host_profile(0, None), renewals=Renewals(membership))
        if (swarms := self._swarms) is not None:
            host.offers = lambda: offers_of(swarms.client, membership.name)
        try:
            await host.listen(listen)
        except UsageError as error:
            _log.warning("%s: nobody is renewed here", error.message)
            return
        await self._stack.enter_async_context(host)
        address = format_address(parse_address(listen)[0], host.port)
        _log.info("certificates of %s are renewed at %s", membership.name, address)
        if self._swarms is not None:
            dht = (await self._swarms.running_client()).dht
            self._announcing[membership.name] = lambda: dht.announce(
                rendezvous(membership), host.port
            )
        network = local_network(membership, parse_address(listen)[0])
        if network is not None:
            try:
                await self._stack.enter_async_context(announced(network, identity.id, host.port))
            except OSError as error:
                _log.warning("nobody is told on the local network: %s", error)
