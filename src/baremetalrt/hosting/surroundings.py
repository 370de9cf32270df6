"""What a machine that shares sees of the others: who answers, what they host, what they lack."""

from collections.abc import Sequence
from dataclasses import dataclass

from baremetalrt.core.errors import UsageError
from baremetalrt.hosting.hostable import Swarms, hosted_as, needed_most, with_seeds
from baremetalrt.hosting.neighbour import Neighbour
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.hosting.rendezvous import dht_lookup
from baremetalrt.membership.authority import Membership
from baremetalrt.peers.discovery import LocalNetwork
from baremetalrt.swarm.fetching import TorrentSource
from baremetalrt.weights.store import StoredModel, default_model


@dataclass(frozen=True)
class Surroundings:
    """The peers of a swarm around the one with this id: at `addresses`, near, and on the DHT."""

    membership: Membership
    id: str
    addresses: Sequence[str]
    network: LocalNetwork | None
    swarms: Swarms | None

    async def others(self) -> list[Neighbour]:
        """Who answers now."""
        lookup = None
        if self.swarms is not None:
            lookup = dht_lookup(await self.swarms.running_client(), self.membership)
        around = Neighbours(self.membership, self.addresses, self.network, lookup)
        async with around as neighbours:
            found = await neighbours.look()
        return [one for one in found if one.id != self.id]

    async def whatever_is_needed(self) -> StoredModel | TorrentSource:
        """The model that stands worst of those that others host, or else the embedded default."""
        needed = needed_most(await self.others(), self.membership.name) if self.swarms else None
        model = needed or default_model()
        if model is None:
            raise UsageError("there is nothing to host", hint="name a model")
        return model

    async def with_seeds(self, model: StoredModel | TorrentSource) -> StoredModel | TorrentSource:
        """What was named; of what others call so, or seed, with those who seed it."""
        if isinstance(model, StoredModel):
            return model
        others = await self.others()
        content = hosted_as(others, model.reference)
        if content is None:
            return model
        return with_seeds(others, model, content, self.membership.name) or model
