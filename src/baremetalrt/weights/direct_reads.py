"""Reading a file at the disk's full rate, past the page cache where the system allows it.

What is read again for every token would push everything else out of the page cache, and gain nothing by
having been there: by the time it is needed again, the rest of the model has passed through.
"""

import errno
import logging
import mmap
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.files import open_regular
from baremetalrt.core.spans import ByteRange
from baremetalrt.core.units import MIB, round_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# Several reads at once of a few MB each: what disks of every kind are fastest with.
NUM_READERS: Final = 4
READ_BYTES: Final = 4 * MIB
# What offsets, lengths and addresses of direct reads are multiples of, on every disk there is.
PAGE_BYTES: Final = 4096


class DirectFile:
    """One file, read in whole pages. Safe to use from several threads; `close` it when none does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cached = open_regular(path)
        self._seeking = threading.Lock()
        self._of_thread = threading.local()
        self._direct: int | None = None
        self._is_direct = False
        if hasattr(os, "O_DIRECT"):
            try:
                self._direct = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
                self._is_direct = True
            except OSError as error:
                self._say_cached(error)

    def read(self, offset: int, num_bytes: int) -> "NDArray[np.uint8]":
        """These bytes, in memory of the calling thread that its next call overwrites; raises likewise."""
        import numpy as np

        first = offset // PAGE_BYTES * PAGE_BYTES
        size = round_up(offset + num_bytes, PAGE_BYTES) - first
        pages: mmap.mmap | None = getattr(self._of_thread, "pages", None)
        if pages is None or len(pages) < size:
            pages = self._of_thread.pages = mmap.mmap(-1, size)
        self.read_into(memoryview(pages)[:size], first, offset + num_bytes - first)
        return np.frombuffer(pages, np.uint8, num_bytes, offset - first)

    def read_into(self, memory: memoryview, offset: int, needed: int) -> None:
        """Fills page-aligned `memory` from `offset`, of which `needed` bytes must be in the file.

        Raises:
            IntegrityError: the file ends before, or cannot be read.
        """
        done = 0
        while done < needed:
            try:
                count = self._read(memory[done:], offset + done)
            except OSError as error:
                raise IntegrityError(
                    f"{self._path.name} cannot be read at {offset + done}: {error.strerror or error}",
                    code="weights.read",
                    source=str(self._path),
                    hint="is the disk in order?",
                ) from error
            if count == 0:
                raise IntegrityError(
                    f"{self._path.name} ends at {offset + done}, before the weights that are needed",
                    code="weights.read",
                    source=str(self._path),
                    hint="the file was cut while it was in use; fetch it again",
                )
            done += count

    def _read(self, memory: memoryview, offset: int) -> int:
        if self._is_direct and self._direct is not None and offset % PAGE_BYTES == 0:
            try:
                return os.preadv(self._direct, [memory], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # Some file systems take the flag and refuse the reads.
                self._is_direct = False
                self._say_cached(error)
        if not hasattr(os, "preadv"):
            with self._seeking:
                self._cached.seek(offset)
                data = self._cached.read(len(memory))
                memory[: len(data)] = data
                return len(data)
        count = os.preadv(self._cached.fileno(), [memory], offset)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._cached.fileno(), offset, count, os.POSIX_FADV_DONTNEED)
        return count

    def _say_cached(self, error: OSError) -> None:
        logger.info("%s is read by way of the page cache: %s", self._path.name, error)

    def close(self) -> None:
        self._cached.close()
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None


def read_through(paths: Sequence[Path], ranges: Sequence[ByteRange]) -> int:
    """Reads these bytes, as weights are read, and forgets them: how many they are.

    Raises:
        IntegrityError: they cannot be read.
    """
    files = [DirectFile(path) for path in paths]
    pieces = [
        (files[r.file], at, min(READ_BYTES, r.end - at))
        for r in ranges
        for at in range(r.start, r.end, READ_BYTES)
    ]
    try:
        with ThreadPoolExecutor(NUM_READERS) as readers:
            return sum(readers.map(lambda piece: len(piece[0].read(*piece[1:])), pieces))
    finally:
        for file in files:
            file.close()
