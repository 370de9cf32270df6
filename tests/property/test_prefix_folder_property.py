"""Texts on disk under any order of keeping, looking, evicting and damage: what is read is what was kept.

A cell holds a number that depends on every token up to its own, on the model and on whose text it is.
"""

import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from baremetalrt.blocks.prefix_file import PrefixText
from baremetalrt.blocks.prefix_folder import PrefixFolder, empty, held_in
from baremetalrt.blocks.prefix_store import PrefixKind
from baremetalrt.core.owner import Owner
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import MIB

QUANTUM = 256
MODELS = ("one", "another")
KINDS = (
    PrefixKind(),
    PrefixKind(owner=Owner("key:a")),
    PrefixKind(adapters=(("style", 0.5),)),
    PrefixKind(part=BlockSpan(0, 2)),
)
# Two blocks of keys and values; room for a few texts.
NUM_PARTS, BUDGET = 4, MIB


@st.composite
def texts(draw: st.DrawFn) -> list[int]:
    """A beginning that many texts share, an end of its own."""
    shared = draw(st.sampled_from([0, 100, 255, 256, 300, 512, 900]))
    own = draw(st.sampled_from([1, 56, 256, 400]))
    return [draw(st.integers(1, 2))] * shared + [draw(st.integers(3, 5))] * own


def cells(model: str, kind: PrefixKind, tokens: list[int], start: int) -> list[NDArray[np.uint8]]:
    """The chunk that begins at `start`."""
    numbers, number = [], hash((model, kind))
    for token in tokens[: start + QUANTUM]:
        number = hash((number, token))
        numbers.append(number)
    chunk = np.array(numbers[start:], np.int64)
    return [(chunk + part).view(np.uint8) for part in range(NUM_PARTS)]


def text_of(model: str, kind: PrefixKind, tokens: list[int]) -> PrefixText:
    starts = range(0, len(tokens), QUANTUM)

    def chunks() -> Iterator[list[NDArray[np.uint8]]]:
        return (cells(model, kind, tokens, start) for start in starts)

    sizes = [8 * NUM_PARTS * min(QUANTUM, len(tokens) - start) for start in starts]
    return PrefixText(kind, array("i", tokens), 0, sizes, chunks())


class Folder(RuleBasedStateMachine):
    """Two models that share a folder."""

    @initialize()
    def start(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.root = Path(self.place.name) / "prefixes"
        self.kept: set[tuple[str, PrefixKind, tuple[int, ...]]] = set()
        self.is_damaged = False

    def folder(self, model: str) -> PrefixFolder:
        return PrefixFolder(self.root, {"model": model}, budget_bytes=BUDGET)

    @rule(model=st.sampled_from(MODELS), kind=st.sampled_from(KINDS), text=texts())
    def insert(self, model: str, kind: PrefixKind, text: list[int]) -> None:
        """What was just kept is found whole, and what it goes on from takes no room any more."""
        folder = self.folder(model)
        folder.insert(text_of(model, kind, text))
        self.kept.add((model, kind, tuple(text)))
        assert folder.match(kind, text).length == (len(text) if len(text) >= QUANTUM else 0)
        for n in range(QUANTUM, len(text), QUANTUM):
            found = folder.match(kind, text[:n]).stored
            assert found is None or len(found.tokens) > n or found.tokens.tolist() != text[:n]

    @rule(model=st.sampled_from(MODELS), kind=st.sampled_from(KINDS), text=texts())
    def read(self, model: str, kind: PrefixKind, text: list[int]) -> None:
        """Whatever is found is of this model and kind, and either what was kept, or refused."""
        folder = self.folder(model)
        match = folder.match(kind, text)
        if match.stored is None:
            return
        tokens = match.stored.tokens.tolist()
        assert (model, kind, tuple(tokens)) in self.kept and tokens[: match.length] == text[
            : match.length
        ]
        with folder.lock(match.stored) as reader:
            for i, num_bytes in enumerate(match.stored.chunk_bytes):
                parts = [np.empty(num_bytes // NUM_PARTS, np.uint8) for _ in range(NUM_PARTS)]
                if not reader.read(i, parts):
                    assert self.is_damaged
                    continue
                for part, expected in zip(
                    parts, cells(model, kind, tokens, i * QUANTUM), strict=True
                ):
                    np.testing.assert_array_equal(part, expected)

    @rule(size=st.integers(0, BUDGET))
    def evict(self, size: int) -> None:
        assert self.folder("one").evict(size) >= size

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Bytes change, files end early, or stand under the name of another."""
        files = sorted(self.root.glob("*/*.kv"))
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        if not content:
            return
        at = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "swap"]))
        if how == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        elif how == "cut":
            os.truncate(path, at)
        else:
            other = data.draw(st.sampled_from(files))
            other.write_bytes(content)
        self.is_damaged = True

    @invariant()
    def the_budget_holds(self) -> None:
        # A file that somebody has overwritten with a larger one goes with the next text.
        assert self.is_damaged or held_in(self.root).num_bytes <= BUDGET

    @invariant()
    def nothing_is_left_half_written(self) -> None:
        assert not list(self.root.glob("*/.*"))

    @invariant()
    def undamaged_folders_are_what_they_say(self) -> None:
        if not self.is_damaged:
            for model in MODELS:
                self.folder(model).check()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            empty(self.root)
            assert held_in(self.root).count == 0
            self.place.cleanup()


TestFolder = Folder.TestCase
TestFolder.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
