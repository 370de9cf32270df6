"""The service that hosts spans of blocks for members of a swarm."""

import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final, Self

import grpc

from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.membership.certificates import peer_id
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.caller import Channels
from baremetalrt.peers.hosted import Hosted, HostProfile
from baremetalrt.peers.hosted_text import HostedText
from baremetalrt.peers.tls import OPTIONS, caller_key, server_credentials
from baremetalrt.peers.wire import SERVICE, TEXT_BYTES, VERSION

_log = logging.getLogger("baremetalrt.peers")
_MAX_TEXTS_PER_PEER: Final = 64
_MAX_PASSES: Final = 1024

Context = Any  # grpc.aio.ServicerContext, whose stubs know no streams of both kinds


class Host:
    """Answers callers of one swarm. Use as an async context manager.

    Whoever TLS lets in is a member; `allowed`, where given, lets in only these peer ids.
    """

    def __init__(
        self,
        identity: Identity,
        profile: HostProfile,
        *,
        allowed: frozenset[str] | None = None,
    ) -> None:
        self.identity = identity
        self.hosted: list[Hosted] = []
        self.port = 0
        self.profile = profile
        self._allowed = allowed
        self._texts: dict[bytes, HostedText] = {}
        self._per_peer: Counter[str] = Counter()
        self._channels = Channels(identity)

    async def listen(self, address: str) -> None:
        """Begins to answer at `HOST:PORT`; port 0 takes any, see `port`.

        Raises:
            UsageError: somebody else has the port.
        """
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=_MAX_PASSES)
        handlers: dict[str, Any] = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe,
                request_deserializer=pb.DescribeRequest.FromString,
                response_serializer=pb.Description.SerializeToString,
            ),
            "Attach": grpc.stream_stream_rpc_method_handler(
                self._attach,
                request_deserializer=pb.Command.FromString,
                response_serializer=pb.Report.SerializeToString,
            ),
            "Pass": grpc.stream_unary_rpc_method_handler(
                self._pass,
                request_deserializer=pb.Passed.FromString,
                response_serializer=pb.Received.SerializeToString,
            ),
        }
        service = SERVICE.strip("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )
        try:
            self.port = self._server.add_secure_port(address, server_credentials(self.identity))
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address}", code="port.taken") from error
        await self._server.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)
        await self._channels.close()

    def find(self, model: str, blocks: BlockSpan) -> Hosted | None:
        """What is hosted of that model, if these blocks are among it."""
        for hosted in self.hosted:
            if hosted.model == model and blocks.is_within(hosted.span.blocks):
                return hosted
        return None

    def num_texts(self, hosted: Hosted) -> int:
        """How many texts are in a span now."""
        return sum(text.hosted is hosted for text in self._texts.values())

    def num_cells_of(self, caller: str, hosted: Hosted, *, besides: HostedText) -> int:
        """Tokens for which other texts of a caller have room in a span."""
        texts = (t for t in self._texts.values() if t.caller == caller and t.hosted is hosted)
        return sum(text.capacity for text in texts if text is not besides)

    def link(self, peer: pb.Peer) -> Any:
        """A stream of rows to the next stage, whoever it is, if it is who it should be."""
        return self._channels.to(peer.address, peer.id).stream_unary(
            f"{SERVICE}Pass",
            request_serializer=pb.Passed.SerializeToString,
            response_deserializer=pb.Received.FromString,
        )()

    # calls

    async def _admit(self, context: Context) -> str:
        caller = peer_id(caller_key(context))
        if self._allowed is not None and caller not in self._allowed:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "peer.not-allowed")
        return caller

    async def _describe(self, _request: pb.DescribeRequest, context: Context) -> pb.Description:
        await self._admit(context)
        profile = self.profile
        spans = []
        for one in self.hosted:
            blocks, h, seeded = one.span.blocks, one.span.hyperparameters, one.seeded_at
            spans.append(
                pb.HostedSpan(
                    model=one.model,
                    name=one.name,
                    start=blocks.start,
                    end=blocks.end,
                    num_blocks=h.num_blocks,
                    step_s=one.step_s,
                    num_bytes=one.span.mapped_bytes + one.span.copied_bytes,
                    num_cells=one.span.cache.num_cells,
                    context=one.context,
                    num_texts=self.num_texts(one),
                    source=pb.Source(
                        torrent=seeded.torrent, port=seeded.port, is_private=seeded.is_private
                    )
                    if seeded
                    else None,
                )
            )
        return pb.Description(
            id=self.identity.id,
            version=VERSION,
            release=profile.release,
            library=profile.library,
            budget_bytes=profile.budget_bytes,
            byte_s=profile.byte_s or 0.0,
            spans=spans,
        )

    async def _attach(self, commands: AsyncIterator[pb.Command], context: Context) -> None:
        caller = await self._admit(context)
        if self._per_peer[caller] >= _MAX_TEXTS_PER_PEER:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "texts.too-many")
        self._per_peer[caller] += 1
        text = HostedText(self, caller, context.write)
        try:
            await text.run(commands, self._register)
        finally:
            self._per_peer[caller] -= 1
            if not self._per_peer[caller]:
                del self._per_peer[caller]
            if self._texts.get(text.id) is text:
                del self._texts[text.id]

    def _register(self, text: HostedText) -> bool:
        if len(text.id) != TEXT_BYTES or text.id in self._texts:
            return False
        self._texts[text.id] = text
        return True

    async def _pass(self, passed: AsyncIterator[pb.Passed], context: Context) -> pb.Received:
        await self._admit(context)
        text: HostedText | None = None
        async for message in passed:
            if text is None:
                text = self._texts.get(message.text)
                if text is None:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "text.unknown")
                    break
            await text.take(pb.Command(step=message.step), was_passed=True)
        return pb.Received()
