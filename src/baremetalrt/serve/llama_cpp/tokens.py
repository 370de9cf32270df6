"""`/tokenize`, `/detokenize` and `/apply-template`: what a model reads, as it reads it."""

from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import Response

from baremetalrt.core.errors import UsageError
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.conversation import prompt_text
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.llama_cpp.schema import DetokenizeRequest, TokenizeRequest
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai.schema import ChatRequest


async def tokenize(
    request: TokenizeRequest, model: Model, _metrics: Counts, _held: AsyncExitStack
) -> Response:
    """Text, or a list of texts and token ids, as token ids."""
    tokens = await in_thread(_tokens, request, model)
    if request.with_pieces:
        pieces = [{"id": token, "piece": _piece(model, token)} for token in tokens]
        return JsonResponse({"tokens": pieces})
    return JsonResponse({"tokens": tokens})


def _tokens(request: TokenizeRequest, model: Model) -> list[int]:
    parts = request.content if isinstance(request.content, list) else [request.content]
    model.require_room(sum(len(part) for part in parts if isinstance(part, str)))
    tokens = list(model.tokenizer.beginning) if request.add_special else []
    for part in parts:
        if isinstance(part, int):
            tokens += _known(model, [part])
        elif request.parse_special:
            tokens += model.tokenizer.encode_chat(part, begins=False)
        else:
            tokens += model.tokenizer.encode(part, special=False)
    return tokens


def _piece(model: Model, token: int) -> Any:
    """A token as text, or as bytes where it is no whole character."""
    raw = model.tokenizer.name(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return list(raw)


async def detokenize(
    request: DetokenizeRequest, model: Model, _metrics: Counts, _held: AsyncExitStack
) -> Response:
    """Token ids as the text that they are; control tokens by their names."""
    names = map(model.tokenizer.name, _known(model, request.tokens))
    return JsonResponse({"content": b"".join(names).decode("utf-8", "replace")})


def _known(model: Model, tokens: list[int]) -> list[int]:
    if any(not 0 <= token < model.vocabulary_size for token in tokens):
        raise UsageError(
            f"there are token ids outside of 0 to {model.vocabulary_size - 1}",
            code="prompt.tokens",
            parameter="tokens",
        )
    return tokens


async def apply_template(
    request: ChatRequest, model: Model, _metrics: Counts, _held: AsyncExitStack
) -> Response:
    """The prompt that a conversation becomes; nothing is computed."""
    return JsonResponse({"prompt": await prompt_text(request, model)})
