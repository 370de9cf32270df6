"""How a command takes part in swarms, besides what `config.toml` says."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baremetalrt.swarm.config import SwarmConfig


@dataclass(frozen=True, kw_only=True)
class SwarmOptions:
    """None, and false, leave it to `config.toml`.

    `peers`: `HOST:PORT` to be asked, too. `swarm`: the private swarm that torrents belong to. `port`: 0
    takes any. Limits are bytes per second.
    """

    peers: tuple[str, ...] = ()
    swarm: str | None = None
    offline: bool = False
    metered: bool = False
    port: int | None = None
    download_limit: int | None = None
    upload_limit: int | None = None

    def config(self) -> "SwarmConfig":
        """The settings of this machine, as these options change them; raises like `load_settings`."""
        # Here and not above: a model that is here needs neither the file nor its reader.
        from dataclasses import replace

        from baremetalrt.swarm.config import load_swarm_config

        config = load_swarm_config()
        return replace(
            config,
            offline=self.offline or config.offline,
            metered=self.metered or config.metered,
            port=config.port if self.port is None else self.port,
            download_limit=_either(self.download_limit, config.download_limit),
            upload_limit=_either(self.upload_limit, config.upload_limit),
        )


def _either(given: int | None, configured: int) -> int:
    return configured if given is None else given
