"""How this machine takes part in swarms: the section `[swarm]` of `config.toml`."""

from dataclasses import dataclass, replace
from typing import Annotated, Final

import msgspec

from baremetalrt.core.settings import Bytes, load_settings

SECTION: Final = "swarm"
# One above is the port of private swarms.
_MAX_PORT: Final = 65534


@dataclass(frozen=True, kw_only=True)
class SwarmConfig:
    """Defaults are those of a machine at home. Limits are bytes per second; 0 means none.

    `offline` never sends a packet beyond the local network. `metered` leaves the background work of
    the daemon undone. `disk_budget` bounds what fetched models take, in bytes; 0 means no bound.
    `port_mapping` asks the router for an open port. `listen` is an address, `port` the first one tried;
    port 0 takes any. `local_hosts`: names or addresses on this machine, or on a network of its own, that
    torrents of others may name as mirrors and trackers.
    """

    offline: bool = False
    metered: bool = False
    listen: str = "0.0.0.0"
    listen_v6: bool = True
    port: Annotated[int, msgspec.Meta(ge=0, le=_MAX_PORT)] = 6881
    local_discovery: bool = True
    port_mapping: bool = True
    dht: bool = True
    dht_bootstrap: tuple[str, ...] = ("dht.libtorrent.org:25401",)
    download_limit: Bytes = 0
    upload_limit: Bytes = 0
    disk_budget: Bytes = 0
    local_hosts: tuple[str, ...] = ()

    def taking_over(self, newer: "SwarmConfig") -> "SwarmConfig":
        """What of `newer` can change while torrents run: limits, the budget, the metered switch."""
        return replace(
            self,
            metered=newer.metered,
            download_limit=newer.download_limit,
            upload_limit=newer.upload_limit,
            disk_budget=newer.disk_budget,
        )


def load_swarm_config() -> SwarmConfig:
    """What `config.toml` says; raises like `load_settings`."""
    return load_settings(SECTION, SwarmConfig)
