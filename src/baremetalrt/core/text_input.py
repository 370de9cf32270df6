"""Text from a file or a pipe that somebody's editor or shell wrote: a byte order mark (BOM) says how."""

import codecs
import sys
from typing import Final

# The longer BOM first: that of UTF-32 begins like that of UTF-16.
BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_bom(data: bytes) -> str | None:
    """The text of bytes that begin with a BOM, without it; nothing where there is none."""
    for bom, encoding in BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, "replace")
    return None


def text_of(data: bytes) -> str:
    """The text of `data`, which is UTF-8 unless a BOM says otherwise; never fails."""
    text = decode_bom(data)
    return data.decode("utf-8", "replace") if text is None else text


def read_standard_input(max_bytes: int = -1) -> str:
    """What is piped in, like `text_of`, whatever the locale says."""
    return text_of(sys.stdin.buffer.read(max_bytes)).replace("\r\n", "\n")
