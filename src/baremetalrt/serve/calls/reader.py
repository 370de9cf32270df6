"""Reading what is between the marks of calls, as it comes."""

from typing import Protocol

from baremetalrt.serve.calls.call import Found


class Reader(Protocol):
    """Reads from behind an opening mark to the closing one."""

    # what came behind the end; None until then
    rest: str | None

    def add(self, text: str) -> Found: ...

    def finish(self) -> Found:
        """What there is when nothing more comes."""
