"""What somebody wrote in a mail: without what they quote and did not answer, and without their signature.

Considered: mail-parser-reply and quotequail, which split by large regular expressions whose time is not
bounded by the length of the mail. One pass over the lines, here.
"""

import re
from typing import Final

_QUOTED: Final = re.compile(r"^[ \t]{0,3}(?:[A-Z]{0,3}>|\|\s)")
_ATTRIBUTION: Final = re.compile(
    r"(?:wrote|writes|said|schrieb|écrit|escribió|escreveu|ha scritto|schreef|skrev|napisał\(?a?\)?|"
    r"написал\(?а?\)?|пишет|kirjoitti|書きました|写道|작성).{0,40}:\s*$",
    re.IGNORECASE,
)
_ATTRIBUTION_STARTS: Final = ("On ", "Am ", "Le ", "El ", "Il ", "Op ", "Em ", "Den ", "W ", "At ")
# With a date in it, it is one even where nothing marks the quotation.
_DATED: Final = re.compile(r"(?:On|Am|Le|El|Il|Op|Em|Den) .{0,60}\b\d{4}\b.{0,120}:\s*$")
_ORIGINAL: Final = re.compile(
    r"^[\s>]*-{2,}\s*(?:original (?:message|appointment)|ursprüngliche nachricht|message d'origine|"
    r"mensaje original|messaggio originale|mensagem original|"
    r"oorspronkelijk bericht|reply message)\s*-{2,}",
    re.IGNORECASE,
)
_FORWARDED: Final = re.compile(
    r"^\s*-{2,}\s*(?:forwarded (?:message|by)|weitergeleitete nachricht|message transféré|"
    r"mensaje reenviado|messaggio inoltrato|begin forwarded).{0,80}$",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(
    r"^\*?(from|sent|to|cc|subject|date|von|gesendet|an|betreff|datum|de|envoyé|à|objet|para|enviado|asunto|da|"
    r"inviato|oggetto)\s?:\*?\s",
    re.IGNORECASE,
)
_SENDER: Final = frozenset(("from", "von", "de", "da"))
_RULE: Final = re.compile(r"^[_=*-]{20,}\s*$")
_SENT_FROM: Final = re.compile(
    r"^(?:sent from (?:my|a|the)?\s?|sent with |get outlook for |von meinem .{0,40} gesendet|"
    r"gesendet von |"
    r"envoyé de(?:puis)? mon |enviado desde mi |inviato da(?:l mio)? |do you yahoo).{0,80}$",
    re.IGNORECASE,
)
_MAX_SIGNATURE_LINES: Final = 15
_MAX_FOOTER_LINES: Final = 8


# A question to which something is answered: its last paragraph says it.
_MAX_QUESTION_LINES: Final = 6
# Longer lines are none of all this, whatever they begin with.
_MAX_LINE_CHARS: Final = 1000
_QUOTED_ONCE: Final = re.compile(r"^[ \t]{0,3}(?:[A-Z]{0,3}>|\|)[ \t]*(?![ \t>|])")
_QUOTED_SIGNATURE: Final = re.compile(r"^[ \t]{0,3}[A-Z]{0,3}>[ \t]?-- ?$")


def own_words(text: str) -> str:
    """The text without attributions, what a reply was to, signatures, footers of lists, and without
    quoted lines but for those right above an answer."""
    lines = text.split("\n")
    lines = lines[: _end_of_reply(lines)]
    lines = _without_signature(lines)
    kept: list[str] = []
    quoted: list[str] = []  # and what is blank below
    for at, line in enumerate(lines):
        if len(line) > _MAX_LINE_CHARS:
            kept += [*_question(quoted), line]
            quoted = []
            continue
        # Most lines are none of these: one look at their ends says so.
        start = line[:8]
        if (">" in start or "|" in start) and _QUOTED.match(line):
            quoted.append(line)
            continue
        if quoted and not line.strip():
            quoted.append("")
            continue
        if start.lstrip()[:1] in ("-", "B", "b") and _FORWARDED.match(line):
            continue
        ends_open = line[-3:].rstrip().endswith(":")
        if (ends_open or _may_begin_attribution(line)) and _is_attribution(lines, at):
            continue
        if quoted:
            kept += _question(quoted)
            quoted = []
        kept.append(line)
    return "\n".join(kept).strip("\n")


def _question(quoted: list[str]) -> list[str]:
    """The last paragraph of what is quoted once, and the blank lines below all of it."""
    end = len(quoted)
    while end and not quoted[end - 1]:
        end -= 1
    blank = quoted[end:]
    signature = next((at for at in range(end) if _QUOTED_SIGNATURE.match(quoted[at])), end)
    question: list[str] = []
    for line in reversed(quoted[:signature]):
        is_words = line.strip(" \t>|") and _QUOTED_ONCE.match(line)
        if is_words and not _ATTRIBUTION.search(line[-200:]):
            question.append(line)
        elif question:
            break
    return [*reversed(question[:_MAX_QUESTION_LINES]), *blank]


def _end_of_reply(lines: list[str]) -> int:
    """Where the message begins that was answered; whoever quotes it whole puts it at the end."""
    for at, line in enumerate(lines):
        if len(line) > _MAX_LINE_CHARS:
            continue
        if line.find("-", 0, 8) >= 0 and _ORIGINAL.match(line):
            return at
        if ":" not in line[:12]:
            continue
        if not at or _QUOTED.match(line):
            continue
        # Outlook: "From:", "Sent:", "To:", "Subject:" below each other, with or without a rule.
        match = _HEADER.match(line)
        if match and match[1].lower() in _SENDER:
            below = sum(_HEADER.match(other) is not None for other in lines[at : at + 6])
            was_forwarded = any(_FORWARDED.match(other) for other in lines[max(0, at - 3) : at])
            if below >= 3 and not was_forwarded:
                return at
    return len(lines)


def _without_signature(lines: list[str]) -> list[str]:
    end = len(lines)
    for at in range(len(lines) - 1, max(-1, len(lines) - 60), -1):
        line = lines[at]
        rest = lines[at + 1 : end]
        if len(line) > _MAX_LINE_CHARS:
            continue
        if line in ("-- ", "--", "-- \r", "—"):
            # Below the mark of a signature stands nothing but the signature, and quotes.
            if sum(1 for one in rest if not _QUOTED.match(one)) <= _MAX_SIGNATURE_LINES:
                end = at
        elif (
            _RULE.match(line) and 0 < len([one for one in rest if one.strip()]) <= _MAX_FOOTER_LINES
        ):
            if any("http" in one or "@" in one or "unsubscribe" in one.lower() for one in rest):
                end = at
        elif _SENT_FROM.match(line.strip()) and len([one for one in rest if one.strip()]) <= 3:
            end = at
    return lines[:end]


def _may_begin_attribution(line: str) -> bool:
    return line.startswith(_ATTRIBUTION_STARTS) and len(line) < 200


def _is_attribution(lines: list[str], at: int) -> bool:
    """`On Monday, Ann wrote:`, on one line or two, above a quotation."""
    below = next((one for one in lines[at + 1 : at + 4] if one.strip()), "")
    if _ATTRIBUTION.search(lines[at][-200:]):
        if _DATED.match(lines[at]):
            return True
        return _QUOTED.match(below) is not None or at >= len(lines) - 2
    if _ATTRIBUTION.search(below[-200:]) and _may_begin_attribution(lines[at]):
        after = [one for one in lines[at + 1 : at + 6] if one.strip()]
        return len(after) > 1 and _QUOTED.match(after[1]) is not None
    return False
