"""How much one file may cost; what exceeds it is listed as unread."""

from typing import Final

import msgspec

from baremetalrt.core.units import GIB, MIB


class ReadingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`memory_bytes` bounds the reading process. `deadline_s` and `cpu_s` are for one file, or one
    message of a mailbox. `depth`: mails in mails, and attachments of those."""

    memory_bytes: int = GIB
    deadline_s: float = 60.0
    cpu_s: int = 60
    file_bytes: int = 32 * MIB
    message_bytes: int = 48 * MIB
    container_bytes: int = 512 * MIB
    expanded_bytes: int = 128 * MIB
    text_chars: int = 32 * MIB
    pages: int = 20_000
    parts: int = 1000
    depth: int = 8


MAX_HTML_DEPTH: Final = 20_000
