"""What unlabelled bytes most likely are: of all readings the one that reads best.

`chardet` says how well the letters of each reading fit a language, which is enough for a page and not
for a line. So two things are weighed on top of it: readings in which letters stand where no language
puts them, and that some encodings are commoner than others.
"""

import math
import re
from typing import Final

from baremetalrt.documents.names import names_in

# Enough to recognize a language by, little enough to be quick.
_SAMPLE_BYTES: Final = 8 * 1024
# What people's old files are in. Others are guessed wrongly more often than they occur.
_NARROW: Final = names_in(
    """
        cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 koi8-r koi8-u cp866 iso8859-2
        iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-13 cp437 cp850 cp852 cp874
        mac-roman mac-cyrillic
        """
)
_WIDE: Final = names_in("cp932 euc_jis_2004 gb18030 big5hkscs cp949")
_WEIGHTS: Final = {
    "cp1252": 1.05,
    **dict.fromkeys(names_in("cp437 cp850 cp852 cp866 iso8859-4"), 0.92),
    "mac-roman": 0.95,
}
# From this on, nothing is in doubt.
_IS_SURE: Final = 0.5
# Less is what any bytes reach.
_LEAST_FIT: Final = 0.2
_MAX_DAMAGED_SHARE: Final = 0.05
_STRANGENESS_WEIGHT: Final = 3.0
_LATIN: Final = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_OTHER: Final = "\u0370-\u052f\u0590-\u06ff\u0e00-\u0e7f\u2500-\u25ff"
_SMALL: Final = "a-z\u00df-\u00f6\u00f8-\u00ff\u0430-\u045f"
_CAPITAL: Final = "\u00c0-\u00d6\u00d8-\u00de\u0410-\u042f"
_STRANGE: Final = re.compile(
    # two scripts in one word; signs within words; capitals after small letters; what is nothing at all
    rf"[{_LATIN}][{_OTHER}]|[{_OTHER}][{_LATIN}]|(?<=\w)[^\w\s\x00-\x7f’‘‐‑–—·…]+(?=\w)"
    rf"|[{_SMALL}][{_CAPITAL}]|[\u0430-\u045f][A-Z]|[a-z][\u2200-\u22ff]|[\u2200-\u22ff][a-z]"
    r"|[\x80-\x9f\ufffd]"
)
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")
_BEFORE_BYTES: Final = 200


def guess(data: bytes) -> str:
    """The encoding of `data`, which has bytes beyond ASCII and is no UTF-8."""
    sample = _telling_lines(data).replace(b"\0", b"")
    found = _fits(sample, (*_NARROW, *_WIDE))
    if max(found.values(), default=0.0) < _IS_SURE:
        found |= _damaged_fits(sample)
    return max(found, key=lambda name: found[name] * _plausibility(sample, name), default="cp1252")


def _fits(sample: bytes, encodings: tuple[str, ...]) -> dict[str, float]:
    """How well the reading in each encoding that can read it fits a language, from 0 to 1."""
    from chardet import detect_all

    results = detect_all(
        sample,
        include_encodings=encodings,
        ignore_threshold=True,
        compat_names=False,
        max_bytes=len(sample),
        no_match_encoding=encodings[0],
    )
    found: dict[str, float] = {}
    for result in results:
        if name := result["encoding"]:
            found[name] = max(result["confidence"], found.get(name, 0.0))
    return found


def _damaged_fits(sample: bytes) -> dict[str, float]:
    """The same of encodings with several bytes to a character, without the few that do not fit."""
    found: dict[str, float] = {}
    num_beyond = len(_BEYOND_ASCII.findall(sample))
    for name in _WIDE:
        sound = sample.decode(name, "ignore").encode(name, "ignore")
        num_lost = num_beyond - len(_BEYOND_ASCII.findall(sound))
        if 0 < num_lost <= max(2, _MAX_DAMAGED_SHARE * num_beyond) < num_beyond:
            found |= {k: fit for k, fit in _fits(sound, (name,)).items() if fit >= _LEAST_FIT}
    return found


def _plausibility(sample: bytes, name: str) -> float:
    """What speaks for an encoding besides its letters."""
    text = sample.decode(name, "replace")
    num_beyond = len(text) - len(text.encode("ascii", "ignore"))
    strangeness = len(_STRANGE.findall(text)) / max(1, num_beyond)
    return _WEIGHTS.get(name, 1.0) * math.exp(-_STRANGENESS_WEIGHT * strangeness)


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
