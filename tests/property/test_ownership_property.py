"""Whoever shares a span: what one is told depends on nothing that another has sent.

Members, keys and this machine's user begin, feed, cut and end texts in any order, in one span of blocks
that all of them use. Rows come from them, too: some send false ones under the tokens of others.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from numpy.typing import NDArray

from baremetalrt.blocks.extents import CachedSequence
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan
from tiny_models import TinyModel, write
from tiny_spans import open_span

MODEL: Final = TinyModel("llama", num_blocks=3, width=64, vocabulary_size=96)
BLOCKS: Final = BlockSpan(1, 2)
OWNERS: Final = (
    THIS_USER,
    Owner("key 1"),
    Owner("key 2"),
    Owner("peer", "client a"),
    Owner("peer", "client b"),
)
LIMIT: Final = 768
# All texts begin alike: it is for the span to tell whose they are.
COMMON: Final = tuple(5 + i % 40 for i in range(48))
FEW_CELLS: Final = 1024


def rows_of(owner: Owner, tokens: Sequence[int]) -> NDArray[np.float32]:
    """What an owner says that the blocks before have computed; each says something else."""
    chance = np.random.default_rng(OWNERS.index(owner))
    table = chance.standard_normal((MODEL.vocabulary_size, MODEL.width), dtype=np.float32)
    return table[list(tokens)]


@dataclass
class Text:
    owner: Owner
    wanted: tuple[int, ...]
    place: CachedSequence
    # What this text has said, from where its owner's own texts had begun it.
    said: list[int]


class Shared(RuleBasedStateMachine):
    """One span for all; beside it a span of the same blocks where one owner's text is computed alone."""

    shared: Span
    alone: Span

    @initialize(num_cells=st.sampled_from([FEW_CELLS, 8192]))
    def begin(self, num_cells: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = write(MODEL, Path(self.folder.name) / "model.gguf")
        self.shared = open_span(path, blocks=BLOCKS, num_cells=num_cells)
        self.alone = open_span(path, blocks=BLOCKS, num_cells=1024)
        self.texts: list[Text] = []
        # all that an owner has ever said, in any text
        self.said: dict[Owner, list[tuple[int, ...]]] = {owner: [] for owner in OWNERS}

    @rule(
        owner=st.sampled_from(OWNERS),
        num_common=st.sampled_from([0, 16, 47, 48]),
        rest=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    )
    def open(self, owner: Owner, num_common: int, rest: list[int]) -> None:
        """Who opens a text is told how much of it is known: of what it has said itself, and no more."""
        wanted = (*COMMON[:num_common], *rest)
        try:
            place = self.shared.open(wanted, 256, owner=owner, limit=LIMIT)
        except CapacityError:
            return
        own = max((common(one, wanted) for one in self.said[owner]), default=0)
        assert place.length <= own
        self.texts.append(Text(owner, wanted, place, list(wanted[: place.length])))

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 99), num_tokens=st.integers(1, 16))
    def step(self, which: int, num_tokens: int) -> None:
        """What is computed of a text is what is computed of it where there is no other."""
        text = self.texts[which % len(self.texts)]
        left = text.wanted[len(text.said) :] or (7,)
        tokens = left[:num_tokens]
        slice_ = Slice(text.place, tokens, rows_of(text.owner, tokens))
        computed = np.array(self.shared.forward([slice_], "all"))
        text.said += tokens
        self.said[text.owner].append(tuple(text.said))
        own = self.alone.open((), len(text.said) + 1, owner=text.owner)
        expected = [
            np.array(
                self.alone.forward(
                    [Slice(own, part, rows_of(text.owner, part))],
                    "all",
                )
            )
            for part in chunks(text.said)
        ]
        self.alone.release(own, keep=False)
        np.testing.assert_allclose(
            computed, np.concatenate(expected)[-len(tokens) :], rtol=1e-3, atol=1e-4
        )

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 99), length=st.integers(0, 60))
    def cut(self, which: int, length: int) -> None:
        text = self.texts[which % len(self.texts)]
        del text.place.tokens[length:]
        del text.said[length:]

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 99), capacity=st.sampled_from([1, 128, 300, 512]))
    def grow(self, which: int, capacity: int) -> None:
        text = self.texts[which % len(self.texts)]
        try:
            self.shared.grow(text.place, max(capacity, len(text.said) + 16))
        except CapacityError:
            pass

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 99), keep=st.booleans())
    def release(self, which: int, keep: bool) -> None:
        self.shared.release(self.texts.pop(which % len(self.texts)).place, keep=keep)

    def teardown(self) -> None:
        if hasattr(self, "shared"):
            self.shared.close()
            self.alone.close()
            self.folder.cleanup()


def common(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def chunks(tokens: Sequence[int]) -> list[Sequence[int]]:
    return [tokens[start : start + 16] for start in range(0, len(tokens), 16)]


Shared.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
test_what_one_is_told_depends_on_nobody_else = Shared.TestCase
