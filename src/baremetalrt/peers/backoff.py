"""Peers that were lost are left alone for a while: longer each time, until they do well again."""

from typing import Final

_FIRST_S: Final = 5.0
_LONGEST_S: Final = 300.0
# What lies so far back says nothing of a peer today.
_FORGOTTEN_S: Final = 900.0


class Backoff:
    """How often each peer was lost, and until when others are asked first. Times are of any one clock."""

    def __init__(self) -> None:
        self._losses: dict[str, tuple[int, float]] = {}

    def note_loss(self, peer: str, now: float) -> None:
        times, until = self._losses.get(peer, (0, now))
        times = 1 if now - until > _FORGOTTEN_S else times + 1
        self._losses[peer] = times, now + min(_FIRST_S * 2 ** (times - 1), _LONGEST_S)

    def note_success(self, peer: str) -> None:
        """It has computed a text to its end: it is a peer like others."""
        self._losses.pop(peer, None)

    def avoided(self, now: float) -> frozenset[str]:
        """Peers that were lost a short while ago."""
        return frozenset(peer for peer, (_, until) in self._losses.items() if until > now)
