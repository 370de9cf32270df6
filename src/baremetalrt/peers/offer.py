"""Models that others say they seed. What comes from elsewhere is bounded here, and stays a hint. Pure."""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.ids import is_infohash
from baremetalrt.peers import compute_pb2 as pb

# Of one machine.
MAX_OFFERS: Final = 64
_MAX_NAME: Final = 96
_MAX_PEERS: Final = 4
# No service of the system is talked to because somebody says so.
_FIRST_PORT: Final = 1024
_END_OF_PORTS: Final = 1 << 16
# A petabyte: more than any model has.
_END_OF_BYTES: Final = 1 << 50
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A model that is whole somewhere. `torrent` is its info-hash, and `port` where it is seeded.

    `sha256`: of its one file, where that came from a hub. `is_private`: seeded to members of a swarm.
    """

    name: str
    torrent: str
    num_bytes: int
    port: int
    sha256: str | None = None
    is_private: bool = False

    def properties(self) -> dict[str, str | None]:
        """What is said of it on the local network."""
        said = {"name": self.name, "torrent": self.torrent, "bytes": str(self.num_bytes)}
        return {**said, **({"sha256": self.sha256} if self.sha256 else {})}

    def message(self) -> pb.Offer:
        """What is said of it to members."""
        return pb.Offer(
            name=self.name,
            torrent=self.torrent,
            num_bytes=self.num_bytes,
            is_private=self.is_private,
            port=self.port,
        )


@dataclass(frozen=True)
class FoundOffer:
    """An offer of somebody else. `peers`: `HOST:PORT` where it is said to be seeded."""

    offer: Offer
    peers: tuple[str, ...]


def offer_of(
    name: str, torrent: str, num_bytes: int, port: int, *, sha256: str | None, is_private: bool
) -> Offer:
    """An offer of this machine; of a long name, the beginning."""
    return Offer(
        name=printable(name)[:_MAX_NAME],
        torrent=torrent,
        num_bytes=num_bytes,
        port=port,
        sha256=sha256,
        is_private=is_private,
    )


def read_properties(
    said: Mapping[bytes, bytes | None], port: int | None, addresses: Iterable[str], *, at_home: bool
) -> FoundOffer | None:
    """What somebody on the local network offers; None for what cannot be.

    `at_home`: the network is this machine alone, as in tests and under simulation; else an address of
    loopback would make this machine call itself.
    """
    texts = {}
    for key in ("name", "torrent", "bytes", "sha256"):
        value = said.get(key.encode())
        texts[key] = value[:256].decode("utf-8", "replace") if value is not None else None
    number = texts["bytes"] or ""
    sha256 = texts["sha256"]
    if not _NUMBER.fullmatch(number) or (sha256 is not None and not _SHA256.fullmatch(sha256)):
        return None
    offer = Offer(
        name=texts["name"] or "",
        torrent=texts["torrent"] or "",
        num_bytes=int(number),
        port=port or 0,
        sha256=sha256,
    )
    near = [one for one in addresses if _is_near(one, at_home=at_home)][:_MAX_PEERS]
    if not near or not is_sound(offer):
        return None
    return FoundOffer(offer, tuple(f"{address}:{offer.port}" for address in near))


def read_messages(said: Sequence[pb.Offer], host: str) -> list[FoundOffer]:
    """What a member of a swarm offers, but for what cannot be."""
    offers = [
        Offer(
            name=one.name,
            torrent=one.torrent,
            num_bytes=one.num_bytes,
            port=one.port,
            is_private=one.is_private,
        )
        for one in said[:MAX_OFFERS]
    ]
    return [FoundOffer(one, (f"{host}:{one.port}",)) for one in offers if is_sound(one)]


def is_sound(offer: Offer) -> bool:
    """Whether what is said can be."""
    is_name = 0 < len(offer.name) <= _MAX_NAME and offer.name.isprintable()
    is_torrent = is_infohash(offer.torrent) and offer.torrent == offer.torrent.lower()
    is_port = _FIRST_PORT <= offer.port < _END_OF_PORTS
    return is_name and is_torrent and is_port and 0 < offer.num_bytes < _END_OF_BYTES


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _is_near(address: str, *, at_home: bool) -> bool:
    try:
        literal = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    if literal.is_loopback or at_home:
        return literal.is_loopback and at_home
    is_usable = not (literal.is_unspecified or literal.is_multicast or literal.is_reserved)
    return is_usable and (literal.is_private or literal.is_link_local)
