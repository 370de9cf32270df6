"""Where peers may be: who was named stays, who was only heard of is forgotten with age. Pure."""

from collections.abc import Iterable
from typing import Final

# Nodes of the DHT forget within half an hour; who was neither heard of nor has answered since is gone.
_KEPT_S: Final = 1800.0
# Anybody can announce at an address of the DHT.
_MAX_HEARD_OF: Final = 128


class AddressBook:
    """`HOST:PORT` of peers, in the order in which they became known. Times are of any one clock."""

    def __init__(self, named: Iterable[str]) -> None:
        """`named` are those that somebody asks for in so many words."""
        self._named = tuple(dict.fromkeys(named))
        self._heard_of: dict[str, float] = {}

    def note(self, addresses: Iterable[str], now: float) -> None:
        """These were heard of, or have answered."""
        self._heard_of |= dict.fromkeys(addresses, now)

    def addresses(self, now: float) -> list[str]:
        """Whom to ask now."""
        kept = {a: at for a, at in self._heard_of.items() if now - at < _KEPT_S}
        newest = set(sorted(kept, key=lambda one: kept[one])[-_MAX_HEARD_OF:])
        self._heard_of = {a: at for a, at in kept.items() if a in newest}
        return list(dict.fromkeys((*self._named, *self._heard_of)))
