"""The ledger of memory: whatever is promised, filled, limited and given back, nothing counts twice."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from baremetalrt.devices.budget import MemoryLedger, Promise, Purpose
from baremetalrt.devices.memory import Resident

MACHINE = 1000
SIZES = st.integers(0, MACHINE)


class Ledger(RuleBasedStateMachine):
    """A machine of a thousand bytes, of which the system says what is left."""

    promises = Bundle("promises")

    def __init__(self) -> None:
        super().__init__()
        self.own, self.others, self.library = 0, 0, 10
        self.limit: int | None = None
        self.unfilled: dict[Promise, int] = {}
        self.ledger = MemoryLedger(self.system_free, self.held)

    def system_free(self) -> int:
        return max(0, MACHINE - self.own - self.others - self.library)

    def held(self) -> Resident:
        return Resident(own_bytes=self.own, file_bytes=self.library)

    @initialize(limit=st.none() | SIZES)
    def limited(self, limit: int | None) -> None:
        """Before anything is loaded, as a node does it."""
        self.limit = limit
        if limit is not None:
            self.ledger.limit(limit)

    @rule(target=promises, size=SIZES)
    def promise(self, size: int) -> Promise:
        made: list[Promise] = []
        promise = self.ledger.promise(lambda: self.unfilled.get(made[0], 0) if made else size)
        made.append(promise)
        self.unfilled[promise] = size
        return promise

    @rule(promise=promises, size=SIZES)
    def fill(self, promise: Promise, size: int) -> None:
        """What is taken of a promise is taken from the system instead: what is free stays the same."""
        filled = min(size, self.unfilled.get(promise, 0), self.system_free())
        before = self.expected(clipped=False)
        self.unfilled[promise] = self.unfilled.get(promise, 0) - filled
        self.own += filled
        assert self.expected(clipped=False) == before

    @rule(promise=consumes(promises))
    def withdraw(self, promise: Promise) -> None:
        before = self.ledger.free()
        promise.withdraw()
        promise.withdraw()
        self.unfilled.pop(promise, None)
        assert self.ledger.free() >= before

    @rule(size=SIZES)
    def others_take(self, size: int) -> None:
        self.others = min(size, MACHINE - self.own - self.library)

    @rule(size=SIZES)
    def give_back(self, size: int) -> None:
        self.own -= min(size, self.own)

    def expected(self, *, clipped: bool = True) -> int:
        free = self.system_free()
        if self.limit is not None:
            free = min(free, self.limit - self.own - self.library)
        free -= sum(self.unfilled.values())
        return max(0, free) if clipped else free

    @invariant()
    def nothing_counts_twice(self) -> None:
        free = self.ledger.free()
        assert free == self.expected()
        assert 0 <= free <= self.system_free()
        for purpose in Purpose:
            assert 0 <= self.ledger.room_for(purpose) <= free
            assert self.ledger.room_for(purpose, 100) <= 100


TestLedger = Ledger.TestCase
