"""The route of a chain in virtual time: the lost are replaced, and a broken route is planned anew."""

import asyncio
from collections.abc import Sequence

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers.attached_span import AttachedSpan
from baremetalrt.peers.backoff import Backoff
from baremetalrt.peers.chain_route import ChainRoute
from baremetalrt.peers.events import StageLost, StageReplaced
from baremetalrt.peers.remote_span import RemoteSpan


def span(peer: str, start: int, end: int) -> RemoteSpan:
    return RemoteSpan(peer, f"{peer}:1", "model", BlockSpan(start, end), 30)


class Swarm:
    """Peers that host spans, a clock that is turned by hand, and the route over them."""

    def __init__(self, *spans: RemoteSpan) -> None:
        self.hosted = list(spans)
        self.now = 0.0
        self.told: list[StageLost | StageReplaced] = []
        self.num_plans = 0
        self.route = ChainRoute(
            spans, self._replace, self._plan, on_event=self.told.append, clock=lambda: self.now
        )

    async def _replace(self, lost: RemoteSpan, avoid: frozenset[str]) -> Sequence[RemoteSpan]:
        able = [one for one in self.hosted if one.id not in avoid]
        parts, start = [], lost.blocks.start
        while start < lost.blocks.end:
            one = next((s for s in able if s.blocks.start <= start < s.blocks.end), None)
            if one is None:
                return ()
            end = min(one.blocks.end, lost.blocks.end)
            parts.append(span(one.id, start, end))
            start = end
        return parts

    async def _plan(self, avoid: frozenset[str]) -> Sequence[RemoteSpan]:
        self.num_plans += 1
        for avoided in (avoid, frozenset[str]()):
            if found := await self._replace(span("nobody", 0, 30), avoided):
                return found
        raise CapacityError("blocks are missing")

    async def lose(self, which: RemoteSpan, *, has_moved: bool = False) -> Sequence[RemoteSpan]:
        stage = AttachedSpan(which, has_moved=has_moved)
        return await self.route.replace(stage, "why")


def test_a_host_that_moved_may_still_have_what_is_missing() -> None:
    """It answers, and says that it hosts other blocks: those are asked of it at once."""

    async def play() -> None:
        swarm = Swarm(span("a", 0, 30))
        swarm.hosted = [span("a", 0, 15), span("b", 15, 30)]
        found = await swarm.lose(span("a", 0, 30), has_moved=True)
        assert found == [span("a", 0, 15), span("b", 15, 30)] == swarm.route.spans

    asyncio.run(play())


def test_a_host_that_says_that_it_has_and_has_not_is_left() -> None:
    """What it refused is not asked of it again, whatever it says that it hosts."""

    async def play() -> None:
        swarm = Swarm(span("a", 0, 30), span("b", 0, 30))
        assert await swarm.lose(span("a", 0, 30), has_moved=True) == [span("b", 0, 30)]

    asyncio.run(play())


def test_a_route_that_is_broken_is_planned_anew_and_the_lost_are_not_shut_out() -> None:
    """However often somebody asked in vain meanwhile: the next text finds whoever is there then."""

    async def play() -> None:
        swarm = Swarm(span("a", 0, 30))
        swarm.hosted = []
        for _ in range(20):
            await swarm.route.begin()
            assert await swarm.lose(swarm.route.spans[0]) == ()
            swarm.now += 60
        swarm.hosted = [span("a", 0, 15), span("b", 15, 30)]
        await swarm.route.begin()
        assert swarm.route.spans == [span("a", 0, 15), span("b", 15, 30)]

    asyncio.run(play())


def test_a_route_with_replacements_is_planned_anew_beside_the_texts() -> None:
    """Once the lost may be asked again; no text waits for that, and it is not asked before every text."""

    async def play() -> None:
        swarm = Swarm(span("a", 0, 30), span("b", 0, 30))
        swarm.route.spans = [span("a", 0, 30)]
        assert await swarm.lose(span("a", 0, 30)) == [span("b", 0, 30)]
        await swarm.route.begin()
        await asyncio.sleep(0)
        assert not swarm.num_plans
        swarm.now += 6
        await swarm.route.begin()
        assert swarm.route.spans == [span("b", 0, 30)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert swarm.route.spans == [span("a", 0, 30)]
        await swarm.route.begin()
        assert swarm.num_plans == 1
        await swarm.route.close()

    asyncio.run(play())


def test_a_text_of_an_older_route_gets_all_of_its_blocks() -> None:
    """Where the route of today is cut elsewhere, parts of it would not be enough."""

    async def play() -> None:
        swarm = Swarm(span("c", 0, 10), span("d", 10, 30))
        found = await swarm.lose(span("a", 0, 15))
        assert [one.blocks for one in found] == [BlockSpan(0, 10), BlockSpan(10, 15)]
        assert swarm.route.spans == [span("c", 0, 10), span("d", 10, 30)]
        # What another text has found already is taken as it is.
        told = len(swarm.told)
        assert await swarm.lose(span("a", 10, 30)) == [span("d", 10, 30)]
        assert len(swarm.told) == told

    asyncio.run(play())


def test_a_peer_is_left_alone_for_longer_each_time_until_it_does_well() -> None:
    """5 s, 10 s, 20 s; after a text that it computed, and after a long while, it is one like others."""
    backoff = Backoff()
    for pause_s in (5, 10, 20):
        backoff.note_loss("a", 0.0)
        assert backoff.avoided(pause_s - 1) == {"a"} and not backoff.avoided(pause_s)
    backoff.note_success("a")
    assert not backoff.avoided(0.0)
    for _ in range(20):
        backoff.note_loss("a", 0.0)
    assert backoff.avoided(299.0) == {"a"}
    backoff.note_loss("a", 10_000.0)
    assert not backoff.avoided(10_005.0)
