"""When a torrent that stands still is started anew."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.swarm.stalls import LOOK_S, SourceView, StallWatch

WILLING = SourceView(could_send=True, num_requests=0)
CHOKING = SourceView(could_send=False, num_requests=0)
BUSY = SourceView(could_send=True, num_requests=3)


def starts(sources: list[SourceView], *, num_banned: int = 0, looks: int = 40) -> list[int]:
    """The looks at which a torrent that gets nothing is started anew."""
    watch = StallWatch()
    return [
        look
        for look in range(looks)
        if watch.is_stuck(look * LOOK_S, num_have=1, sources=sources, num_banned=num_banned)
    ]


@pytest.mark.parametrize(
    ("sources", "num_banned"), [([WILLING], 0), ([CHOKING, WILLING], 0), ([], 1)]
)
def test_who_could_send_and_is_not_asked_is_a_stall(
    sources: list[SourceView], num_banned: int
) -> None:
    found = starts(sources, num_banned=num_banned)
    assert found[0] * LOOK_S <= 30
    waits = [later - earlier for earlier, later in pairwise(found)]
    assert waits == sorted(waits) and len(found) < 6


@pytest.mark.parametrize(
    ("sources", "num_banned"), [([], 0), ([CHOKING], 0), ([BUSY], 0), ([WILLING, BUSY], 2)]
)
def test_nobody_there_or_somebody_at_it_is_none(sources: list[SourceView], num_banned: int) -> None:
    assert starts(sources, num_banned=num_banned) == []


@given(st.lists(st.sampled_from([WILLING, CHOKING, BUSY]), max_size=4), st.integers(0, 3))
def test_while_pieces_come_nothing_is_started_anew(
    sources: list[SourceView], num_banned: int
) -> None:
    watch = StallWatch()
    for look in range(30):
        assert not watch.is_stuck(
            look * LOOK_S, num_have=look, sources=sources, num_banned=num_banned
        )
