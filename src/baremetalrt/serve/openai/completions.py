"""`/v1/completions`: continues a text as it is."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.metrics import Metrics
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai.schema import CompletionRequest
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
        self.token_logprobs: list[float] = []
        self.top_logprobs: list[dict[str, float]] = []
        self.offsets: list[int] = []

    def add(self, model: Model, token: Token) -> None:
        if token.id is not None:
            self.ids.append(token.id)
        if token.logprob is not None:
            self.tokens.append(g.token_text(model.tokenizer, token.logprob.token)[0])
            self.token_logprobs.append(g.finite(token.logprob.logprob))
            self.top_logprobs.append(
                {
                    g.token_text(model.tokenizer, t.token)[0]: g.finite(t.logprob)
                    for t in token.alternatives
                }
            )
            self.offsets.append(len(self.text))
        self.text += token.text

    def logprobs(self, start: int = 0) -> dict[str, Any] | None:
        if not self.tokens:
            return None
        return {
            "tokens": self.tokens[start:],
            "token_logprobs": self.token_logprobs[start:],
            "top_logprobs": self.top_logprobs[start:],
            "text_offset": self.offsets[start:],
        }


async def complete(
    request: CompletionRequest, model: Model, metrics: Metrics, held: AsyncExitStack
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
    metrics: Metrics,
) -> Response:
    sessions = [choice.session for choice in choices]
    async with aclosing(g.run_choices(sessions, metrics)) as pieces:
        async for piece in pieces:
            if piece.token is not None:
                choices[piece.choice].add(model, piece.token)
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
    answer["usage"] = g.usage(sessions, num_prompts)
    return JsonResponse(answer)


async def _events(
    request: CompletionRequest,
    model: Model,
    choices: list[_Choice],
    num_prompts: int,
    metrics: Metrics,
) -> AsyncGenerator[dict[str, Any], None]:
    head = g.envelope("text_completion", "cmpl", model.name)
    wants_usage = request.stream_options is not None and request.stream_options.include_usage
    if wants_usage:
        head["usage"] = None
    async with aclosing(g.run_choices([c.session for c in choices], metrics)) as pieces:
        async for piece in pieces:
            choice = choices[piece.choice]
            before = len(choice.tokens)
            if piece.token is not None:
                choice.add(model, piece.token)
                if not piece.token.text and piece.token.logprob is None:
                    continue
            ended = piece.token is None
            yield {
                **head,
                "choices": [
                    {
                        "index": piece.choice,
                        "text": piece.token.text if piece.token else "",
                        "logprobs": None if ended else choice.logprobs(before),
                        "finish_reason": choice.session.finish_reason if ended else None,
                    }
                ],
            }
    if wants_usage:
        sessions = [c.session for c in choices]
        yield {**head, "choices": [], "usage": g.usage(sessions, num_prompts)}


def _prompts(request: CompletionRequest, model: Model) -> list[list[int]]:
    """Every prompt as token ids."""
    prompt = request.prompt
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


def _refuse_unsupported(request: CompletionRequest) -> None:
    unsupported = {
        "echo": request.echo,
        "suffix": request.suffix,
        "best_of": request.best_of is not None and request.best_of != (request.n or 1),
    }
    for name, value in unsupported.items():
        if value:
            raise UsageError(f"{name} is not supported", code="request.invalid", parameter=name)
