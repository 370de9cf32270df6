"""Which peers a chain runs on: replaced one by one within a text, planned anew between texts."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.tasks import Tasks
from baremetalrt.peers.attached_span import AttachedSpan
from baremetalrt.peers.backoff import Backoff
from baremetalrt.peers.events import StageLost, StageReplaced
from baremetalrt.peers.remote_span import RemoteSpan

# Whoever steps in may have to fetch and load weights first.
_REPLACE_TIMEOUT_S: Final = 600.0
# A route with replacements in it answers: whether there is a better one is not asked before every text.
_PLAN_AGAIN_S: Final = 60.0

# Who else has the blocks of a span, in order: told what is lost and who must not be asked.
FindReplacement = Callable[[RemoteSpan, frozenset[str]], Awaitable[Sequence[RemoteSpan]]]
# The best route of all, told who had better not be on it; raises `CapacityError` where there is none.
PlanRoute = Callable[[frozenset[str]], Awaitable[Sequence[RemoteSpan]]]


class ChainRoute:
    """`spans` is the route of texts that begin now; a text that lost nothing goes on where it began.

    A peer that is lost is replaced. Once a replacement was not to be found, the next text waits until the
    route is planned anew; where one was found, that is done beside the texts, when the peers that were
    lost may be asked again.
    """

    def __init__(
        self,
        spans: Sequence[RemoteSpan],
        find_replacement: FindReplacement,
        plan: PlanRoute | None,
        *,
        on_event: Callable[[StageLost | StageReplaced], None],
        clock: Callable[[], float],
    ) -> None:
        self.spans = list(spans)
        self._find_replacement = find_replacement
        self._plan = plan
        self._on_event = on_event
        self._clock = clock
        self._changing = asyncio.Lock()
        self._backoff = Backoff()
        self._is_broken = self._is_makeshift = False
        self._plan_at = 0.0
        self._tasks = Tasks()

    async def begin(self) -> None:
        """A text is about to begin."""
        if self._is_broken:
            async with self._changing:
                # Unless another text that began has done so meanwhile.
                if self._is_broken:
                    await self._plan_anew()
        elif self._is_makeshift and self._clock() >= self._plan_at and not self._avoided():
            self._plan_at = self._clock() + _PLAN_AGAIN_S
            self._tasks.start("planning a route anew", self._plan_beside())

    async def _plan_beside(self) -> None:
        async with self._changing:
            if self._is_makeshift:
                await self._plan_anew()

    async def _plan_anew(self) -> None:
        if self._plan is None:
            return
        try:
            spans = await self._plan(self._avoided())
        except BareMetalError:
            # The text begins on what there was: whoever is lost then is looked for once more.
            return
        self.spans = list(spans)
        self._is_broken = self._is_makeshift = False

    def _avoided(self) -> frozenset[str]:
        return self._backoff.avoided(self._clock())

    def note_success(self, stages: Sequence[AttachedSpan]) -> None:
        """A text has ended that went through these stages."""
        for stage in stages:
            if stage.lost is None:
                self._backoff.note_success(stage.span.id)

    async def replace(self, stage: AttachedSpan, why: str) -> Sequence[RemoteSpan]:
        """Who has the blocks of a lost stage from now on; nobody, if nobody is found."""
        span = stage.span
        async with self._changing:
            is_current = span in self.spans
            if not is_current and (parts := _parts(self.spans, span)):
                # Another text has found somebody before.
                return parts
            self._on_event(StageLost(span.id, span.blocks, why))
            found = await self._look(stage)
            for one in found:
                self._on_event(StageReplaced(one.id, one.blocks))
            if is_current:
                self._is_makeshift = True
                self._is_broken = not found
            if found and is_current:
                index = self.spans.index(span)
                self.spans[index : index + 1] = found
            return found

    async def _look(self, stage: AttachedSpan) -> Sequence[RemoteSpan]:
        span = stage.span
        if stage.has_moved:
            # It answers, and may host what else is needed: anything but what it just refused.
            found = await self._find(span)
            if not any((one.id, one.blocks) == (span.id, span.blocks) for one in found):
                return found
        self._backoff.note_loss(span.id, self._clock())
        return await self._find(span)

    async def _find(self, span: RemoteSpan) -> Sequence[RemoteSpan]:
        try:
            async with asyncio.timeout(_REPLACE_TIMEOUT_S):
                return await self._find_replacement(span, self._avoided())
        except TimeoutError:
            return ()

    async def close(self) -> None:
        await self._tasks.close()


def _parts(spans: Sequence[RemoteSpan], whole: RemoteSpan) -> list[RemoteSpan]:
    """Those of the spans that have the blocks of another one together; none if some are missing."""
    parts = [one for one in spans if one.blocks.is_within(whole.blocks) and one != whole]
    cuts = [whole.blocks.start, *(one.blocks.end for one in parts)]
    is_whole = [one.blocks.start for one in parts] == cuts[:-1] and cuts[-1] == whole.blocks.end
    return parts if is_whole else []
