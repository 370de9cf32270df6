"""Sessions on tiny models: a route of real stages, and the vocabulary of the default model."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import wraps
from pathlib import Path
from typing import Any

from baremetalrt.blocks.loaded_adapters import AdapterSet
from baremetalrt.blocks.span import Span
from baremetalrt.core.spans import BlockSpan
from baremetalrt.session.grammar import GrammarCompiler
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.route import Route
from baremetalrt.session.session import GenerationOptions, Session, Token
from baremetalrt.session.stage import LocalStage, SoloStage
from baremetalrt.session.tokenizer import Tokenizer
from tiny_models import TinyModel, write
from tiny_spans import open_span

# Sessions that compute together round differently: where two tokens are this close, in natural
# logarithms of their probabilities, either may win.
TIE = 0.05


class Kit:
    """One tiny model; routes over it are closed with it. `vocabulary` tokens are what can be drawn."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        # No biases and no cleverness: sessions are tested here, blocks elsewhere.
        self._model = TinyModel("llama", vocabulary_size=tokenizer.size, num_blocks=3)
        self.path = write(self._model, folder / "tiny.gguf")
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer)
        self._worker = ThreadPoolExecutor(1)
        self._spans: list[Span] = []

    def span(self, blocks: BlockSpan | None = None, *, num_cells: int = 4096) -> Span:
        span = open_span(self.path, blocks=blocks, num_cells=num_cells, context=4096)
        self._spans.append(span)
        return span

    def solo(self, span: Span | None = None) -> Route:
        return Route([SoloStage(span or self.span())])

    def shared(self, *spans: Span) -> Route:
        return Route([LocalStage(span, self._worker) for span in spans or (self.span(),)])

    def session(
        self,
        route: Route,
        prompt: list[int],
        *,
        context: int = 4096,
        adapters: AdapterSet | None = None,
        num_kept: int | None = None,
        **options: Any,
    ) -> Session:
        return Session(
            route,
            self._tokenizer,
            self._grammars,
            context_limit=context,
            prompt=prompt,
            options=GenerationOptions(**{"sampling": SampleOptions(temperature=0.0), **options}),
            adapters=adapters,
            num_kept=num_kept,
        )

    def close(self) -> None:
        self._worker.shutdown()
        for span in self._spans:
            span.close()


def run_async(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def prompt(seed: int, length: int) -> list[int]:
    """Token ids that no other seed begins with."""
    return [1000 * (seed + 1) + (7 * i) % 900 for i in range(length)]


async def answer(session: Session) -> list[Token]:
    async with aclosing(session.generate()) as tokens:
        return [token async for token in tokens]


def ids(tokens: Sequence[Token]) -> list[int | None]:
    return [token.id for token in tokens]


def text(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


def assert_same_or_tie(tokens: Sequence[Token], alone: Sequence[Token]) -> None:
    """Equal tokens, up to the first place where two were equally likely. Needs `top_logprobs=2`."""
    for ours, expected in zip(tokens, alone, strict=True):
        if ours.id != expected.id:
            best, second = expected.alternatives
            assert best.logprob - second.logprob < TIE
            assert ours.id == second.token
            return
