"""Opens a model wherever it is to run: here, here while it arrives, or on peers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.units import GIB
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.node.naming import NamedModel, TorrentReference, has_private_swarm, resolve
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.hosting.events import OnEvent
    from baremetalrt.node.events import Fetching
    from baremetalrt.node.model import Model
    from baremetalrt.node.watching import Watch

# Looking around takes more than a second, in which this machine answers from a smaller model.
_WORTH_ASKING_BYTES: Final = 2 * GIB


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """What is to be opened, and how. `adapters` are names or paths, each perhaps with `=WEIGHT`."""

    model: Opening | TorrentReference
    options: ModelOptions = field(default_factory=ModelOptions)
    route: RouteOptions = field(default_factory=RouteOptions)
    swarm: SwarmOptions = field(default_factory=SwarmOptions)
    adapters: Sequence[str] = ()


@dataclass(frozen=True)
class OpenedModel:
    """A model that can be asked, and, of one that arrives, how far it is."""

    model: "Model"
    watch: "Watch | None" = None

    @property
    def arrival(self) -> "Fetching | None":
        return self.watch.arrival if self.watch else None


def find_named(name: str | None, route: RouteOptions) -> NamedModel:
    """The model of that name: of those here, or else, where peers are to run it, of theirs.

    Raises:
        UsageError: nothing is called that.
    """
    try:
        return resolve(name)
    except UsageError as error:
        if name is None or error.code != "model.not-found" or not route.is_over_peers:
            raise
        return TorrentReference(name)


def begin(model: NamedModel) -> Opening | TorrentReference:
    """Reads the header of a model that is here, and lets its vocabulary load meanwhile."""
    return Opening(model) if isinstance(model, StoredModel) else model


@asynccontextmanager
async def open_model(request: OpenRequest, on_event: "OnEvent") -> AsyncIterator[OpenedModel]:
    """A model on a node of its own, until the block ends.

    Raises:
        UsageError, IntegrityError, CapacityError: see `open_local`, `open_arriving`, `open_remote`.
    """
    # Here and not above: a vocabulary has begun to load before this imports asyncio.
    from baremetalrt.node.local_model import open_arriving, open_local

    model, options = request.model, request.options
    # Adapters are computed here: whether peers were faster without them does not matter.
    route = replace(request.route, kind="local") if _keeps_here(request) else request.route
    if await runs_on_peers(model, options, route, request.swarm, on_event):
        if request.adapters:
            raise UsageError(
                "adapters are computed on this machine alone, not on peers",
                code="adapter.route",
                parameter="adapter",
                hint="use --route local, or a model that fits here",
            )
        async with _open_remote(model, request, on_event) as opened:
            yield OpenedModel(opened)
    elif isinstance(model, TorrentReference):
        if request.adapters:
            raise UsageError(
                "adapters need a model that is here",
                code="adapter.arriving",
                parameter="adapter",
                hint=f"`bmrt pull {model.reference[:60]}` first",
            )
        arriving = open_arriving(model.reference, options, request.swarm, on_event)
        async with arriving as (opened, watch):
            yield OpenedModel(opened, watch)
    else:
        async with open_local(model, options, on_event) as opened:
            yield OpenedModel(await adapted(opened, request.adapters))
        await _look_after(model, on_event)


def _keeps_here(request: OpenRequest) -> bool:
    """Whether a model stays here for its adapters, though nobody has said so."""
    is_unasked = bool(request.adapters) and not request.route.is_over_peers
    return is_unasked and isinstance(request.model, Opening)


async def _look_after(opening: Opening, on_event: "OnEvent") -> None:
    """Counts the use of a fetched model, and looks at some of it for rot."""
    import asyncio

    from baremetalrt.node.events import Rotten
    from baremetalrt.node.naming import look_after

    num_rotten = await asyncio.to_thread(look_after, opening.stored)
    if num_rotten:
        on_event(Rotten(opening.stored.name, num_rotten))


@asynccontextmanager
async def _open_remote(
    model: Opening | TorrentReference, request: OpenRequest, on_event: "OnEvent"
) -> "AsyncIterator[Model]":
    import asyncio

    from baremetalrt.hosting.remote_model import open_remote
    from baremetalrt.node.node import Node

    node = Node(request.options)
    try:
        async with open_remote(node, model, request.route, request.swarm, on_event) as opened:
            yield opened
    finally:
        await asyncio.to_thread(node.close)


async def adapted(model: "Model", adapters: Sequence[str]) -> "Model":
    """The model with adapters; raises like `AdapterShelf.adapt`."""
    if not adapters:
        return model
    import asyncio

    from baremetalrt.node.adapter_shelf import AdapterShelf, parse_choice

    choices = [parse_choice(text, allow_paths=True) for text in adapters]
    return await asyncio.to_thread(AdapterShelf().adapt, model, choices, allow_paths=True)


async def runs_on_peers(
    model: Opening | TorrentReference,
    options: ModelOptions,
    route: RouteOptions,
    swarm: SwarmOptions,
    on_event: "OnEvent",
) -> bool:
    """Whether a model is to run on peers: asked for, or faster there, for one so large that it may be.

    What has no room here is read from disk in every step, which peers may well beat.
    """
    if route.is_over_peers or route.kind == "local":
        return route.is_over_peers
    if not isinstance(model, Opening) or not has_private_swarm():
        return False
    # Here and not above: a vocabulary loads while the engine is imported.
    from baremetalrt.blocks.outline import runs_whole

    if runs_whole(model.file):
        return False
    size = model.stored.path.stat().st_size
    if size < _WORTH_ASKING_BYTES and _fits_here(size, options):
        return False
    return await _is_faster(model, options, route, swarm, on_event)


def _fits_here(num_bytes: int, options: ModelOptions) -> bool:
    from baremetalrt.devices.budget import LEDGER, Purpose

    room = LEDGER.room_for(Purpose.WHOLE_MODEL)
    limit = options.memory_bytes
    return num_bytes <= (room if limit is None else min(room, limit))


async def _is_faster(
    model: Opening,
    options: ModelOptions,
    route: RouteOptions,
    swarm: SwarmOptions,
    on_event: "OnEvent",
) -> bool:
    """Asks peers, and times a few blocks here."""
    from baremetalrt.hosting.events import Comparing, PeersLeft
    from baremetalrt.hosting.remote_model import find_neighbours, is_faster_over_peers

    on_event(Comparing())
    try:
        async with find_neighbours(route, swarm) as (neighbours, _):
            return await is_faster_over_peers(model.file, options, neighbours)
    except BareMetalError as error:
        # It was not asked for.
        on_event(PeersLeft(error.message))
        return False
