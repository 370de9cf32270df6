"""The service that hosts spans of blocks for members of a swarm."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from urllib.parse import unquote
from weakref import WeakValueDictionary

import grpc

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import Tasks
from baremetalrt.core.units import MIB
from baremetalrt.membership.certificates import peer_id
from baremetalrt.membership.identity import Identity
from baremetalrt.membership.renewing import Renewals
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.bounded_queue import Allowance
from baremetalrt.peers.hosted import Hosted, HostProfile
from baremetalrt.peers.hosted_text import HostedText
from baremetalrt.peers.lists import MAX_LISTS, MAX_LISTS_BYTES, NewerLists, within
from baremetalrt.peers.offer import MAX_OFFERS, Offer
from baremetalrt.peers.pass_streams import PassStream, PassStreams
from baremetalrt.peers.reach import IPAddress, read_ip
from baremetalrt.peers.silent_connections import close_silent, raise_file_limit
from baremetalrt.peers.tls import SERVER_OPTIONS, caller_key, server_credentials
from baremetalrt.peers.wire import (
    SERVICE,
    TEXT_BYTES,
    VERSION,
    StepError,
    max_message_bytes,
    read_messages,
)

# Of each kind, and for each peer: texts, links that have not said for which text, questions.
_MAX_CALLS_PER_PEER: Final = 64
# Of all peers together: what is not bounded by it is bounded for each of them.
_MAX_CALLS: Final = 8192
# Who opens a link says at once for which text.
_FIRST_MESSAGE_S: Final = 20.0

# In the queues of all texts of one peer; a message more for each text that has none there.
_MAX_QUEUED_BYTES: Final = 256 * MIB
# How often connections are looked at whose other end has shown nothing.
_LOOK_S: Final = 2.0
_log = logging.getLogger("baremetalrt.peers")

Context = Any  # grpc.aio.ServicerContext, whose stubs know no streams of both kinds


class Host:
    """Answers callers of one swarm. Use as an async context manager.

    Whoever TLS lets in is a member, but for those who were put out; `allowed`, where given, lets in only
    these peer ids. The creator of the swarm renews certificates. `newer_lists` has lists of models for
    those who ask.
    """

    def __init__(
        self,
        identity: Identity,
        profile: HostProfile,
        *,
        allowed: frozenset[str] | None = None,
        renewals: Renewals | None = None,
        newer_lists: NewerLists = lambda known: [],
    ) -> None:
        self.identity = identity
        self._renewals = renewals
        self._newer_lists = newer_lists
        self.hosted: list[Hosted] = []
        self.port = 0
        self.profile = profile
        # what can be had from this machine now
        self.offers: Callable[[], Sequence[Offer]] = tuple
        self._allowed = allowed
        self._texts: dict[bytes, HostedText] = {}
        self._calls: Counter[tuple[str, str]] = Counter()
        # what runs for each caller
        self._running: dict[asyncio.Timeout, str] = {}
        self._expulsions = identity.expelled.current().number
        # as long as a text has it
        self._allowances: WeakValueDictionary[str, Allowance] = WeakValueDictionary()
        self._streams = PassStreams(identity)
        self._tasks = Tasks()

    async def listen(self, address: str) -> None:
        """Begins to answer at `HOST:PORT`; port 0 takes any, see `port`.

        Raises:
            UsageError: somebody else has the port.
        """
        self._server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        handlers: dict[str, Any] = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe,
                request_deserializer=pb.DescribeRequest.FromString,
                response_serializer=pb.Description.SerializeToString,
            ),
            "Renew": grpc.unary_unary_rpc_method_handler(
                self._renew,
                request_deserializer=pb.RenewRequest.FromString,
                response_serializer=pb.Renewed.SerializeToString,
            ),
            "Lists": grpc.unary_unary_rpc_method_handler(
                self._lists,
                request_deserializer=pb.ListsRequest.FromString,
                response_serializer=pb.ListsReply.SerializeToString,
            ),
            "Attach": grpc.stream_stream_rpc_method_handler(
                self._attach,
                response_serializer=pb.Report.SerializeToString,
            ),
            "Pass": grpc.stream_unary_rpc_method_handler(
                self._pass,
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
        raise_file_limit()
        if sys.platform == "linux":
            self._tasks.repeat("hanging up on silent callers", self._close_silent, lambda: _LOOK_S)

    async def _close_silent(self) -> None:
        if number := close_silent(self.port):
            _log.warning("hung up on %d connections that nobody says anything on", number)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()
        await self._server.stop(grace=None)
        await self._streams.close()

    def find(self, model: str, blocks: BlockSpan) -> Hosted | None:
        """What is hosted of that model, if these blocks are among it."""
        for hosted in self.hosted:
            if hosted.model == model and blocks.is_within(hosted.span.blocks):
                return hosted
        return None

    def num_texts(self, hosted: Hosted) -> int:
        """How many texts are in a span now."""
        return sum(text.hosted is hosted for text in self._texts.values())

    def register(self, text: HostedText) -> bool:
        """Makes a text known, to which others may pass rows; False if its id is none, or is taken."""
        if len(text.id) != TEXT_BYTES or text.id in self._texts:
            return False
        self._texts[text.id] = text
        return True

    def allowance(self, caller: str) -> Allowance:
        """What all texts of a caller may have in their queues."""
        allowance = self._allowances.get(caller)
        if allowance is None:
            allowance = self._allowances[caller] = Allowance(_MAX_QUEUED_BYTES)
        return allowance

    def forget(self, text: HostedText) -> None:
        """The text is over, or was never opened."""
        if self._texts.get(text.id) is text:
            del self._texts[text.id]

    def link(self, peer: pb.Peer, caller: str, *, named_from: IPAddress | None) -> PassStream:
        """A stream of rows to the next stage, whoever it is, if it is who it should be."""
        return self._streams.open(peer, caller, named_from=named_from)

    # calls

    @asynccontextmanager
    async def _admitted(self, kind: str, context: Context) -> AsyncIterator[str]:
        """Whose call it is, while it lasts; ended where it may not call, or calls too much."""
        caller = peer_id(caller_key(context))
        self.put_out_expelled()
        if caller in self.identity.expelled:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "peer.expelled")
        if self._allowed is not None and caller not in self._allowed:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "peer.not-allowed")
        if self._calls[kind, caller] >= _MAX_CALLS_PER_PEER:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{kind}.too-many")
        self._calls[kind, caller] += 1
        try:
            yield caller
        finally:
            self._calls[kind, caller] -= 1
            if not self._calls[kind, caller]:
                del self._calls[kind, caller]

    def _max_message_bytes(self) -> int:
        """The longest message that any hosted span needs."""
        needed = [
            max_message_bytes(one.context, one.span.hyperparameters.width) for one in self.hosted
        ]
        return max(needed, default=max_message_bytes(0, 0))

    @asynccontextmanager
    async def _while_a_member(self, caller: str, context: Context) -> AsyncIterator[None]:
        """What ends if the caller is put out meanwhile."""
        # It has no end, unless it is given one.
        membership = asyncio.timeout(None)
        try:
            async with membership:
                self._running[membership] = caller
                yield
        except TimeoutError:
            if not membership.expired():
                raise
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "peer.expelled")
        finally:
            self._running.pop(membership, None)

    def put_out_expelled(self) -> None:
        """Ends what still runs for those who were put out since it was last looked."""
        expulsions = self.identity.expelled.current()
        if expulsions.number != self._expulsions:
            self._expulsions = expulsions.number
            now = asyncio.get_running_loop().time()
            for membership, caller in self._running.items():
                if caller in expulsions.peers:
                    membership.reschedule(now)

    async def _describe(self, request: pb.DescribeRequest, context: Context) -> pb.Description:
        async with self._admitted("questions", context):
            if request.expulsion_list:
                await self._accept_expulsions(request.expulsion_list, context)
            description = self._description()
            expulsions = self.identity.expelled.current()
            description.expulsions = expulsions.number
            if request.expulsions < expulsions.number:
                description.expulsion_list = expulsions.signed
            return description

    async def _accept_expulsions(self, signed: bytes, context: Context) -> None:
        try:
            await asyncio.to_thread(self.identity.expelled.accept, signed)
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expulsions.signature")
        except CapacityError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "disk.write")
        self.put_out_expelled()

    async def _renew(self, _request: pb.RenewRequest, context: Context) -> pb.Renewed:
        async with self._admitted("questions", context):
            if self._renewals is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "swarm.not-creator")
            else:
                key = caller_key(context)
                try:
                    one, other = await asyncio.to_thread(self._renewals.certificates, key)
                    return pb.Renewed(certificate=one, for_torrents=other)
                except CapacityError:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "disk.write")
            return pb.Renewed()

    async def _lists(self, request: pb.ListsRequest, context: Context) -> pb.ListsReply:
        async with self._admitted("questions", context):
            known = {one.key.hex(): one.number for one in request.known[:MAX_LISTS]}
            found = await asyncio.to_thread(self._newer_lists, known)
            return pb.ListsReply(lists=within(found, MAX_LISTS_BYTES))

    def _description(self) -> pb.Description:
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
                    num_bytes=one.span.weights.mapped_bytes + one.span.weights.copied_bytes,
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
            offers=[one.message() for one in self.offers()[:MAX_OFFERS]],
            renews=self._renewals is not None,
        )

    async def _attach(self, commands: AsyncIterator[bytes], context: Context) -> None:
        async with (
            self._admitted("texts", context) as caller,
            self._while_a_member(caller, context),
        ):
            text = HostedText(self, caller, context.write, where=_where(context))
            await text.run(read_messages(commands, pb.Command, self._max_message_bytes))

    async def _pass(self, passed: AsyncIterator[bytes], context: Context) -> pb.Received:
        """A link from the stage before, until it ends, its text does, or another one takes its place.

        A host may pass on the texts of many callers: links are counted until it is known for which text
        one is, and each text has one.
        """
        messages = read_messages(passed, pb.Passed, self._max_message_bytes)
        try:
            async with (
                self._admitted("links", context) as caller,
                asyncio.timeout(_FIRST_MESSAGE_S),
            ):
                first = await anext(messages)
            if (text := self._texts.get(first.text)) is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, "text.unknown")
            else:
                async with self._while_a_member(caller, context):
                    await text.follow(first, messages)
        except (StopAsyncIteration, TimeoutError):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "link.silent")
        except StepError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.code)
        return pb.Received()


def _where(context: Context) -> IPAddress | None:
    """Where who calls is, as far as it can be told."""
    return read_ip(unquote(context.peer()).partition(":")[2])
