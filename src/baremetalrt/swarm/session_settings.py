"""What libtorrent is told at its start: ports, discovery, limits, and what must never leave the LAN."""

import ipaddress
import secrets
import socket
from typing import Any, Final

import libtorrent as lt
import psutil

from baremetalrt import __version__
from baremetalrt.core.errors import UsageError
from baremetalrt.swarm.callees import NOT_PUBLIC, Network
from baremetalrt.swarm.config import SwarmConfig

_ALERTS: Final = (
    lt.alert_category.error
    | lt.alert_category.status
    | lt.alert_category.storage
    | lt.alert_category.piece_progress
    | lt.alert_category.peer
    | lt.alert_category.connect
    | lt.alert_category.tracker
    | lt.alert_category.dht
    | lt.alert_category.dht_operation
)
_ALERT_QUEUE: Final = 20_000
# What no router passes on. Source: RFC 1122, RFC 3927, RFC 4291.
_NEVER_ROUTED: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(n) for n in ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")
)
_BLOCKED: Final = 1


def session_settings(config: SwarmConfig, *, with_certificates: bool) -> dict[str, Any]:
    """Settings of a libtorrent session. Nothing else of ours sends packets for torrents."""
    is_online = not config.offline
    return {
        "user_agent": f"BareMetalRT/{__version__}",
        "peer_fingerprint": b"-BM0100-" + secrets.token_bytes(12),
        "listen_interfaces": _interfaces(config, with_certificates=with_certificates),
        "alert_mask": int(_ALERTS),
        "alert_queue_size": _ALERT_QUEUE,
        # Tried before TCP; and over uTP a refused certificate looks like a broken line.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": not with_certificates,
        "enable_dht": config.dht and is_online,
        "enable_lsd": config.local_discovery,
        # As often as BEP 14 allows: who comes back with nothing, after being seen with all of a torrent,
        # is called by nobody, and hears of a seed when that announces itself.
        "local_service_announce_interval": 60,
        "enable_upnp": config.port_mapping and is_online,
        "enable_natpmp": config.port_mapping and is_online,
        "dht_bootstrap_nodes": ",".join(config.dht_bootstrap) if is_online else "",
        # A private DHT may be a handful of machines behind one address, or on one.
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        # And they ask more than one machine would: no attack.
        "dht_block_ratelimit": 100,
        # Two people behind one router are two peers.
        "allow_multiple_connections_per_ip": True,
        "download_rate_limit": config.download_limit,
        "upload_rate_limit": config.upload_limit,
        # The first pieces, too, come in the order that we say.
        "initial_picker_threshold": 0,
        # What torrents name is screened before (`url_screen.py`); this holds for where it leads on.
        "ssrf_mitigation": True,
        "validate_https_trackers": True,
        "apply_ip_filter_to_trackers": True,
        "allow_idna": False,
        # A mirror that stalls or answers 404 is tried again in minutes, and not in half an hour.
        "urlseed_timeout": 10,
        "urlseed_wait_retry": 60,
        # Trackers that do not answer must not hold up the end of a command.
        "stop_tracker_timeout": 1,
        "max_metadata_size": 16 * 1024 * 1024,
        "connections_limit": 200,
        # A model is a torrent or two, and all of them are wanted at once.
        "active_limit": -1,
        # Between two spans we may have all that we want, and want more a moment later.
        "close_redundant_connections": False,
        # Peers are connected at ticks; with the default of 500 ms a command would wait that long twice.
        "tick_interval": 100,
        "no_atime_storage": True,
        # LAN peers are quick to answer and quick to fail.
        "peer_connect_timeout": 7,
        "min_reconnect_time": 2,
        # What is on its way already delays what is needed next.
        "request_queue_time": 1,
        "max_out_request_queue": 500,
        "send_buffer_watermark": 3 * 1024 * 1024,
        "send_buffer_watermark_factor": 150,
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
        "strict_end_game_mode": False,
    }


def local_networks() -> list[Network]:
    """The networks that this machine's own interfaces are on: what is reached without a router.

    Private addresses alone would say too little: a company or a VPN routes them far.
    """
    networks = list(_NEVER_ROUTED)
    for addresses in psutil.net_if_addrs().values():
        for a in addresses:
            if a.family not in (socket.AF_INET, socket.AF_INET6) or not a.netmask:
                continue
            mask = int(ipaddress.ip_address(a.netmask))
            address = a.address.partition("%")[0]
            networks.append(ipaddress.ip_network(f"{address}/{mask.bit_count()}", strict=False))
    return networks


def is_local(address: str) -> bool:
    """Whether an address lies on the local network; raises `ValueError` if it is none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return any(ip in network for network in local_networks() if network.version == ip.version)


def local_only_filter() -> lt.ip_filter:
    """Blocks every address beyond the local network, whoever named it."""
    rules = lt.ip_filter()
    rules.add_rule("0.0.0.0", "255.255.255.255", _BLOCKED)
    rules.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", _BLOCKED)
    for network in local_networks():
        rules.add_rule(str(network[0]), str(network[-1]), 0)
    return rules


def stranger_filter(config: SwarmConfig) -> lt.ip_filter:
    """Blocks what is not public, for whatever libtorrent looks up by itself: mirrors above all.

    Peers are not meant, who may be on the LAN: torrents that are not offline do without the flag that
    says so. The DHT is, so one of one's own, on the LAN, is left open.
    """
    rules = lt.ip_filter()
    if config.dht and not any(map(_may_be_public, config.dht_bootstrap)):
        return rules
    for network in NOT_PUBLIC:
        rules.add_rule(str(network[0]), str(network[-1]), _BLOCKED)
    for host in config.local_hosts:
        for address in _addresses(host):
            rules.add_rule(address, address, 0)
    return rules


def _may_be_public(node: str) -> bool:
    host = node.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return True
    return not any(ip in network for network in NOT_PUBLIC if network.version == ip.version)


def _addresses(host: str) -> list[str]:
    """Where a host of the user's choice is now. Blocks."""
    try:
        found = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), None)
    except (OSError, UnicodeError):
        return []
    return sorted({str(address[0]).partition("%")[0] for *_, address in found})


def parse_peer(text: str, *, offline: bool) -> tuple[str, int]:
    """`HOST:PORT`, `[IPV6]:PORT` as an address. Names are left to the caller to resolve.

    Raises:
        UsageError: it is no such thing, or offline and not on the local network.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(
            f"{text!r} is not a peer", code="peer.invalid", hint="for example 192.168.1.20:6881"
        )
    try:
        local = not offline or is_local(host)
    except ValueError:
        local = host == "localhost"
        if offline and not local:
            raise UsageError(
                f"offline, the peer {host!r} cannot be looked up",
                code="peer.offline",
                hint="name its address in numbers",
            ) from None
    if offline and not local:
        raise UsageError(
            f"the peer {host} is not on the local network",
            code="peer.offline",
            hint="drop --offline",
        )
    return host, int(port)


def _interfaces(config: SwarmConfig, *, with_certificates: bool) -> str:
    hosts = [config.listen]
    if config.listen_v6 and config.listen == "0.0.0.0":
        hosts.append("[::]")
    port = config.port
    plain = [f"{host}:{port}" for host in hosts]
    # Private swarms have a port of their own, on which everybody shows a certificate.
    secure = [f"{host}:{port + 1 if port else 0}s" for host in hosts] if with_certificates else []
    return ",".join(plain + secure)
