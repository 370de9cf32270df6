"""Gives the disk space of a stretch of a file back, while the file keeps its length.

Source: `fallocate(2)`.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02


def can_punch_holes() -> bool:
    """Whether this system knows how."""
    return sys.platform == "linux"


def punch_hole(path: Path, start: int, end: int) -> None:
    """Makes the bytes `[start, end)` of a file read as zeros that take no space.

    Raises:
        OSError: the system, or the file system, cannot do that.
    """
    if not can_punch_holes():
        raise OSError("this system cannot punch holes")
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    with path.open("r+b") as file:
        if call(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, start, end - start):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
