"""What a dialect asks of the server: who may ask, which model is meant, whose turn it is."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.owner import Owner
from baremetalrt.node.model import Model
from baremetalrt.node.options import SwarmOptions
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.served_models import ServedModels


class Asked(Protocol):
    """A request of any dialect."""

    model: str


T = TypeVar("T", bound=Asked)
Handler = Callable[[Request], Awaitable[Response]]
# A request from a body, and the fields that are ignored, as a header says them.
Reader = Callable[[bytes], tuple[T, str]]
# How a dialect answers one kind of request; what the request holds is let go when the answer is sent.
Complete = Callable[[T, Model, Counts, AsyncExitStack], Awaitable[Response]]


class Voice(Protocol):
    """How a dialect says what went wrong."""

    def error(self, error: BareMetalError) -> Response: ...

    def http(self, request: Request, error: HTTPException) -> Response: ...


class Desk(Protocol):
    """The server, as dialects see it."""

    def guard(self, handler: Handler, voice: Voice, *, needs_key: bool = True) -> Handler:
        """Checks who asks, counts, and turns our errors into answers."""

    async def answer(self, http: Request, reader: Reader[T], complete: Complete[T]) -> Response:
        """Everything that is done for a request, reading it included, is done in its turn."""

    @property
    def models(self) -> ServedModels:
        """What is served, as those may see it who ask."""

    @property
    def swarm(self) -> SwarmOptions:
        """Whom models may be fetched from."""

    def owner_of(self, http: Request) -> Owner:
        """Whose request it is."""

    def body_of(self, http: Request) -> AbstractAsyncContextManager[bytes]:
        """What a client sends, within bounds of size and time."""
