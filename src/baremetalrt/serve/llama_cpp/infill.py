"""`/infill`: what belongs into a gap, for editors."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from starlette.responses import Response

from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.serve.decoding import convert
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.llama_cpp.schema import InfillRequest
from baremetalrt.serve.metrics import Counts
from baremetalrt.serve.openai import completions
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai.schema import CompletionRequest
from baremetalrt.session.infill import OtherFile, fill_prompt
from baremetalrt.session.session import Session

# Fields that mean the same in a completion, by their names there.
_SAME: Final = {
    "n_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    **{
        name: name
        for name in (
            "stop",
            "seed",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "repeat_last_n",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "grammar",
        )
    },
}


async def infill(
    request: InfillRequest, model: Model, metrics: Counts, held: AsyncExitStack
) -> Response:
    """Fills a gap, at once or as a stream. With `n_predict` 0 the texts are only made ready."""
    prompt = await in_thread(_prompt, request, model)
    fields = {ours: getattr(request, theirs) for theirs, ours in _SAME.items()}
    session = await completions.one(convert(fields | {"prompt": prompt}, CompletionRequest), model)
    lines = _lines(session, model, metrics)
    if request.stream:
        return g.event_stream(lines, held.pop_all())
    text, last = "", dict[str, Any]()
    async with aclosing(lines) as each:
        async for last in each:
            text += last["content"]
    return JsonResponse(_chosen(last | {"content": text}, request.response_fields))


def _prompt(request: InfillRequest, model: Model) -> list[int]:
    before, behind = request.input_prefix + request.prompt, request.input_suffix
    files = [OtherFile(file.filename, file.text) for file in request.input_extra]
    model.require_room(len(before) + len(behind) + sum(len(file.text) for file in files))
    return fill_prompt(model.tokenizer, before, behind, files)


async def _lines(
    session: Session, model: Model, metrics: Counts
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(g.run_choices([session], metrics)) as pieces:
        async for _, token in pieces:
            if token is not None:
                ids = [] if token.id is None else [token.id]
                yield {"content": token.text, "tokens": ids, "stop": False}
    yield _end(session, model)


def _end(session: Session, model: Model) -> dict[str, Any]:
    stats = session.stats
    num_computed = stats.prompt_tokens - stats.cached_tokens
    stop = "limit" if session.finish_reason == "length" else "eos"
    return {
        "content": "",
        "tokens": [],
        "stop": True,
        "model": model.name,
        "stop_type": "word" if session.stopped_at is not None else stop,
        "stopping_word": session.stopped_at or "",
        "truncated": False,
        "tokens_predicted": stats.generated_tokens,
        "tokens_evaluated": stats.prompt_tokens,
        "tokens_cached": stats.cached_tokens,
        "timings": {
            "cache_n": stats.cached_tokens,
            "prompt_n": num_computed,
            "prompt_ms": 1000 * stats.prefill_s,
            "prompt_per_second": stats.prefill_tokens_per_s,
            "predicted_n": stats.generated_tokens,
            "predicted_ms": 1000 * stats.decode_s,
            "predicted_per_second": stats.decode_tokens_per_s,
        },
    }


def _chosen(answer: dict[str, Any], paths: list[str] | None) -> dict[str, Any]:
    """Only some fields of an answer, where they are asked for; `timings/prompt_n` is one of a part."""
    if not paths:
        return answer
    chosen: dict[str, Any] = {}
    for path in paths:
        outer, _, inner = path.partition("/")
        found = answer.get(outer)
        if inner:
            found = found.get(inner) if isinstance(found, dict) else None
        if found is not None:
            chosen[path] = found
    return chosen
