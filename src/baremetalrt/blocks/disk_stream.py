"""Reads parts of a span into slots, ahead of the thread that computes them.

`read_ahead.py` decides; this does it, with a few threads that the disk keeps busy.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from baremetalrt.blocks.read_ahead import ReadAhead
from baremetalrt.weights.direct_reads import NUM_READERS, READ_BYTES, DirectFile


@dataclass(frozen=True)
class Extract:
    """Bytes of one file on their way to memory: whole pages, of which the last may reach past its end."""

    file: int
    offset: int
    num_bytes: int
    needed_bytes: int
    target: memoryview


class DiskStream:
    """Streamed parts by number: `holding(i)` waits until part `i` is in its slot, and keeps it there."""

    def __init__(
        self,
        files: Sequence[DirectFile],
        slot_of: Sequence[int],
        extracts: Sequence[Sequence[Extract]],
    ) -> None:
        self._files = files
        self._extracts = [_in_short_reads(part) for part in extracts]
        self._ahead = ReadAhead(slot_of)
        self._changed = threading.Condition()
        self._unread: dict[int, int] = {}
        self._failures: dict[int, BaseException] = {}
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="weights")
        # Off while the file is still arriving: what is not there yet would be read as zeros.
        self.reads_ahead = True
        self.read_bytes = 0

    @contextmanager
    def holding(self, part: int) -> Iterator[None]:
        """The part is in its slot until the block ends; raises what reading it raised."""
        with self._changed:
            self._failures.pop(part, None)
            # A read that was begun ahead may fail of what is over by now: it is tried once more.
            was_ahead = self._unread.get(part, 0) > 0
            while not self._ahead.request(part):
                self._read_on(part)
                failure = self._failures.pop(part, None)
                if failure is None:
                    self._changed.wait()
                elif was_ahead:
                    was_ahead = False
                else:
                    raise failure
            if self.reads_ahead:
                self._read_on()
        try:
            yield
        finally:
            with self._changed:
                self._ahead.release(part)
                if self.reads_ahead:
                    self._read_on()

    def _read_on(self, wanted: int | None = None) -> None:
        """Begins what can be read now, or no more than what is `wanted`. With the lock."""
        while (part := self._ahead.next_read()) is not None:
            if not self.reads_ahead and part != wanted:
                return
            self._ahead.begin(part)
            self._unread[part] = len(self._extracts[part])
            for extract in self._extracts[part]:
                self._readers.submit(self._read, part, extract)

    def _read(self, part: int, extract: Extract) -> None:
        failure: BaseException | None = None
        try:
            self._files[extract.file].read_into(
                extract.target, extract.offset, extract.needed_bytes
            )
        except BaseException as error:
            failure = error
        with self._changed:
            self.read_bytes += extract.needed_bytes
            if failure is not None:
                self._failures[part] = failure
            self._unread[part] -= 1
            if not self._unread[part]:
                self._ahead.end(part, ok=part not in self._failures)
                self._changed.notify_all()

    def close(self) -> None:
        """Waits for what is being read; nobody may be `holding`."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        for file in self._files:
            file.close()


def _in_short_reads(extracts: Sequence[Extract]) -> list[Extract]:
    short = []
    for e in extracts:
        for at in range(0, e.num_bytes, READ_BYTES):
            size = min(READ_BYTES, e.num_bytes - at)
            needed = min(size, e.needed_bytes - at)
            short.append(Extract(e.file, e.offset + at, size, needed, e.target[at : at + size]))
    return short
