"""One answer of a model, token by token."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from baremetalrt.node.model import Model
from baremetalrt.session.chat_template import Message
from baremetalrt.session.session import FinishReason, Token
from baremetalrt.session.session import GenerationOptions as GenerationOptions
from baremetalrt.session.session import GenerationStats as GenerationStats


@dataclass(frozen=True, kw_only=True)
class AnswerRequest:
    """What is asked: a conversation, or a text that is to go on as it is (`raw`)."""

    options: GenerationOptions
    messages: Sequence[Message] = ()
    raw: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The whole answer, after its last token, and how it came about."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    # it said the same over and over
    is_loop: bool
    stats: GenerationStats


async def answer(model: Model, request: AnswerRequest) -> AsyncGenerator[Token | Answered, None]:
    """Tokens as they come, then the whole; raises like `Model.session` and `Session.generate`."""
    options = request.options
    if request.raw is not None:
        prompt = model.encode(request.raw)
    else:
        prompt = await model.tokenize_chat(request.messages)
        options = model.chat_options(options)
    session = model.session(prompt, options)
    text: list[str] = []
    ids: list[int] = []
    async with aclosing(session.generate()) as tokens:
        async for token in tokens:
            text.append(token.text)
            if token.id is not None:
                ids.append(token.id)
            yield token
    assert session.finish_reason is not None
    yield Answered(
        text="".join(text),
        token_ids=tuple(ids),
        finish_reason=session.finish_reason,
        is_loop=session.is_loop,
        stats=session.stats,
    )
