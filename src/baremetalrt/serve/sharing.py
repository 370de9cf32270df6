"""This machine's place in the compute plane: spans it hosts for its swarm, and routes over peers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from baremetalrt import __version__
from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native.library import load_library
from baremetalrt.peers.caller import Channels, RemoteSpan
from baremetalrt.peers.chain import RemoteChain
from baremetalrt.peers.compute_pb2 import Description
from baremetalrt.peers.host import Host, Hosted
from baremetalrt.peers.identity import Identity
from baremetalrt.peers.wire import VERSION
from baremetalrt.serve.node import Model, Node
from baremetalrt.serve.opening import Opening
from baremetalrt.serve.torrents import publish_file
from baremetalrt.swarm import catalog
from baremetalrt.swarm.authority import (
    Membership,
    find_membership,
    member_key,
    memberships,
    utc_now,
)
from baremetalrt.swarm.catalog import FileSignature
from baremetalrt.swarm.certificates import peer_id
from baremetalrt.swarm.publishing import PublishOptions
from baremetalrt.weights.gguf import GGUFFile

_log = logging.getLogger("baremetalrt.peers")
_DESCRIBE_TIMEOUT_S: Final = 5.0
_CONTEXT_TOKENS: Final = 4096


@dataclass(frozen=True)
class SharedSpan:
    """What of a model to host; None means all its blocks."""

    opening: Opening
    blocks: BlockSpan | None


def the_membership(name: str | None) -> Membership:
    """The swarm of that name, or the only one there is.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    if name is not None:
        found = find_membership(name)
    else:
        known = memberships()
        if len(known) != 1:
            raise UsageError(
                "this machine is in no private swarm"
                if not known
                else "this machine is in several private swarms",
                code="swarm.needed",
                parameter="swarm",
                hint="`bmrt swarm create home` makes one, and `bmrt swarm invite home` asks others in"
                if not known
                else "name one with --swarm: " + ", ".join(m.name for m in known),
            )
        found = known[0]
    found.require_valid(utc_now())
    return found


def identity_of(membership: Membership) -> Identity:
    """Who this machine is in a swarm."""
    return Identity(
        id=peer_id(member_key(membership).public_key()),
        swarm=membership.authority_name,
        authority_pem=membership.authority_pem,
        certificate_pem=membership.certificate_path.read_bytes(),
        key_pem=membership.key_path.read_bytes(),
    )


def model_id(file: GGUFFile) -> str:
    """The info-hash that names the content of a file; the file is hashed if it is not known yet."""
    paths = [path.absolute() for path in file.paths]
    for entry in catalog.entries():
        record = entry.record()
        unchanged = record.is_complete and list(entry.model_paths(record)) == paths
        if unchanged and record.signatures == [FileSignature.of(p) for p in paths]:
            return entry.id
    return publish_file(file.path, PublishOptions())[0].id


class Sharing:
    """Hosts spans from `start` to `stop`, on the event loop of the server."""

    def __init__(
        self, node: Node, membership: Membership, address: str, spans: Sequence[SharedSpan]
    ) -> None:
        self._address = address
        library = load_library()
        self._host = Host(
            identity_of(membership),
            release=__version__,
            library=f"{library.origin}, ggml {library.ggml_version}",
        )
        for shared in spans:
            file = shared.opening.file
            _, h = read_model(file)
            blocks = shared.blocks or BlockSpan(0, h.num_blocks)
            if blocks.end > h.num_blocks:
                raise UsageError(
                    f"the model has blocks 0:{h.num_blocks}, not {blocks}",
                    code="blocks.range",
                    parameter="blocks",
                )
            span, stage = node.host(file, blocks)
            name = shared.opening.stored.name
            self._host.hosted.append(Hosted(model_id(file), name, span, stage))

    async def start(self) -> None:
        """Begins to answer; raises `UsageError` when the port is taken."""
        await self._host.listen(self._address)
        shown = self._address.rpartition(":")[0]
        for one in self._host.hosted:
            _log.info("hosting blocks %s of %s", one.span.blocks, one.name)
        _log.info("peer %s at %s:%d", self._host.identity.id, shown, self._host.port)

    async def stop(self) -> None:
        await self._host.__aexit__()


@asynccontextmanager
async def model_over_peers(
    node: Node,
    opening: Opening,
    membership: Membership,
    addresses: Sequence[str],
    *,
    on_event: Callable[[str], None] = lambda what: None,
) -> AsyncIterator[Model]:
    """A model whose blocks all run on the peers at `addresses`; they also replace each other.

    Raises:
        CapacityError: the peers do not host all of its blocks.
    """
    wanted = await asyncio.to_thread(model_id, opening.file)
    channels = Channels(identity_of(membership))

    ids: dict[str, str] = {}

    async def hosted(avoid: frozenset[str] = frozenset()) -> tuple[list[RemoteSpan], int]:
        # A peer that does not answer is not waited for twice.
        asked = [address for address in addresses if ids.get(address) not in avoid]
        answers = await asyncio.gather(*(_ask(channels, address) for address in asked))
        ids.update({address: about.id for address, about in answers if about is not None})
        spans, context = [], _CONTEXT_TOKENS
        for address, description in answers:
            for one in description.spans if description else ():
                if one.model == wanted and description is not None:
                    blocks = BlockSpan(one.start, one.end)
                    spans.append(
                        RemoteSpan(description.id, address, wanted, blocks, one.num_blocks)
                    )
                    context = min(context, max(1, one.num_cells))
        return spans, context

    async def replacement(lost: RemoteSpan, avoid: frozenset[str]) -> RemoteSpan | None:
        spans, _ = await hosted(avoid)
        return next((s for s in spans if s.blocks == lost.blocks and s.id not in avoid), None)

    try:
        spans, context = await hosted()
        _, h = read_model(opening.file)
        route = _cover(spans, h.num_blocks)
        chain = RemoteChain(
            channels, route, replacement, row_width=h.vocabulary_size, on_event=on_event
        )
        context = min(context, h.training_context, node.config.context or context)
        try:
            yield await asyncio.to_thread(node.load_route, opening, [chain], context)
        finally:
            await chain.close()
    finally:
        await channels.close()


async def _ask(channels: Channels, address: str) -> tuple[str, Description | None]:
    try:
        description = await channels.describe(address, timeout_s=_DESCRIBE_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        _log.warning("%s does not answer: %s", address, error.details())
        return address, None
    if description.version != VERSION:
        _log.warning("%s speaks version %d of the protocol", address, description.version)
        return address, None
    return address, description


def _cover(spans: Sequence[RemoteSpan], num_blocks: int) -> list[RemoteSpan]:
    """As few of the spans as hold every block once, in order; raises `CapacityError`."""
    best: dict[int, list[RemoteSpan]] = {0: []}
    for span in sorted(spans, key=lambda s: s.blocks.start):
        before = best.get(span.blocks.start)
        if before is not None:
            after = best.get(span.blocks.end)
            if after is None or len(before) + 1 < len(after):
                best[span.blocks.end] = [*before, span]
    if num_blocks not in best:
        known = ", ".join(str(s.blocks) for s in spans) or "none"
        raise CapacityError(
            f"the peers do not host all of the {num_blocks} blocks: {known}",
            code="route.incomplete",
            hint="`bmrt serve --share MODEL --share-blocks A:B` on another machine hosts the rest",
        )
    return best[num_blocks]
