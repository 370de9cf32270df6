"""The allocator of the C library, which keeps what was freed for whoever asks next."""

import ctypes
import sys


def return_freed() -> None:
    """Gives the system what was allocated and freed again, where the allocator can be told to."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
