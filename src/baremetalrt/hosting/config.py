"""What this machine offers to peers of its private swarm: the section `[share]` of `config.toml`."""

import re
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.settings import Bytes, Count, load_settings

SECTION: Final = "share"
_PEER_ID: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class ShareConfig:
    """What `bmrt serve` offers, if `enabled` or told to share.

    `models`: names or torrents; none means whatever the swarm lacks. `memory` in bytes and `threads`: no
    more is given, 0 for what there is. `listen`: where peers reach this machine. `allow`: the ids of the
    only peers that are answered; none means every member. `rebalance_s`: seconds between looks at
    whether other blocks need this machine more; 0 means never.
    """

    enabled: bool = False
    models: tuple[str, ...] = ()
    memory: Bytes = 0
    threads: Count = 0
    listen: str = "0.0.0.0:7470"
    allow: tuple[str, ...] = ()
    rebalance_s: Count = 60

    def __post_init__(self) -> None:
        for peer in self.allow:
            if not _PEER_ID.fullmatch(peer):
                raise ValueError(f"{peer!r} is not the id of a peer; `bmrt peers --json` lists ids")


def load_share_config() -> ShareConfig:
    """What `config.toml` says; raises like `load_settings`."""
    return load_settings(SECTION, ShareConfig)
