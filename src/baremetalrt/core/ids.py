"""Names that several rooms share."""

from typing import Final

_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")


def is_magnet_or_hash(text: str) -> bool:
    """Whether `text` is a magnet link or an info-hash."""
    return text.lower().startswith("magnet:") or is_infohash(text)


def is_infohash(text: str) -> bool:
    """Whether `text` is a v1 or v2 info-hash in hexadecimal."""
    return len(text) in (40, 64) and _HEXADECIMAL.issuperset(text)
