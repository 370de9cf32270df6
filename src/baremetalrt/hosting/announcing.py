"""Says on the DHT where this machine answers, and of which models it hosts something."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from baremetalrt.hosting.hostable import Swarms
from baremetalrt.hosting.rendezvous import rendezvous
from baremetalrt.membership.authority import Membership

# Often at first, while hardly any node is known. Nodes forget within half an hour.
_FIRST_ANNOUNCE_S: Final = 2.0
_ANNOUNCE_S: Final = 600.0


class AnnouncementTimes:
    """When to announce again: soon after what is said has changed, then less and less often. Pure."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_ANNOUNCE_S

    def note_change(self) -> None:
        """Something else is announced from now on."""
        self._pause_s = _FIRST_ANNOUNCE_S

    def next_pause_s(self) -> float:
        """How long to wait after this announcement."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _ANNOUNCE_S)
        return pause_s


async def announce_on_dht(
    swarms: Swarms,
    membership: Membership,
    port: int,
    models: Callable[[], Iterable[str]],
    is_news: asyncio.Event,
) -> None:
    """Announces until it is cancelled: again and again, and at once when there `is_news`.

    `models`: the contents of which something is hosted now.
    """
    dht = (await swarms.running_client()).dht
    if not dht.is_on:
        return
    dht.map_port(port)
    times = AnnouncementTimes()
    while True:
        is_news.clear()
        for model in (None, *sorted(models())):
            dht.announce(rendezvous(membership, model), port)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(times.next_pause_s()):
                await is_news.wait()
                times.note_change()
