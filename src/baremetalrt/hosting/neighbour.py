"""A peer of a private swarm as this machine sees it: what it says of itself, made harmless."""

import string
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from baremetalrt.core.spans import BlockSpan
from baremetalrt.peers.compute_pb2 import Description, HostedSpan
from baremetalrt.peers.offer import FoundOffer, read_messages
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.placement.profiles import DeviceProfile

# More than any model has; what peers say bounds what is built of it.
_MAX_BLOCKS: Final = 4096
_MAX_NAME: Final = 128
_MAX_SPANS: Final = 1024
_ID_DIGITS: Final = 40
# A hundred terabytes a second: far more than the fastest memory there is.
_FASTEST_BYTE_S: Final = 1e-14


@dataclass(frozen=True)
class Neighbour:
    """A peer that answered. `about` is what it says of itself."""

    address: str
    about: Description
    round_trip_s: float

    @property
    def id(self) -> str:
        return self.about.id

    @property
    def host(self) -> str:
        """Its address without the port."""
        return self.address.rpartition(":")[0]

    @property
    def spans(self) -> list[HostedSpan]:
        """What it hosts, but for what cannot be."""
        return [span for span in self.about.spans if _is_sound(span)]

    @property
    def offers(self) -> list[FoundOffer]:
        """What can be had from it, but for what cannot be."""
        return read_messages(self.about.offers, self.host)

    def spans_of(self, model: str) -> list[RemoteSpan]:
        """What it hosts of a model."""
        return [
            RemoteSpan(
                self.id,
                self.address,
                model,
                BlockSpan(s.start, s.end),
                s.num_blocks,
                token_s=s.step_s or None,
            )
            for s in self.spans
            if s.model == model
        ]

    def report(self) -> dict[str, Any]:
        """What is known of it, for people and programs; names from elsewhere made harmless."""
        about = self.about
        return {
            "id": self.id,
            "address": self.address,
            "round_trip_s": round(self.round_trip_s, 6),
            "bytes_per_s": round(1 / self.byte_s) if self.byte_s else None,
            "budget_bytes": about.budget_bytes,
            "release": _printable(about.release),
            "library": _printable(about.library),
            "spans": [
                {
                    "model": _printable(s.model),
                    "name": _printable(s.name),
                    "start": s.start,
                    "end": s.end,
                    "num_blocks": s.num_blocks,
                    "num_bytes": s.num_bytes,
                    "num_cells": s.num_cells,
                    "context": s.context,
                    "num_texts": s.num_texts,
                    "step_s": s.step_s,
                }
                for s in self.spans
            ],
            "offers": [
                {
                    "name": found.offer.name,
                    "infohash": found.offer.torrent,
                    "bytes": found.offer.num_bytes,
                    "private": found.offer.is_private,
                    "peer": found.peers[0],
                }
                for found in self.offers
            ],
        }

    @property
    def byte_s(self) -> float | None:
        """Seconds for each byte that a step reads; None where the peer has not measured that.

        What no machine can do, none has measured: it would draw every route to itself.
        """
        return self.about.byte_s if self.about.byte_s >= _FASTEST_BYTE_S else None

    def profile(self) -> DeviceProfile | None:
        """What placement knows of it; None where nobody knows how fast it is."""
        if self.byte_s is None:
            return None
        return DeviceProfile(id=self.id, budget_bytes=self.about.budget_bytes, byte_s=self.byte_s)


def is_sane(about: Description) -> bool:
    """Whether what a peer says of itself can be."""
    is_id = len(about.id) == _ID_DIGITS and set(about.id) <= set(string.hexdigits)
    return is_id and 0 <= about.byte_s < inf and len(about.spans) <= _MAX_SPANS


def _is_sound(span: HostedSpan) -> bool:
    """Whether what a peer says of a span can be."""
    return span.start < span.end <= span.num_blocks <= _MAX_BLOCKS and 0 <= span.step_s < inf


def _printable(text: str) -> str:
    """Without what a terminal would obey, and not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_NAME])
