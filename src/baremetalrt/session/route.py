"""An ordered list of stages that together hold every block of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.steps import Reads
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.session.stage import AdaptedStage, Place, Stage, not_adapted, not_ready

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet


@dataclass(frozen=True)
class RoutePlace:
    """Where a session stands in every stage of a route."""

    places: tuple[Place, ...]

    @property
    def length(self) -> int:
        return min(place.length for place in self.places)


class Route:
    """Stages in order of execution: the first takes token ids, the last returns logits.

    A model that runs on this machine alone is a route with one stage.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages:
            raise ValueError("a route has at least one stage")
        self.stages = tuple(stages)

    @property
    def chunk_tokens(self) -> int:
        """How many tokens of a prompt go through the route at once."""
        return min(stage.chunk_tokens for stage in self.stages)

    @property
    def takes_adapters(self) -> bool:
        """Whether every stage computes with adapters, now or once it is ready."""
        return all(isinstance(stage, AdaptedStage) for stage in self.stages)

    def require_adapters(self) -> None:
        """Whether every stage computes with adapters now.

        Raises:
            UsageError: one never does.
            CapacityError: one is not ready yet.
        """
        for stage in self.stages:
            if not isinstance(stage, AdaptedStage):
                raise not_adapted()
            if not stage.is_ready:
                raise not_ready()

    def unload_adapter(self, digest: str) -> None:
        """Gives back the memory of an adapter, once nobody uses it any more."""
        for stage in self.stages:
            if isinstance(stage, AdaptedStage):
                stage.unload_adapter(digest)

    async def open(
        self,
        tokens: Sequence[int],
        capacity: int,
        adapters: "AdapterSet | None" = None,
        owner: Owner = THIS_USER,
    ) -> RoutePlace:
        """Begins a text in every stage; they agree on how much its owner has of its beginning.

        Raises:
            UsageError: a stage does not compute with adapters.
        """
        places: list[Place] = []
        try:
            for stage in self.stages:
                if adapters is None:
                    places.append(await stage.open(tokens, capacity, owner))
                elif isinstance(stage, AdaptedStage):
                    places.append(await stage.open_adapted(tokens, capacity, adapters, owner))
                else:
                    raise not_adapted()
            length = min(place.length for place in places)
            for stage, place in zip(self.stages, places, strict=True):
                if place.length > length:
                    await stage.truncate(place, length)
        except BaseException:
            for stage, place in zip(self.stages, places, strict=False):
                stage.release(place, keep=True)
            raise
        return RoutePlace(tuple(places))

    async def truncate(self, place: RoutePlace, length: int) -> None:
        """Forgets all but the first `length` tokens in every stage; a stage may forget more."""
        for stage, stage_place in zip(self.stages, place.places, strict=True):
            await stage.truncate(stage_place, length)
        if place.length < length:
            await self.truncate(place, place.length)

    async def grow(self, place: RoutePlace, capacity: int) -> None:
        for stage, stage_place in zip(self.stages, place.places, strict=True):
            await stage.grow(stage_place, capacity)

    async def forward(
        self, place: RoutePlace, tokens: Sequence[int], reads: Reads
    ) -> NDArray[np.float32]:
        """The next tokens of a text through all stages: logits `(R, V)` of the rows read."""
        rows: NDArray[np.float32] | None = None
        for stage, stage_place in zip(self.stages, place.places, strict=True):
            rows = await stage.forward(stage_place, tokens, rows, reads)
        assert rows is not None
        return rows

    def release(self, place: RoutePlace, *, keep: bool) -> None:
        for stage, stage_place in zip(self.stages, place.places, strict=True):
            stage.release(stage_place, keep=keep)
