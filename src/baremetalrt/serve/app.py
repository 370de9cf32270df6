"""The HTTP server: routes, keys, limits, and errors as JSON."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from baremetalrt import __version__
from baremetalrt.core.errors import BareMetalError, CapacityError, UsageError, one_line
from baremetalrt.core.ids import folded
from baremetalrt.core.tasks import Tasks, in_thread, note_failure
from baremetalrt.node.adapter_shelf import AdapterShelf, parse_names
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.resident_models import ResidentModels
from baremetalrt.node.seeding import Seeding, arriving_error
from baremetalrt.serve import metrics as prometheus
from baremetalrt.serve.admission import Admission
from baremetalrt.serve.anthropic import errors as anthropic_errors
from baremetalrt.serve.anthropic import messages
from baremetalrt.serve.anthropic.schema import MessagesRequest
from baremetalrt.serve.anthropic.schema import decode as anthropic_decode
from baremetalrt.serve.gate import Gate, GateConfig
from baremetalrt.serve.hangup import Beginnings, watch_hangups
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.ollama import answers as ollama_answers
from baremetalrt.serve.ollama import errors as ollama_errors
from baremetalrt.serve.ollama import models as ollama_models
from baremetalrt.serve.ollama.schema import OllamaChat, OllamaGenerate, OllamaShow
from baremetalrt.serve.ollama.schema import decode as ollama_decode
from baremetalrt.serve.openai import chat, completions, errors
from baremetalrt.serve.openai.reading import read
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest
from baremetalrt.serve.requests import Bodies, unless_disconnected

logger = logging.getLogger(__name__)

# 499, "client closed request", is nginx's; nobody is left to read it, but the metrics are.
_CLIENT_GONE: Final = 499
_IGNORED_HEADER: Final = "x-ignored-fields"
_MAX_TOLD: Final = 100

_PATHS_HINT: Final = (
    "clients take this server's address with /v1 behind it as base URL, and then ask "
    "POST /v1/chat/completions, POST /v1/completions or GET /v1/models"
)

T = TypeVar("T", ChatRequest, CompletionRequest, OllamaChat, OllamaGenerate, MessagesRequest)
OpenAI = TypeVar("OpenAI", ChatRequest, CompletionRequest)
# A request from a body, and the fields that are ignored.
Reader = Callable[[bytes], tuple[T, str]]
Handler = Callable[[Request], Awaitable[Response]]
# How a dialect answers one kind of request.
Complete = Callable[[T, Model, prometheus.Metrics, AsyncExitStack], Awaitable[Response]]


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
    ) -> None:
        """`services`: what begins and ends with the server; `resident`: models that take turns."""
        self._node = node
        self._seeding = seeding
        self._services = services
        self._resident = resident or ResidentModels(node)
        self._gate = Gate(config.gate)
        self._origins = config.gate.origins
        self._admission = Admission(max_active=config.max_active, max_waiting=config.max_waiting)
        self._metrics = prometheus.Metrics(self._admission)
        self._bodies = Bodies()
        self._is_strict = config.is_strict
        self._told: set[str] = set()
        self._shelf = AdapterShelf()
        self._tasks = Tasks()
        self._begun = Beginnings.now() if hasattr(signal, "SIGHUP") else None

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._guard(self._about, needs_key=False)),
                Route("/v1", self._guard(self._about, needs_key=False)),
                Route("/health", self._guard(self._health, needs_key=False)),
                Route("/metrics", self._guard(self._render_metrics)),
                Route("/torrents", self._guard(self._list_torrents)),
                Route("/v1/models", self._guard(self._list_models)),
                Route("/v1/models/{name:path}", self._guard(self._get_model)),
                Route("/v1/chat/completions", self._guard(self._chat), methods=["POST"]),
                Route("/v1/completions", self._guard(self._complete), methods=["POST"]),
                *self._ollama_routes(),
                *self._anthropic_routes(),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _bug},
            middleware=self._middleware(),
            lifespan=self._lifespan,
        )

    def _ollama_routes(self) -> list[Route]:
        def route(path: str, handler: Handler, method: str) -> Route:
            guarded = self._guard(handler, say=ollama_errors.response, say_http=_ollama_http)
            return Route(path, guarded, methods=[method])

        return [
            route("/api/version", self._ollama_version, "GET"),
            route("/api/tags", self._ollama_tags, "GET"),
            route("/api/ps", self._ollama_running, "GET"),
            route("/api/show", self._ollama_show, "POST"),
            route("/api/chat", self._ollama_chat, "POST"),
            route("/api/generate", self._ollama_generate, "POST"),
        ]

    def _anthropic_routes(self) -> list[Route]:
        def route(path: str, complete: Complete[MessagesRequest]) -> Route:
            async def handler(http: Request) -> Response:
                return await self._answer(http, _as_messages, complete)

            guarded = self._guard(handler, say=anthropic_errors.response, say_http=_anthropic_http)
            return Route(path, guarded, methods=["POST"])

        return [
            route("/v1/messages", messages.complete),
            route("/v1/messages/count_tokens", messages.count_tokens),
        ]

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

    def _guard(
        self,
        handler: Handler,
        *,
        needs_key: bool = True,
        say: Callable[[BareMetalError], Response] = errors.response,
        say_http: Callable[[HTTPException], Response] | None = None,
    ) -> Handler:
        """Checks who asks, counts, and turns our errors into answers, as the dialect says them."""

        async def guarded(request: Request) -> Response:
            path = request.scope["path"]
            try:
                self._gate.check(request, needs_key=needs_key)
                response = await handler(request)
            except BareMetalError as error:
                response = say(error)
            except HTTPException as error:
                response = say_http(error) if say_http else await _http_error(request, error)
            except ClientDisconnect:
                response = Response(status_code=_CLIENT_GONE)
            except asyncio.CancelledError:
                # Nobody but the server under us ends this, and only as it ends itself.
                response = say(_ending())
            known = path if not path.startswith("/v1/models/") else "/v1/models/{name}"
            self._metrics.count_request(known, response.status_code)
            return response

        return guarded

    # endpoints

    async def _about(self, _request: Request) -> Response:
        """For whoever looks with a browser, or gives a client the wrong address."""
        return JsonResponse({"name": "baremetalrt", "version": __version__, "hint": _PATHS_HINT})

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

    async def _list_models(self, _request: Request) -> Response:
        models = []
        for model in self._node.models.values():
            models.append(_model_card(model))
            for name in await asyncio.to_thread(self._shelf.names_for, model):
                card = {"id": f"{model.name}:{name}", "parent": model.name}
                models.append(_model_card(model) | card)
        models += [_waiting_card(*one) for one in self._resident.waiting.items()]
        return JsonResponse({"object": "list", "data": models})

    async def _get_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for waiting, created in self._resident.waiting.items():
            if folded(name) == folded(waiting):
                return JsonResponse(_waiting_card(waiting, created))
        with ExitStack() as held:
            model = await self._find_adapted(name, held)
        parent = {"parent": model.base.name} if model.base else {}
        return JsonResponse(_model_card(model) | parent)

    async def _chat(self, http: Request) -> Response:
        return await self._answer(http, partial(self._read, kind=ChatRequest), chat.complete)

    async def _complete(self, http: Request) -> Response:
        read_ = partial(self._read, kind=CompletionRequest)
        return await self._answer(http, read_, completions.complete)

    async def _ollama_chat(self, http: Request) -> Response:
        return await self._answer(http, partial(_plainly, kind=OllamaChat), ollama_answers.chat)

    async def _ollama_generate(self, http: Request) -> Response:
        read_ = partial(_plainly, kind=OllamaGenerate)
        return await self._answer(http, read_, ollama_answers.generate)

    async def _ollama_version(self, _request: Request) -> Response:
        return JsonResponse({"version": ollama_models.VERSION})

    async def _ollama_tags(self, _request: Request) -> Response:
        served = [(model.name, model.path) for model in self._node.models.values()]
        served += self._resident.waiting_files
        return JsonResponse(
            {"models": [await in_thread(ollama_models.tag, *one) for one in served]}
        )

    async def _ollama_running(self, _request: Request) -> Response:
        served = [(m.name, m.path, m.context_limit) for m in self._node.models.values()]
        return JsonResponse(
            {"models": [await in_thread(ollama_models.running, *one) for one in served]}
        )

    async def _ollama_show(self, http: Request) -> Response:
        async with self._bodies.of(http) as body:
            asked = ollama_decode(body, OllamaShow)
        with ExitStack() as held:
            model = await self._find_adapted(asked.model or asked.name, held)
        return JsonResponse(
            await in_thread(ollama_models.show, model.name, model.path, model.template.source)
        )

    async def _answer(self, http: Request, read_: Reader[T], complete: Complete[T]) -> Response:
        """Everything that is done for a request, reading it included, is done in its turn."""
        owner = self._gate.owner(http)
        async with self._bodies.of(http) as body:

            async def answering() -> Response:
                async with AsyncExitStack() as held:
                    await held.enter_async_context(self._admission.slot(owner))
                    request, ignored = read_(body)
                    in_use = held.enter_context(ExitStack())
                    model = (await self._find_adapted(request.model, in_use)).owned_by(owner)
                    answer = await complete(request, model, self._metrics, held)
                    if ignored:
                        answer.headers[_IGNORED_HEADER] = ignored
                    return answer

            answer = await unless_disconnected(http, answering())
        return answer or Response(status_code=_CLIENT_GONE)

    def _read(self, body: bytes, kind: type[OpenAI]) -> tuple[OpenAI, str]:
        """The request, and the fields that are ignored, as a header says them; each is logged once."""
        found = read(body, kind, is_strict=self._is_strict)
        # They are a stranger's text.
        names = [name for name in found.ignored if name.isidentifier() and name.isascii()]
        for name in names:
            if name not in self._told and len(self._told) < _MAX_TOLD:
                self._told.add(name)
                logger.warning("requests have the field %s, which is ignored", name)
        return found.request, ", ".join(names)

    async def _find_adapted(self, name: str, held: ExitStack) -> Model:
        """The model of that name, or, behind a colon, with adapters of the store: `base:a+b=0.5`.

        It stays in memory until `held` is closed; one that waits is loaded. Clients of Ollama put
        `:latest` behind a name.
        """
        name = name.removesuffix(":latest")
        for waiting in self._resident.waiting:
            if f"{folded(name)}:".startswith(f"{folded(waiting)}:"):
                await self._resident.load(waiting)
        models = self._node.models
        if not any(folded(name) == folded(known) for known in models):
            for base in models.values():
                prefix, rest = name[: len(base.name) + 1], name[len(base.name) + 1 :]
                if rest and folded(prefix) == f"{folded(base.name)}:":
                    held.enter_context(base.use.begun())
                    return await in_thread(self._shelf.adapt, base, parse_names(rest))
        model = self._find(name)
        held.enter_context(model.use.begun())
        return model

    def _find(self, name: str) -> Model:
        """The model of that name; the first one when the request names none."""
        for model in self._node.models.values():
            if not name or folded(name) == folded(model.name):
                return model
        if self._seeding is not None and self._seeding.is_expecting:
            raise arriving_error(name)
        raise UsageError(
            f"the model {name!r} is not served here",
            code="model.not-found",
            parameter="model",
            hint="served: " + ", ".join([*self._node.models, *self._resident.waiting]),
        )


def _plainly(body: bytes, kind: type[T]) -> tuple[T, str]:
    """A request of a dialect that takes any field."""
    return ollama_decode(body, kind), ""


def _as_messages(body: bytes) -> tuple[MessagesRequest, str]:
    return anthropic_decode(body), ""


def _anthropic_http(error: HTTPException) -> Response:
    said = anthropic_errors.body(error.detail, error.status_code)
    return JsonResponse(said, status_code=error.status_code)


def _ollama_http(error: HTTPException) -> Response:
    return JsonResponse(ollama_errors.body(error.detail), status_code=error.status_code)


def _ending() -> CapacityError:
    return CapacityError(
        "the server is ending", code="server.ending", hint="ask again when it is back"
    )


def _model_card(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "baremetalrt",
        "context_length": model.context_limit,
    }


def _waiting_card(name: str, created: int) -> dict[str, Any]:
    """Of a model that loads when it is asked for."""
    return {"id": name, "object": "model", "created": created, "owned_by": "baremetalrt"}


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = error.detail if isinstance(error, HTTPException) else str(error)
    if status in (404, 405):
        message = f"{request.method} {one_line(request.url.path)} is nothing here; {_PATHS_HINT}"
    headers = error.headers if isinstance(error, HTTPException) else None
    return JsonResponse(errors.body(message, status=status), status_code=status, headers=headers)


async def _bug(_request: Request, error: Exception) -> Response:
    note_failure("answering a request", error)
    return JsonResponse(errors.body("internal error", status=500), status_code=500)
