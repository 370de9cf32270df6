"""Torrents and links that would have this machine call services of its own, or of its network."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.magnet_links import parse_magnet_link
from baremetalrt.swarm.callees import NOT_PUBLIC, Callees
from baremetalrt.swarm.catalog import FileSignature
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.metainfo import read_metainfo
from baremetalrt.swarm.obtaining import add_torrent
from baremetalrt.swarm.publishing import PublishOptions, publish_file
from namespaces import Lan, NotPermitted
from peers_kit import at_home
from swarm_kit import LOOPBACK, Seeder, make_home, write_model

# Long enough for every first attempt of libtorrent: it makes them within a tick or two.
SETTLED_S = 1.5
CALLEES = Callees(frozenset({"mirror.lan"}), frozenset())


class Listener:
    """Counts who connects to a socket, and answers each alike."""

    def __init__(self, listening: socket.socket, answer: bytes = b"") -> None:
        self.num_calls = 0
        self.said: list[bytes] = []
        self._tcp = listening
        self._answer = answer
        self.port: int = listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                self.num_calls += 1
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    self.said.append(connection.recv(4096))
                    connection.sendall(self._answer)
                connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Service(Listener):
    """A service of this machine, over TCP and UDP on one port."""

    def __init__(self) -> None:
        super().__init__(socket.create_server((LOOPBACK, 0)))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((LOOPBACK, self.port))
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.said.append(self._udp.recvfrom(4096)[0])
                self.num_calls += 1

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):
            self._udp.shutdown(socket.SHUT_RDWR)
        self._udp.close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def raw(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with at_home(tmp_path_factory.mktemp("publisher")):
        return publish_file(model, PublishOptions()).metainfo.raw


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def config(**settings: Any) -> SwarmConfig:
    """One that may call everybody, listens as a home machine does, and looks for nobody by itself."""
    quiet = {"dht": False, "port_mapping": False, "local_discovery": False, "port": 0}
    return SwarmConfig(**(quiet | settings))


def urls(port: int, path: str) -> list[str]:
    """A service of this machine, by everything that leads there."""
    hosts = [LOOPBACK, "localhost", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "127.9.9.9"]
    hosts += ["[::ffff:127.0.0.1]", "[::1]", "localhost.", "LOCALHOST", "x@127.0.0.1"]
    return [f"http://{host}:{port}{path}" for host in hosts]


def with_urls(raw: bytes, trackers: list[str], mirrors: list[str]) -> bytes:
    values: dict[bytes, Any] = lt.bdecode(raw)
    values[b"announce-list"] = [[url.encode() for url in trackers]]
    values[b"url-list"] = [url.encode() for url in mirrors]
    return bytes(lt.bencode(values))


def hostile(raw: bytes, port: int) -> bytes:
    """Every mirror and tracker in it is a service of this machine, and so is a node of the DHT."""
    trackers = [*urls(port, "/announce"), *urls(port, "/x"), f"udp://{LOOPBACK}:{port}"]
    trackers += [f"udp://localhost:{port}/announce", f"wss://{LOOPBACK}:{port}/announce"]
    values: dict[bytes, Any] = lt.bdecode(with_urls(raw, trackers, urls(port, "/shutdown.gguf")))
    values[b"nodes"] = [[LOOPBACK.encode(), port], [b"localhost", port]]
    values[b"httpseeds"] = [f"http://{LOOPBACK}:{port}/seed".encode()]
    return bytes(lt.bencode(values))


async def fetch_for_a_while(raw: bytes, settings: SwarmConfig, seed: Seeder) -> None:
    async with SwarmClient(settings) as client:
        stored = add_torrent(read_metainfo(raw, source="a stranger"))
        torrent = await client.add(stored, peers=[seed.peer])
        async with asyncio.timeout(120):
            await torrent.finished()
        await asyncio.sleep(SETTLED_S)


def test_a_torrent_calls_no_service_of_this_machine(
    raw: bytes, model: Path, service: Service
) -> None:
    """Neither as mirror nor as tracker, however its address is written; and the model arrives."""
    with Seeder(raw, model, upload_limit=8_000_000) as seed:
        asyncio.run(fetch_for_a_while(hostile(raw, service.port), config(), seed))
    assert service.num_calls == 0, service.said


def test_a_link_calls_no_service_of_this_machine(raw: bytes, model: Path, service: Service) -> None:
    """Not even as a peer: a link of a stranger names none of this network. `--peer` does."""
    link = read_metainfo(raw, source="test").magnet
    link += "".join(f"&tr={url}" for url in urls(service.port, "/announce"))
    link += "".join(f"&ws={url}" for url in urls(service.port, "/x.gguf"))
    link += (
        f"&x.pe={LOOPBACK}:{service.port}&x.pe=[::1]:{service.port}&x.pe=localhost:{service.port}"
    )

    async def fetch() -> bytes:
        async with SwarmClient(config()) as client, asyncio.timeout(120):
            await client.fetch_metainfo(parse_magnet_link(link), peers=[quiet.peer, seed.peer])
            found, _ = await client.fetch_metainfo(parse_magnet_link(link), peers=[seed.peer])
            await asyncio.sleep(SETTLED_S)
            return found

    with Seeder(raw, model) as seed, Seeder(raw, model) as quiet:
        found = asyncio.run(fetch())
    assert service.num_calls == 0, service.said
    # What a link adds is kept, and screened again whenever the torrent starts.
    assert len(read_metainfo(found, source="test").trackers) > 8


def test_a_mirror_that_leads_elsewhere_later_is_not_followed(
    raw: bytes, model: Path, service: Service
) -> None:
    """What libtorrent itself finds a mirror to be is judged once more: its name may have changed."""

    async def fetch(settings: SwarmConfig) -> None:
        async with SwarmClient(settings) as client:
            stored = add_torrent(read_metainfo(raw, source="a stranger"))
            torrent = await client.add(stored)
            for url in urls(service.port, "/x.gguf"):
                # As if the screen had found it to be public.
                torrent.handle.add_url_seed(url)
            await asyncio.sleep(SETTLED_S)

    asyncio.run(fetch(config()))
    assert service.num_calls == 0, service.said
    asyncio.run(fetch(config(local_hosts=(LOOPBACK,))))
    assert service.num_calls > 0


def test_what_the_settings_allow_is_called(raw: bytes, model: Path, service: Service) -> None:
    """The host that its user names, and no other."""
    settings = config(local_hosts=("localhost",))
    with Seeder(raw, model, upload_limit=8_000_000) as seed:
        asyncio.run(fetch_for_a_while(hostile(raw, service.port), settings, seed))
    said = b" ".join(service.said)
    assert b"GET /shutdown.gguf" in said and b"GET /announce?" in said
    assert b"Host: 127" not in said and b"Host: localhost" in said


def test_a_tracker_of_ones_own_is_called_wherever_it_is(model: Path, service: Service) -> None:
    """Whoever publishes a model says where it is announced."""
    tracker = f"http://{LOOPBACK}:{service.port}/announce"

    async def seed() -> None:
        stored = publish_file(model, PublishOptions(trackers=(tracker,)))
        async with SwarmClient(config()) as client, asyncio.timeout(120):
            await client.add(stored, fetches=False)
            while not service.said:
                await asyncio.sleep(0.05)

    asyncio.run(seed())
    assert service.said[0].startswith(b"GET /announce?info_hash=")
    assert FileSignature.of(model) is not None


PUBLIC = "9.9.9.9"


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_public_host_cannot_send_this_machine_to_itself(
    model: Path, raw: bytes, tmp_path: Path
) -> None:
    """Mirrors and trackers that point on, to services of the machine that asks, or of its network."""
    try:
        made = Lan(3)
    except NotPermitted as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    homes = [
        make_home(tmp_path / name, listen="0.0.0.0", port=6881, offline=False) for name in "ab"
    ]
    with made as lan, contextlib.ExitStack() as stack:
        victim, stranger, neighbour = lan.hosts
        stranger.take_address(PUBLIC)
        victim.reach_directly(PUBLIC)
        services = [
            stack.enter_context(Listener(victim.listen(LOOPBACK, 8001))),
            stack.enter_context(Listener(neighbour.listen(neighbour.address, 8001))),
        ]
        targets = [f"http://{LOOPBACK}:8001/x.gguf", f"http://{neighbour.address}:8001/x.gguf"]
        mirrors = [
            stack.enter_context(Listener(stranger.listen(PUBLIC, port), redirect(target)))
            for port, target in enumerate(targets, 8002)
        ]
        tracker = stack.enter_context(Listener(stranger.listen(PUBLIC, 8010), redirect(targets[0])))
        file = tmp_path / "hostile.torrent"
        named = [f"http://{PUBLIC}:{mirror.port}/model.gguf" for mirror in mirrors]
        file.write_bytes(with_urls(raw, [f"http://{PUBLIC}:8010/announce"], named))
        stack.enter_context(stranger.seed(model, "--limit-up", "2MB/s", home=homes[0]))
        peer = ("--peer", f"{stranger.address}:6881")
        found = victim.answer("pull", str(file), *peer, home=homes[1])
        assert found["complete"] is True
        assert all(one.num_calls for one in (*mirrors, tracker)), "nobody was asked"
        assert [one.said for one in services] == [[], []]


REFUSED = [
    "http://127.0.0.1/x",
    "http://10.0.0.1/x",
    "http://192.168.1.1:8080/x",
    "http://172.31.255.255/x",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/x",
    "http://0.0.0.0/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://[ff02::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://a.i2p/announce",
    "http://a.onion/announce",
    "http://public.example@127.0.0.1/",
    "http://127.0.0.1\\@public.example/",
    "http://public.example#@127.0.0.1/",
    "http://public.example\r\nX: y/",
    "http://public.example:port/",
    "http://[fe80::1%25eth0]/",
    "http:/127.0.0.1/",
    "http://",
    "//127.0.0.1/",
    "unix:/run/docker.sock",
    "file:///etc/passwd",
    "ftp://public.example/x",
    "gopher://public.example/x",
    "wss://public.example/announce",
    "http+unix://%2Frun%2Fdocker.sock/x",
    "",
]


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_public_is_refused(url: str) -> None:
    """Whatever it is to be used for."""
    assert CALLEES.judge(url, "mirror").refusal and CALLEES.judge(url, "tracker").refusal


def test_public_hosts_are_called_and_names_looked_up_first() -> None:
    for url in ("http://1.1.1.1/announce", "https://[2606:4700::1111]:443/announce?key=a/b"):
        assert (
            CALLEES.judge(url, "tracker").refusal is CALLEES.judge(url, "tracker").look_up is None
        )
    assert CALLEES.judge("udp://1.1.1.1:6969/announce", "tracker").refusal is None
    assert CALLEES.judge("udp://1.1.1.1:6969/announce", "mirror").refusal
    assert CALLEES.judge("HTTPS://Tracker.Example.:80/a", "tracker").look_up == "tracker.example"
    # In numbers that only a resolver understands: it says what they lead to.
    assert CALLEES.judge("http://2130706433/x", "mirror").look_up == "2130706433"
    assert CALLEES.judge("http://MIRROR.lan:81/x", "mirror") == CALLEES.judge(
        "http://MIRROR.lan:81/x", "tracker"
    )
    assert CALLEES.judge("http://mirror.lan/x", "mirror").look_up is None


def test_addresses_of_this_machine_are_not_public() -> None:
    """Also those that others reach: what listens on them may trust this machine more."""
    own = Callees.of_this_machine(()).own_addresses
    assert own and not any(Callees(frozenset(), own).is_public(address) for address in own)


@given(st.ip_addresses())
def test_an_address_in_an_address_is_judged_like_itself(address: Any) -> None:
    """By the written form too; and no address of a private network is public."""
    assert CALLEES.is_public(str(address)) == CALLEES.is_public(address)
    if any(address in network for network in NOT_PUBLIC if network.version == address.version):
        assert not CALLEES.is_public(address)
    if address.version == 4 and int(address) > 1:
        for wrapped in (f"::ffff:{address}", f"64:ff9b::{address}"):
            assert CALLEES.is_public(wrapped) == CALLEES.is_public(address)
