"""Models that are fetched: whole, or the spans that are to be computed with and no more."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from baremetalrt.blocks.needs import span_needs
from baremetalrt.core.spans import BlockSpan
from baremetalrt.node.events import Checking, OnEvent
from baremetalrt.node.names import require_content
from baremetalrt.node.watching import watched
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import (
    FetchedModel,
    open_header,
    remember_wanted,
    wait_for_header,
)
from baremetalrt.swarm.obtaining import memberships_of, obtain
from baremetalrt.swarm.options import SwarmOptions


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """`source` names a torrent; `blocks` are all that is wanted of it, None for the whole model.

    `content` names the bytes that are meant, as `Metainfo.content_id` does, where a list says it.
    """

    source: str
    content: str | None = None
    blocks: BlockSpan | None = None
    swarm: SwarmOptions = field(default_factory=SwarmOptions)


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What is here now, and what it took. `path` is the model, or its first part."""

    name: str
    infohash_v1: str | None
    infohash_v2: str | None
    path: Path
    wanted_bytes: int
    downloaded_bytes: int
    wasted_bytes: int
    num_bad_pieces: int
    banned: tuple[str, ...]
    seconds: float
    is_complete: bool


def is_for_members(request: PullRequest) -> bool:
    """Whether the torrent is known to belong to a private swarm of this machine; blocks.

    Raises:
        UsageError, IntegrityError: see `memberships_of`.
    """
    return bool(memberships_of(request.source, request.swarm.swarm))


async def pull(request: PullRequest, on_event: OnEvent) -> Pulled:
    """Fetches a model from everyone who has it; what is here is seeded meanwhile.

    Raises:
        UsageError: nothing is called that, or the model has fewer blocks.
        IntegrityError: what was sent, or is here, is damaged, or not what a list means.
        CapacityError: the disk is full or failing.
    """
    started = time.monotonic()
    swarm = request.swarm
    known = await asyncio.to_thread(memberships_of, request.source, swarm.swarm)
    async with (
        SwarmClient(swarm.config(), memberships=known) as client,
        watched(client, request.source, on_event) as watch,
    ):
        stored, peers = await obtain(client, request.source, peers=swarm.peers, swarm=swarm.swarm)
        require_content(request.content, stored.metainfo)
        watch.waiting = Checking()
        torrent = await client.add(stored, peers=peers)
        if stored.entry.record.is_unchecked:
            # It was to stand for a file of a hub; now somebody here asks for the torrent itself.
            await client.update_record(torrent, lambda record: record.hub_files.clear())
        watch.follow(torrent, None)
        file = await (open_header(torrent) if request.blocks else wait_for_header(torrent))
        watch.follow(torrent, file)
        await fetch_span(client, FetchedModel(torrent, file), request.blocks)
        await client.refresh()
        progress = torrent.progress()
        await client.save(torrent)
        return Pulled(
            name=torrent.metainfo.name,
            infohash_v1=torrent.metainfo.infohash_v1,
            infohash_v2=torrent.metainfo.infohash_v2,
            path=torrent.entry.model_paths[0],
            wanted_bytes=progress.wanted_bytes,
            downloaded_bytes=progress.downloaded_bytes,
            wasted_bytes=progress.wasted_bytes,
            num_bad_pieces=torrent.num_bad_pieces,
            banned=tuple(torrent.banned),
            seconds=time.monotonic() - started,
            is_complete=torrent.is_complete,
        )


async def fetch_span(client: SwarmClient, fetched: FetchedModel, blocks: BlockSpan | None) -> None:
    """Fetches what a span needs to run, or the whole model, and remembers that it is wanted.

    Raises:
        UsageError: the model has fewer blocks.
        CapacityError: the disk is full or failing.
    """
    torrent = fetched.torrent
    needs = span_needs(fetched.file, blocks) if blocks else torrent.metainfo.model_ranges
    await remember_wanted(client, torrent, list(blocks) if blocks else None)
    torrent.want_only(needs)
    await torrent.finished()
