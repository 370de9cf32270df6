"""A child process to throw hostile input at: it may die, and the test goes on with another."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

_WORKER = Path(__file__).with_name("victim_worker.py")
_ROOT = Path(__file__).parents[2]
_START_S = 60.0
MAX_MESSAGE_CHARS = 500

Reply = dict[str, Any]


class Victim:
    """Runs the actions of `victim_worker.py`; starts again after a death, which fails the test."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def _start(self) -> "subprocess.Popen[str]":
        self._complaints.truncate(0)
        process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            # Aborting would run a debugger first, which takes seconds.
            env={**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": str(_ROOT / "bench")},
        )
        self._read(process, _START_S)
        return process

    def do(self, action: str, *, limit_s: float = 60.0, **arguments: Any) -> Reply:
        """The reply of the worker. A crash or taking longer than `limit_s` fails the test."""
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"action": action, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read(self._process, limit_s)

    def _read(self, process: "subprocess.Popen[str]", limit_s: float) -> Reply:
        assert process.stdout is not None
        alarm = threading.Timer(limit_s, process.kill)
        alarm.start()
        line = process.stdout.readline()
        alarm.cancel()
        if line:
            reply: Reply = json.loads(line)
            return reply
        status = process.wait()
        self.close()
        self._complaints.seek(0)
        last = self._complaints.read().strip()[-800:]
        raise AssertionError(f"ended with status {status} or took over {limit_s} s: {last}")

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def assert_clear(reply: Reply) -> None:
    """The reply is one of our errors, and something that can be shown on one line of a terminal."""
    assert reply.get("error") in {"UsageError", "IntegrityError", "CapacityError"}, reply
    assert reply["code"]
    for line in (reply["message"], reply["hint"]):
        assert line.isprintable() and len(line) <= MAX_MESSAGE_CHARS, line[:MAX_MESSAGE_CHARS]
    assert reply["message"]
