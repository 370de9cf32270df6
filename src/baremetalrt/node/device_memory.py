"""What there is of memory on each device of this machine, less what spans of this process have there."""

import threading
from typing import Final

from baremetalrt.blocks.span import Span
from baremetalrt.core.units import MIB
from baremetalrt.devices.budget import MemoryLedger
from baremetalrt.native.backend import BackendDevice
from baremetalrt.node.options import ModelOptions

# Of devices with memory of their own: for what a driver takes besides, and for the screen.
_RESERVE_SHARE: Final = 0.05
_MIN_RESERVE_BYTES: Final = 64 * MIB


class DeviceMemory:
    """Asks the ledger for the host, and others themselves; `--memory DEVICE=SIZE` bounds any of them.

    Safe to use from several threads.
    """

    def __init__(self, options: ModelOptions, ledger: MemoryLedger) -> None:
        self._limits = {name.lower(): size for name, size in options.device_memory}
        self._ledger = ledger
        self._taken: dict[Span, tuple[str, int]] = {}
        self._changing = threading.Lock()

    def note(self, span: Span) -> None:
        """A span takes memory now."""
        weights, cache = span.weights, span.cache
        held = weights.mapped_bytes + weights.copied_bytes + weights.slots_bytes + cache.num_bytes
        with self._changing:
            self._taken[span] = span.device.name.lower(), held

    def forget(self, span: Span) -> None:
        """A span takes none any more."""
        with self._changing:
            self._taken.pop(span, None)

    def free(self, device: BackendDevice) -> int:
        """Bytes that blocks may take there."""
        name = device.name.lower()
        with self._changing:
            taken = sum(size for where, size in self._taken.values() if where == name)
        if device.is_host:
            free = self._ledger.free()
        else:
            free, total = device.memory_bytes()
            # Not every driver says what is in use.
            free = min(free, total - taken)
            free -= max(_MIN_RESERVE_BYTES, int(_RESERVE_SHARE * total))
            if device.kind == "integrated-gpu":
                free = min(free, self._ledger.free())
        if name in self._limits:
            free = min(free, self._limits[name] - taken)
        return max(0, free)
