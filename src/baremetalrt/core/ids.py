"""Names that several rooms share."""

from typing import Final

_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")
_BASE32: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_BASE32_CHARS: Final = 32


def is_magnet(text: str) -> bool:
    """Whether `text` is meant as a magnet link, whatever is wrong with it."""
    return text.strip()[:7].lower() == "magnet:"


def is_magnet_or_hash(text: str) -> bool:
    """Whether `text` is a magnet link or an info-hash, as people paste them."""
    return is_magnet(text) or is_infohash(text.strip()) or is_base32_infohash(text.strip())


def is_infohash(text: str) -> bool:
    """Whether `text` is a v1 or v2 info-hash in hexadecimal."""
    return len(text) in (40, 64) and _HEXADECIMAL.issuperset(text)


def is_base32_infohash(text: str) -> bool:
    """Whether `text` is a v1 info-hash as old links have it. Capitals, so that a word is none."""
    return len(text) == _BASE32_CHARS and _BASE32.issuperset(text)


def folded(name: str) -> str:
    """A name as names are compared: `É`, `é` and `e` with an accent after it are one letter."""
    if name.isascii():
        return name.lower()
    # Here and not above: most names are plain.
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name).casefold())


def split_choice(reference: str) -> tuple[str, str | None]:
    """What names a torrent, and which of its models is meant: `quants:Q4_K_M`.

    A magnet link has colons of its own, and says it as `x.file`.
    """
    if is_magnet(reference):
        return reference, None
    base, colon, choice = reference.rpartition(":")
    return (base, choice) if colon and base and choice else (reference, None)
