"""Files of this machine as torrents: made, and seeded where they lie."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.membership.authority import memberships_for
from baremetalrt.node.events import Hashing, OnEvent
from baremetalrt.swarm import catalog
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.publishing import PublishOptions, publish_file
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.weights.store import find_model, models_in


@dataclass(frozen=True, kw_only=True)
class PublishRequest:
    """`models`: files, folders of files, or names of what is in the catalogue already.

    Trackers and web seeds are URLs. `private`: peers come from trackers alone (BEP 27).
    """

    models: Sequence[str]
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    private: bool = False
    swarm: str | None = None

    def sources(self) -> list[str]:
        """Every model that is named: a folder stands for those in it; raises `UsageError` for none."""
        return [source for model in self.models for source in _sources(model)]


@dataclass(frozen=True)
class Published:
    """A torrent of a file that is here."""

    torrent: StoredTorrent

    def write(self, target: Path) -> None:
        """Writes its `.torrent` file; raises `CapacityError` where that cannot be."""
        with disk_errors(target):
            target.write_bytes(self.torrent.metainfo.raw)


def publish(request: PublishRequest, source: str, on_event: OnEvent) -> Published:
    """The torrent of one of the `sources`; that of a known one as it is.

    Raises:
        UsageError: there is no such model or swarm, or a URL is none.
        IntegrityError, CapacityError: see `publish_file`.
    """
    known = catalog.find(source)
    if known is not None:
        return Published(StoredTorrent.open(known))
    path = find_model(source).path
    for url in (*request.web_seeds, *request.trackers):
        if "://" not in url:
            raise UsageError(
                f"{url!r} is not a URL", hint="for example http://mirror.lan/model.gguf"
            )
    swarm = next(iter(memberships_for(request.swarm)), None)
    on_event(Hashing(path.name))
    options = PublishOptions(
        trackers=request.trackers,
        web_seeds=request.web_seeds,
        private=request.private,
        authority_pem=swarm.authority_pem if swarm else None,
    )
    return Published(publish_file(path, options, swarm=swarm))


@asynccontextmanager
async def seeding(
    published: Sequence[Published], swarm: SwarmOptions
) -> AsyncIterator[tuple[SwarmClient, Sequence[int]]]:
    """Seeds torrents until the block ends; says by which client and at which ports.

    Raises:
        UsageError, IntegrityError: see `SwarmClient.add`.
    """
    torrents = [one.torrent for one in published]
    names = {torrent.entry.record.swarm for torrent in torrents}
    memberships = [one for name in names for one in memberships_for(name)]
    async with SwarmClient(swarm.config(), memberships=memberships) as client:
        running = [
            await client.add(torrent, peers=swarm.peers, fetches=False) for torrent in torrents
        ]
        ports = {
            client.secure_port if one.metainfo.needs_certificate else client.listen_port
            for one in running
        }
        yield client, sorted(ports)


def _sources(model: str) -> list[str]:
    if not Path(model).is_dir():
        return [model]
    paths = [str(path) for path in models_in(Path(model))]
    if not paths:
        raise UsageError(f"no GGUF files in {model}", code="model.not-found")
    return paths
