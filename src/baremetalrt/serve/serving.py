"""A whole server: models, torrents, what is shared with peers, and the HTTP in front of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.hosting.config import ShareConfig, load_share_config
from baremetalrt.hosting.host import answer_when_hosted, host, keep_standing
from baremetalrt.hosting.offering import offered
from baremetalrt.hosting.open_model import begin, find_named, runs_on_peers
from baremetalrt.hosting.options import RouteOptions, ShareOptions
from baremetalrt.hosting.remote_model import open_remote
from baremetalrt.node.events import Loaded, Loading
from baremetalrt.node.naming import NamedModel, TorrentReference
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions, SwarmOptions
from baremetalrt.node.resident_models import ResidentModels
from baremetalrt.node.seeding import ArrivingModels, Seeding
from baremetalrt.node.text_keeping import keeping_texts
from baremetalrt.serve.app import Server, ServerConfig
from baremetalrt.serve.connections import max_open_files
from baremetalrt.serve.events import Exposed, Listening, OnEvent, Preparing, Waiting
from baremetalrt.serve.idle_connections import limits_for
from baremetalrt.serve.keys import stored_keys
from baremetalrt.serve.listen import bind, listen
from baremetalrt.serve.tls import TlsConfig, tls_files

# What others keep, or more: loading a large model takes a while.
_KEEP_ALIVE_S: Final = 1800.0
Service = AbstractAsyncContextManager[object]


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What is served and how. Without `models`: the embedded default and, when they are asked for, all
    others that are here; or what `config.toml` shares.

    `keep_alive_s`: how long one that was asked for stays after its last use.
    `takes_part`: whether torrents are seeded and fetched at all.
    """

    models: Sequence[str] = ()
    port: int = 8080
    server: ServerConfig = field(default_factory=ServerConfig)
    options: ModelOptions = field(default_factory=ModelOptions)
    route: RouteOptions = field(default_factory=RouteOptions)
    swarm: SwarmOptions = field(default_factory=SwarmOptions)
    share: ShareOptions = field(default_factory=ShareOptions)
    takes_part: bool = True
    keep_alive_s: float = _KEEP_ALIVE_S
    tls: TlsConfig | None = None


def serve(request: ServeRequest, on_event: OnEvent) -> None:
    """Serves until it is interrupted.

    Raises:
        UsageError, IntegrityError, CapacityError: a model cannot be served, or the address not be had.
    """
    _log_to_standard_error()
    share_config = load_share_config()
    given = request.share.enabled
    shares = share_config.enabled if given is None else given
    if shares:
        request = _as_shared(request, share_config)
    named = request.models or (() if shares else (None,))
    found = [find_named(name, request.route) for name in named]
    _check(found, request)
    gate = request.server.gate
    names = gate.host_names
    tls = tls_files(request.tls, request.swarm.swarm, gate.host, names) if request.tls else None
    # Before anything is loaded: nobody waits for a model to hear that the port is taken.
    sockets = bind(gate.host, request.port)
    node = Node(request.options, serves=True)
    try:
        server = _assemble(node, found, request, share_config if shares else None, on_event)
        if not (gate.is_loopback or gate.api_keys or stored_keys()):
            on_event(Exposed(gate.host, request.port))
        listen(
            server.application(),
            sockets,
            limits_for(request.server.max_requests, max_open_files()),
            tls,
            announce=lambda host, port: on_event(
                Listening(host, port, tls is not None, tls.authority if tls else None)
            ),
        )
    finally:
        for one in sockets:
            one.close()
        node.close()


def _log_to_standard_error() -> None:
    logger = logging.getLogger("baremetalrt")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)


def _as_shared(request: ServeRequest, config: ShareConfig) -> ServeRequest:
    """What the settings say of sharing counts where the command is silent."""
    threads = request.options.num_threads or config.threads or None
    return replace(
        request,
        models=request.models or config.models,
        options=replace(request.options, num_threads=threads),
    )


def _check(found: Sequence[NamedModel], request: ServeRequest) -> None:
    if not request.takes_part and any(isinstance(one, TorrentReference) for one in found):
        raise UsageError(
            "a model that is still to be fetched needs its swarm", hint="drop --no-torrents"
        )
    names = [model.name for model in found if not isinstance(model, TorrentReference)]
    if len(set(names)) < len(names):
        raise UsageError("two models have the same name", hint="rename one of the files")


def _assemble(
    node: Node,
    found: Sequence[NamedModel],
    request: ServeRequest,
    share_config: ShareConfig | None,
    on_event: OnEvent,
) -> Server:
    """Loads what is here, and puts beside the server what begins and ends with it."""
    route, swarm = request.route, request.swarm
    # What begins first ends last: nobody computes any more when the last texts are written.
    services: list[Service] = [keeping_texts(node)]
    arriving: list[str] = []
    lists_store = not (request.models or share_config)
    resident = ResidentModels(node, lists_store=lists_store, keep_alive_s=request.keep_alive_s)
    if share_config is None:
        for one in found:
            model = begin(one)
            if asyncio.run(runs_on_peers(model, request.options, route, swarm, on_event)):
                services.append(open_remote(node, model, route, swarm, on_event))
            elif isinstance(model, TorrentReference):
                arriving.append(model.reference)
            else:
                _load(resident, model, on_event)
    seeding = _seeding(node, request, arriving)
    if seeding is not None:
        services.append(offered(lambda: seeding.client, swarm.config()))
    if share_config is not None:
        services.append(
            host(node, found, request.share, share_config, swarm, seeding, peers=route.via)
        )
        if route.kind in ("lan", "swarm"):
            services += [answer_when_hosted(node, one, route, swarm, on_event) for one in found]
    services.append(keep_standing(request.share, share_config, swarm, seeding, peers=route.via))
    if request.options.public_system:
        services.insert(1, _computed_beginnings(node, on_event))
    return Server(node, request.server, seeding, services, resident, swarm)


@asynccontextmanager
async def _computed_beginnings(node: Node, on_event: OnEvent) -> AsyncIterator[None]:
    """What everybody may know is there before anybody asks."""
    if not node.models:
        raise UsageError(
            "a public system text is computed by models that are here, and none is",
            hint="drop --public-system, or name a model that is here",
        )
    for model in node.models.values():
        on_event(Preparing(model.name, len(model.beginning)))
        await model.compute_beginning()
    yield


def _load(resident: ResidentModels, opening: Opening, on_event: OnEvent) -> None:
    on_event(Loading(opening.stored.name))
    model = resident.begin(opening)
    if model is None:
        on_event(Waiting(opening.stored.name))
    else:
        on_event(Loaded(model.name, model.context_limit))


def _seeding(node: Node, request: ServeRequest, arriving: Sequence[str]) -> Seeding | None:
    if not request.takes_part:
        return None
    swarm = request.swarm
    models = ArrivingModels(references=tuple(arriving), peers=swarm.peers, swarm=swarm.swarm)
    return Seeding(node, swarm, models)
