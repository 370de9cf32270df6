"""How an answer ends, on a stage that says what it is told to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks.steps import Reads
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.session.grammar import GrammarCompiler
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.route import Route
from baremetalrt.session.session import GenerationOptions, Session
from baremetalrt.session.stage import Place
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import find_model
from session_kit import answer, run_async, text

BAD = -1


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    tokenizer = Tokenizer(find_model(None).path)
    yield tokenizer
    tokenizer.close()


@dataclass
class _Place:
    length: int = 0


@dataclass
class Script:
    """A stage whose logits make the script's tokens the best; `BAD` makes them no numbers."""

    tokens: list[int]
    vocabulary: int
    kept: list[bool] = field(default_factory=list)
    chunk_tokens: int = 512

    async def open(self, tokens: Sequence[int], capacity: int, owner: Owner = THIS_USER) -> Place:
        return _Place()

    async def grow(self, place: Place, capacity: int) -> None: ...

    async def truncate(self, place: Place, length: int) -> None: ...

    async def forward(
        self, place: Place, tokens: Sequence[int], x_TD: object, reads: Reads
    ) -> NDArray[np.float32]:
        token = self.tokens.pop(0)
        logits = np.full((1, self.vocabulary), np.nan if token == BAD else 0.0, dtype=np.float32)
        logits[0, token] = np.nan if token == BAD else 10.0
        return logits

    def release(self, place: Place, *, keep: bool) -> None:
        self.kept.append(keep)


def play(
    tokenizer: Tokenizer,
    tokens: list[int],
    *,
    max_tokens: int = 100,
    context: int = 1000,
    **more: Any,
) -> tuple[Session, Script]:
    script = Script(tokens, tokenizer.size)
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=max_tokens, **more
    )
    session = Session(
        Route([script]),
        tokenizer,
        GrammarCompiler(tokenizer),
        context_limit=context,
        prompt=[1, 2, 3],
        options=options,
    )
    return session, script


@run_async
async def test_an_end_token_ends_an_answer_and_is_not_counted(tokenizer: Tokenizer) -> None:
    """Nothing is computed after it, and nothing of it is shown."""
    said = tokenizer.encode("Good bye", special=False)
    session, script = play(tokenizer, [*said, tokenizer.eos_token, *said])
    assert text(await answer(session)) == "Good bye"
    assert (session.finish_reason, session.stats.generated_tokens) == ("stop", len(said))
    assert script.tokens == said and script.kept == [True]


@pytest.mark.parametrize("ends", [True, False])
@run_async
async def test_what_was_held_back_comes_in_order(tokenizer: Tokenizer, ends: bool) -> None:
    """Letters that might have begun a stop stand before the character that was cut off."""
    half = tokenizer.encode("𓀀", special=False)[:1]
    said = [*tokenizer.encode("ab", special=False), *half]
    session, _ = play(
        tokenizer,
        [*said, tokenizer.eos_token],
        stop=("bx",),
        max_tokens=100 if ends else len(said),
    )
    assert text(await answer(session)) == "ab\N{REPLACEMENT CHARACTER}"
    assert session.finish_reason == ("stop" if ends else "length")


@run_async
async def test_more_than_there_is_room_for_is_as_much_as_there_is(tokenizer: Tokenizer) -> None:
    """Programs ask for the most that any model could say."""
    said = tokenizer.encode("a b c d e f g h i j k l", special=False)
    session, _ = play(tokenizer, said, max_tokens=32_000, context=10)
    assert len(await answer(session)) == session.stats.generated_tokens == 7
    assert session.finish_reason == "length"


@run_async
async def test_tokens_of_the_callers_choice_end_an_answer(tokenizer: Tokenizer) -> None:
    said = tokenizer.encode("one two three", special=False)
    session, _ = play(tokenizer, [*said], stop_tokens=frozenset({said[1]}))
    assert text(await answer(session)) == "one"
    assert (session.finish_reason, session.stats.generated_tokens) == ("stop", 1)


@run_async
async def test_an_answer_is_as_long_as_is_asked_for(tokenizer: Tokenizer) -> None:
    """However much the model would like to end: what comes next best is said instead."""
    said = tokenizer.encode("one two", special=False)
    ends = [tokenizer.eos_token] * 3
    session, _ = play(tokenizer, [*said, *ends, tokenizer.eos_token], min_tokens=5)
    tokens = await answer(session)
    assert len(tokens) == 5 and tokenizer.eos_token not in [token.id for token in tokens]
    assert session.finish_reason == "stop"


@run_async
async def test_numbers_gone_bad_are_not_built_upon(tokenizer: Tokenizer) -> None:
    """The error reaches the caller, and the text is not kept for others."""
    session, script = play(tokenizer, [*tokenizer.encode("so far", special=False), BAD])
    with pytest.raises(IntegrityError):
        await answer(session)
    assert script.kept == [False]
