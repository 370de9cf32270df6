"""Magnet links: what they say, and the torrent file that comes of one.

Source: BEP 9, BEP 53.
"""

from typing import Final

import libtorrent as lt

from baremetalrt.core.errors import UsageError
from baremetalrt.swarm.metainfo import MAX_TORRENT_BYTES

_V1_CHARS: Final = 40


def parse_magnet(text: str) -> lt.add_torrent_params:
    """A magnet link, or an info-hash in hexadecimal, as libtorrent takes it.

    Raises:
        UsageError: it is neither.
    """
    link = text
    if not text.lower().startswith("magnet:"):
        kind = "btih:" if len(text) == _V1_CHARS else "btmh:1220"
        link = f"magnet:?xt=urn:{kind}{text}"
    try:
        if len(link) > MAX_TORRENT_BYTES:
            raise ValueError("it is too long")
        params = lt.parse_magnet_uri(link)
        # What is no text is found out here, and not when it is used.
        _ = params.name, params.trackers, params.url_seeds
        return params
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"not a magnet link: {error}",
            code="magnet.invalid",
            hint="it looks like magnet:?xt=urn:btih:…",
        ) from error


def bare_torrent_file(info: bytes, params: lt.add_torrent_params) -> bytes:
    """A `.torrent` file from its info section, with trackers and web seeds, without v2 piece layers."""
    values = {b"info": info}
    if params.trackers:
        values[b"announce-list"] = lt.bencode([[url.encode()] for url in params.trackers])
    if params.url_seeds:
        values[b"url-list"] = lt.bencode([url.encode() for url in params.url_seeds])
    body = b"".join(b"%d:%s%s" % (len(key), key, values[key]) for key in sorted(values))
    return b"d" + body + b"e"
