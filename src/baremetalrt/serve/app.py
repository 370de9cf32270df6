"""The HTTP server: routes, keys, limits, and errors as JSON."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt import __version__
from baremetalrt.core.errors import BareMetalError, CapacityError
from baremetalrt.core.owner import Owner
from baremetalrt.core.tasks import Tasks, note_failure
from baremetalrt.node.node import Node
from baremetalrt.node.options import SwarmOptions
from baremetalrt.node.resident_models import ResidentModels
from baremetalrt.node.seeding import Seeding
from baremetalrt.serve import metrics as prometheus
from baremetalrt.serve.admission import Admission
from baremetalrt.serve.allowance import Allowances
from baremetalrt.serve.anthropic.routes import routes as anthropic_routes
from baremetalrt.serve.desk import Complete, Handler, Reader, T, Voice
from baremetalrt.serve.gate import Gate, GateConfig
from baremetalrt.serve.hangup import Beginnings, watch_hangups
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.keys import ApiKey
from baremetalrt.serve.llama_cpp.routes import routes as llama_cpp_routes
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.ollama.routes import routes as ollama_routes
from baremetalrt.serve.openai import errors
from baremetalrt.serve.openai.reading import FieldReader
from baremetalrt.serve.openai.routes import model_routes
from baremetalrt.serve.openai.routes import routes as openai_routes
from baremetalrt.serve.requests import Bodies, unless_disconnected
from baremetalrt.serve.responses.routes import routes as responses_routes
from baremetalrt.serve.served_models import ServedModels
from baremetalrt.session.session import GenerationStats

logger = logging.getLogger(__name__)

# 499, "client closed request", is nginx's; nobody is left to read it, but the metrics are.
_CLIENT_GONE: Final = 499
_IGNORED_HEADER: Final = "x-ignored-fields"
_NAMED: Final = ("/v1/models/", "/v1/responses/")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Who may ask, and how much at once."""

    gate: GateConfig = field(default_factory=GateConfig)
    max_active: int = 4
    max_waiting: int = 32
    # a field that nobody knows is refused, and not only named
    is_strict: bool = False

    @property
    def max_requests(self) -> int:
        """How many are neither refused nor answered at any time."""
        return self.max_active + self.max_waiting


class Server:
    """The endpoints over one node."""

    def __init__(
        self,
        node: Node,
        config: ServerConfig,
        seeding: Seeding | None = None,
        services: Sequence[AbstractAsyncContextManager[object]] = (),
        resident: ResidentModels | None = None,
        swarm: SwarmOptions | None = None,
    ) -> None:
        """`services`: what begins and ends with the server; `resident`: models that take turns; `swarm`:
        whom others are fetched from.
        """
        self._node = node
        self._seeding = seeding
        self._services = services
        self._resident = resident or ResidentModels(node)
        self._gate = Gate(config.gate)
        self.models = ServedModels(node, self._resident, self._gate, seeding)
        self._origins = config.gate.origins
        self._admission = Admission(max_active=config.max_active, max_waiting=config.max_waiting)
        self._metrics = prometheus.Metrics(self._admission)
        self.swarm = swarm or SwarmOptions()
        self._allowances = Allowances()
        self._bodies = Bodies()
        self._fields = FieldReader(is_strict=config.is_strict)
        self._tasks = Tasks()
        self._begun = Beginnings.now() if hasattr(signal, "SIGHUP") else None

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self.guard(self._about, needs_key=False)),
                Route("/v1", self.guard(self._about, needs_key=False)),
                Route("/health", self.guard(self._health, needs_key=False)),
                Route("/metrics", self.guard(self._render_metrics)),
                Route("/torrents", self.guard(self._list_torrents)),
                *model_routes(self),
                *openai_routes(self, self._fields),
                *responses_routes(self, self._fields),
                *ollama_routes(self),
                *anthropic_routes(self),
                *llama_cpp_routes(self),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _bug},
            middleware=self._middleware(),
            lifespan=self._lifespan,
        )

    def _middleware(self) -> list[Middleware]:
        """What tells browsers that some pages may use the server, where there are such."""
        if not self._origins:
            return []
        cors = Middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in self._origins],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        return [cors]

    @asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        try:
            async with self._running():
                yield
        except Exception as error:
            # All that the server under us would say is that it did not start, or nothing at all.
            application.state.failure = error
            raise

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._tasks)
            if self._seeding is not None:
                # Services may have set its torrents going, and end before them.
                stack.push_async_callback(self._seeding.stop)
            self._tasks.start("letting models go", self._resident.let_go())
            for one in self._services:
                await stack.enter_async_context(one)
            if self._seeding is not None:
                await self._seeding.start()
            if self._begun is not None:
                watch_hangups(self._begun, self._reload)
            yield

    def _reload(self) -> None:
        if self._seeding is not None:
            self._tasks.start("reading the settings again", self._seeding.reload())

    def guard(self, handler: Handler, voice: Voice = errors, *, needs_key: bool = True) -> Handler:
        """Checks who asks, counts, and turns our errors into answers, as a dialect says them."""

        async def guarded(request: Request) -> Response:
            path = request.scope["path"]
            try:
                self._gate.check(request, needs_key=needs_key)
                response = await handler(request)
            except BareMetalError as error:
                response = voice.error(error)
            except HTTPException as error:
                response = voice.http(request, error)
            except ClientDisconnect:
                response = Response(status_code=_CLIENT_GONE)
            except asyncio.CancelledError:
                # Nobody but the server under us ends this, and only as it ends itself.
                response = voice.error(_ending())
            self._metrics.count_request(_kind_of(path), response.status_code)
            return response

        return guarded

    def owner_of(self, http: Request) -> Owner:
        return self._gate.owner(self._gate.key(http))

    def body_of(self, http: Request) -> AbstractAsyncContextManager[bytes]:
        return self._bodies.of(http)

    # endpoints

    async def _about(self, _request: Request) -> Response:
        """For whoever looks with a browser, or gives a client the wrong address."""
        return JsonResponse(
            {"name": "baremetalrt", "version": __version__, "hint": errors.PATHS_HINT}
        )

    async def _health(self, _request: Request) -> Response:
        return JsonResponse(
            {
                "status": "ok",
                "version": __version__,
                "models": list(self._node.models),
                "active": self._admission.active,
                "waiting": self._admission.waiting,
            }
        )

    async def _render_metrics(self, _request: Request) -> Response:
        return Response(self._metrics.render(), media_type=prometheus.CONTENT_TYPE)

    async def _list_torrents(self, _request: Request) -> Response:
        seeding = self._seeding
        if seeding is None:
            return JsonResponse({"object": "list", "port": 0, "data": []})
        return JsonResponse(
            {"object": "list", "port": seeding.port, "data": await seeding.status()}
        )

    async def answer(self, http: Request, reader: Reader[T], complete: Complete[T]) -> Response:
        """Everything that is done for a request, reading it included, is done in its turn."""
        key = self._gate.key(http)
        owner = self._gate.owner(key)
        async with self._bodies.of(http) as body:

            async def answering() -> Response:
                async with AsyncExitStack() as held:
                    counts: Counts = self._metrics
                    if key is not None:
                        held.enter_context(self._allowances.request(key))
                        counts = _CountsOfKey(self._metrics, self._allowances, key)
                    await held.enter_async_context(self._admission.slot(owner))
                    request, ignored = reader(body)
                    in_use = held.enter_context(ExitStack())
                    model = (await self.models.find(http, request.model, in_use)).owned_by(owner)
                    answer = await complete(request, model, counts, held)
                    if ignored:
                        answer.headers[_IGNORED_HEADER] = ignored
                    return answer

            answer = await unless_disconnected(http, answering())
        return answer or Response(status_code=_CLIENT_GONE)


class _CountsOfKey:
    """Counts what was computed for a key, besides what everybody may know."""

    def __init__(self, counts: Counts, allowances: Allowances, key: ApiKey) -> None:
        self._counts = counts
        self._allowances = allowances
        self._key = key

    def count_generation(self, stats: GenerationStats) -> None:
        self._counts.count_generation(stats)
        computed = stats.prompt_tokens - stats.cached_tokens
        self._allowances.spend(self._key, computed + stats.generated_tokens)


def _kind_of(path: str) -> str:
    """Addresses with names of a client's in them, as one."""
    named = next((start for start in _NAMED if path.startswith(start)), None)
    return path if named is None else named + "{name}"


def _ending() -> CapacityError:
    return CapacityError(
        "the server is ending", code="server.ending", hint="ask again when it is back"
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return errors.http(request, error)


async def _bug(_request: Request, error: Exception) -> Response:
    note_failure("answering a request", error)
    return JsonResponse(errors.body("internal error", status=500), status_code=500)
