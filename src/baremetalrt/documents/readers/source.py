"""What a reader is given."""

import os
from dataclasses import dataclass
from typing import BinaryIO

from baremetalrt.documents.document import Origin, Refusal
from baremetalrt.documents.limits import ReadingLimits


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open file, or an attachment in memory. `depth`: how many mails it is in. `charset` is what
    the mail said of it. `skip_to` is where in a mailbox to go on, `number` the message there, which is
    passed over if it `is_fatal`."""

    file: BinaryIO
    name: str
    origin: Origin
    limits: ReadingLimits
    depth: int = 0
    charset: str | None = None
    skip_to: int = 0
    number: int = 1
    is_fatal: bool = False

    def num_bytes(self) -> int:
        """The size; of special files 0."""
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        return end

    def read_all(self) -> bytes:
        """The whole content.

        Raises:
            Refusal: it is larger than `file_bytes`.
        """
        # Read one byte more than allowed: what is in /proc has no size.
        data = self.file.read(self.limits.file_bytes + 1)
        if len(data) > self.limits.file_bytes:
            raise too_large("it is", self.limits.file_bytes)
        return data


def too_large(what: str, max_bytes: int) -> Refusal:
    """The refusal of anything beyond a limit."""
    return Refusal("document.too-large", f"{what} larger than {max_bytes / (1 << 20):.0f} MiB")
