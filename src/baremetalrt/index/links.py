"""The link of a published list: its publisher's key, and perhaps the torrent of the list as it was. Pure.

Source: BEP 46 (`xs=urn:btpk:`).
"""

import re
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from baremetalrt.core.errors import UsageError

_KEY_URN: Final = "urn:btpk:"
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_V1_TOPIC: Final = re.compile(r"urn:btih:[0-9a-fA-F]{40}")
_MAX_CHARS: Final = 10_000


def is_list_link(text: str) -> bool:
    """Whether it is meant as the link of a list."""
    return _KEY_URN in text[:_MAX_CHARS].lower()


def list_link(key: str, name: str, infohash_v1: str | None) -> str:
    """What others follow. The info-hash is of the list as it is now: for those without a DHT."""
    now = f"&xt=urn:btih:{infohash_v1}" if infohash_v1 else ""
    return f"magnet:?xs={_KEY_URN}{key}&dn={quote(name, safe='')}{now}"


def parse_list_link(text: str) -> tuple[str, str | None]:
    """The key, and a magnet link of the list as it was, if the link has one.

    Raises:
        UsageError: it is no such link.
    """
    said = parse_qsl(urlsplit(text.strip()[:_MAX_CHARS]).query)
    keys = [
        value[len(_KEY_URN) :].lower()
        for name, value in said
        if name == "xs" and value.lower().startswith(_KEY_URN)
    ]
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise UsageError(
            "that is no link of a list of models",
            code="index.link",
            parameter="link",
            hint="`bmrt index lists` on the machine that publishes says it: magnet:?xs=urn:btpk:…",
        )
    topics = [v for name, v in said if name == "xt" and _V1_TOPIC.fullmatch(v)]
    return keys[0], f"magnet:?xt={topics[0]}" if topics else None
