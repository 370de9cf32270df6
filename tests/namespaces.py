"""A small LAN of network namespaces: hosts on a bridge, and a gateway that sees what would leave it.

The gateway has no other side: nothing gets out. Namespaces have no names, and each lasts as long as a
process that waits for its standard input to close: of a test run that was killed no network is left.
"""

import contextlib
import ipaddress
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from commands import BMRT, environment

TIMEOUT_S = 240.0
NAMESERVER: Final = "203.0.113.53"  # beyond the LAN, and nobody there answers
_GATEWAY: Final = ("10.77.0.1", "fd77::1")
_GATEWAY_MAC: Final = "02:00:00:00:77:01"
_LAN: Final = (ipaddress.ip_network("10.77.0.0/24"), ipaddress.ip_network("fd77::/64"))
# What no router takes further, and the groups of local service discovery.
# Source: RFC 5771, RFC 4291, BEP 14.
_ON_LINK: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("255.255.255.255", "10.77.0.255", "224.0.0.0/24", "239.192.152.143"),
        *("fe80::/10", "ff02::/16", "ff15::efc0:988f"),
    )
)
_PROBE: Final = ("203.0.113.254", 9)
_ALL_PROTOCOLS: Final = 0x0003
# Source: RFC 4861.
_NEIGHBOUR_SOLICITATION: Final = 135
_NEIGHBOUR_ADVERTISEMENT: Final = 136
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
HAS_V6: Final = Path("/proc/net/if_inet6").exists()
_SEND_A_SOCKET: Final = """
import socket, sys
made = socket.socket(*map(int, sys.argv[2:5]))
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"."], [made.fileno()])
"""


class NotPermitted(Exception):
    """No namespaces here; says why."""


class _Namespace:
    """A network, and a view of the file system, of its own."""

    def __init__(self, unshare: Sequence[str], enter: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*unshare, "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise NotPermitted(self._process.communicate()[1].strip())
        self.pid = self._process.pid
        self.prefix = ["nsenter", f"--target={self.pid}", *enter, "--"]

    def run(self, *command: str) -> None:
        done = subprocess.run(
            [*self.prefix, *command],
            capture_output=True,
            text=True,
            timeout=120,
            # Where tools of the system are, for those whose path leaves them out.
            env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        )
        if done.returncode:
            raise NotPermitted(f"{' '.join(command)}: {done.stderr.strip()}")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this process in that network."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arguments = (str(n) for n in (theirs.fileno(), family, kind, protocol))
            subprocess.run(
                [*self.prefix, sys.executable, "-IS", "-c", _SEND_A_SOCKET, *arguments],
                pass_fds=[theirs.fileno()],
                check=True,
                timeout=120,
            )
            _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(family, kind, protocol, fileno=number)

    def close(self) -> None:
        self._process.communicate()


class Host:
    """A machine on the LAN."""

    def __init__(self, namespace: _Namespace, number: int) -> None:
        self._namespace = namespace
        self.address = f"10.77.0.{number}"
        self._probe = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def limit(self, rate: str) -> None:
        """What it sends goes no faster than, for example, `50mbit`."""
        shaping = ("root", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms")
        self._namespace.run("tc", "qdisc", "add", "dev", "eth0", *shaping)

    def unplug(self) -> None:
        self._namespace.run("ip", "link", "set", "eth0", "down")

    def take_address(self, address: str) -> None:
        """Has this address, too, as far as `reach_directly` tells others."""
        self._namespace.run("ip", "address", "add", f"{address}/32", "dev", "eth0")

    def reach_directly(self, address: str) -> None:
        """Looks for this address on the LAN, wherever it belongs."""
        self._namespace.run("ip", "route", "add", address, "dev", "eth0")

    def listen(self, address: str, port: int) -> socket.socket:
        """A socket of this process that listens there."""
        listening = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
        return listening

    def send_probe(self) -> None:
        """A packet beyond the LAN."""
        self._probe.sendto(b"probe", _PROBE)

    def start(self, *arguments: str, home: Path) -> "Running":
        """Starts `bmrt` on this machine."""
        command = [*self._namespace.prefix, "env", "-C", str(home), *BMRT, *arguments]
        return Running(command, home)

    def seed(self, model: str | Path, *arguments: str, home: Path) -> "Running":
        """`bmrt seed`, as soon as it listens."""
        seed = self.start("seed", str(model), "--json", *arguments, home=home)
        try:
            seed.wait_for(r"seeding on port \d+")
        except BaseException:
            seed.__exit__()
            raise
        return seed

    def answer(self, *arguments: str, home: Path, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """What `bmrt … --json` prints; it must succeed."""
        with self.start(*arguments, "--json", home=home) as running:
            return running.answer(timeout_s)

    def close(self) -> None:
        self._probe.close()


class Running:
    """`bmrt` on a machine, on a terminal of its own, until it ends or is ended."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        self._terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(home),
        )
        os.close(theirs)
        self.said = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Returns when it has said this; that it ends first, or not for long, fails the test."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := re.search(pattern, self.said)):
            assert self._listen(deadline), f"it never said {pattern}: {self.said}"
        return found

    def _listen(self, deadline: float) -> bool:
        """Hears a little of what it says; False at the end of that, or of the time."""
        left = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([self._terminal], [], [], left)
        try:
            said = os.read(self._terminal, 4096) if readable else b""
        except OSError:  # nobody is at the other end any more
            said = b""
        self.said += said.decode(errors="replace")
        return bool(said)

    def torrent(self) -> dict[str, Any]:
        """What a seed prints first."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def begin(self) -> str:
        """Its first words, as soon as it prints some."""
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), 4096).decode()

    def finish(self, timeout_s: float = TIMEOUT_S) -> str:
        """What it prints until it ends by itself, which must be well."""
        deadline = time.monotonic() + timeout_s
        while self._listen(deadline):
            pass
        assert time.monotonic() < deadline, f"it does not come to an end: {self.said}"
        printed, _ = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, printed.decode() + self.said
        return printed.decode()

    def answer(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """The JSON that it prints."""
        found: dict[str, Any] = json.loads(self.finish(timeout_s))
        return found

    def end(self) -> None:
        """Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        except ValueError:
            pass  # ended before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            os.close(self._terminal)


class Lan:
    """`num_hosts` machines on 10.77.0.0/24 and fd77::/64, and their gateway.

    Raises:
        NotPermitted: namespaces cannot be made here.
    """

    def __init__(self, num_hosts: int) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._build(stack, num_hosts)
            self._stack = stack.pop_all()

    def _build(self, stack: contextlib.ExitStack, num_hosts: int) -> None:
        gateway, enter = _first_namespace()
        stack.callback(gateway.close)
        gateway.run("ip", "link", "set", "lo", "up")
        gateway.run("ip", "link", "add", "br0", "address", _GATEWAY_MAC, "type", "bridge")
        # Without anybody who asks for memberships, groups would stop reaching their members.
        gateway.run("ip", "link", "set", "br0", "type", "bridge", "mcast_snooping", "0")
        gateway.run("ip", "link", "set", "br0", "up")
        _give_addresses(gateway, "br0", _GATEWAY)
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lan-")))
        files.chmod(0o755)
        # Lookups go to the name server of the LAN, and to no service of this machine.
        (files / "nsswitch.conf").write_text("hosts: files dns\n")
        (files / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        options = "options timeout:1 attempts:1"
        (files / "resolv.conf").write_text(f"nameserver {NAMESERVER}\n{options}\n")
        self.hosts: list[Host] = []
        for number in range(11, 11 + num_hosts):
            unshare = [*gateway.prefix, "unshare", "--net", "--mount"]
            namespace = _Namespace(unshare, enter)
            stack.callback(namespace.close)
            self._plug_in(gateway, namespace, number, files)
            self.hosts.append(Host(namespace, number))
            stack.callback(self.hosts[-1].close)
        kind, protocol = socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)
        self._tap = stack.enter_context(gateway.socket(socket.AF_PACKET, kind, protocol))
        self._tap.bind(("br0", _ALL_PROTOCOLS))

    def _plug_in(self, gateway: _Namespace, host: _Namespace, number: int, files: Path) -> None:
        port = f"port{number}"
        peer = ("peer", "name", "eth0", "netns", str(host.pid))
        gateway.run("ip", "link", "add", port, "type", "veth", *peer)
        gateway.run("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "link", "set", "eth0", "up")
        _give_addresses(host, "eth0", (f"10.77.0.{number}", f"fd77::{number}"))
        for address in _usable(_GATEWAY):
            # It need not be asked for: a probe must not look like traffic.
            known = ("lladdr", _GATEWAY_MAC, "dev", "eth0", "nud", "permanent")
            host.run("ip", "neighbour", "replace", address, *known)
            host.run("ip", _family(address), "route", "add", "default", "via", address)
        for path in files.iterdir():
            host.run("mount", "--bind", str(path), f"/etc/{path.name}")
        if Path("/run/nscd").is_dir():
            host.run("mount", "-t", "tmpfs", "tmpfs", "/run/nscd")

    def unplug(self, host: Host) -> None:
        """Pulls the cable of a machine, of which nobody hears any more."""
        self.hosts.remove(host)
        host.unplug()

    def sent_beyond(self) -> Counter[str]:
        """What was sent to or through the gateway since this was last asked, like `udp 203.0.113.9:53`.

        Of lookups the name is added. A packet of each host at the end shows that all was seen.
        """
        for host in self.hosts:
            host.send_probe()
        seen: Counter[str] = Counter()
        awaited = Counter({f"udp {_PROBE[0]}:{_PROBE[1]}": len(self.hosts)})
        while awaited - seen:
            seen.update(self._next_packets())
        return seen - awaited

    def wait_sent_beyond(self, *targets: str) -> None:
        """Returns when something was sent to each of these; that it never is fails the test."""
        missing, seen = set(targets), set[str]()
        deadline = time.monotonic() + TIMEOUT_S
        while missing:
            assert time.monotonic() < deadline, f"nothing to {sorted(missing)}, but to {seen}"
            for what in self._next_packets():
                seen.add(what)
                missing.discard(what)

    def _next_packets(self) -> Iterable[str]:
        readable, _, _ = select.select([self._tap], [], [], TIMEOUT_S)
        assert readable, "no packet reaches the gateway"
        _, dropped = struct.unpack("II", self._tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert not dropped, "more packets than could be counted"
        frame, (_, _, kind, _, _) = self._tap.recvfrom(2048)
        if kind != socket.PACKET_OUTGOING and (what := _beyond(frame)):
            yield what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _first_namespace() -> tuple[_Namespace, list[str]]:
    """A network of our own, and how to enter it: as root, or else as root of a user namespace."""
    network, user = ["--net", "--mount"], ["--user", "--map-root-user"]
    try:
        try:
            return _Namespace(["unshare", *network], network), network
        except NotPermitted:
            enter = ["--user", "--preserve-credentials", *network]
            return _Namespace(["unshare", *user, *network], enter), enter
    except FileNotFoundError as error:
        raise NotPermitted(f"there is no `{error.filename}` here") from error


def _give_addresses(namespace: _Namespace, device: str, addresses: Sequence[str]) -> None:
    for address in _usable(addresses):
        length, options = ("64", ["nodad"]) if ":" in address else ("24", [])
        given = (f"{address}/{length}", "dev", device)
        namespace.run("ip", _family(address), "address", "add", *given, *options)


def _usable(addresses: Sequence[str]) -> list[str]:
    return [address for address in addresses if HAS_V6 or ":" not in address]


def _family(address: str) -> str:
    return "-6" if ":" in address else "-4"


def _beyond(frame: bytes) -> str | None:
    """What a frame is and whom it is for, if it is for the gateway or somebody beyond."""
    packet = frame[14:]
    match frame[12:14]:
        case b"\x08\x06":
            target, is_request = ipaddress.ip_address(packet[24:28]), packet[6:8] == b"\0\1"
            return f"arp {target}" if is_request and str(target) in _GATEWAY else None
        case b"\x08\x00":
            target, protocol = ipaddress.ip_address(packet[16:20]), packet[9]
            payload = packet[4 * (packet[0] & 0x0F) :]
        case b"\x86\xdd":
            target, protocol, payload = ipaddress.ip_address(packet[24:40]), packet[6], packet[40:]
        case _:
            return None
    if protocol == socket.IPPROTO_ICMPV6 and payload[0] == _NEIGHBOUR_SOLICITATION:
        target = ipaddress.ip_address(payload[8:24])
    if protocol == socket.IPPROTO_ICMPV6 and payload[0] == _NEIGHBOUR_ADVERTISEMENT:
        return None  # the gateway has asked
    networks = (*_LAN, *_ON_LINK)
    is_near = any(target in network for network in networks if network.version == target.version)
    if is_near and str(target) not in _GATEWAY:
        return None
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return f"protocol {protocol} {target}"
    host = f"[{target}]" if target.version == 6 else str(target)
    port = int.from_bytes(payload[2:4], "big")
    name = f" {_asked_name(payload[8:])}" if port == 53 else ""
    return f"{'tcp' if protocol == socket.IPPROTO_TCP else 'udp'} {host}:{port}{name}"


def _asked_name(question: bytes) -> str:
    """The name that a lookup is about. Source: RFC 1035, section 4.1.2."""
    labels, rest = list[str](), question[12:]
    while rest and rest[0]:
        labels.append(rest[1 : 1 + rest[0]].decode(errors="replace"))
        rest = rest[1 + rest[0] :]
    return ".".join(labels)
