"""What has come of an answer."""

from collections.abc import Sequence
from typing import NamedTuple

from baremetalrt.serve.calls.call import Call, CallPiece, ended


class News(NamedTuple):
    """More of the thought, of the answer and of calls."""

    thought: str = ""
    text: str = ""
    pieces: Sequence[CallPiece] = ()

    @property
    def calls(self) -> list[Call]:
        """Those that are complete now."""
        return ended(self.pieces)
