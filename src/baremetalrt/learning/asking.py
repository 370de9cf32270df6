"""Questions about passages of a corpus: each passage is asked about once, whatever interrupts it."""

import asyncio
import contextlib
import heapq
import json
import os
from collections import UserDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, make_private, write_durably
from baremetalrt.documents.passages import split_passages
from baremetalrt.learning.corpora import Corpus
from baremetalrt.node.events import ignore
from baremetalrt.node.local_model import open_local
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.tuning.examples import QUESTIONS
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel

if TYPE_CHECKING:
    from baremetalrt.learning.questions import Made, Pair

_JOURNAL: Final = "asked.jsonl"
# A small model loses the thread of longer ones.
_PASSAGE_CHARS: Final = 900
_MIN_PASSAGE_CHARS: Final = 200
CONTEXT: Final = 2048


class Passage(NamedTuple):
    """A piece of a text, and where it is from."""

    text: str
    origin: str


class QuestionsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking a model for questions: how many are kept, why others are not, some of them."""

    num_passages: int
    num_kept: int
    left_out: dict[str, int]
    samples: list[dict[str, Any]]


def add_questions(
    corpus: Corpus,
    stored: StoredModel,
    count: int,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> QuestionsReport:
    """Makes questions and answers about `count` passages a part of what is trained on, instead of those
    that were; none for zero.

    What came of each passage is noted as it comes, so that nothing is asked twice.

    Raises:
        UsageError, IntegrityError, CapacityError: the model cannot be loaded; see `Node.load`.
    """
    pairs = corpus.folder / QUESTIONS
    if not count:
        pairs.unlink(missing_ok=True)
        return QuestionsReport(num_passages=0, num_kept=0, left_out={}, samples=[])
    passages = some_passages(corpus.train_path, count, seed)
    if not passages:
        raise UsageError("no passage is long enough to be asked about", code="learn.questions")
    maker = f"{content_id(GGUFFile.open(stored.path))} {seed}"
    journal = Journal(corpus.folder / _JOURNAL, maker)
    made = asyncio.run(_ask(stored, passages, seed, journal, on_progress))
    lines = [json.dumps(pair.as_example(), ensure_ascii=False) + "\n" for pair in made.pairs]
    with disk_errors():
        # All at once, in place of what an interrupted run had put there.
        write_durably(pairs, "".join(lines).encode("utf-8", "replace"))
    return QuestionsReport(
        num_passages=len(passages),
        num_kept=len(made.pairs),
        left_out=made.left_out,
        samples=[msgspec.to_builtins(pair) for pair in made.pairs[:3]],
    )


class Journal(UserDict[str, "Pair | str"]):
    """What came of each passage, on disk as soon as it is known: a pair, or why there is none.

    `maker` says who was asked, and how: another model would ask something else.
    """

    def __init__(self, path: Path, maker: str) -> None:
        super().__init__()
        self._path, self._maker = path, maker
        with disk_errors():
            make_private(path)
            whole = _whole_lines(path)
        for line in whole.splitlines():
            # What cannot be read is asked again.
            with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
                self._take(msgspec.json.decode(line, type=dict[str, str]))

    def __setitem__(self, key: str, outcome: "Pair | str") -> None:
        line = {"maker": self._maker, "passage": key}
        if isinstance(outcome, str):
            line["left_out"] = outcome
        else:
            line |= msgspec.to_builtins(outcome)
        with disk_errors(), self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        super().__setitem__(key, outcome)

    def _take(self, line: dict[str, str]) -> None:
        from baremetalrt.learning.questions import Pair

        if line.pop("maker") == self._maker:
            key = line.pop("passage")
            self.data[key] = line["left_out"] if "left_out" in line else Pair(**line)


def _whole_lines(path: Path) -> bytes:
    """The lines of a file; the last one goes if it was being written when the process was killed."""
    found = path.read_bytes()
    end = found.rfind(b"\n") + 1
    if end < len(found):
        os.truncate(path, end)
    return found[:end]


def some_passages(path: Path, count: int, seed: int) -> list[Passage]:
    """`count` passages of the texts of a file of examples, always the same; more of them begin alike."""
    key = seed.to_bytes(8, "little", signed=True)

    def draw(passage: Passage) -> bytes:
        return blake2b(passage.text.encode("utf-8", "replace"), digest_size=8, key=key).digest()

    return heapq.nsmallest(count, _passages(path), key=draw)


def _passages(path: Path) -> Iterator[Passage]:
    with path.open("rb") as lines:
        for line in lines:
            example = msgspec.json.decode(line)
            for passage in split_passages(example.get("text", ""), _PASSAGE_CHARS):
                if len(passage) >= _MIN_PASSAGE_CHARS:
                    yield Passage(passage.strip(), example.get("origin", ""))


async def _ask(
    stored: StoredModel,
    passages: list[Passage],
    seed: int,
    journal: Journal,
    on_progress: Callable[[int, int], None],
) -> "Made":
    from baremetalrt.learning.questions import QuestionConfig, key_of, make_pairs

    config = QuestionConfig(seed=seed)
    if all(key_of(passage.text) in journal for passage in passages):
        return await make_pairs(None, passages, config, journal)
    async with open_local(Opening(stored), ModelOptions(context=CONTEXT), ignore) as model:
        return await make_pairs(model, passages, config, journal, on_progress)
