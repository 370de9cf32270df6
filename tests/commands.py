"""`bmrt` as a user starts it: real processes, ended by the tests that started them."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

BMRT = [sys.executable, "-m", "baremetalrt"]
# Only guards against what never comes.
_COMES_S = 120.0
_LISTENING = re.compile(rb"listening on (http://\S+)/v1")


def environment(home: Path) -> dict[str, str]:
    """Nothing of the caller's but the search path; a store of the test's own."""
    names = ("PATH", "LD_LIBRARY_PATH", "BMRT_LIBRARY", "GGML_VK_VISIBLE_DEVICES", "HF_ENDPOINT")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "BMRT_HOME": str(home), "HOME": str(home), "GGML_NO_BACKTRACE": "1"}


def obey_interrupts() -> None:
    """For `preexec_fn`: who runs in the background ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def bmrt(
    *arguments: str, home: Path, stdin: str = "", timeout_s: float = 240.0
) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return subprocess.run(
        [*BMRT, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(home),
    )


def on_a_terminal(*arguments: str, home: Path) -> bytes:
    """All that a command, which succeeds, writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*BMRT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment(home),
    )
    os.close(theirs)
    written = b""
    try:
        while said := os.read(ours, 4096):
            written += said
    except OSError:  # what Linux says when the other side is closed
        pass
    os.close(ours)
    assert process.wait(120) == 0, written
    return written


class ServerProcess:
    """`bmrt serve` on a free port of the loopback address."""

    def __init__(self, *arguments: str, home: Path, max_files: int | None = None) -> None:
        limit = [] if max_files is None else ["sh", "-c", f'ulimit -n {max_files}; exec "$@"', "sh"]
        self.process = subprocess.Popen(
            [*limit, *BMRT, "serve", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(home),
        )
        assert self.process.stderr is not None
        said = b""
        for line in self.process.stderr:
            said += line
            found = _LISTENING.search(line)
            if found:
                self.url = found[1].decode()
                self.port = int(self.url.rpartition(":")[2])
                return
        raise RuntimeError(f"the server did not start: {said.decode()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            assert self.process.stderr is not None
            self.process.stderr.close()


def torrents(url: str) -> dict[str, Any]:
    """What a server says of its torrents."""
    with urllib.request.urlopen(f"{url}/torrents", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    """Returns once it is so."""
    deadline = time.monotonic() + _COMES_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
