"""Lines that hold bytes and not words: base64, armour of PGP and certificates, uuencode, yEnc, hashes."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

# What is long and has no space in it, whatever it is: minified scripts, too. CJK has no spaces.
_LONG: Final = re.compile(r"[ \t]*[!-~]{200,}")
_LONG_CHARS: Final = 200
_MAY_HAVE: Final = re.compile(
    r"^(?:[ \t]*[!-~]{40}|-----BEGIN |begin [0-7]{3}|=ybegin )|;base64,", re.MULTILINE
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_BASE64_CHARS: Final = 40
# Upper case, lower case and digits take turns in what is encoded, and hardly in what is written.
_TURN: Final = re.compile(r"(?<=[A-Z])[a-z0-9]|(?<=[a-z])[A-Z0-9]|(?<=[0-9])[A-Za-z]")
_MIN_TURNS_SHARE: Final = 0.3
_DIGIT: Final = re.compile(r"[0-9]")
_ODD_WORD: Final = re.compile(r"[0-9+/=]|[a-z][A-Z]|[A-Z]{2}")
_DATA_ADDRESS: Final = re.compile(
    r"\bdata:[\w.+-]{1,99}/[\w.+;=-]{1,99};base64,[A-Za-z0-9+/=%]{16,}"
)
# Private keys stay to be found: what has one in it is not learned at all.
_ARMOUR_BEGIN: Final = re.compile(
    r"-----BEGIN (?![A-Z0-9 ]{0,60}PRIVATE KEY)[A-Z0-9 ,/]{1,60}-----"
)
_ARMOUR_END: Final = re.compile(r"-----END [A-Z0-9 ,/]{1,60}-----")
_ARMOUR_FIELD: Final = re.compile(r"(?:Version|Comment|Hash|Charset|MessageID|NotDashEscaped): ?.*")
_ARMOUR_BODY: Final = re.compile(r"=?[A-Za-z0-9+/]+={0,2}")
_UU_BEGIN: Final = re.compile(r"begin [0-7]{3,4} \S.*")
_UU_BODY: Final = re.compile(r"[ -`]{1,62}")
_Y_BEGIN: Final = re.compile(r"=ybegin .*")
_Y_END: Final = re.compile(r"=yend .*")


def without_encoded(text: str) -> str:
    """`text` without lines of encoded data, and without data in addresses."""
    if not _MAY_HAVE.search(text):
        return text
    text = _DATA_ADDRESS.sub("", text)
    return "\n".join(_without_runs(list(_without_blocks(text.split("\n")))))


def _without_blocks(lines: Sequence[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at].rstrip()
        if line.startswith("-----BEGIN ") and _ARMOUR_BEGIN.fullmatch(line):
            at = _end_of_armour(lines, at + 1)
        elif line.startswith("begin ") and _UU_BEGIN.fullmatch(line):
            end = _end_of(lines, at + 1, "end", _UU_BODY)
            if end is None:
                yield lines[at]
            at = end or at + 1
        elif line.startswith("=ybegin ") and _Y_BEGIN.fullmatch(line):
            at = next((i + 1 for i in range(at, len(lines)) if _Y_END.fullmatch(lines[i])), at + 1)
        elif line.startswith("-----END ") and _ARMOUR_END.fullmatch(line) and "PRIVATE" not in line:
            at += 1
        else:
            yield lines[at]
            at += 1


def _end_of_armour(lines: Sequence[str], at: int) -> int:
    """Where the text goes on: behind fields and body, and behind the end where that follows."""
    while at < len(lines) and _ARMOUR_FIELD.fullmatch(lines[at].rstrip()):
        at += 1
    body = at
    while body < len(lines) and not lines[body].strip():
        body += 1
    end = body
    while end < len(lines) and _ARMOUR_BODY.fullmatch(lines[end].rstrip()):
        end += 1
    if end < len(lines) and _ARMOUR_END.fullmatch(lines[end].rstrip()):
        return end + 1
    # Signed words follow, or the end was cut off.
    is_cut = any(_is_encoded(line.strip()) for line in lines[body:end])
    return end if is_cut else at


def _end_of(lines: Sequence[str], at: int, last: str, body: re.Pattern[str]) -> int | None:
    start = at
    while at < len(lines) and lines[at].rstrip() != last and body.fullmatch(lines[at] or "`"):
        at += 1
    if at < len(lines) and lines[at].rstrip() == last:
        return at + 1
    return at if at - start >= 3 else None


def _without_runs(lines: Sequence[str]) -> Iterator[str]:
    num_before = 0  # encoded lines just above
    for line in lines:
        bare = line.strip()
        if _is_encoded(bare) or (num_before and _ends_run(bare, num_before)):
            num_before += 1
            continue
        num_before = 0
        yield line


def _is_encoded(line: str) -> bool:
    if len(line) >= _LONG_CHARS:
        return _LONG.fullmatch(line) is not None
    if len(line) < _BASE64_CHARS or not _BASE64.fullmatch(line) or not _DIGIT.search(line):
        return False  # names of programs are long, too, and have few digits
    return len(_TURN.findall(line)) >= _MIN_TURNS_SHARE * len(line)


def _ends_run(line: str, num_before: int) -> bool:
    """Lines of zeros within, and the shorter line at the end of what was encoded."""
    if not _BASE64.fullmatch(line):
        return False
    return len(line) >= _BASE64_CHARS or (
        num_before > 1 and len(line) % 4 == 0 and _ODD_WORD.search(line) is not None
    )
