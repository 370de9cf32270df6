"""Models to and from other programs, on the loopback address: qBittorrent both ways, and aria2.

They find each other as strangers do, through a tracker that the torrent names.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import libtorrent as lt
import pytest

from baremetalrt.core.units import MIB
from swarm_kit import (
    LOOPBACK,
    TIMEOUT_S,
    SeedProcess,
    free_ports,
    make_home,
    publish_model,
    pull,
    sha256,
    write_model,
)

pytestmark = pytest.mark.interop

SETTINGS = """\
[LegalNotice]
Accepted=true

[BitTorrent]
Session\\AnonymousModeEnabled=false
Session\\BTProtocol=TCP
Session\\DHTEnabled=false
Session\\DefaultSavePath={downloads}
Session\\Interface=lo
Session\\InterfaceAddress=127.0.0.1
Session\\LSDEnabled=false
Session\\MultiConnectionsPerIp=true
Session\\PeXEnabled=false
Session\\Port={port}
Session\\QueueingSystemEnabled=false
Session\\TempPathEnabled=false

[Network]
PortForwardingEnabled=false

[Preferences]
Connection\\ResolvePeerCountries=false
WebUI\\Address=127.0.0.1
WebUI\\LocalHostAuth=false
WebUI\\Port={web_port}
WebUI\\UseUPnP=false
"""


class Tracker:
    """Tells everyone who asks about a torrent who else has asked. Source: BEP 3, BEP 23."""

    def __init__(self) -> None:
        tracker = self
        self._ports: dict[bytes, set[int]] = {}
        self._changed = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = tracker._announced(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/announce"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _announced(self, path: str) -> bytes:
        query = urllib.parse.urlsplit(path).query
        # Hashes and ports are not text.
        asked = urllib.parse.parse_qs(query, keep_blank_values=True, encoding="latin-1")
        torrent, port = asked["info_hash"][0].encode("latin-1"), int(asked["port"][0])
        with self._changed:
            ports = self._ports.setdefault(torrent, set())
            others = sorted(ports - {port})
            if asked.get("event") == ["stopped"]:
                ports.discard(port)
            else:
                ports.add(port)
            self._changed.notify_all()
        peers = b"".join(socket.inet_aton(LOOPBACK) + other.to_bytes(2, "big") for other in others)
        return bytes(lt.bencode({b"interval": 1800, b"peers": peers}))

    def wait_for(self, port: int) -> None:
        """Returns once a peer that listens on this port has been here."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: any(port in ports for ports in self._ports.values()), TIMEOUT_S
            )
        assert found, f"nobody with port {port} has asked the tracker"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class QBittorrent:
    """`qbittorrent-nox` with a profile of its own, told what to do over its web interface."""

    def __init__(self, folder: Path) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.port, web_port = free_ports(2)
        self._api = f"http://{LOOPBACK}:{web_port}/api/v2"
        settings = folder / "qBittorrent" / "config" / "qBittorrent.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text(
            SETTINGS.format(downloads=self.downloads, port=self.port, web_port=web_port)
        )
        self._process = subprocess.Popen(
            ["qbittorrent-nox", f"--profile={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": str(folder), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        try:
            self._poll(self._answers)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self._ask("app/version"))
        return False

    def _poll(self, is_so: Any) -> None:
        """Returns once it is so; its interface has no way to be told."""
        deadline = time.monotonic() + TIMEOUT_S
        while not is_so():
            assert self._process.poll() is None, "qBittorrent has ended"
            assert time.monotonic() < deadline, (
                f"it does not happen: {self._ask('torrents/info')!r}"
            )
            time.sleep(0.05)

    def _ask(self, method: str, body: bytes | None = None, kind: str = "") -> bytes:
        # Requests for changes must seem to come from its own pages.
        headers = {"Referer": self._api} | ({"Content-Type": kind} if kind else {})
        request = urllib.request.Request(f"{self._api}/{method}", body, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            said: bytes = answer.read()
            return said

    def add(self, torrent: bytes | str) -> None:
        """Starts a `.torrent` file or a magnet link; what is in `downloads` already is kept."""
        boundary = uuid.uuid4().hex
        if isinstance(torrent, str):
            head, content = 'name="urls"', torrent.encode()
        else:
            head = 'name="torrents"; filename="a.torrent"\r\nContent-Type: application/x-bittorrent'
            content = torrent
        before = f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
        body = before + content + f"\r\n--{boundary}--\r\n".encode()
        said = self._ask("torrents/add", body, f"multipart/form-data; boundary={boundary}")
        assert b"Fail" not in said, said

    def wait_complete(self) -> Path:
        """Where the content of its one torrent is, once that is complete and being seeded."""
        found: list[dict[str, Any]] = []

        def is_seeding() -> bool:
            found[:] = json.loads(self._ask("torrents/info"))
            return any(torrent["state"] in ("uploading", "stalledUP") for torrent in found)

        self._poll(is_seeding)
        return Path(found[0]["content_path"])

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture
def qbittorrent(tmp_path: Path) -> Iterator[QBittorrent]:
    if shutil.which("qbittorrent-nox") is None:
        pytest.skip("qbittorrent-nox is not installed")
    with QBittorrent(tmp_path / "qbittorrent") as program:
        yield program


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    with Tracker() as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that travels."""
    return write_model(tmp_path_factory.mktemp("model"))


def tracked_home(folder: Path) -> Path:
    """A home that finds others through trackers, and in no other way."""
    return make_home(folder, offline=False, local_hosts=["127.0.0.1"])


@pytest.mark.parametrize("named_by", ["file", "link"])
def test_qbittorrent_downloads_from_us(
    named_by: str, qbittorrent: QBittorrent, tracker: Tracker, model: Path, tmp_path: Path
) -> None:
    """A model that `bmrt seed` has published, by its torrent file and by its link alone."""
    home = tracked_home(tmp_path / "home")
    with SeedProcess(model, "--tracker", tracker.url, home=home) as seed:
        tracker.wait_for(seed.port)
        torrent = Path(seed.torrent["torrent"])
        qbittorrent.add(torrent.read_bytes() if named_by == "file" else seed.magnet)
        path = qbittorrent.wait_complete()
    assert sha256(path) == sha256(model)


def their_torrent(kind: str, model: Path, tracker: Tracker) -> tuple[bytes, str]:
    """The model as others publish it, or as we do, and what the file is called there."""
    if kind == "ours":
        metainfo = publish_model(model)
        values = lt.bdecode(metainfo.raw)
        name = f"{metainfo.name}.gguf"
    else:
        flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only}[kind]
        name = model.name
        made = lt.create_torrent([lt.create_file_entry(name, model.stat().st_size)], MIB, flags)
        lt.set_piece_hashes(made, str(model.parent))
        values = made.generate()
    values[b"announce"] = tracker.url.encode()
    return bytes(lt.bencode(values)), name


@pytest.mark.parametrize("kind", ["ours", "v1", "v2"])
def test_we_download_from_qbittorrent(
    kind: str, qbittorrent: QBittorrent, tracker: Tracker, model: Path, tmp_path: Path
) -> None:
    """Our own torrent, and those of others in the old and the new format."""
    raw, name = their_torrent(kind, model, tracker)
    shutil.copy(model, qbittorrent.downloads / name)
    qbittorrent.add(raw)
    qbittorrent.wait_complete()
    tracker.wait_for(qbittorrent.port)
    path = tmp_path / "their.torrent"
    path.write_bytes(raw)
    found = pull(path, home=tracked_home(tmp_path / "home"))
    assert found["downloaded_bytes"] == model.stat().st_size
    assert sha256(Path(found["path"])) == sha256(model)


class Aria2:
    """`aria2c` with one torrent: downloads it and ends, or (`seeds`) goes on until it is stopped."""

    def __init__(self, torrent: Path, folder: Path, *, seeds: bool = False) -> None:
        (self.port,) = free_ports(1)
        self._process = subprocess.Popen(
            [
                *("aria2c", str(torrent), f"--dir={folder}", f"--listen-port={self.port}"),
                *("--no-conf", "--file-allocation=none", f"--interface={LOOPBACK}"),
                *("--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"),
                *("--enable-peer-exchange=false", "--disable-ipv6=true"),
                *(("--check-integrity=true", "--seed-ratio=0") if seeds else ("--seed-time=0",)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"HOME": str(folder), "PATH": os.environ["PATH"]},
        )

    def wait(self) -> None:
        """Returns when it has downloaded everything."""
        said, _ = self._process.communicate(timeout=TIMEOUT_S)
        assert self._process.returncode == 0, said.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def aria2_version() -> tuple[int, ...]:
    """Skips where it is not installed."""
    if shutil.which("aria2c") is None:
        pytest.skip("aria2c is not installed")
    said = subprocess.run(["aria2c", "--version"], capture_output=True, text=True, check=True)
    return tuple(int(number) for number in said.stdout.split()[2].split("."))


def test_aria2_downloads_from_us(tracker: Tracker, model: Path, tmp_path: Path) -> None:
    """It knows the old format only, which is half of what is in our torrents."""
    if aria2_version() < (1, 37):
        pytest.skip("aria2c before 1.37 takes hybrid torrents for others (its issue 1903)")
    home, folder = tracked_home(tmp_path / "home"), tmp_path / "aria2"
    with SeedProcess(model, "--tracker", tracker.url, home=home) as seed:
        tracker.wait_for(seed.port)
        with Aria2(Path(seed.torrent["torrent"]), folder) as aria2:
            aria2.wait()
    assert sha256(folder / f"{seed.torrent['name']}.gguf") == sha256(model)


def test_what_aria2_has_goes_to_us_and_from_us_to_another_aria2(
    tracker: Tracker, model: Path, tmp_path: Path
) -> None:
    """A torrent in the old format alone; nobody has the file but the one before."""
    aria2_version()
    raw, name = their_torrent("v1", model, tracker)
    torrent, home = tmp_path / "their.torrent", tracked_home(tmp_path / "home")
    torrent.write_bytes(raw)
    (tmp_path / "first").mkdir()
    shutil.copy(model, tmp_path / "first" / name)
    with Aria2(torrent, tmp_path / "first", seeds=True) as first:
        tracker.wait_for(first.port)
        found = pull(torrent, home=home)
    assert sha256(Path(found["path"])) == sha256(model)
    with SeedProcess(found["name"], home=home) as seed:
        tracker.wait_for(seed.port)
        with Aria2(torrent, tmp_path / "second") as second:
            second.wait()
    assert sha256(tmp_path / "second" / name) == sha256(model)
