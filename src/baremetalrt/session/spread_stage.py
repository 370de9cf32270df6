"""A stage whose blocks are spread over devices of this machine; it goes on where one of them is lost.

Only rows go from device to device. A text is known here by its tokens: where a device fails, its blocks
are put elsewhere, and each text is computed again when it is needed next, as if it were a prompt.
"""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.steps import Reads
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.native.backend import DeviceError, UnsupportedOperationError
from baremetalrt.session.route import Route, RoutePlace
from baremetalrt.session.stage import LocalStage, Place

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet

T = TypeVar("T")
Loss = DeviceError | UnsupportedOperationError
# The stages of a route, in order, without the device that an error is about.
Replace = Callable[[Loss], Awaitable[Sequence[LocalStage]]]


@dataclass(eq=False)
class SpreadText:
    """A text, and where it stands in the stages of `route`, if it was begun there."""

    capacity: int
    adapters: "AdapterSet | None"
    owner: Owner
    route: Route
    place: RoutePlace | None
    tokens: "array[int]" = field(default_factory=lambda: array("i"))

    @property
    def length(self) -> int:
        return len(self.tokens)


class SpreadStage:
    """Several local stages, one after the other; `replace` gives others when a device has failed."""

    is_ready = True

    def __init__(self, stages: Sequence[LocalStage], replace: Replace) -> None:
        self._route = Route(stages)
        self._replace = replace
        self._moving = asyncio.Lock()

    @property
    def chunk_tokens(self) -> int:
        return self._route.chunk_tokens

    async def open(
        self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER
    ) -> SpreadText:
        return await self._open(tokens, capacity, None, owner)

    async def open_adapted(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet",
        owner: Owner = THIS_USER,
    ) -> SpreadText:
        return await self._open(tokens, capacity, adapters, owner)

    async def _open(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet | None",
        owner: Owner,
    ) -> SpreadText:
        async def begin(route: Route) -> SpreadText:
            place = await route.open(tokens, capacity, adapters, owner)
            known = array("i", tokens[: place.length])
            return SpreadText(capacity, adapters, owner, route, place, known)

        return await self._somewhere(begin)

    async def grow(self, place: Place, capacity: int) -> None:
        text = _text(place)

        async def grow(route: Route) -> None:
            await route.grow(await self._caught_up(text, route), capacity)

        await self._somewhere(grow)
        text.capacity = capacity

    async def truncate(self, place: Place, length: int) -> None:
        text = _text(place)

        async def truncate(route: Route) -> None:
            # One that stands in stages of the past is opened anew with what is left.
            if text.route is route and text.place is not None:
                await route.truncate(text.place, length)
                del text.tokens[text.place.length :]

        del text.tokens[length:]
        await self._somewhere(truncate)

    async def forward(
        self,
        place: Place,
        tokens: Sequence[int],
        x_TD: NDArray[np.float32] | None,
        reads: Reads,
    ) -> NDArray[np.float32]:
        text = _text(place)

        async def step(route: Route) -> NDArray[np.float32]:
            return await route.forward(await self._caught_up(text, route), tokens, reads)

        rows = await self._somewhere(step)
        text.tokens.extend(tokens)
        return rows

    def release(self, place: Place, *, keep: bool) -> None:
        _leave(_text(place), keep=keep)

    def unload_adapter(self, digest: str) -> None:
        self._route.unload_adapter(digest)

    async def _somewhere(self, call: Callable[[Route], Awaitable[T]]) -> T:
        """Calls with the route as it is; with another one, as long as devices fail."""
        while True:
            route = self._route
            try:
                return await call(route)
            except (DeviceError, UnsupportedOperationError) as error:
                # Of the second, too: a shape of step that came up only now.
                lost: Loss = error
            async with self._moving:
                if self._route is route:
                    self._route = Route(await self._replace(lost))

    async def _caught_up(self, text: SpreadText, route: Route) -> RoutePlace:
        """Where a text stands in this route, once everything that is known of it was computed there."""
        known, place = text.tokens, text.place
        if text.route is not route or place is None:
            _leave(text, keep=False)
            place = await route.open(known, text.capacity, text.adapters, text.owner)
            text.route, text.place = route, place
        if any(each.length != len(known) for each in place.places):
            # Begun just now, or left in the middle of a step.
            await route.truncate(place, min(place.length, len(known)))
            while place.length < len(known):
                chunk = known[place.length : place.length + route.chunk_tokens]
                await route.forward(place, chunk, "none")
        return place


def _leave(text: SpreadText, *, keep: bool) -> None:
    if text.place is not None:
        place, text.place = text.place, None
        text.route.release(place, keep=keep)


def _text(place: Place) -> SpreadText:
    if not isinstance(place, SpreadText):
        raise TypeError("a stage of several devices was given a place in another kind of stage")
    return place
