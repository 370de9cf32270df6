"""Lines that many documents share: footers of lists, notices of lawyers, menus that no tag told of."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from baremetalrt.documents.cleaning import clean
from baremetalrt.documents.document import Kind

_MIN_CHARS: Final = 12
_MAX_CHARS: Final = 1000
_ROW_SHIFTS: Final = (0, 32)
_DIGITS: Final = str.maketrans("123456789", "0" * 9)
# Lines of code repeat because they must.
_EXEMPT: Final[frozenset[Kind]] = frozenset(("code",))


@dataclass(frozen=True, kw_only=True)
class BoilerplateConfig:
    """A line goes that is in at least `min_documents` documents and in `min_share` of them all."""

    min_documents: int = 10
    min_share: float = 0.02
    table_columns: int = 1 << 21


class LineCounts:
    """In how many documents each line occurs, in a fixed 16 MiB however many lines there are.

    A count-min sketch: it never counts too few, and too many only where all its cells for a line are
    shared. Source: Cormode and Muthukrishnan 2005.
    """

    def __init__(self, config: BoilerplateConfig | None = None) -> None:
        self._config = config or BoilerplateConfig()
        shape = (len(_ROW_SHIFTS), self._config.table_columns)
        self._counts = np.zeros(shape, dtype=np.uint32)
        self.num_documents = 0

    def add(self, text: str, kind: Kind) -> None:
        """Counts the lines of one document, each once."""
        self.num_documents += 1
        if kind in _EXEMPT:
            return
        hashes = np.array([h for _, h in _hashed_lines(text)], dtype=np.uint64)
        if len(hashes):
            for row, cells in enumerate(self._cells(np.unique(hashes))):
                self._counts[row, np.unique(cells)] += 1

    def without_repeated(self, text: str, kind: Kind) -> tuple[str, int]:
        """The text without the lines that many documents share, and how many lines that were."""
        least = max(self._config.min_documents, round(self._config.min_share * self.num_documents))
        if kind in _EXEMPT or self.num_documents < least:
            return text, 0
        hashed = list(_hashed_lines(text))
        if not hashed:
            return text, 0
        hashes = np.array([h for _, h in hashed], dtype=np.uint64)
        counts = np.minimum.reduce(
            [self._counts[row, cells] for row, cells in enumerate(self._cells(hashes))]
        )
        repeated = {at for (at, _), count in zip(hashed, counts, strict=True) if count >= least}
        if not repeated:
            return text, 0
        lines = text.split("\n")
        kept = "\n".join(line for at, line in enumerate(lines) if at not in repeated)
        return clean(kept), len(repeated)

    def _cells(self, hashes: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
        columns = np.uint64(self._config.table_columns)
        # One half of the hash for each row.
        return [((hashes >> np.uint64(shift)) % columns).astype(np.int64) for shift in _ROW_SHIFTS]


def _hashed_lines(text: str) -> Iterator[tuple[int, int]]:
    """Number and hash of each line that is long enough to mean something; numbers in it do not count."""
    for at, line in enumerate(text.split("\n")):
        if _MIN_CHARS <= len(line) <= _MAX_CHARS:
            shape = " ".join(line.split()).casefold().translate(_DIGITS)
            while "00" in shape:
                shape = shape.replace("00", "0")
            if len(shape) >= _MIN_CHARS:
                digest = blake2b(shape.encode(), digest_size=8).digest()
                yield at, int.from_bytes(digest, "little")
