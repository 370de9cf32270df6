"""Peers that were lost are left alone for a while: longer each time."""

from typing import Final

_FIRST_S: Final = 5.0
_LONGEST_S: Final = 300.0


class Backoff:
    """How often each peer was lost, and until when it is not asked. Times are of any one clock."""

    def __init__(self) -> None:
        self._losses: dict[str, tuple[int, float]] = {}

    def note_loss(self, peer: str, now: float) -> None:
        times = self._losses.get(peer, (0, 0.0))[0] + 1
        self._losses[peer] = times, now + min(_FIRST_S * 2 ** (times - 1), _LONGEST_S)

    def avoided(self, now: float) -> frozenset[str]:
        """Peers that were lost a short while ago."""
        return frozenset(peer for peer, (_, until) in self._losses.items() if until > now)
