"""From bytes to text: what they declare, what they look like, what they most likely are."""

import codecs
import re
from typing import Final

from baremetalrt.documents.names import names_in

# Enough to recognize a language by, little enough to be quick.
_SAMPLE_BYTES: Final = 8 * 1024
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What people's old files are in. Others are guessed wrongly more often than they occur.
_CANDIDATES: Final = names_in(
    """
        utf_8 cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 koi8_r cp866 iso8859_2
        iso8859_5 cp437 cp850 mac_roman cp932 euc_jp gb18030 big5 euc_kr
        """
)
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")
_BEFORE_BYTES: Final = 200
_STATEFUL: Final = re.compile(rb"\x1b\$[@B]|\x1b\([BJ]")
# Decoders that stand for what is really sent under these names, and `charset`s that are none.
_REALLY: Final = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_TEXTUAL: Final = re.compile(rb"[^\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def decode(data: bytes, declared: str | None = None) -> str:
    """The text of `data`; never fails, at worst with replacement characters."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(name, "replace")
    try:
        return _unless_stateful(data)
    except UnicodeDecodeError:
        pass
    known = _known(declared) if declared else None
    if known:
        try:
            return data.decode(known)
        except UnicodeDecodeError as error:
            # One bad byte far in is damage; many are a lie about the encoding.
            text = data.decode(known, "replace")
            if text.count("\ufffd") * 1000 < len(text) and error.start:
                return text
    if _looks_like_utf16(data):
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", "replace")
    return data.decode(_guess(data), "replace")


def is_binary(head: bytes) -> bool:
    """Whether the beginning of a file belongs to no text, in any encoding we know."""
    if any(head.startswith(bom) for bom, _ in _BOMS) or _looks_like_utf16(head):
        return False
    if b"\0" in head:
        return True
    return len(_TEXTUAL.sub(b"", head)) > len(head) // 20


def _unless_stateful(data: bytes) -> str:
    if _STATEFUL.search(data, 0, _SAMPLE_BYTES):  # ISO-2022-JP is ASCII to whoever does not look
        return data.decode("iso2022_jp")
    return data.decode("utf-8")


def _known(name: str) -> str | None:
    try:
        info = codecs.lookup(name.strip(" \"'").lower())
    except (LookupError, ValueError):
        return None
    # `_is_text_encoding` is how `bytes.decode` itself tells text from compression.
    if not getattr(info, "_is_text_encoding", True) or info.name in ("idna", "punycode", "utf-7"):
        return None
    return _REALLY.get(info.name, info.name)


def _looks_like_utf16(data: bytes) -> bool:
    sample = data[:4096]
    if len(sample) < 4:
        return False
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    return max(even, odd) > len(sample) * 0.2 and min(even, odd) <= len(sample) // 100


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    found = _telling_lines(data)
    best = from_bytes(found, cp_isolation=list(_CANDIDATES), steps=5, chunk_size=512).best()
    # Several may read the sample alike; the commonest of them reads the rest most likely.
    if best is None or "cp1252" in best.could_be_from_charset:
        return "cp1252"
    return best.encoding


def _telling_lines(data: bytes) -> bytes:
    """Lines with a byte beyond ASCII, as many as a sample takes: on all others, the candidates agree."""
    sample, size, end = [], 0, 0
    while size < _SAMPLE_BYTES and (match := _BEYOND_ASCII.search(data, end)):
        earliest = max(end, match.start() - _BEFORE_BYTES)
        start = data.rfind(b"\n", earliest, match.start()) + 1 or earliest
        end = data.find(b"\n", match.start(), start + _SAMPLE_BYTES - size) + 1
        end = end or start + _SAMPLE_BYTES - size
        sample.append(data[start:end])
        size += end - start
    return b"".join(sample)
