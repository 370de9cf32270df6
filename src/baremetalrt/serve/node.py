"""Puts a model together: file, tokenizer, template, spans on devices, route. The only place that does."""

import asyncio
import copy
import gc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from baremetalrt.blocks.adapters import AdapterSet
from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.extents import CELL_QUANTUM
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.kv_cache import cell_bytes
from baremetalrt.blocks.span import Span, SpanConfig
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.core.units import format_bytes, round_up
from baremetalrt.devices.memory import available_bytes
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.backend import find_device
from baremetalrt.serve.opening import Opening
from baremetalrt.session.arriving import ArrivingStage, Source
from baremetalrt.session.chat_template import (
    CHATML,
    TRANSCRIPT,
    ChatTemplate,
    Message,
    TemplateProcess,
)
from baremetalrt.session.grammar import GrammarCompiler
from baremetalrt.session.route import Route
from baremetalrt.session.session import GenerationOptions, Session
from baremetalrt.session.stage import CHUNK_TOKENS, LocalStage, SoloStage, Stage
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.gguf import GGUFFile

# Shares of the memory that is free when a model is loaded. The rest is for the mapped file itself,
# which the system may drop and read again, and for everybody else.
_CACHE_SHARE: Final = 0.25
_COPY_SHARE: Final = 0.5
# Runs of spaces make the longest tokens there are; no text comes near this on average.
_MAX_CHARS_PER_TOKEN: Final = 128


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """How this machine computes. None means: choose from what the machine has."""

    device: str = "cpu"
    num_threads: int | None = None
    context: int | None = None
    max_sessions: int = 1
    repack: bool = True
    chat_template: str | None = None


@dataclass
class Model:
    """A model ready to answer."""

    name: str
    path: Path
    hyperparameters: Hyperparameters
    tokenizer: Tokenizer
    template: ChatTemplate
    route: Route
    context_limit: int
    created: int
    adapters: AdapterSet | None = None
    base: "Model | None" = None
    _spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._grammars = GrammarCompiler(self.tokenizer)

    def session(self, prompt: list[int], options: GenerationOptions) -> Session:
        """One generation from a tokenized prompt; raises `UsageError` when it does not fit."""
        size = self.hyperparameters.vocabulary_size
        if any(not 0 <= token < size for token in prompt):
            raise UsageError(
                f"the prompt has token ids outside of 0 to {size - 1}",
                code="prompt.tokens",
                parameter="prompt",
            )
        return Session(
            self.route,
            self.tokenizer,
            self._grammars,
            context_limit=self.context_limit,
            prompt=prompt,
            options=options,
            adapters=self.adapters,
        )

    def with_adapters(self, adapters: AdapterSet, label: str) -> "Model":
        """This model as it answers with adapters; it is the same one in memory."""
        adapted = copy.copy(self)
        adapted.base = self.without_adapters()
        adapted.name, adapted.adapters = f"{adapted.base.name}:{label}", adapters
        return adapted

    def without_adapters(self) -> "Model":
        """The model itself."""
        return self.base or self

    async def tokenize_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        variables: dict[str, Any] | None = None,
    ) -> list[int]:
        """The prompt for a conversation, by the model's own template."""

        def work() -> list[int]:
            text = self.template.render(messages, tools=tools, variables=variables)
            return self.encode(text)

        return await asyncio.to_thread(work)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt; refuses at once what cannot possibly fit."""
        if len(text) > _MAX_CHARS_PER_TOKEN * self.context_limit:
            raise UsageError(
                f"the prompt has {len(text)} characters, too many for a context of "
                f"{self.context_limit} tokens",
                code="context.exceeded",
                parameter="messages",
                hint="shorten the prompt",
            )
        return self.tokenizer.encode_prompt(text)

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Weights used in the mapped file, and weights held as copies."""
        return sum(s.mapped_bytes for s in self._spans), sum(s.copied_bytes for s in self._spans)

    def unit_ranges(self) -> list[tuple[ByteRange, ...]]:
        """The bytes of the file in the order in which they are computed with."""
        return [span.unit_ranges(unit) for span in self._spans for unit in span.units]

    def close(self) -> None:
        for span in self._spans:
            span.close()
        self.tokenizer.close()


class Node:
    """This machine: one place to compute, the models it has loaded, the process that renders chats."""

    def __init__(self, config: NodeConfig, templates: TemplateProcess | None = None) -> None:
        self.config = config
        self.models: dict[str, Model] = {}
        self._hosted: list[Span] = []
        self.templates = templates or TemplateProcess()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="compute")

    def load(self, opening: Opening, source: Source | None = None) -> Model:
        """Loads a model that has begun to open; blocks. The vocabulary loads beside the weights.

        With a `source`, the weights are still arriving: they load as they come, behind the prompts that
        wait for them.

        Raises:
            UsageError, IntegrityError, CapacityError: see `GGUFFile.open`, `read_model`, `Span`.
        """
        _, h = read_model(opening.file)
        blocks = BlockSpan(0, h.num_blocks)
        span, context_limit = self._load_span(
            opening.file, blocks, self.config, arrives=source is not None
        )
        try:
            return self._add(opening, [self._stage(span, source)], context_limit, [span])
        except BaseException:
            span.close()
            raise

    def load_route(self, opening: Opening, stages: Sequence[Stage], context_limit: int) -> Model:
        """A model whose blocks run in these stages, elsewhere; only its vocabulary is loaded here."""
        return self._add(opening, stages, context_limit, [])

    def host(self, file: GGUFFile, blocks: BlockSpan, context: int) -> tuple[Span, LocalStage]:
        """Loads a span for others to compute with, with texts of so many tokens; raises like `load`."""
        config = replace(self.config, context=context)
        span, _ = self._load_span(file, blocks, config, arrives=False)
        self._hosted.append(span)
        return span, LocalStage(span, self._worker)

    def drop(self, span: Span) -> None:
        """Frees a span that was hosted, after whatever it still computes; blocks."""
        self._hosted.remove(span)
        self._worker.submit(span.close).result()

    def _add(
        self,
        opening: Opening,
        stages: Sequence[Stage],
        context_limit: int,
        spans: list[Span],
    ) -> Model:
        stored, file = opening.stored, opening.file
        tokenizer = opening.tokenizer()
        model = Model(
            name=stored.name,
            path=stored.path,
            hyperparameters=read_model(file)[1],
            tokenizer=tokenizer,
            template=self._template(file, tokenizer),
            route=Route(stages),
            context_limit=context_limit,
            created=int(stored.path.stat().st_mtime),
            _spans=spans,
        )
        self.models[model.name] = model
        _keep_out_of_the_collector()
        return model

    def _stage(self, span: Span, source: Source | None) -> Stage:
        if source is not None:
            return ArrivingStage(span, self._worker, source)
        return LocalStage(span, self._worker) if self.config.max_sessions > 1 else SoloStage(span)

    def _load_span(
        self, file: GGUFFile, blocks: BlockSpan, config: NodeConfig, *, arrives: bool
    ) -> tuple[Span, int]:
        architecture, h = read_model(file)
        device = find_device(config.device)
        free = available_bytes() if device.kind == "cpu" else device.memory_bytes()[0]
        context, num_cells = _cache_size(h, len(blocks), config, free)
        copy_share = _COPY_SHARE if device.kind == "cpu" else 1.0
        span = Span(
            file,
            architecture,
            h,
            blocks,
            device,
            SpanConfig(
                num_threads=config.num_threads or default_threads(),
                context_limit=context,
                step_tokens=CHUNK_TOKENS,
                num_cells=num_cells,
                copy_budget_bytes=int(free * copy_share) if config.repack else 0,
            ),
            arrives=arrives,
        )
        if span.mapped_bytes < free * _COPY_SHARE:
            # The vocabulary still loads: this costs no time.
            span.populate()
        return span, context

    def _template(self, file: GGUFFile, tokenizer: Tokenizer) -> ChatTemplate:
        source = self.config.chat_template or file.text("tokenizer.chat_template")
        if not source:
            source = CHATML if tokenizer.knows("<|im_start|>") else TRANSCRIPT
        return ChatTemplate(self.templates, source, bos=tokenizer.bos, eos=tokenizer.eos)

    async def stop_arriving(self) -> None:
        """Waits for no more weights. Call it from the event loop that models arrive on."""
        for model in self.models.values():
            for stage in model.route.stages:
                if isinstance(stage, ArrivingStage):
                    await stage.close()

    def close(self) -> None:
        """Ends everything that was started; blocks until the step that runs is done."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        for model in self.models.values():
            model.close()
        self.models.clear()
        for span in self._hosted:
            span.close()
        self._hosted.clear()
        self.templates.close()


def _keep_out_of_the_collector() -> None:
    """What was loaded stays: the collector need not look at it again and again."""
    if gc.get_freeze_count():
        # Of models before this one, some may be garbage by now, with sockets that only die with it.
        gc.unfreeze()
        gc.collect()
    gc.freeze()


def _cache_size(
    h: Hyperparameters, num_blocks: int, config: NodeConfig, free_bytes: int
) -> tuple[int, int]:
    """The context limit, and how many tokens the cache holds for all sessions together."""
    token_bytes = 2 * num_blocks * cell_bytes(h)
    room = max(CELL_QUANTUM, int(free_bytes * _CACHE_SHARE) // token_bytes)
    if config.context is None:
        context = min(h.training_context, room)
    else:
        context = config.context
        needed = round_up(context, CELL_QUANTUM) * token_bytes
        if needed > free_bytes:
            raise CapacityError(
                f"a context of {context} tokens needs {format_bytes(needed)}, "
                f"{format_bytes(free_bytes)} are free",
                code="context.memory",
                needed=needed,
                available=free_bytes,
                hint=f"use --context {room} or less",
            )
    wanted = round_up(context, CELL_QUANTUM) * config.max_sessions
    return context, max(round_up(context, CELL_QUANTUM), min(wanted, room))
