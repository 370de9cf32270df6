"""How this machine takes part in swarms: `config.toml` in the home folder, and what options override."""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import parse_bytes
from baremetalrt.weights.store import home

_TABLE: Final = "swarm"
# One above is the port of private swarms.
_MAX_PORT: Final = 65534
_SIZES: Final = ("download_limit", "upload_limit", "disk_budget")


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


def config_path() -> Path:
    return home() / "config.toml"


def load_config() -> SwarmConfig:
    """The settings in `config.toml`, under `[swarm]`; the defaults where there is no such file.

    Raises:
        UsageError: an unknown key, or a value of the wrong kind.
    """
    path = config_path()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return SwarmConfig()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad(f"cannot be read: {error}") from error
    for key in table:
        if key != _TABLE:
            raise _bad(f"has an unknown table [{key}]", hint=f"settings are under [{_TABLE}]")
    settings = table.get(_TABLE, {})
    if not isinstance(settings, dict):
        raise _bad(f"{_TABLE} is not a table", hint=f"settings are under [{_TABLE}]")
    return parse_config(settings)


def parse_config(table: dict[str, Any]) -> SwarmConfig:
    """Settings from the keys and values of a table; raises like `load_config`."""
    fields = {field.name: field for field in dataclasses.fields(SwarmConfig)}
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
    return SwarmConfig(**values)


_KINDS: Final[dict[type, str]] = {bool: "true or false", int: "a number", str: "a text"}


def _bad(what: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{config_path()} {what}", code="config.invalid", hint=hint)
