"""What a magnet link says, as people paste it and as other programs write it. Pure.

Only what is understood is taken over; the name of a link is not: whoever has the torrent says it anew.

Source: BEP 9; base32 as in the links of old programs. `x.file` and `x.swarm` are our own: which model of
a torrent is meant, and the private swarm that it belongs to.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_base32_infohash, is_infohash, is_magnet

MAX_LINK_CHARS: Final = 1 << 20
_MAX_EACH: Final = 100
_V1_CHARS: Final = 40
_V2_PREFIX: Final = "urn:btmh:1220"
_V1_PREFIX: Final = "urn:btih:"
_PURPOSE: Final = b"baremetalrt magnet "
# What mail programs and people put around a link.
_AROUND: Final = " \t\r\n\v\f<>\"'`"
# A link copied out of a page's source.
_ESCAPED_AND: Final = "amp;"


@dataclass(frozen=True, kw_only=True)
class MagnetLink:
    """At least one info-hash, in small hexadecimal digits; the rest are wishes of whoever wrote it.

    `file` says which model of the torrent is meant; `swarm` names a
    private swarm, as `swarm_hint` does.
    """

    infohash_v1: str | None
    infohash_v2: str | None
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    file: str | None = None
    swarm: str | None = None

    @property
    def infohashes(self) -> tuple[str, ...]:
        """The v2 one first, where there are two."""
        return tuple(one for one in (self.infohash_v2, self.infohash_v1) if one)


def parse_magnet_link(text: str) -> MagnetLink:
    """A magnet link, or an info-hash in hexadecimal or base32.

    Raises:
        UsageError: it is neither.
    """
    if len(text) > MAX_LINK_CHARS:
        raise _invalid("it is too long")
    stripped = text.strip(_AROUND)
    if not is_magnet(stripped):
        return _of_hashes([_hash_of(stripped)], {})
    said: dict[str, list[str]] = {}
    for key, value in _parameters(stripped):
        values = said.setdefault(key.partition(".")[0] if key[:2] != "x." else key, [])
        if len(values) < _MAX_EACH:
            values.append(value)
    return _of_hashes([_topic(topic) for topic in said.get("xt", ())], said)


def with_choice(reference: str, choice: str) -> str:
    """What names a torrent, and which of its models is meant, in one; as `split_choice` reads it."""
    return with_file(reference, choice) if is_magnet(reference) else f"{reference}:{choice}"


def with_file(link: str, file: str) -> str:
    """The link, and which model of its torrent is meant."""
    return f"{link.strip(_AROUND)}&x.file={quote(file, safe='')}"


def with_swarm(link: str, authority_pem: bytes) -> str:
    """The link, and the private swarm that its torrent belongs to."""
    return f"{link}&x.swarm={swarm_hint(authority_pem)}"


def swarm_hint(authority_pem: bytes) -> str:
    """What a link says of a private swarm: nothing that helps to get in."""
    return hashlib.sha256(_PURPOSE + authority_pem.strip()).hexdigest()[:_V1_CHARS]


def _of_hashes(found: list[str], said: dict[str, list[str]]) -> MagnetLink:
    v1 = next((one for one in found if len(one) == _V1_CHARS), None)
    v2 = next((one for one in found if len(one) > _V1_CHARS), None)
    if v1 is None and v2 is None:
        raise _invalid("it has no info-hash")
    return MagnetLink(
        infohash_v1=v1,
        infohash_v2=v2,
        trackers=tuple(said.get("tr", ())),
        web_seeds=tuple(said.get("ws", ())),
        peers=tuple(said.get("x.pe", ())),
        file=next(iter(said.get("x.file", ())), None),
        swarm=next(iter(said.get("x.swarm", ())), None),
    )


def _parameters(link: str) -> Iterator[tuple[str, str]]:
    """Names in small letters, and values that are text in some encoding."""
    for parameter in "".join(link.split()).partition("?")[2].split("&"):
        key, equals, value = parameter.removeprefix(_ESCAPED_AND).partition("=")
        if equals:
            yield key.lower(), _decoded(value)


def _decoded(value: str) -> str:
    """A value without its percents; what is no UTF-8 is taken for Latin-1."""
    # Bytes of a command line that are no text arrive as lone surrogates.
    raw = unquote_to_bytes(
        value.encode("utf-8", "surrogateescape" if _is_escaped(value) else "replace")
    )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _is_escaped(value: str) -> bool:
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in value)


def _topic(topic: str) -> str:
    lowered = topic.lower()
    if lowered.startswith(_V2_PREFIX):
        return _hash_of(topic[len(_V2_PREFIX) :], num_chars=64)
    if lowered.startswith(_V1_PREFIX):
        return _hash_of(topic[len(_V1_PREFIX) :], num_chars=_V1_CHARS)
    return ""


def _hash_of(text: str, *, num_chars: int | None = None) -> str:
    """An info-hash in small hexadecimal digits; of a link only of that length."""
    if num_chars in (None, _V1_CHARS) and is_base32_infohash(text.upper() if num_chars else text):
        try:
            text = base64.b32decode(text.upper()).hex()
        except binascii.Error as error:
            raise _invalid("its info-hash is none") from error
    if not is_infohash(text) or num_chars not in (None, len(text)):
        raise _invalid("its info-hash is none")
    if not text.strip("0"):
        raise _invalid("its info-hash is zero")
    return text.lower()


def _invalid(why: str) -> UsageError:
    return UsageError(
        f"not a magnet link: {why}",
        code="magnet.invalid",
        parameter="model",
        hint="it looks like magnet:?xt=urn:btih:…",
    )
