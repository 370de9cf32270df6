"""The models of a server, as those may see them who ask: in memory, or loaded when they are asked for."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.ids import folded
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.adapter_shelf import AdapterShelf, parse_names
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.resident_models import ResidentModels, StoredModel
from baremetalrt.node.seeding import Seeding, arriving_error
from baremetalrt.serve.gate import Gate


class ServedModels:
    """Whom a key does not allow to ask a model, is told of none."""

    def __init__(
        self, node: Node, resident: ResidentModels, gate: Gate, seeding: Seeding | None
    ) -> None:
        self._node = node
        self._resident = resident
        self._gate = gate
        self._seeding = seeding
        self._shelf = AdapterShelf()

    def loaded(self, http: Request) -> list[Model]:
        """Those in memory."""
        key = self._gate.key(http)
        models = self._node.models.values()
        return [model for model in models if key is None or key.allows(model.name)]

    async def waiting(self, http: Request) -> list[StoredModel]:
        """Those that load when they are asked for."""
        key = self._gate.key(http)
        files = await in_thread(self._resident.waiting)
        return [one for one in files if key is None or key.allows(one.name)]

    async def find(self, http: Request, name: str, held: ExitStack) -> Model:
        """The model of that name, or, behind a colon, with adapters of the store: `base:a+b=0.5`.

        It stays in memory until `held` is closed; one that waits is loaded. Clients of Ollama put
        `:latest` behind a name.

        Raises:
            UsageError: it is not served here, or not to who asks.
        """
        name = name.removesuffix(":latest")
        base = _named(name, self.loaded(http))
        if base is None:
            # Only now: the store is looked through for it.
            waiting = await self.waiting(http)
            meant = _named(name, waiting)
            if meant is None and (called := await in_thread(self._resident.called, name)):
                name = called.name
                meant, base = _named(name, waiting), _named(name, self.loaded(http))
            if meant is not None:
                base = await self._resident.load(meant)
            if base is None:
                raise self._not_served(http, name, waiting)
        held.enter_context(base.use.begun())
        adapters = name[len(base.name) + 1 :]
        return await in_thread(self._shelf.adapt, base, parse_names(adapters)) if adapters else base

    def _not_served(
        self, http: Request, name: str, waiting: Sequence[StoredModel]
    ) -> BareMetalError:
        key = self._gate.key(http)
        is_expecting = self._seeding is not None and self._seeding.is_expecting
        if is_expecting and (key is None or key.allows(name)):
            return arriving_error(name)
        served = [*(one.name for one in self.loaded(http)), *(one.name for one in waiting)]
        return UsageError(
            f"the model {name!r} is not served here",
            code="model.not-found",
            parameter="model",
            hint="served: " + ", ".join(served),
        )

    def keep(self, model: Model, keep_alive_s: float) -> None:
        """From now on the model stays in memory so long after its last use, if it may go at all."""
        self._resident.keep(model.name, keep_alive_s)

    def require_all(self, http: Request) -> None:
        """Raises `UsageError` unless who asks may ask all models, and so have others fetched."""
        key = self._gate.key(http)
        if key is not None and key.models:
            raise UsageError(
                f"the key {key.name!r} is for {', '.join(key.models)}, and fetches no models",
                code="key.models",
            )

    async def cards(self, http: Request) -> list[dict[str, Any]]:
        """All of them, as OpenAI's API describes models."""
        cards = []
        for model in self.loaded(http):
            cards.append(_card(model))
            for name in await in_thread(self._shelf.names_for, model):
                adapted = {"id": f"{model.name}:{name}", "parent": model.name}
                cards.append(_card(model) | adapted)
        return cards + [await in_thread(_waiting_card, one) for one in await self.waiting(http)]

    async def card(self, http: Request, name: str) -> dict[str, Any]:
        """One of them; what it is, its file says: it need not be loaded for that. Raises like `find`."""
        for waiting in await self.waiting(http):
            if folded(name) == folded(waiting.name):
                return await in_thread(_waiting_card, waiting)
        with ExitStack() as held:
            model = await self.find(http, name, held)
        return _card(model) | ({"parent": model.base.name} if model.base else {})


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _named(name: str, models: Sequence[N]) -> N | None:
    """The one that a request means, perhaps with adapters behind a colon; any, if it names none."""
    for one in models:
        if not name or f"{folded(name)}:".startswith(f"{folded(one.name)}:"):
            return one
    return None


def _card(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "baremetalrt",
        "context_length": model.context_limit,
    }


def _waiting_card(file: StoredModel) -> dict[str, Any]:
    try:
        created = int(file.path.stat().st_mtime)
    except OSError:
        created = 0
    return {"id": file.name, "object": "model", "created": created, "owned_by": "baremetalrt"}
