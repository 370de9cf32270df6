"""Swarms on the loopback address: `bmrt` as real processes, and peers and mirrors that misbehave.

Nothing here sends a packet beyond 127.0.0.1.
"""

import contextlib
import hashlib
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self

import libtorrent as lt

from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.publishing import PublishOptions, publish
from baremetalrt.weights.gguf import GGUFFile
from commands import BMRT, bmrt, environment
from tiny_models import TinyModel, write

LOOPBACK = "127.0.0.1"
LEAF_BYTES = 16 * 1024
TIMEOUT_S = 240.0
_PORT = re.compile(rb"seeding on port (\d+)")
_PERCENT = re.compile(rb"(\d+\.\d) %")

# 11 MB in 43 pieces: embedding and head a piece each, eight blocks of five pieces.
MODEL = TinyModel(
    "llama",
    weights="Q4_0",
    num_blocks=8,
    width=512,
    num_heads=8,
    num_kv_heads=4,
    head_size=64,
    feed_forward_width=1024,
    vocabulary_size=1024,
    seed=5,
)


def write_model(folder: Path) -> Path:
    """A file large enough to be fetched from several at once, the same on every machine."""
    return write(MODEL, folder / "swarm-model.gguf")


def publish_model(path: Path, *, web_seeds: Sequence[str] = ()) -> Metainfo:
    return publish(GGUFFile.open(path), PublishOptions(web_seeds=tuple(web_seeds)))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_home(folder: Path, **settings: object) -> Path:
    """A home whose torrents stay on the loopback address, unless `settings` say otherwise."""
    kept: dict[str, object] = {
        "offline": True,
        "local_discovery": False,
        "dht": False,
        "port_mapping": False,
        "listen": LOOPBACK,
        "port": 0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in (kept | settings).items()]
    (folder / "config.toml").write_text("\n".join(["[swarm]", *lines, ""]))
    return folder


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now; asked for together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)]
        return [int(s.getsockname()[1]) for s in sockets]


# bmrt


class SeedProcess:
    """`bmrt seed`, from when it listens until it is stopped or killed."""

    def __init__(
        self, model: str | Path, *arguments: str, home: Path, command: Sequence[str] = ("seed",)
    ) -> None:
        self.process = subprocess.Popen(
            [*BMRT, *command, str(model), "--json", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
            cwd=home,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self._said = b""
        for line in self.process.stderr:
            self._said += line
            if found := _PORT.search(line):
                self.port = int(found[1])
                break
        else:
            self.stop()
            raise RuntimeError(f"the seed did not start: {self._said.decode()}")
        self.torrent: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.magnet: str = self.torrent["magnet"]
        self.peer = f"{LOOPBACK}:{self.port}"

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> str:
        """Ends it as Ctrl-C would; returns everything it has said to people."""
        return self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> str:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            _, said = self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        except ValueError:
            return self._said.decode()  # ended before
        self._said += said
        return self._said.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class PullProcess:
    """`bmrt pull --json` on a terminal of its own, so that it says how far it is."""

    def __init__(
        self, source: str | Path, *arguments: str, home: Path, peers: Sequence[str] = ()
    ) -> None:
        self._terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*BMRT, "pull", str(source), "--json", *arguments, *_peer_options(peers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(home),
            cwd=home,
            text=True,
        )
        os.close(theirs)
        self.said = b""

    def progress(self) -> Iterator[float]:
        """Each fraction that it shows, until it ends."""
        while True:
            try:
                shown = os.read(self._terminal, 4096)
            except OSError:  # the other end is closed
                return
            if not shown:
                return
            self.said += shown
            for percent in _PERCENT.findall(shown):
                yield float(percent) / 100

    def wait_for(self, fraction: float) -> None:
        """Returns when it shows at least `fraction`."""
        assert any(shown >= fraction for shown in self.progress()), self.said.decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def result(self) -> dict[str, Any]:
        """What it prints at its end; anything but success fails the test."""
        for _ in self.progress():
            pass
        printed, _ = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, printed + self.said.decode()
        found: dict[str, Any] = json.loads(printed)
        return found

    def __enter__(self) -> Self:
        self._alarm = threading.Timer(TIMEOUT_S, self.process.kill)
        self._alarm.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._alarm.cancel()
        if self.process.poll() is None:
            self.kill()
        os.close(self._terminal)


def run_pull(
    source: str | Path,
    *arguments: str,
    home: Path,
    peers: Sequence[str] = (),
    cwd: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """`bmrt pull --json` to its end, whatever that is."""
    return subprocess.run(
        [*BMRT, "pull", str(source), "--json", *arguments, *_peer_options(peers)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(home),
        cwd=cwd or home,
    )


def pull(
    source: str | Path, *arguments: str, home: Path, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """What a pull that succeeds prints."""
    done = run_pull(source, *arguments, home=home, peers=peers)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _peer_options(peers: Sequence[str]) -> list[str]:
    return [option for peer in peers for option in ("--peer", peer)]


def join(founder: Path, home: Path) -> None:
    """Invited on one side, pasted on the other."""
    inviting = subprocess.Popen(
        [*BMRT, "swarm", "invite", "home", "--address", "127.0.0.1:0", "--json"],
        env=environment(founder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert inviting.stdout is not None
    line = json.loads(inviting.stdout.readline())["invitation"]
    assert bmrt("swarm", "join", line, home=home).returncode == 0
    inviting.communicate(timeout=120)


# Other peers


class Seeder:
    """A seed in this process, whose bytes are counted; of all pieces, or of some.

    It hashes nothing: `path` may hold anything.
    """

    def __init__(
        self, raw: bytes, path: Path, *, upload_limit: int = 0, pieces: Sequence[int] | None = None
    ) -> None:
        flags = lt.torrent_flags
        category = lt.alert_category
        self._session = lt.session(
            {
                "listen_interfaces": f"{LOOPBACK}:0",
                "enable_dht": False,
                "enable_lsd": False,
                "enable_upnp": False,
                "enable_natpmp": False,
                "enable_outgoing_utp": False,
                "allow_multiple_connections_per_ip": True,
                "tick_interval": 100,
                "alert_mask": int(category.upload | category.error | category.status),
                "alert_queue_size": 100_000,
            }
        )
        if upload_limit:
            # libtorrent leaves peers on the local network out of the limits of the session.
            local = self._session.local_peer_class_id
            limits = self._session.get_peer_class(local)
            limits["upload_limit"] = upload_limit
            self._session.set_peer_class(local, limits)
        self._folder = tempfile.TemporaryDirectory(prefix="seeder-")
        params = lt.load_torrent_buffer(raw)
        params.trackers = []
        params.url_seeds = []
        params.save_path = self._folder.name
        assert params.ti is not None
        layout = params.ti.layout()
        if path.is_file():
            params.renamed_files = {0: str(path)}
        else:
            params.renamed_files = {
                i: str(path / layout.file_name(i)) for i in range(layout.num_files())
            }
        # Told that all is here, libtorrent believes it; in its seed mode it would hash what it sends.
        has = range(layout.num_pieces()) if pieces is None else pieces
        params.have_pieces = [piece in has for piece in range(layout.num_pieces())]
        params.flags |= flags.upload_mode | flags.disable_dht | flags.disable_lsd
        params.flags &= ~(flags.paused | flags.auto_managed)
        self.handle = self._session.add_torrent(params)
        self.port: int = self._session.listen_port()
        self.peer = f"{LOOPBACK}:{self.port}"

    @property
    def uploaded_bytes(self) -> int:
        """What of the torrent it has sent so far."""
        return int(self.handle.status().total_payload_upload)

    def wait_uploaded(self, num_bytes: int) -> None:
        """Returns when at least that much of the torrent has left."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.uploaded_bytes < num_bytes:
            assert time.monotonic() < deadline, f"only {self.uploaded_bytes} bytes were asked for"
            self._session.wait_for_alert(1000)
            self._session.pop_alerts()

    def stop(self) -> None:
        session = self.__dict__.pop("_session", None)
        if session is not None:
            session.pause()
            del session, self.handle
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def corrupted(path: Path, target: Path) -> Path:
    """A copy with one byte changed in every 16 KiB: nobody sends a good piece of it."""
    data = bytearray(path.read_bytes())
    rng = random.Random(7)
    for start in range(0, len(data), LEAF_BYTES):
        data[min(len(data) - 1, start + rng.randrange(LEAF_BYTES))] ^= 0xFF
    target.write_bytes(data)
    return target


class OddPeer:
    """A port on which `serve` has each connection; it never speaks BitTorrent."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self._serve = serve
        self._open: list[socket.socket] = []
        self.was_called = threading.Event()
        self.peer = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.was_called.set()
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._serve(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()


def say_nothing(connection: socket.socket) -> None:
    """Takes everything and answers nothing."""
    while connection.recv(4096):
        pass


def talk_nonsense(connection: socket.socket) -> None:
    """Random bytes as long as somebody listens."""
    rng = random.Random(3)
    while True:
        connection.sendall(rng.randbytes(4096))


def hang_up(connection: socket.socket) -> None:
    connection.close()


# Mirrors

Manner = Literal["good", "missing", "lying", "stalling"]


class Mirror:
    """An HTTP server with one file and ranges, in one of these manners."""

    def __init__(self, path: Path, manner: Manner = "good") -> None:
        mirror = self
        self.num_bytes_sent = 0
        self.num_requests = 0
        self.was_asked = threading.Event()
        self.closing = threading.Event()
        self._lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with mirror._lock:
                    mirror.num_requests += 1
                mirror.was_asked.set()
                mirror._answer(self, path, manner)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.address = f"{LOOPBACK}:{self._server.server_address[1]}"
        self.url = f"http://{self.address}/a%20mirror/model.gguf"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler, path: Path, manner: Manner) -> None:
        if manner == "missing" or handler.path != "/a%20mirror/model.gguf":
            handler.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(size, int(asked[2]) + 1) if asked and asked[2] else size
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(end - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        handler.end_headers()
        with path.open("rb") as file, contextlib.suppress(OSError):
            file.seek(start)
            left = end - start
            while left:
                data = file.read(min(left, LEAF_BYTES))
                if manner == "lying":
                    data = bytes([data[0] ^ 0xFF]) + data[1:]
                if manner == "stalling":
                    handler.wfile.write(data[:1000])
                    self.closing.wait()
                    return
                handler.wfile.write(data)
                with self._lock:
                    self.num_bytes_sent += len(data)
                left -= len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
