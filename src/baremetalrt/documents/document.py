"""What reading yields: documents, and what could not be read.

Codes of `Unread` do not change between releases. `file.*`: the file was not opened, or could not be;
`document.*`: its content could not be read.
"""

from typing import Final, Literal

import msgspec

Kind = Literal[
    "text", "markdown", "code", "html", "pdf", "docx", "pptx", "sheet", "odt", "rtf", "epub", "mail"
]


class Origin(msgspec.Struct, frozen=True):
    """Where something was found: a file, and the part of it, as `message 12/report.pdf`."""

    path: str
    part: str = ""

    def inside(self, part: str) -> "Origin":
        """A part of this one."""
        return Origin(self.path, f"{self.part}/{part}" if self.part else part)

    def __str__(self) -> str:
        return f"{self.path}#{self.part}" if self.part else self.path


class Document(msgspec.Struct, frozen=True, kw_only=True, tag="document"):
    """One text. `context` belongs before it but is not its own: a mail's subject, sender and date."""

    text: str
    origin: Origin
    kind: Kind
    title: str = ""
    context: str = ""

    @property
    def full_text(self) -> str:
        """The text with its context."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


class Unread(msgspec.Struct, frozen=True, kw_only=True, tag="unread"):
    """Something that was not read: why, for people (`reason`) and for programs (`code`)."""

    origin: Origin
    reason: str
    code: str


class Reached(msgspec.Struct, frozen=True, kw_only=True, tag="reached"):
    """Message `number` of a mailbox begins at byte `offset`; reading can go on from there."""

    offset: int
    number: int


class Refusal(Exception):
    """A reader's no to a whole file or part; becomes an `Unread`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


EMPTY: Final = Refusal("document.empty", "there is no text in it")
