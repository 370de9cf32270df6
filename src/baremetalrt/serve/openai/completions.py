"""`/v1/completions`: continues a text as it is."""

import codecs
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, NamedTuple

from starlette.responses import Response

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai.schema import CompletionRequest
from baremetalrt.session.infill import fill_prompt
from baremetalrt.session.session import Session, Token

_MAX_PROMPTS = 16
_DEFAULT_MAX_TOKENS = 16


class _Choice:
    """What has been generated of one choice."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.text = ""
        self.tokens: list[str] = []
        self.ids: list[int] = []
        self.token_logprobs: list[float | None] = []
        self.top_logprobs: list[dict[str, float] | None] = []
        self.offsets: list[int] = []

    def add(self, model: Model, token: Token) -> None:
        if token.id is not None:
            self.ids.append(token.id)
        if token.logprob is not None:
            self._score(model, token, len(self.text))
        self.text += token.text

    def echo(self, model: Model) -> str:
        """Puts the prompt in front, once it is computed; its first token has no probability."""
        text, offsets = _text_of(model, self.session.prompt)
        self.text += text
        if scores := self.session.prompt_scores:
            self.tokens.append(g.token_text(model.tokenizer, self.session.prompt[0])[0])
            self.token_logprobs.append(None)
            self.top_logprobs.append(None)
            self.offsets.append(0)
            for score, offset in zip(scores, offsets[1:], strict=True):
                self._score(model, score, offset)
        return text

    def _score(self, model: Model, token: Token, offset: int) -> None:
        assert token.logprob is not None
        self.tokens.append(g.token_text(model.tokenizer, token.logprob.token)[0])
        self.token_logprobs.append(g.finite(token.logprob.logprob))
        self.top_logprobs.append(
            {
                g.token_text(model.tokenizer, t.token)[0]: g.finite(t.logprob)
                for t in token.alternatives
            }
        )
        self.offsets.append(offset)

    def logprobs(self, start: int = 0) -> dict[str, Any] | None:
        if not self.tokens[start:]:
            return None
        return {
            "tokens": self.tokens[start:],
            "token_logprobs": self.token_logprobs[start:],
            "top_logprobs": self.top_logprobs[start:],
            "text_offset": self.offsets[start:],
        }


class _News(NamedTuple):
    """What has come of one choice: a text, and its tokens from the first one on."""

    choice: int
    text: str
    first_token: int
    is_end: bool


async def complete(
    request: CompletionRequest, model: Model, metrics: Counts, held: AsyncExitStack
) -> Response:
    """Continues one or several prompts, at once or as a stream of events. `held`: see `event_stream`."""
    _refuse_unsupported(request)
    choices, num_prompts = await in_thread(_choices, request, model)
    if request.stream:
        events = _events(request, model, choices, num_prompts, metrics)
        return g.event_stream(events, held.pop_all())
    return await _whole(request, model, choices, num_prompts, metrics)


async def one(request: CompletionRequest, model: Model) -> Session:
    """The only answer to a request with one prompt, not begun yet; raises like `complete`."""
    choices, _ = await in_thread(_choices, request, model)
    return choices[0].session


def _choices(request: CompletionRequest, model: Model) -> tuple[list[_Choice], int]:
    """One session per prompt and choice, and how many prompts there are.

    Takes seconds when a grammar or a prompt is large: not for the event loop.
    """
    prompts, grammar = _prompts(request, model), g.grammar_of(request)
    choices = [
        _Choice(
            model.session(
                prompt,
                g.options_of(
                    request,
                    i,
                    max_tokens=_DEFAULT_MAX_TOKENS
                    if request.max_tokens is None
                    else request.max_tokens,
                    grammar=grammar,
                    recommended=model.sampling,
                    top_logprobs=request.logprobs,
                    may_be_empty=True,
                    scores_prompt=bool(request.echo) and request.logprobs is not None,
                ),
            )
        )
        for prompt in prompts
        for i in range(request.n or 1)
    ]
    return choices, len(prompts)


async def _whole(
    request: CompletionRequest,
    model: Model,
    choices: list[_Choice],
    num_prompts: int,
    metrics: Counts,
) -> Response:
    async with aclosing(_news(request, model, choices, metrics)) as pieces:
        async for _ in pieces:
            pass
    answer = g.envelope("text_completion", "cmpl", model.name)
    answer["choices"] = [
        {
            "index": i,
            "text": choice.text,
            "logprobs": choice.logprobs(),
            "finish_reason": choice.session.finish_reason,
            **(
                {"token_ids": choice.ids, "prompt_token_ids": choice.session.prompt}
                if request.return_token_ids
                else {}
            ),
        }
        for i, choice in enumerate(choices)
    ]
    answer["usage"] = g.usage([choice.session for choice in choices], num_prompts)
    return JsonResponse(answer)


async def _events(
    request: CompletionRequest,
    model: Model,
    choices: list[_Choice],
    num_prompts: int,
    metrics: Counts,
) -> AsyncGenerator[dict[str, Any], None]:
    head = g.envelope("text_completion", "cmpl", model.name)
    wants_usage = request.stream_options is not None and request.stream_options.include_usage
    if wants_usage:
        head["usage"] = None
    async with aclosing(_news(request, model, choices, metrics)) as pieces:
        async for news in pieces:
            choice = choices[news.choice]
            logprobs = choice.logprobs(news.first_token)
            if not (news.text or logprobs or news.is_end):
                continue
            yield {
                **head,
                "choices": [
                    {
                        "index": news.choice,
                        "text": news.text,
                        "logprobs": logprobs,
                        "finish_reason": choice.session.finish_reason if news.is_end else None,
                    }
                ],
            }
    if wants_usage:
        sessions = [c.session for c in choices]
        yield {**head, "choices": [], "usage": g.usage(sessions, num_prompts)}


async def _news(
    request: CompletionRequest, model: Model, choices: list[_Choice], metrics: Counts
) -> AsyncGenerator[_News, None]:
    """What comes, and is in the choices then; of each, the prompt first where it is asked for."""
    begun: set[int] = set()
    async with aclosing(g.run_choices([c.session for c in choices], metrics)) as pieces:
        async for index, token in pieces:
            choice, text = choices[index], ""
            first_token = len(choice.tokens)
            if request.echo and index not in begun:
                text = choice.echo(model)
            begun.add(index)
            if token is not None:
                choice.add(model, token)
                text += token.text
            yield _News(index, text, first_token, is_end=token is None)


def _prompts(request: CompletionRequest, model: Model) -> list[list[int]]:
    """Every prompt as token ids."""
    prompt = request.prompt
    if request.suffix:
        if not isinstance(prompt, str):
            raise UsageError(
                "with a suffix, the prompt is one text", code="request.invalid", parameter="prompt"
            )
        model.require_room(len(prompt) + len(request.suffix))
        return [fill_prompt(model.tokenizer, prompt, request.suffix)]
    if isinstance(prompt, str):
        return [model.encode(prompt)]
    if not prompt:
        raise UsageError("the prompt is empty", code="prompt.empty", parameter="prompt")
    if all(isinstance(item, int) for item in prompt):
        return [[item for item in prompt if isinstance(item, int)]]
    if len(prompt) > _MAX_PROMPTS:
        raise UsageError(
            f"{len(prompt)} prompts in one request, at most {_MAX_PROMPTS} are taken",
            code="request.invalid",
            parameter="prompt",
        )
    return [
        model.encode(item) if isinstance(item, str) else item
        for item in prompt
        if not isinstance(item, int)
    ]


def _text_of(model: Model, prompt: list[int]) -> tuple[str, list[int]]:
    """A prompt as text, and where in it each token begins; what every prompt begins with has no text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    num_silent = len(model.tokenizer.beginning)
    if prompt[:num_silent] != model.tokenizer.beginning:
        num_silent = 0
    text, offsets = "", []
    for i, token in enumerate(prompt):
        offsets.append(len(text))
        if i >= num_silent:
            text += decoder.decode(model.tokenizer.name(token))
    return text + decoder.decode(b"", final=True), offsets


def _refuse_unsupported(request: CompletionRequest) -> None:
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise UsageError("best_of is not supported", code="request.invalid", parameter="best_of")
