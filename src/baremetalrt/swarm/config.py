"""How this machine takes part in swarms, and what it offers them: `config.toml` in the home folder.

Options override it.
"""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import parse_bytes
from baremetalrt.weights.store import home

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_SWARM: Final = "swarm"
_SHARE: Final = "share"
# One above is the port of private swarms.
_MAX_PORT: Final = 65534
_SIZES: Final = ("download_limit", "upload_limit", "disk_budget", "memory")
_PEER_DIGITS: Final = 40


@dataclass(frozen=True, kw_only=True)
class SwarmConfig:
    """Defaults are those of a machine at home. Limits are bytes per second; 0 means none.

    `offline` never sends a packet beyond the local network. `metered` leaves the background work of
    the daemon undone. `disk_budget` bounds what fetched models take, in bytes; 0 means no bound.
    `port_mapping` asks the router for an open port. `listen` is an address, `port` the first one tried;
    port 0 takes any.
    """

    offline: bool = False
    metered: bool = False
    listen: str = "0.0.0.0"
    listen_v6: bool = True
    port: int = 6881
    local_discovery: bool = True
    port_mapping: bool = True
    dht: bool = True
    dht_bootstrap: tuple[str, ...] = ("dht.libtorrent.org:25401",)
    download_limit: int = 0
    upload_limit: int = 0
    disk_budget: int = 0


@dataclass(frozen=True, kw_only=True)
class ShareConfig:
    """What `bmrt serve` offers to peers of the private swarm, if `enabled` or told to share.

    `models`: names or torrents; none means whatever the swarm lacks. `memory` in bytes and `threads`: no
    more is given, 0 for what there is. `listen`: where peers reach this machine. `allow`: the ids of the
    only peers that are answered; none means every member. `rebalance_s`: seconds between looks at
    whether other blocks need this machine more; 0 means never.
    """

    enabled: bool = False
    models: tuple[str, ...] = ()
    memory: int = 0
    threads: int = 0
    listen: str = "0.0.0.0:7470"
    allow: tuple[str, ...] = ()
    rebalance_s: int = 60


def config_path() -> Path:
    return home() / "config.toml"


def load_config() -> SwarmConfig:
    """The settings in `config.toml`, under `[swarm]`; the defaults where there is no such file.

    Raises:
        UsageError: an unknown key, or a value of the wrong kind.
    """
    return parse_config(_read(_SWARM))


def load_share_config() -> ShareConfig:
    """The settings under `[share]`; raises like `load_config`."""
    config = _parse(ShareConfig, _read(_SHARE))
    for peer in config.allow:
        if len(peer) != _PEER_DIGITS or not set(peer) <= set("0123456789abcdef"):
            raise _bad(f"{peer!r} is not the id of a peer", hint="`bmrt peers --json` lists ids")
    return config


def parse_config(table: dict[str, Any]) -> SwarmConfig:
    """Settings from the keys and values of a table; raises like `load_config`."""
    return _parse(SwarmConfig, table)


def _read(name: str) -> dict[str, Any]:
    """One table of the file; nothing where it is not there."""
    path = config_path()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad(f"cannot be read: {error}") from error
    for key in tables:
        if key not in (_SWARM, _SHARE):
            raise _bad(
                f"has an unknown table [{key}]",
                hint=f"settings are under [{_SWARM}] and [{_SHARE}]",
            )
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise _bad(f"{name} is not a table", hint=f"settings are under [{name}]")
    return table


def _parse(kind: "type[Settings]", table: dict[str, Any]) -> "Settings":
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise _bad(
                f"has an unknown key {key!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}",
            )
        if key in _SIZES and isinstance(value, str):
            value = parse_bytes(value)
        default = fields[key].default
        if isinstance(default, tuple):
            if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
                raise _bad(f"{key} is not a list of texts")
            value = tuple(value)
        elif type(value) is not type(default):
            raise _bad(f"{key} is not {_KINDS[type(default)]}")
        if isinstance(value, int) and value < 0:
            raise _bad(f"{key} is negative")
        if key == "port" and value > _MAX_PORT:
            raise _bad(f"port {value} is larger than {_MAX_PORT}")
        values[key] = value
    return kind(**values)


_KINDS: Final[dict[type, str]] = {bool: "true or false", int: "a number", str: "a text"}


def _bad(what: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{config_path()} {what}", code="config.invalid", hint=hint)
