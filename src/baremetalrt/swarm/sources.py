"""Who a torrent is connected to, as libtorrent says. Everything here blocks."""

from collections.abc import Set

import libtorrent as lt

from baremetalrt.swarm.stalls import SourceView


def called_peers(handle: lt.torrent_handle) -> list[tuple[str, int]]:
    """Peers that we are connected to and called ourselves; mirrors are no peers."""
    return [
        peer.ip
        for peer in handle.get_peer_info()
        if peer.connection_type == lt.peer_info.standard_bittorrent
        and peer.flags & lt.peer_info.outgoing_connection
    ]


def source_views(handle: lt.torrent_handle, missing: Set[int]) -> list[SourceView]:
    """Those who have any of the `missing` pieces, whether they would send it, and how much was asked."""
    views = []
    for peer in handle.get_peer_info():
        flags = peer.flags
        if flags & (lt.peer_info.connecting | lt.peer_info.handshake):
            continue
        has = peer.pieces
        if any(piece < len(has) and has[piece] for piece in missing):
            views.append(
                SourceView(
                    could_send=not flags & lt.peer_info.remote_choked,
                    num_requests=peer.download_queue_length,
                )
            )
    return views
