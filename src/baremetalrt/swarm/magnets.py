"""Magnet links as libtorrent takes them, and the torrent file that comes of one.

Source: BEP 9.
"""

import libtorrent as lt

from baremetalrt.core.magnet_links import MagnetLink


def magnet_params(link: MagnetLink) -> lt.add_torrent_params:
    """What a link says of where a torrent is to be had; its addresses are not judged yet."""
    topics = []
    if link.infohash_v1:
        topics.append(f"xt=urn:btih:{link.infohash_v1}")
    if link.infohash_v2:
        topics.append(f"xt=urn:btmh:1220{link.infohash_v2}")
    params = lt.parse_magnet_uri("magnet:?" + "&".join(topics))
    params.trackers = list(link.trackers)
    params.url_seeds = list(link.web_seeds)
    return params


def bare_torrent_file(info: bytes, link: MagnetLink) -> bytes:
    """A `.torrent` file from its info section, with what the link adds, without v2 piece layers."""
    values = {b"info": info}
    if link.trackers:
        values[b"announce-list"] = lt.bencode([[url.encode()] for url in link.trackers])
    if link.web_seeds:
        values[b"url-list"] = lt.bencode([url.encode() for url in link.web_seeds])
    body = b"".join(b"%d:%s%s" % (len(key), key, values[key]) for key in sorted(values))
    return b"d" + body + b"e"
