"""SIGHUP: settings are read again below what options say; a server whose terminal closes ends cleanly."""

import os
import pty
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baremetalrt.serve.hangup import Beginnings, Hangup
from commands import BMRT, ServerProcess, bmrt, environment, torrents, wait_until
from swarm_kit import make_home
from tiny_models import TinyModel, write

TIMEOUT_S = 120.0
LISTENING = re.compile(rb"listening on (http://\S+)/v1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One with a torrent that a server would take up."""
    made = make_home(tmp_path / "home")
    small = write(TinyModel("llama"), tmp_path / "small.gguf")
    bmrt("seed", str(small), "--create-only", home=made)
    return made


def test_options_hold_on_across_a_reload(home: Path) -> None:
    """No torrent is taken up and no port opened, though the file alone would have both."""
    with ServerProcess("--metered", home=home) as server:
        said = server.process.stderr
        assert said is not None
        server.process.send_signal(signal.SIGHUP)
        assert any(b"settings read again: metered on" in line for line in said)
        time.sleep(1)  # longer than a start takes
        assert torrents(server.url) == {"object": "list", "port": 0, "data": []}


def test_what_cannot_change_while_torrents_run_is_said(home: Path) -> None:
    """It counts from the next start on; limits count at once."""
    with ServerProcess(home=home) as server:
        wait_until(lambda: len(torrents(server.url)["data"]) == 1)
        make_home(home, listen="127.0.0.2", upload_limit="1 MB/s")
        server.process.send_signal(signal.SIGHUP)
        said = server.process.stderr
        assert said is not None
        assert any(b"count from the next start" in line for line in said)
        assert len(torrents(server.url)["data"]) == 1


def test_a_server_without_torrents_outlives_a_reload(home: Path) -> None:
    """There is nothing to read again for it, and no reason to die."""
    with ServerProcess("--no-torrents", home=home) as server:
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert torrents(server.url)["data"] == []


class OnTerminal:
    """`bmrt serve` whose terminal is ours."""

    def __init__(self, terminal: int, pid: int) -> None:
        self.terminal, self.pid = terminal, pid
        said = b""
        while (found := LISTENING.search(said)) is None:
            said += os.read(terminal, 4096)
        self.url = found[1].decode()

    def close(self) -> None:
        """As when its window is closed, or the connection to it breaks."""
        os.close(self.terminal)

    def status(self) -> int:
        """How it ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it did not end")


@contextmanager
def on_a_terminal(home: Path, *before: str) -> Iterator[OnTerminal]:
    pid, terminal = pty.fork()
    if not pid:
        os.environ |= environment(home)
        command = [*before, *BMRT, "serve", "--port", "0"]
        os.execvp(command[0], command)
    yield OnTerminal(terminal, pid)


def test_a_server_whose_terminal_closes_ends_cleanly(home: Path) -> None:
    """Not by the signal: what it has to write down is written."""
    with on_a_terminal(home) as server:
        wait_until(lambda: len(torrents(server.url)["data"]) == 1)
        server.close()
        assert server.status() == 0
    (folder,) = (home / "torrents").iterdir()
    assert (folder / "resume").exists()


def test_a_server_on_a_terminal_can_be_told_to_reload(home: Path) -> None:
    """`kill -HUP` from elsewhere is a wish, and no loss of the terminal."""
    with on_a_terminal(home) as server:
        wait_until(lambda: len(torrents(server.url)["data"]) == 1)
        make_home(home, metered=True)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: torrents(server.url)["data"] == [])
        server.close()
        assert server.status() == 0


def test_nohup_outlives_the_terminal(home: Path) -> None:
    """Whoever says so wants it to go on; it answers, and ends when it is told to."""
    with on_a_terminal(home, "sh", "-c", 'trap "" HUP; exec "$@"', "sh") as server:
        server.close()
        time.sleep(0.5)
        assert "data" in torrents(server.url)
        os.kill(server.pid, signal.SIGTERM)
        assert server.status() == 0


@pytest.mark.parametrize(
    ("begun", "has_terminal", "meaning"),
    [
        (Beginnings(True, False), False, Hangup.END),
        (Beginnings(True, False), True, Hangup.RELOAD),
        (Beginnings(True, True), False, Hangup.RELOAD),
        (Beginnings(False, False), False, Hangup.RELOAD),
    ],
)
def test_what_a_hangup_means(begun: Beginnings, has_terminal: bool, meaning: Hangup) -> None:
    """A daemon of the system has no terminal, and is told to reload by that signal."""
    assert begun.meaning(has_terminal=has_terminal) is meaning
