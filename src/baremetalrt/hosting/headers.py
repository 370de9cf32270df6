"""The header of a model that is to run on peers: from the disk, or from those of them who seed it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from baremetalrt.core.addresses import parse_address
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.network_reasons import describe_failure
from baremetalrt.core.spans import ByteRange
from baremetalrt.hosting.hostable import hosted_as, with_seeds
from baremetalrt.hosting.known_models import model_here
from baremetalrt.hosting.neighbours import Neighbours
from baremetalrt.node.events import Asking, OnEvent
from baremetalrt.node.naming import find_torrent
from baremetalrt.node.watching import Watch, watched
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.fetching import FetchedModel, TorrentSource, fetch_header, header_on_disk
from baremetalrt.swarm.obtaining import is_torrent_reference
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

# How often it is looked whether a header gets on; when seeds are called, to see whether they are there;
# how long nothing may come. Beyond the local network, finding anybody takes a while.
_LOOK_S: Final = 0.5
_CALL_S: Final = 3.0
_PATIENCE_S: Final = 30.0
_PATIENCE_BEYOND_S: Final = 120.0
_CONNECT_S: Final = 3.0

HasWeights = Callable[[Sequence[ByteRange]], bool]


@dataclass(frozen=True)
class Header:
    """A model of which the header is here. `content` names its bytes; `has_weights`: None for all."""

    stored: StoredModel
    file: GGUFFile
    content: str
    has_weights: HasWeights | None


@asynccontextmanager
async def find_header(
    reference: str,
    neighbours: Neighbours,
    client: SwarmClient | None,
    swarm: SwarmOptions,
    on_event: OnEvent,
) -> AsyncIterator[Header]:
    """The header of what is not a whole model here, by its name, its content or its torrent.

    `client` is the one that runs already, if one does. What comes of the torrent is kept until the end.

    Raises:
        UsageError: nothing is called that, here or there, or several models there are.
        CapacityError: nobody sends it.
    """
    source = TorrentSource(reference, swarm.peers, swarm.swarm)
    here = await asyncio.to_thread(header_here, reference)
    if here is not None and await asyncio.to_thread(_is_busy, reference):
        yield _named(_without_weights(here), reference)
        return
    if here is None:
        on_event(Asking(reference))
        found = await _ask_peers(reference, neighbours, source)
        if isinstance(found, Header):
            yield found
            return
        source = found
    async with AsyncExitStack() as stack:
        if client is None:
            client = SwarmClient(swarm.config(), memberships=[neighbours.membership])
            await stack.enter_async_context(client)
        yield _named(await _fetched(client, source, on_event), reference)


def _named(header: Header, reference: str) -> Header:
    """It keeps the name by which it was asked for."""
    if is_torrent_reference(reference):
        return header
    return replace(header, stored=replace(header.stored, name=reference))


def _is_busy(reference: str) -> bool:
    entry = find_torrent(reference)
    return entry is not None and entry.is_busy


def _without_weights(header: Header) -> Header:
    """Of a torrent that another process has, nothing else is taken: that one may evict any block."""
    return replace(header, has_weights=lambda ranges: False)


async def _ask_peers(
    reference: str, neighbours: Neighbours, own: TorrentSource
) -> TorrentSource | Header:
    """Who seeds it; or, if it is here by another name, itself."""
    known = await neighbours.look()
    content = hosted_as(known, reference)
    if content is None:
        if is_torrent_reference(reference) or find_torrent(reference) is not None:
            return own
        reasons = ["neither here, nor at the peers that answer", *neighbours.refusals.values()]
        raise UsageError(
            f"no model {reference!r}: {'; '.join(reasons)}",
            code="model.not-found",
            parameter="model",
            hint="`bmrt ls` lists what is here, `bmrt ps` what peers host",
        )
    here = await asyncio.to_thread(model_here, content)
    if here is not None:
        file = await asyncio.to_thread(GGUFFile.open, here.path)
        return Header(replace(here, name=reference), file, content, None)
    source = with_seeds(known, own, content, neighbours.membership.name)
    if source is None:
        raise CapacityError(
            f"peers host {reference}, and none of them seeds it: its header cannot be had",
            code="header.unreachable",
            hint="put the file here, too; or start a host without --no-torrents",
        )
    return source


async def _fetched(client: SwarmClient, source: TorrentSource, on_event: OnEvent) -> Header:
    try:
        fetched = await _fetch(client, source, on_event)
    except UsageError as error:
        if error.code != "torrent.busy":
            raise
        return await _of_another_process(source)
    content, torrent = fetched.torrent.metainfo.content_id, fetched.torrent
    return Header(fetched.stored, fetched.file, content, torrent.has)


def header_here(reference: str) -> Header | None:
    """The header of a torrent of that name, if it is on disk; nothing is started for it. Blocks."""
    entry = find_torrent(reference)
    if entry is None:
        return None
    stored = StoredTorrent.open(entry)
    file = header_on_disk(stored)
    if file is None:
        return None
    pieces, have = stored.metainfo.pieces, stored.claimed
    model = StoredModel(stored.metainfo.name, entry.model_paths[0], is_default=False)
    content = stored.metainfo.content_id
    return Header(model, file, content, lambda ranges: pieces.contains(ranges, have))


async def _of_another_process(source: TorrentSource) -> Header:
    """The header that another process of this machine is fetching."""
    gives_up_at = time.monotonic() + _PATIENCE_S
    while (header := await asyncio.to_thread(header_here, source.reference)) is None:
        if time.monotonic() > gives_up_at:
            raise _unreachable(source, ["another bmrt process fetches it, and gets nothing"])
        await asyncio.sleep(_LOOK_S)
    return _without_weights(header)


async def _fetch(client: SwarmClient, source: TorrentSource, on_event: OnEvent) -> FetchedModel:
    """The header from those who seed it, as long as anything comes of it."""
    async with watched(client, source.reference, on_event) as watch:
        fetching = asyncio.ensure_future(fetch_header(client, source, watch.follow))
        try:
            await _watch_over(fetching, watch, client, source)
            return await fetching
        finally:
            fetching.cancel()


async def _watch_over(
    fetching: "asyncio.Future[FetchedModel]",
    watch: Watch,
    client: SwarmClient,
    source: TorrentSource,
) -> None:
    """Returns when it has ended; raises `CapacityError` when nothing comes any more."""
    began_at = since = time.monotonic()
    seen, was_called = _mark(watch), False
    while not fetching.done():
        await asyncio.wait((fetching,), timeout=_LOOK_S)
        now, mark = time.monotonic(), _mark(watch)
        if mark != seen:
            seen, since = mark, now
        # Where nobody but the seeds can have it, there is no need to wait for others.
        is_private = source.swarm is not None or not client.dht.is_on
        is_time = now - began_at >= _CALL_S and is_private and source.peers and not was_called
        is_over = now - since >= (_PATIENCE_S if is_private else _PATIENCE_BEYOND_S)
        if (is_time and since == began_at) or is_over:
            was_called = True
            reasons = await _why_silent(source.peers)
            if is_over or len(reasons) == len(source.peers):
                raise _unreachable(source, reasons)


def _mark(watch: Watch) -> tuple[bool, int]:
    """What grows as long as something comes."""
    arrival = watch.arrival
    return arrival is not None, arrival.have_bytes if arrival else 0


async def _why_silent(peers: Iterable[str]) -> list[str]:
    """Of those who should have a header, who is not even there, and why."""
    asked = list(dict.fromkeys(peers))
    answers = await asyncio.gather(*(_why_unreachable(peer) for peer in asked))
    return [f"{peer}: {why}" for peer, why in zip(asked, answers, strict=True) if why]


async def _why_unreachable(peer: str) -> str | None:
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(*parse_address(peer))
    except (OSError, UsageError) as error:
        return describe_failure(error)
    writer.close()
    return None


def _unreachable(source: TorrentSource, reasons: Sequence[str]) -> CapacityError:
    asked = "; ".join(reasons) or f"nothing comes from {', '.join(source.peers) or 'anybody'}"
    return CapacityError(
        f"the header of the model cannot be fetched: {asked}",
        code="header.unreachable",
        hint="machines that host it must be reached at the port of their torrents, too; or put the "
        "file here",
    )
