"""Whether a torrent stands still though somebody could send: then it is started anew. Pure.

Two ways lead there, both by a peer that lied. libtorrent takes trust from everyone whose blocks are in a
bad piece, and may ban the honest with the liar. And a piece that is given up before its last writes have
ended counts as here from then on, and is asked of nobody. A new start forgets both; the liar is found
again by its first whole piece.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

# Between two looks at a torrent for which nothing comes.
LOOK_S: Final = 8.0
_FIRST_WAIT_S: Final = 12.0
_LONGEST_WAIT_S: Final = 600.0


@dataclass(frozen=True)
class SourceView:
    """A peer or mirror: whether it has what is missing and would send it, and what it was asked for."""

    could_send: bool
    num_requests: int


class StallWatch:
    """Is told of one torrent, now and then, and says when to start it anew; each time later."""

    def __init__(self) -> None:
        self._num_have = -1
        self._since_s: float | None = None
        self._wait_s = _FIRST_WAIT_S

    def is_stuck(
        self, now_s: float, *, num_have: int, sources: Collection[SourceView], num_banned: int
    ) -> bool:
        """Whether nothing is asked of anybody for long, and it is not that nobody is there.

        `num_have` pieces are here; `num_banned` peers were banned since the torrent was started.
        """
        if num_have != self._num_have:
            self._num_have, self._since_s, self._wait_s = num_have, None, _FIRST_WAIT_S
        could_move = any(s.could_send for s in sources) or (num_banned > 0 and not sources)
        if not could_move or any(s.num_requests for s in sources):
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < self._wait_s:
            return False
        self._since_s = None
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return True
