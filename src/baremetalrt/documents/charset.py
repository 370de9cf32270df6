"""From bytes to text: what they declare, what they look like, what they most likely are."""

import codecs
import re
import unicodedata
from typing import Final, Literal

from baremetalrt.core.text_input import BOMS, decode_bom

_SAMPLE_BYTES: Final = 4096
_STATEFUL: Final = re.compile(rb"\x1b\$[@B]|\x1b\([BJ]")
_STATEFUL_BYTES: Final = 8 * 1024
# Decoders that stand for what is really sent under these names.
_REALLY: Final = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_TEXTUAL: Final = re.compile(rb"[^\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_ODD_SHARE: Final = 0.05
# Two thirds of what is beyond ASCII has to be well-formed. The texts of other encodings that look most
# like UTF-8, Chinese and Japanese ones, come to a half.
_LEAST_GOOD_SHARE: Final = 2 / 3
_DECLARED_GOOD_SHARE: Final = 0.9
# By accident, hardly a line of another encoding is well-formed.
_LEAST_LINES: Final = 3
_LEAST_LINE_SHARE: Final = 0.2
_PRINTABLE_ASCII: Final = re.compile(rb"[\t\n\r\0 -~]*")
_LEAST_SOUND_SHARE: Final = 0.98
_PAUSE: Final = re.compile("[ \t\n\u3000-\u3002\uff0c\uff01\uff1f]")
_LETTERS: Final = ("L", "M", "Nd", "P", "Zs")


def decode(data: bytes, declared: str | None = None) -> str:
    """The text of `data`; never fails, at worst with replacement characters."""
    decoded = decode_bom(data)
    if decoded is not None:
        return decoded
    if wide := _utf16_without_bom(data):
        return data.decode(wide, "replace")
    if _STATEFUL.search(data, 0, _STATEFUL_BYTES):  # ASCII to whoever does not look
        try:
            return data.decode("iso2022_jp")
        except UnicodeDecodeError:
            pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    text = _well_formed_but_for(data, "utf-8", _LEAST_GOOD_SHARE)
    if text is None and (known := _known(declared)):
        text = _well_formed_but_for(data, known, _DECLARED_GOOD_SHARE)
        if text is not None and known == "cp1252" and _is_foreign(text):
            text = None
    if text is not None:
        return text
    from baremetalrt.documents.charset_guess import guess

    lines = data.split(b"\n")
    others = [line for line in lines if not _is_utf8(line)]
    num_sound = sum(not line.isascii() for line in lines) - len(others)
    if num_sound < _LEAST_LINES or num_sound < _LEAST_LINE_SHARE * len(others):
        return data.decode(guess(data), "replace")
    # Texts of several programs, one after the other: logs, exports of mail.
    encoding = guess(b"\n".join(others))
    return "\n".join(
        line.decode("utf-8" if _is_utf8(line) else encoding, "replace") for line in lines
    )


def is_binary(head: bytes) -> bool:
    """Whether the beginning of a file belongs to no text, in any encoding we know."""
    if any(head.startswith(bom) for bom, _ in BOMS) or _utf16_without_bom(head):
        return False
    return len(_TEXTUAL.sub(b"", head)) > max(1, _MAX_ODD_SHARE * len(head))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _well_formed_but_for(data: bytes, encoding: str, least: float) -> str | None:
    """The text, where at least such a share of what is beyond ASCII is well-formed.

    A character that is cut off at the end was cut off with the file, and is no fault.
    """
    text = codecs.getincrementaldecoder(encoding)("replace").decode(data)
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    num_bad = text.count("\ufffd")
    return text if beyond and beyond - num_bad >= least * beyond else None


def _known(name: str | None) -> str | None:
    try:
        info = codecs.lookup((name or "").strip(" \"'").lower())
    except (LookupError, ValueError):
        return None
    # `_is_text_encoding` is how `bytes.decode` itself tells text from compression.
    if not getattr(info, "_is_text_encoding", True) or info.name in ("idna", "punycode", "utf-7"):
        return None
    return _REALLY.get(info.name, info.name)


def _is_foreign(text: str) -> bool:
    """Whether more letters have accents than have none: no Western language is written so, and mail
    programs call everything Western."""
    num_letters = sum(map(str.isalpha, text[:_SAMPLE_BYTES]))
    num_plain = sum(map(str.isalpha, text[:_SAMPLE_BYTES].encode("ascii", "ignore").decode()))
    return num_plain < num_letters / 2


def _utf16_without_bom(data: bytes) -> Literal["utf-16-le", "utf-16-be"] | None:
    """UTF-16 without a BOM is told by zeros on one side of its pairs, or by what it reads like."""
    sample = data[: min(_SAMPLE_BYTES, len(data) & ~1)]
    if len(sample) < 4 or b"\0" not in sample:
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) > len(sample) * 0.2 and min(even, odd) <= len(sample) // 100:
        return "utf-16-le" if odd > even else "utf-16-be"
    # Few zeros: another script, whose spaces are all that is Latin; or a stray zero in other text.
    if len(data) % 2 or _PRINTABLE_ASCII.fullmatch(sample):
        return None
    little, big = _sound_share(sample, "utf-16-le"), _sound_share(sample, "utf-16-be")
    if max(little, big) < _LEAST_SOUND_SHARE:
        return None
    return "utf-16-le" if little > big else "utf-16-be"


def _sound_share(sample: bytes, encoding: str) -> float:
    """How much of a reading is letters, digits, spaces, punctuation; without a pause, nothing."""
    text = sample.decode(encoding, "replace")
    if not _PAUSE.search(text):
        return 0.0
    num_sound = sum(c in "\n\r\t" or unicodedata.category(c).startswith(_LETTERS) for c in text)
    return num_sound / len(text)
