"""Whose turn is next. Pure: time comes in.

Everybody who asks gets the same share of the time. Who was away saves up nothing for later: a share is of
the time in which one asks.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass
class _Account(Generic[T]):
    """`used_s`: how much time its requests have taken, as if it had asked from the beginning."""

    used_s: float
    num_served: int = 0
    waiting: deque[T] = field(default_factory=deque)


class FairQueue(Generic[K, T]):
    """Requests of several owners; each is counted from `begin` to `end`, and may wait before."""

    def __init__(self) -> None:
        self._accounts: dict[K, _Account[T]] = {}

    def __len__(self) -> int:
        return sum(len(account.waiting) for account in self._accounts.values())

    def begin(self, owner: K) -> None:
        """One of its requests is served from now on."""
        self._account(owner).num_served += 1

    def end(self, owner: K, took_s: float) -> None:
        """One of its requests was served for so long."""
        account = self._accounts[owner]
        account.used_s += took_s
        account.num_served -= 1
        self._forget(owner)

    def add(self, owner: K, request: T) -> None:
        """It waits, behind others of its owner."""
        self._account(owner).waiting.append(request)

    def discard(self, owner: K, request: T) -> None:
        """It waits no more."""
        account = self._accounts.get(owner)
        if account is not None and request in account.waiting:
            account.waiting.remove(request)
            self._forget(owner)

    def next(self) -> tuple[K, T] | None:
        """The one whose turn it is, which begins: of the owner who had least of the time, its first."""
        owners = [owner for owner, account in self._accounts.items() if account.waiting]
        if not owners:
            return None
        owner = min(owners, key=self._had)
        self._accounts[owner].num_served += 1
        return owner, self._accounts[owner].waiting.popleft()

    def displaced_by(self, owner: K) -> T | None:
        """Takes the one that gives way where all places to wait are taken: the last of who has most.

        None if nobody has more of them than `owner` would have.
        """
        mine = len(self._accounts[owner].waiting) if owner in self._accounts else 0
        most = max(self._accounts, key=lambda one: len(self._accounts[one].waiting), default=None)
        if most is None or len(self._accounts[most].waiting) <= mine + 1:
            return None
        request = self._accounts[most].waiting.pop()
        self._forget(most)
        return request

    def _had(self, owner: K) -> tuple[float, int]:
        account = self._accounts[owner]
        return account.used_s, account.num_served

    def _account(self, owner: K) -> _Account[T]:
        if owner not in self._accounts:
            least = min((account.used_s for account in self._accounts.values()), default=0.0)
            self._accounts[owner] = _Account(least)
        return self._accounts[owner]

    def _forget(self, owner: K) -> None:
        account = self._accounts[owner]
        if not account.waiting and not account.num_served:
            del self._accounts[owner]
