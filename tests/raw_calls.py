"""What a member can say to a host with a client of its own: any command, in any order."""

import secrets
import struct
from pathlib import Path
from typing import Any

import grpc

from baremetalrt.hosting.neighbours import identity_of
from baremetalrt.membership.authority import find_membership
from baremetalrt.membership.identity import Identity
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.caller import Channels
from baremetalrt.peers.tls import secure_channel
from baremetalrt.peers.wire import SERVICE
from peers_kit import SWARM, PeerProcess, at_home

WIDTH = 576
ROWS = struct.pack("<f", 0.5) * WIDTH


def attach(channel: grpc.aio.Channel, *, timeout_s: float = 120) -> Any:
    """A stream of commands and reports."""
    return channel.stream_stream(
        f"{SERVICE}Attach",
        request_serializer=pb.Command.SerializeToString,
        response_deserializer=pb.Report.FromString,
    )(timeout=timeout_s)


def identity(home: Path) -> Identity:
    with at_home(home):
        return identity_of(find_membership(SWARM))


async def described(peer: PeerProcess, who: Identity) -> pb.Description:
    channels = Channels(who)
    return (await channels.describe(peer.address, timeout_s=60))[0]


async def say(
    peer: PeerProcess, who: Identity, *commands: pb.Command, name: str | None = None
) -> list[pb.Report]:
    """Sends commands, and returns what is reported to each of them."""
    async with secure_channel(who, peer.address, name or f"{peer.id}.peer") as channel:
        call = attach(channel)
        reports = []
        for command in commands:
            await call.write(command)
            reports.append(await call.read())
        return reports


def opening(model: str, **changes: Any) -> pb.Command:
    fields = {"text": secrets.token_bytes(16), "model": model, "start": 10, "end": 20}
    return pb.Command(number=1, open=pb.Open(**{**fields, "capacity": 64, **changes}))
