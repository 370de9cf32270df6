"""Texts that outgrow the context: refused, or their middle goes and what stays is computed again."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import UsageError
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.overflow import SINKS, num_kept, shortened
from baremetalrt.session.session import GenerationOptions
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import StoredModel, find_model
from session_kit import Kit, answer, assert_same_or_tie, ids, prompt, run_async

CONTEXT = 512


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    tokenizer = Tokenizer(find_model(None).path)
    kit = Kit(tmp_path_factory.mktemp("tiny"), tokenizer)
    yield kit
    kit.close()
    tokenizer.close()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=300), st.integers(0, 80), st.integers(8, 200)
)
def test_the_beginning_and_the_newest_stay(text: list[int], beginning: int, limit: int) -> None:
    """In order, with room for as many as are new; what is short stays as it is."""
    kept = num_kept(beginning, limit)
    assert min(SINKS, limit // 2) <= kept <= limit // 2
    short = shortened(text, kept, limit)
    assert len(short) < limit and short[:kept] == text[:kept]
    newest = len(short) - min(kept, len(short))
    assert text[len(text) - newest :] == short[len(short) - newest :]
    if len(text) >= limit:
        assert limit - len(short) >= newest > 0
        assert shortened(short, kept, limit) == short


@run_async
async def test_without_a_choice_it_is_an_error(kit: Kit) -> None:
    with pytest.raises(UsageError, match="maximum context length is 512 tokens") as refused:
        kit.session(kit.solo(), prompt(0, 600), context=CONTEXT)
    assert refused.value.code == "context.exceeded" and "slide" in (refused.value.hint or "")


@pytest.mark.parametrize("kind", ["solo", "shared"])
@run_async
async def test_an_answer_goes_on_past_the_context(kit: Kit, kind: str) -> None:
    """Its next token is the one that a text without the middle, computed afresh, goes on with."""
    span = kit.span()
    route = kit.solo(span) if kind == "solo" else kit.shared(span)
    kept, begun = 20, prompt(0, 500)
    session = kit.session(
        route,
        begun,
        context=CONTEXT,
        num_kept=kept,
        max_tokens=300,
        ignore_end=True,
        top_logprobs=2,
    )
    tokens = await answer(session)
    assert len(tokens) == 300 and session.finish_reason == "length"
    text = [*begun, *(t for t in ids(tokens) if t is not None)]
    # What was stored when the context was full, and the token that found no room any more.
    remembered = [*shortened(text[:CONTEXT], kept, CONTEXT), text[CONTEXT]]
    fresh = kit.session(kit.solo(), remembered, max_tokens=8, ignore_end=True, top_logprobs=2)
    first = CONTEXT + 1 - len(begun)
    assert_same_or_tie(tokens[first : first + 8], await answer(fresh))
    assert span.cache.sequences.sequences[0].length <= CONTEXT


@run_async
async def test_a_prompt_that_is_too_long_loses_its_middle(kit: Kit) -> None:
    long = prompt(0, 5000)
    session = kit.session(
        kit.solo(), long, context=CONTEXT, num_kept=50, max_tokens=4, ignore_end=True
    )
    tokens = await answer(session)
    assert session.stats.prompt_tokens == 50 + (CONTEXT - 50) // 2
    short = kit.session(kit.solo(), shortened(long, 50, CONTEXT), max_tokens=4, ignore_end=True)
    assert ids(tokens) == ids(await answer(short))


@run_async
async def test_the_system_text_of_a_chat_stays(talking_model) -> None:
    """With the template around it, and whatever the user says."""
    options = ModelOptions(context=CONTEXT, num_threads=1, context_overflow="slide")
    node = Node(options)
    try:
        model = node.load(Opening(StoredModel("talking", talking_model, is_default=False)))
        system = {"role": "system", "content": "Speak like the harbour master of Trieste. " * 4}
        question = {"role": "user", "content": "What came in today? " * 200}
        full = await model.tokenize_chat([system, question])
        assert len(full) > CONTEXT
        session = model.session(full, GenerationOptions(max_tokens=2, ignore_end=True))
        kept = session._num_kept
        assert kept is not None
        stays = b"".join(map(model.tokenizer.piece, full[:kept]))
        assert b"Trieste" in stays and b"What came" not in stays
        assert len(await answer(session)) == 2
    finally:
        node.close()
