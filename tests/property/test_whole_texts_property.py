"""What is computed of a text follows from its tokens alone, whatever becomes of others or the process."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.owner import PUBLIC, Owner
from baremetalrt.native.whole_model import WholeConfig
from baremetalrt.session.whole import wire
from baremetalrt.session.whole.texts import WholeTexts

VOCABULARY_SIZE = 8
OWNERS = (Owner("a"), PUBLIC)
CONFIG = WholeConfig(
    device="cpu",
    num_threads=1,
    num_cells=1536,
    max_texts=4,
    step_tokens=16,
    max_rows=8,
    repack=False,
)


def row_of(tokens: list[int]) -> list[float]:
    """Different for every text."""
    value = 0
    for token in tokens:
        value = (value * 31 + token + 1) % 1_000_003
    return [float(value)] * VOCABULARY_SIZE


class KilledError(Exception):
    """What is said of its end."""


class Remembering:
    """A process whose memory is texts, and whose logits say all of one. It dies when it is told to."""

    config = CONFIG

    def __init__(self, *, can_cut: bool) -> None:
        self.can_cut = can_cut
        self.is_running = True
        self.is_doomed = False
        self.texts: list[list[int]] = [[] for _ in range(CONFIG.max_texts)]

    def start(self) -> None:
        assert not self.is_running
        self.is_running = True
        self.texts = [[] for _ in range(CONFIG.max_texts)]

    def step(self, step: wire.Step) -> NDArray[np.float32]:
        assert self.is_running
        if self.is_doomed:
            self.is_doomed = self.is_running = False
            raise KilledError
        for change in step.changes:
            self._change(change)
        rows = []
        assert sum(len(s.tokens) for s in step.slices) <= CONFIG.step_tokens
        for text, position, tokens in step.slices:
            stored = self.texts[text]
            assert len(stored) == position
            for i, token in enumerate(tokens, 1):
                stored.append(token)
                if step.reads == "all" or (step.reads == "last" and i == len(tokens)):
                    rows.append(row_of(stored))
        assert len(rows) <= CONFIG.max_rows
        return np.array(rows, np.float32).reshape(-1, VOCABULARY_SIZE)

    def _change(self, change: wire.Change) -> None:
        match change:
            case wire.Cut(text, length):
                assert self.can_cut or length == 0
                del self.texts[text][length:]
            case wire.Copy(source, target, length):
                assert not self.texts[target]
                assert self.can_cut or length == len(self.texts[source])
                assert length <= len(self.texts[source])
                self.texts[target] = self.texts[source][:length]
            case wire.Clear():
                self.texts = [[] for _ in self.texts]


class Texts(RuleBasedStateMachine):
    active = Bundle("active")

    @initialize(can_cut=st.booleans())
    def start(self, can_cut: bool) -> None:
        self.process = Remembering(can_cut=can_cut)
        self.texts = WholeTexts(self.process, VOCABULARY_SIZE)

    @rule(
        target=active,
        beginning=st.integers(0, 1),
        length=st.sampled_from([15, 40, 90]),
        end=st.integers(1, 7),
        owner=st.sampled_from(OWNERS),
    )
    def open(self, beginning: int, length: int, end: int, owner: Owner) -> object:
        text = [*([beginning] * length), end]
        try:
            sequence = self.texts.open(text, len(text) + 200, owner=owner)
        except (CapacityError, KilledError):
            return multiple()
        assert sequence.tokens.tolist() == text[: sequence.length] and sequence.length <= length
        self.go_on(sequence, text[sequence.length :])
        return sequence

    @rule(sequence=active, count=st.integers(1, 40), token=st.integers(0, 7))
    def extend(self, sequence: CachedSequence, count: int, token: int) -> None:
        self.go_on(sequence, [token] * min(count, sequence.capacity - sequence.length))

    @rule(sequence=active, count=st.integers(1, 16), token=st.integers(0, 7))
    def end_a_prompt(self, sequence: CachedSequence, count: int, token: int) -> None:
        tokens = [token] * min(count, sequence.capacity - sequence.length)
        before = sequence.tokens.tolist()
        if not tokens:
            return
        try:
            rows = self.texts.forward([Slice(sequence, tokens)], "last")
        except KilledError:
            assert sequence.tokens.tolist() == before
            return
        assert rows.tolist() == [row_of([*before, *tokens])]
        assert sequence.tokens.tolist() == [*before, *tokens]

    def go_on(self, sequence: CachedSequence, tokens: list[int]) -> None:
        """In chunks, each of which is read row by row."""
        for start in range(0, len(tokens), CONFIG.step_tokens):
            chunk = tokens[start : start + CONFIG.step_tokens]
            before = sequence.tokens.tolist()
            try:
                rows = self.texts.forward([Slice(sequence, chunk)], "all")
            except KilledError:
                assert sequence.tokens.tolist() == before
                return
            expected = [row_of([*before, *chunk[:i]]) for i in range(1, len(chunk) + 1)]
            assert rows.tolist() == expected

    @rule(sequences=st.lists(active, min_size=2, max_size=3), token=st.integers(0, 7))
    def decode_together(self, sequences: list[CachedSequence], token: int) -> None:
        batch = {id(s): s for s in sequences if s.length < s.capacity}.values()
        if not batch:
            return
        before = [s.tokens.tolist() for s in batch]
        try:
            rows = self.texts.forward([Slice(s, [token]) for s in batch], "last")
        except KilledError:
            return
        assert rows.tolist() == [row_of([*text, token]) for text in before]

    @rule(sequence=active, share=st.floats(0, 1))
    def truncate(self, sequence: CachedSequence, share: float) -> None:
        del sequence.tokens[int(share * sequence.length) :]

    @rule(sequence=active, more=st.integers(1, 400))
    def grow(self, sequence: CachedSequence, more: int) -> None:
        try:
            self.texts.grow(sequence, sequence.capacity + more)
        except CapacityError:
            pass

    @rule(sequence=consumes(active), keep=st.booleans())
    def release(self, sequence: CachedSequence, keep: bool) -> None:
        self.texts.release(sequence, keep=keep)

    @rule()
    def kill(self) -> None:
        """It shows at the next step."""
        self.process.is_doomed = True

    @invariant()
    def numbers_are_given_once(self) -> None:
        used = list(self.texts._numbers.values())
        assert sorted([*used, *self.texts._free]) == list(range(CONFIG.max_texts))

    def teardown(self) -> None:
        """Once everybody has left, nothing of anybody is in the process."""
        self.process.is_doomed = False
        for sequence in [s for s in self.texts._table.sequences if s.active]:
            self.texts.release(sequence, keep=False)
        last = self.texts.open([1, 2], CONFIG.num_cells, owner=OWNERS[0])
        self.go_on(last, [1, 2])
        assert [text for text in self.process.texts if text] == [[1, 2]]


TestTexts = Texts.TestCase
TestTexts.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ([], "same number"),
        ([VOCABULARY_SIZE], "vocabulary"),
        ([-1], "vocabulary"),
        ([1] * 300, "room"),
    ],
)
def test_what_cannot_be_computed_is_not_tried(tokens: list[int], why: str) -> None:
    """libllama would be asked for a row or a cell that it does not have."""
    texts = WholeTexts(Remembering(can_cut=True), VOCABULARY_SIZE)
    place = texts.open([1], 10)
    with pytest.raises(ValueError, match=why):
        texts.forward([Slice(place, tokens)], "last")
