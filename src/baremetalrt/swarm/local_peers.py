"""Machines of the local network that had torrents lately: they are asked for others, too.

Local service discovery finds who announces now. A seed that believes somebody to have all of a torrent
does not call them, and announces itself once a minute at most; to whoever threw the model away it is
known from here, at once. What was exchanged with whom is not written down.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from baremetalrt.core.addresses import format_address, parse_address
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.files import write_durably
from baremetalrt.core.places import home
from baremetalrt.swarm.session_settings import is_local

_log = logging.getLogger("baremetalrt.swarm")
_MAX_KNOWN: Final = 16
Endpoint = tuple[str, int]


class _Known(msgspec.Struct):
    """`HOST:PORT`, the latest last; `secure` are the ports on which everybody shows a certificate."""

    plain: list[str] = []
    secure: list[str] = []


def known_peers(*, secure: bool) -> list[Endpoint]:
    """Those that were seen lately and are still on a network of this machine. Blocks."""
    known = _read(_path())
    found: list[Endpoint] = []
    for address in known.secure if secure else known.plain:
        try:
            host, port = parse_address(address)
            if is_local(host):
                found.append((host, port))
        except (BareMetalError, ValueError):
            continue
    return found


def remember(peers: Iterable[Endpoint], *, secure: bool) -> None:
    """Writes down which of these are local, if that is news. Blocks; a full disk is no reason to stop."""
    local = [format_address(*peer) for peer in peers if _is_local(peer)]
    known = _read(_path())
    before = known.secure if secure else known.plain
    if all(peer in before for peer in local):
        return
    after = [*(p for p in before if p not in local), *dict.fromkeys(local)][-_MAX_KNOWN:]
    if secure:
        known.secure = after
    else:
        known.plain = after
    try:
        write_durably(_path(), msgspec.json.encode(known))
    except OSError as error:
        _log.debug("local peers are not remembered: %s", error)


def _is_local(peer: Endpoint) -> bool:
    try:
        return is_local(peer[0])
    except ValueError:
        return False


def _path() -> Path:
    return home() / "local_peers.json"


def _read(path: Path) -> _Known:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Known)
    except (OSError, msgspec.DecodeError):
        return _Known()
