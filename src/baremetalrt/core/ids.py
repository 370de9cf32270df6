"""Names that several rooms share."""

import re
from typing import Final

_INFOHASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_infohash(text: str) -> bool:
    """Whether `text` is a v1 or v2 info-hash in hexadecimal."""
    return _INFOHASH.fullmatch(text.lower()) is not None
