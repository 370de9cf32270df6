"""Machines of one private swarm: each a real `bmrt serve --share` with a home and a port of its own."""

import asyncio
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Self

from baremetalrt.membership.authority import (
    create_swarm,
    find_membership,
    keep_membership,
    load_authority,
    member_key,
    renew,
    utc_now,
)
from baremetalrt.membership.certificates import certificate_pem, issue, key_pem, new_key
from commands import BMRT, environment
from swarm_kit import LOOPBACK, make_home

SWARM = "home"
_PEER = re.compile(rb"peer ([0-9a-f]{40}) at \S+:(\d+)")
_HOSTING = re.compile(rb"hosting blocks (\d+:\d+) of")
_STARTED_S = 60.0
# What libraries say of connections, and no user should have to read.
FOREIGN = re.compile(
    r"grpc|ipv4|openssl|ssl_error|\.cc:|tsi_|errno|unavailable:|statuscode|last error", re.I
)


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    """This process as a program with that home."""
    before = os.environ.get("BMRT_HOME")
    os.environ["BMRT_HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BMRT_HOME"]
        else:
            os.environ["BMRT_HOME"] = before


def founder(folder: Path, **settings: object) -> Path:
    """A home with a new swarm."""
    home = make_home(folder, **settings)
    with at_home(home):
        create_swarm(SWARM)
    return home


def member(folder: Path, creator: Path, **settings: object) -> Path:
    """A home in the swarm of another; how an invitation does it is tested elsewhere."""
    home = make_home(folder, **settings)
    with at_home(creator):
        authority = load_authority(find_membership(SWARM))
    key = new_key()
    files = {
        "authority.pem": certificate_pem(authority.certificate),
        "member.pem": certificate_pem(issue(authority, key.public_key(), utc_now())),
        "member.key": key_pem(key),
    }
    with at_home(home):
        keep_membership(SWARM, files)
    return home


def made_in(days: float, creator: Path, home: Path) -> Path:
    """The home, with a certificate that was made so many days from now."""
    with at_home(creator):
        authority = load_authority(find_membership(SWARM))
    with at_home(home):
        membership = find_membership(SWARM)
        key = member_key(membership).public_key()
        renew(membership, issue(authority, key, utc_now() + timedelta(days=days)))
    return home


class PeerProcess:
    """A machine that hosts a span, until it is stopped or killed."""

    def __init__(
        self,
        model: Path | str | None,
        blocks: str | None,
        home: Path,
        *options: str,
        port: int = 0,
        seeds: bool = False,
        library: Path | None = None,
        threads: int = 1,
        join: Callable[[], None] | None = None,
    ) -> None:
        """Without `blocks`, and without `model`, it chooses them itself; `seeds` what it hosts.

        It computes with the `library` of that folder, where one is given. `join` is called in its process
        before anything else.
        """
        self.said = b""
        self.process = subprocess.Popen(
            [
                *(*BMRT, "serve", *((str(model),) if model else ()), "--port", "0"),
                *(() if seeds else ("--no-torrents",)),
                *("--share", "--share-listen", f"{LOOPBACK}:{port}"),
                *(("--share-blocks", blocks) if blocks else ()),
                *("--threads", str(threads), "--context", "1024", *options),
            ],
            preexec_fn=join,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment(home), **({"BMRT_LIBRARY": str(library)} if library else {})},
        )

    def wait_until_it_listens(self) -> Self:
        found = self.wait_for(_PEER)
        self.id = found[1].decode()
        self.address = f"{LOOPBACK}:{int(found[2])}"
        return self

    def wait_for(self, what: re.Pattern[bytes]) -> re.Match[bytes]:
        """The next line that it says so; it may say it much later, but not never."""
        assert self.process.stderr is not None
        alarm = threading.Timer(_STARTED_S, self.process.kill)
        alarm.start()
        try:
            for line in self.process.stderr:
                self.said += line
                if found := what.search(line):
                    return found
        finally:
            alarm.cancel()
        raise RuntimeError(f"the peer did not say {what.pattern!r}: {self.said.decode()}")

    def hosts(self) -> str:
        """The blocks that it hosts from the next time on that it says so."""
        return self.wait_for(_HOSTING)[1].decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stderr is not None
        if not self.process.stderr.closed:
            self.process.communicate()


class Relay:
    """A wire to a peer, which can be cut so that nothing comes through, or torn with a reset.

    `delay_s`: how long everything is on its way, in either direction.
    """

    def __init__(self, target: str, delay_s: float = 0.0) -> None:
        self._target = target.rpartition(":")
        self._delay_s = delay_s
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, LOOPBACK, 0), self._loop
        ).result()
        self.address = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Connections stay, and nothing passes any more: a pulled cable."""
        self._is_cut = True

    def reset(self) -> None:
        """All connections end with a reset, and new ones do, too."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._tear)

    def _tear(self) -> None:
        for writer in self._writers:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target[0], self._target[2])
        self._writers |= {writer, far_writer}
        await asyncio.gather(
            self._pump(reader, far_writer), self._pump(far_reader, writer), return_exceptions=True
        )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self._is_cut:
                continue
            if self._delay_s:
                self._loop.call_later(self._delay_s, writer.write, data)
            else:
                writer.write(data)
                await writer.drain()
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
