"""The process that reads documents, with little memory, little time and nothing it could write to.

A document comes from anywhere, and parsers have faults. What goes wrong in here ends this process, not
the one that asked. Where the system knows how, it has no network and no file but those it is given.
"""

import os
import socket
from typing import BinaryIO

from baremetalrt.core.sandbox import confine
from baremetalrt.documents import wire
from baremetalrt.documents.document import Reached
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.readers.dispatch import read_file


def main() -> None:
    # Without a buffer: files come between the requests.
    requests, replies = os.fdopen(0, "rb", buffering=0), _private_stdout()
    limits = wire.read_limits(requests)
    if limits is None:
        return
    _limit_resources(limits)
    files = socket.socket(fileno=os.dup(0)) if wire.HANDS_OVER else None
    confine()
    wire.write(replies, wire.Done())
    while True:
        file = wire.take_over(files) if files else None
        request = wire.read_request(requests)
        if request is None:
            return
        _allow_cpu(limits.cpu_s)
        try:
            _answer(replies, request, file, limits)
        except MemoryError:
            wire.write(replies, wire.OutOfMemory())
            return
        wire.write(replies, wire.Done())


def _answer(
    replies: BinaryIO, request: wire.Request, file: BinaryIO | None, limits: ReadingLimits
) -> None:
    for item in read_file(
        request.path,
        request.origin,
        limits,
        file=file,
        kind=request.kind,
        skip_to=request.skip_to,
        number=request.number,
        is_fatal=request.is_fatal,
    ):
        if isinstance(item, Reached):
            _allow_cpu(limits.cpu_s)
        wire.write(replies, item)


def _private_stdout() -> BinaryIO:
    """Where replies go; what a library prints goes nowhere."""
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return replies


def _limit_resources(limits: ReadingLimits) -> None:
    try:
        import resource
    except ImportError:  # Windows: the caller's deadline remains
        return
    _lower(resource.RLIMIT_AS, limits.memory_bytes)
    _lower(resource.RLIMIT_NPROC, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, value: int) -> None:
    import resource

    try:
        resource.setrlimit(which, (value, value))
    except (ValueError, OSError):
        pass  # macOS has no bound on addresses; the others hold


def _allow_cpu(seconds: int) -> None:
    """Ends this process by a signal when it has computed for so much longer."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
