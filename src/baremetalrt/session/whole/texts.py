"""The texts of a whole model: which its process has, how far, and for whom.

Not safe for concurrent use: one thread at a time, see `session/stage.py`.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.room import room_for
from baremetalrt.blocks.sequence_table import SequenceTable
from baremetalrt.blocks.steps import CHUNK_TOKENS, Reads, Slice
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native.whole_model import WholeSlice
from baremetalrt.session.whole import wire
from baremetalrt.session.whole.process import WholeProcess

_EVERYTHING: Final = 0


class WholeTexts:
    """Computes like a span of all blocks.

    The table of sequences says what each text is; the process is brought to that before each step. What
    it has lost (it ended, and another was started) or cannot cut is computed again from the tokens.
    """

    def __init__(self, process: WholeProcess, vocabulary_size: int) -> None:
        """The process is running."""
        config = process.config
        self._process = process
        self._vocabulary_size = vocabulary_size
        self._table = SequenceTable(
            config.num_cells, max_sequences=config.max_texts, can_cut=process.can_cut
        )
        # By which number the process knows a text, and how many of its tokens it has.
        self._numbers: dict[CachedSequence, int] = {}
        self._stored: dict[CachedSequence, int] = {}
        self._free = list(range(config.max_texts))
        self._changes: list[wire.Change] = []

    # The library's cache is not ours to keep.
    prefixes = None

    def restore(self, sequence: CachedSequence, tokens: Sequence[int]) -> Iterator[None]:
        """Nothing of a text is on disk."""
        return iter(())

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Forgets all but the first `length` tokens of a text."""
        del sequence.tokens[length:]

    @property
    def chunk_tokens(self) -> int:
        """How many tokens of a prompt are best computed at once."""
        return CHUNK_TOKENS

    def open(
        self, tokens: Sequence[int], capacity: int, *, owner: Owner = THIS_USER
    ) -> CachedSequence:
        """A text with room for `capacity` tokens, standing after what is there of `tokens`.

        Raises:
            CapacityError: other texts hold too much of the cache.
            IntegrityError: the process had ended, and the model does not load again.
        """
        self._require_process()
        with room_for(capacity, self._table):
            opened = self._table.open(tokens, capacity, owner=owner)
        self._let_go()
        sequence, donor = opened.sequence, opened.donor
        if sequence not in self._numbers:
            self._numbers[sequence] = self._free.pop(0)
            self._stored[sequence] = 0
        if donor is not None:
            try:
                self._copy_beginning(donor, sequence)
            except BaseException:
                self.release(sequence, keep=False)
                raise
        return sequence

    def _copy_beginning(self, donor: CachedSequence, sequence: CachedSequence) -> None:
        self._catch_up(donor)
        source, target = self._numbers[donor], self._numbers[sequence]
        self._changes.append(wire.Copy(source, target, sequence.length))
        self._stored[sequence] = sequence.length

    def grow(self, sequence: CachedSequence, capacity: int) -> None:
        """Makes room for `capacity` tokens; raises `CapacityError`."""
        with room_for(capacity, self._table):
            self._table.grow(sequence, capacity)
        self._let_go()

    def release(self, sequence: CachedSequence, *, keep: bool) -> None:
        """Ends a text. `keep` leaves it for others; numbers gone bad must not stay."""
        self._table.close(sequence, keep=keep)
        self._let_go()
        if not keep:
            # Nor what lies beside them: where masks are added, bad numbers behind them spoil a text.
            self._forget_all()
            self._changes.append(wire.Clear())

    def forward(
        self, slices: Sequence[Slice], reads: Reads, *, part: BlockSpan | None = None
    ) -> NDArray[np.float32]:
        """Computes one step; see `Span.forward`. There are no parts of a whole model."""
        if part is not None:
            raise ValueError("a whole model has no parts")
        self._check(slices)
        self._require_process()
        for one in slices:
            self._catch_up(one.sequence)
        if reads == "last" and not self._process.can_cut and len(slices) == 1:
            return self._step_marked(slices[0])
        max_rows = self._process.config.max_rows
        if reads != "all" or len(slices) * len(slices[0].tokens) <= max_rows:
            return self._step(slices, reads)
        each = max(1, max_rows // len(slices))
        pieces = []
        for start in range(0, len(slices[0].tokens), each):
            piece = [Slice(s.sequence, s.tokens[start : start + each]) for s in slices]
            rows = self._step(piece, reads)
            # Copied: the next piece writes its rows to the same place.
            pieces.append(rows.reshape(len(slices), -1, self._vocabulary_size).copy())
        return np.concatenate(pieces, axis=1).reshape(-1, self._vocabulary_size)

    def _step_marked(self, one: Slice) -> NDArray[np.float32]:
        """The end of a prompt that cannot be cut: all but its last token is kept, to go back to.

        There, the same prompt goes on that is asked again, and most that follow the answer.
        """
        sequence, (*beginning, last) = one.sequence, one.tokens
        length = sequence.length
        try:
            if beginning:
                self._step([Slice(sequence, beginning)], "none")
                self._bookmark(sequence)
            return self._step([Slice(sequence, [last])], "last")
        except BaseException:
            del sequence.tokens[length:]
            raise

    def _bookmark(self, sequence: CachedSequence) -> None:
        mark = self._table.bookmark(sequence)
        self._let_go()
        if mark is not None:
            number = self._numbers[mark] = self._free.pop(0)
            self._stored[mark] = mark.length
            self._changes.append(wire.Copy(self._numbers[sequence], number, mark.length))

    def _check(self, slices: Sequence[Slice]) -> None:
        tokens_each = len(slices[0].tokens)
        for s in slices:
            if len(s.tokens) != tokens_each or tokens_each == 0:
                raise ValueError("every session contributes the same number of tokens to a step")
            if s.sequence.length + tokens_each > s.sequence.capacity:
                raise ValueError("a sequence has no room for its next tokens")
            if not 0 <= min(s.tokens) <= max(s.tokens) < self._vocabulary_size:
                raise ValueError("a token is not in the vocabulary")

    def _require_process(self) -> None:
        if not self._process.is_running:
            self._process.start()

    def _catch_up(self, sequence: CachedSequence) -> None:
        """Lets the process have exactly the tokens of a text."""
        stored, length = self._stored[sequence], sequence.length
        if stored > length:
            stored = length if self._process.can_cut else _EVERYTHING
            self._changes.append(wire.Cut(self._numbers[sequence], stored))
            self._stored[sequence] = stored
        tokens, size = sequence.tokens, self._process.config.step_tokens
        for start in range(stored, length, size):
            chunk = tokens[start : min(start + size, length)].tolist()
            self._ask([WholeSlice(self._numbers[sequence], start, chunk)], "none")
            self._stored[sequence] = start + len(chunk)

    def _step(self, slices: Sequence[Slice], reads: Reads) -> NDArray[np.float32]:
        sent = [
            WholeSlice(self._numbers[s.sequence], s.sequence.length, list(s.tokens)) for s in slices
        ]
        rows = self._ask(sent, reads)
        for s in slices:
            s.sequence.tokens.extend(s.tokens)
            self._stored[s.sequence] = s.sequence.length
        return rows

    def _ask(self, slices: list[WholeSlice], reads: Reads) -> NDArray[np.float32]:
        changes, self._changes = self._changes, []
        try:
            return self._process.step(wire.Step(changes, slices, reads))
        except BaseException:
            if self._process.is_running:
                self._forget({one.text for one in slices})
            else:
                self._forget_all()
            raise

    def _forget(self, numbers: set[int]) -> None:
        """A step failed: how much of it these texts have now is not known."""
        for sequence, number in self._numbers.items():
            if number in numbers:
                self._changes.append(wire.Cut(number, _EVERYTHING))
                self._stored[sequence] = 0

    def _forget_all(self) -> None:
        """Nothing is there any more. Those who go on with a text have it computed again."""
        self._table.forget_idle()
        self._let_go()
        self._changes.clear()
        self._stored = dict.fromkeys(self._numbers, 0)

    def _let_go(self) -> None:
        """What the table has forgotten goes from the process, too."""
        known = set(self._table.sequences)
        for sequence in [s for s in self._numbers if s not in known]:
            number = self._numbers.pop(sequence)
            self._changes.append(wire.Cut(number, _EVERYTHING))
            del self._stored[sequence]
            self._free.append(number)
