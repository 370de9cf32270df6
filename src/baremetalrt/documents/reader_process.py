"""Reads files through a process of their own, which is replaced when it dies."""

import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, Final, Self

import msgspec

from baremetalrt.core import sandbox
from baremetalrt.core.children import end_child
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.files import open_regular
from baremetalrt.documents import wire
from baremetalrt.documents.document import Document, Reached, Unread
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.readers.dispatch import unreadable

# Isolated: neither the folder one is in nor the environment decides what is imported.
_COMMAND: Final = (sys.executable, "-I", "-m", "baremetalrt.documents.reader_worker")
_WATCH_INTERVAL_S: Final = 0.05
_END_S: Final = 1.0


class ReaderProcess:
    """One reading process at a time. A context manager; not for several threads at once."""

    def __init__(self, limits: ReadingLimits | None = None) -> None:
        self.limits = limits or ReadingLimits()
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; a later `read` starts another."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()

    def read(self, request: wire.Request) -> Iterator[Document | Unread | Reached]:
        """What is in a file. Whatever happens to the process becomes an `Unread` of what it was reading.

        A mailbox goes on after the message that was fatal. What was fatal to a process that had read
        other things before is tried once more in a new one, which owes nothing to those.
        """
        num_given = 0  # what the caller already has of the present file or message
        while True:
            worker = self._living_worker()
            is_fresh = worker.is_fresh
            reached: Reached | None = None
            reply: wire.Reply | None = None
            num_seen = 0
            try:
                file = open_regular(request.path, follow=False) if wire.HANDS_OVER else None
            except OSError as error:
                yield unreadable(error, request.origin)
                return
            for reply in worker.ask(request, file):
                if isinstance(reply, wire.Done):
                    return
                if isinstance(reply, wire.OutOfMemory):
                    break
                if isinstance(reply, Reached):
                    if reply.offset != request.skip_to:
                        num_given, is_fresh = 0, False
                    reached, num_seen = reply, 0
                else:
                    num_seen += 1
                    if num_seen <= num_given:
                        continue
                    num_given = num_seen
                yield reply
            code, reason = worker.last_words(is_memory=isinstance(reply, wire.OutOfMemory))
            self.close()
            if reached is not None:
                request = msgspec.structs.replace(
                    request, skip_to=reached.offset, number=reached.number, is_fatal=False
                )
            if not is_fresh and code != "document.deadline":
                continue
            part = request.origin.inside(f"message {reached.number}") if reached else request.origin
            yield Unread(origin=part, reason=reason, code=code)
            if reached is None:
                return
            request = msgspec.structs.replace(request, is_fatal=True)

    def _living_worker(self) -> "_Worker":
        if self._worker is not None and not self._worker.is_alive:
            self.close()
        if self._worker is None:
            self._worker = _Worker(self.limits)
        return self._worker


class _Worker:
    """The process, and the thread that ends it when it takes too long."""

    def __init__(self, limits: ReadingLimits) -> None:
        self.is_fresh = True
        self._deadline_s = limits.deadline_s
        self._was_late = False
        self._until = math.inf
        self._is_over = threading.Event()
        self._files: socket.socket | None = None
        theirs: socket.socket | None = None
        if wire.HANDS_OVER:
            self._files, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=theirs.fileno() if theirs else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=sandbox.environment(),
        )
        if theirs is not None:
            theirs.close()
        requests = self._files.makefile("wb") if self._files else self._process.stdin
        assert requests is not None and self._process.stdout is not None
        self._requests, self._replies = requests, self._process.stdout
        threading.Thread(target=self._watch, daemon=True).start()
        self._send(limits)
        if not isinstance(self._receive(), wire.Done):
            self.stop()
            raise CapacityError(
                "the process that reads documents does not start",
                code="documents.process",
                hint="it needs 1 GiB of memory, and the package installed where Python finds it",
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: wire.Request, file: BinaryIO | None) -> Iterator[wire.Reply]:
        """The replies, as far as they come. The file is handed over, and closed here."""
        if self._files is not None and file is not None:
            with file:
                try:
                    wire.hand_over(self._files, file)
                except OSError:
                    return  # it is gone
        self._send(request)
        while (reply := self._receive()) is not None:
            self.is_fresh = False
            yield reply

    def last_words(self, *, is_memory: bool) -> tuple[str, str]:
        """Code and reason of its end, which is waited for."""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            pass  # it says nonsense, or nothing more, and does not go
        self.stop()
        if is_memory:
            return "document.memory", "reading it needs too much memory"
        if self._was_late or self._process.returncode == -getattr(signal, "SIGXCPU", 0) != 0:
            return "document.deadline", "reading it takes too long"
        return "document.crashed", "its reader crashed"

    def stop(self) -> None:
        """Ends the process and what belongs to it."""
        self._is_over.set()
        end_child(self._process, self._requests, self._replies)
        if self._files is not None:
            self._files.close()

    def _send(self, message: wire.Request | ReadingLimits) -> None:
        try:
            wire.write(self._requests, message)
        except OSError:
            pass  # it is told by there being no reply

    def _receive(self) -> wire.Reply | None:
        # The time that counts is what we wait for it, not what the caller does with its replies.
        self._until = time.monotonic() + self._deadline_s
        try:
            return wire.read_reply(self._replies)
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        while not self._is_over.wait(_WATCH_INTERVAL_S):
            if time.monotonic() > self._until:
                self._was_late = True
                self._process.kill()
                return
