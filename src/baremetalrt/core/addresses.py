"""Where a machine is reached, as people write it: `HOST:PORT`, with brackets around IPv6."""

import re
from typing import Final

from baremetalrt.core.errors import UsageError

ADDRESS_PATTERN: Final = r"\A([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}\Z"


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPV6]:PORT` as its two parts.

    Raises:
        UsageError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if re.match(ADDRESS_PATTERN, text) is None or int(port) > 65535:
        raise UsageError(
            f"{text!r} is not an address",
            code="address.malformed",
            parameter="address",
            hint="for example 192.168.1.20:7000, or [fd00::20]:7000",
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def format_address(host: str, port: int) -> str:
    """The other way round."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
