"""What chat and plain completions share: options, running several choices, streaming, disconnects."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from starlette.responses import Response

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import Tasks
from baremetalrt.serve.event_stream import EventStream, data, written
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai import errors
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest
from baremetalrt.session.grammar import Grammar, from_gbnf
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions, Session, Token, TokenLogprob
from baremetalrt.session.tokenizer import Tokenizer

_QUEUED_TOKENS: Final = 64
_MAX_WARNING_CHARS: Final = 200
_WHOLE_TEXT: Final = 1 << 16
# JSON has no endless numbers; OpenAI's clients know this one for what cannot be.
_IMPOSSIBLE: Final = -9999.0


def sampling_of(
    request: ChatRequest | CompletionRequest, choice: int, recommended: SampleOptions
) -> SampleOptions:
    """How to sample; where the request is silent, as the model's makers mean it, like `bmrt run`."""
    given: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        # -1 is off where others write it so.
        "top_k": None if request.top_k is None else max(0, request.top_k),
        "min_p": request.min_p,
        "typical_p": request.typical_p,
        "penalty_window": _window(request.repeat_last_n),
        "repetition_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "seed": None if request.seed is None else request.seed + choice,
    }
    return replace(
        recommended,
        **{k: v for k, v in given.items() if v is not None},
        logit_bias=_logit_bias(request.logit_bias or {}),
    )


def _window(repeat_last_n: int | None) -> int | None:
    """How far penalties look back; -1 is as far as there is text."""
    return _WHOLE_TEXT if repeat_last_n is not None and repeat_last_n < 0 else repeat_last_n


def _logit_bias(biases: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in biases.items()}
    except ValueError as error:
        raise UsageError(
            "logit_bias maps token ids to numbers", code="request.invalid", parameter="logit_bias"
        ) from error


def stops_of(request: ChatRequest | CompletionRequest) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def grammar_of(request: ChatRequest | CompletionRequest) -> Grammar | None:
    return from_gbnf(request.grammar) if request.grammar is not None else None


def _limit(max_tokens: int | None) -> int | None:
    """How long an answer may be; -1 is no limit."""
    if max_tokens == 0:
        raise UsageError(
            "an answer has at least one token", code="request.invalid", parameter="max_tokens"
        )
    return None if max_tokens == -1 else max_tokens


R = TypeVar("R", bound=Response)


def with_warning(response: R, grammar: Grammar | None) -> R:
    """The answer, with a header that says what of a schema it may not keep to."""
    if grammar is not None and grammar.unkept is not None:
        said = grammar.unkept.encode("ascii", "replace").decode()[:_MAX_WARNING_CHARS]
        response.headers["x-unkept-constraints"] = "".join(
            c if c.isprintable() else " " for c in said
        )
    return response


def options_of(
    request: ChatRequest | CompletionRequest,
    choice: int,
    *,
    max_tokens: int | None,
    grammar: Grammar | None,
    top_logprobs: int | None,
    recommended: SampleOptions,
    may_be_empty: bool = False,
    scores_prompt: bool = False,
) -> GenerationOptions:
    return GenerationOptions(
        sampling=sampling_of(request, choice, recommended),
        max_tokens=0 if may_be_empty and max_tokens == 0 else _limit(max_tokens),
        scores_prompt=scores_prompt,
        # Who names no end gets one.
        ends_loops=max_tokens in (None, -1),
        min_tokens=request.min_tokens or 0,
        ignore_end=bool(request.ignore_eos),
        stop=stops_of(request),
        stop_tokens=frozenset(request.stop_token_ids or ()),
        grammar=grammar,
        top_logprobs=top_logprobs,
    )


class Piece(NamedTuple):
    """A token of one choice, or the end of that choice (`token` is None)."""

    choice: int
    token: Token | None


async def run_choices(sessions: Sequence[Session], metrics: Counts) -> AsyncGenerator[Piece, None]:
    """Generates all choices at once, token by token; closing the iterator ends them all."""
    queue: asyncio.Queue[Piece | Exception] = asyncio.Queue(_QUEUED_TOKENS)

    async def pump(choice: int, session: Session) -> None:
        try:
            async with aclosing(session.generate()) as tokens:
                async for token in tokens:
                    await queue.put(Piece(choice, token))
            await queue.put(Piece(choice, None))
        except Exception as error:
            # Also what nobody expected: it ends the answer, and is dealt with where that is awaited.
            await queue.put(error)
        finally:
            metrics.count_generation(session.stats)

    async with Tasks() as tasks:
        for i, session in enumerate(sessions):
            tasks.start(f"choice {i}", pump(i, session))
        left = len(sessions)
        while left:
            piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            left -= piece.token is None
            yield piece


def usage(sessions: Sequence[Session], prompts: int = 1) -> dict[str, Any]:
    """Token counts; a prompt that several choices share counts once."""
    per_prompt = len(sessions) // prompts
    prompt = sum(s.stats.prompt_tokens for s in sessions[::per_prompt])
    generated = sum(s.stats.generated_tokens for s in sessions)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {
            "cached_tokens": sum(s.stats.cached_tokens for s in sessions[::per_prompt])
        },
    }


def token_text(tokenizer: Tokenizer, token: int) -> tuple[str, list[int]]:
    """A token as text and as bytes, for log probabilities."""
    raw = tokenizer.name(token)
    return raw.decode("utf-8", "replace"), list(raw)


def finite(logprob: float) -> float:
    """A log probability as JSON can say it."""
    return max(logprob, _IMPOSSIBLE)


def logprobs_of(token: Token, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The log probability of a token of a conversation, where it was asked for."""
    if token.logprob is None:
        return []

    def entry(t: TokenLogprob) -> dict[str, Any]:
        text, raw = token_text(tokenizer, t.token)
        return {"token": text, "logprob": finite(t.logprob), "bytes": raw}

    return [entry(token.logprob) | {"top_logprobs": [entry(t) for t in token.alternatives]}]


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The fields that every answer and every chunk begins with."""
    import uuid

    return {
        "id": f"{prefix}-{uuid.uuid4().hex[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def event_stream(events: AsyncGenerator[dict[str, Any], None], held: AsyncExitStack) -> EventStream:
    """Events, and what the request holds until the last of them."""
    text = written(events, data, lambda error: errors.of(error)[1], end=b"data: [DONE]\n\n")
    return EventStream(text, held)
