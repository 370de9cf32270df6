"""Puts a model together: file, tokenizer, template, spans on devices, route. The only place that does."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import F16_CACHE, CacheTypes
from baremetalrt.blocks.extents import CELL_QUANTUM, SlidingWindows
from baremetalrt.blocks.kv_cache import CacheCost
from baremetalrt.blocks.prefix_folder import PrefixFolder
from baremetalrt.blocks.span import Span, SpanConfig
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.places import prefixes_folder
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import format_bytes, round_up
from baremetalrt.devices.budget import LEDGER, MemoryLedger, Promise, Purpose
from baremetalrt.devices.processor import default_threads
from baremetalrt.devices.survey import survey_library
from baremetalrt.native.backend import find_device
from baremetalrt.node.cache_config import load_cache_config
from baremetalrt.node.model import Model
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.chat_template import ChatTemplate, TemplateProcess, template_of
from baremetalrt.session.public_text import beginning_of
from baremetalrt.session.route import Route
from baremetalrt.session.stage import CHUNK_TOKENS, LocalStage, SoloStage, Stage
from baremetalrt.weights.content import quick_id
from baremetalrt.weights.gguf import GGUFFile

if TYPE_CHECKING:
    from baremetalrt.session.arriving_stage import ArrivingStage, WeightSource

P = ParamSpec("P")
T = TypeVar("T")


class Node:
    """This machine: one place to compute, the models it has loaded, the process that renders chats."""

    def __init__(
        self,
        options: ModelOptions,
        *,
        ledger: MemoryLedger = LEDGER,
        serves: bool = False,
    ) -> None:
        """`serves`: others wait on the event loop while a text is computed, even the only one."""
        self.options = options
        self._serves = serves
        self._models: Mapping[str, Model] = MappingProxyType({})
        self.ledger = ledger
        self._promises: dict[Span, Promise] = {}
        self._hosted: list[Span] = []
        self._arriving: list[ArrivingStage] = []
        self.templates = TemplateProcess()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="compute")
        # models come and go in threads, while the loop answers with those that are there
        self._changing = threading.Lock()

    @property
    def models(self) -> Mapping[str, Model]:
        """Those that are loaded now, by name: what is asked for once does not change any more."""
        return self._models

    def keep(self, model: Model) -> None:
        """One more that can be asked, from any thread."""
        with self._changing:
            self._models = MappingProxyType({**self._models, model.name: model})

    def load(self, opening: Opening, source: "WeightSource | None" = None) -> Model:
        """Loads a model that has begun to open; blocks. The vocabulary loads beside the weights.

        With a `source`, the weights are still arriving: they load as they come, behind the prompts that
        wait for them.

        Raises:
            UsageError, IntegrityError, CapacityError: see `GGUFFile.open`, `read_model`, `Span`.
        """
        _, h = read_model(opening.file)
        blocks = BlockSpan(0, h.num_blocks)
        beginning = self._public_beginning(opening) if source is None else []
        span, context_limit = self._load_span(
            opening.file,
            blocks,
            self.options.context,
            self.options.cache_types,
            num_kept=len(beginning),
            arrives=source is not None,
        )
        if source is None and self.options.keeps_prefixes:
            span.prefixes = self._prefixes(opening.file, span, context_limit)
        try:
            model = self._add(opening, [self._stage(span, source)], context_limit, [span])
            model.beginning = beginning
            return model
        except BaseException:
            with self._changing:
                promise = self._promises.pop(span)
            promise.withdraw()
            span.close()
            raise

    def load_route(self, opening: Opening, stages: Sequence[Stage], context_limit: int) -> Model:
        """A model whose blocks run in these stages, elsewhere; only its vocabulary is loaded here."""
        return self._add(opening, stages, context_limit, [])

    def host(self, file: GGUFFile, blocks: BlockSpan, context: int) -> tuple[Span, LocalStage]:
        """Loads a span for others to compute with, with texts of so many tokens; raises like `load`."""
        # Always in half precision: a peer that takes over computes the same numbers again. And whole: a
        # text of peers may be cut far back when one of them is lost.
        span, _ = self._load_span(file, blocks, context, F16_CACHE, slides=False, arrives=False)
        _, h = read_model(file)
        with self._changing:
            if blocks.end < h.num_blocks:
                # What is passed on is kept as long as the text lasts: it may have to be sent again.
                rows_bytes = 4 * h.width * span.cache.num_cells
                self._promises[span].withdraw()
                self._promises[span] = self.ledger.promise(
                    lambda: span.cache.unfilled_bytes + rows_bytes
                )
            self._hosted.append(span)
        return span, LocalStage(span, self._worker)

    def drop(self, span: Span) -> None:
        """Frees a span that was hosted, after whatever it still computes; blocks."""
        with self._changing:
            self._hosted.remove(span)
            promise = self._promises.pop(span)
        promise.withdraw()
        self._worker.submit(span.close).result()

    @property
    def spans(self) -> list[Span]:
        """All that are loaded now."""
        with self._changing:
            return list(self._promises)

    async def compute(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls where nothing else touches a span that several texts use."""
        return await asyncio.wrap_future(self._worker.submit(call, *args, **kwargs))

    def compute_now(self, call: Callable[[], T]) -> T:
        """The same, for threads, which wait."""
        return self._worker.submit(call).result()

    def _prefixes(self, file: GGUFFile, span: Span, context_limit: int) -> PrefixFolder | None:
        """What is kept on disk of texts in a span, for all that its numbers depend on."""
        config = load_cache_config()
        if not config.disk:
            return None
        device, library = find_device(self.options.device), survey_library()
        built = os.stat(library.path)
        made_by = {
            "model": quick_id(file),
            "library": [library.ggml, library.llama, built.st_size, built.st_mtime_ns],
            "device": [device.kind, device.description],
            "types": [span.cache.types.keys, span.cache.types.values],
            "blocks": [span.blocks.start, span.blocks.end],
            "is_long": context_limit > span.hyperparameters.rope.original_context,
        }
        return PrefixFolder(
            prefixes_folder(),
            made_by,
            budget_bytes=config.budget,
            window=span.hyperparameters.window,
        )

    def _public_beginning(self, opening: Opening) -> list[int]:
        system = self.options.public_system
        return beginning_of(self._template(opening), opening.tokenizer(), system) if system else []

    def _template(self, opening: Opening) -> ChatTemplate:
        written = self.options.chat_template or opening.file.text("tokenizer.chat_template")
        return template_of(written, opening.tokenizer(), self.templates)

    def _add(
        self,
        opening: Opening,
        stages: Sequence[Stage],
        context_limit: int,
        spans: list[Span],
    ) -> Model:
        stored, file = opening.stored, opening.file
        model = Model(
            name=stored.name,
            path=stored.path,
            hyperparameters=read_model(file)[1],
            tokenizer=opening.tokenizer(),
            template=self._template(opening),
            route=Route(stages),
            context_limit=context_limit,
            created=int(stored.path.stat().st_mtime),
            slides=self.options.context_overflow == "slide",
            _spans=spans,
        )
        self.keep(model)
        _keep_out_of_the_collector()
        return model

    def _stage(self, span: Span, source: "WeightSource | None") -> Stage:
        if source is not None:
            from baremetalrt.session.arriving_stage import ArrivingStage

            stage = ArrivingStage(span, self._worker, source)
            self._arriving.append(stage)
            return stage
        is_shared = self._serves or self.options.max_sessions > 1
        return LocalStage(span, self._worker) if is_shared else SoloStage(span)

    def _load_span(
        self,
        file: GGUFFile,
        blocks: BlockSpan,
        context: int | None,
        cache_types: CacheTypes,
        *,
        num_kept: int = 0,
        slides: bool = True,
        arrives: bool,
    ) -> tuple[Span, int]:
        """A span, and how long a text in it may be: `context`, or what the model and memory allow.

        It has room for `num_kept` tokens besides, which stay. `slides`: blocks with a sliding window give
        back what has fallen out of it.
        """
        architecture, h = read_model(file)
        device = find_device(self.options.device)
        is_host = device.kind == "cpu"
        free = self.ledger.free() if is_host else device.memory_bytes()[0]

        def room_for(purpose: Purpose) -> int:
            return self.ledger.room_for(purpose, free)

        sessions = self.options.max_sessions
        windows = None
        if slides and any(map(h.is_windowed, blocks)):
            # One more than are active: some of what ended stays for who goes on with it.
            windows = SlidingWindows(
                size=h.window, num_texts=sessions + 1, step_tokens=CHUNK_TOKENS
            )
        cost = CacheCost.of(h, blocks, cache_types, windows)
        context_limit, num_cells = _cache_size(
            cost, h.training_context, context, sessions, room_for
        )
        num_cells += round_up(num_kept, CELL_QUANTUM)
        copies = room_for(Purpose.COPIES if is_host else Purpose.DEVICE_WEIGHTS)
        span = Span(
            file,
            architecture,
            h,
            blocks,
            device,
            SpanConfig(
                num_threads=self.options.num_threads or default_threads(),
                context_limit=context_limit,
                step_tokens=CHUNK_TOKENS,
                num_cells=num_cells,
                copy_budget_bytes=copies if self.options.repack else 0,
                cache_types=cache_types,
                windows=windows,
            ),
            arrives=arrives,
        )
        promise = self.ledger.promise(lambda: span.cache.unfilled_bytes)
        with self._changing:
            self._promises[span] = promise
        if span.mapped_bytes < room_for(Purpose.READ_AHEAD):
            # The vocabulary still loads: this costs no time.
            span.populate()
        return span, context_limit

    async def stop_arriving(self) -> None:
        """Waits for no more weights. Call it from the event loop that models arrive on."""
        while self._arriving:
            await self._arriving.pop().close()

    def close(self) -> None:
        """Ends everything that was started; blocks until the step that runs is done."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        with self._changing:
            promises, models, hosted = self._promises, self._models, self._hosted
            self._promises, self._models, self._hosted = {}, MappingProxyType({}), []
        for promise in promises.values():
            promise.withdraw()
        for model in models.values():
            model.close()
        for span in hosted:
            span.close()
        self.templates.close()


def _keep_out_of_the_collector() -> None:
    """What was loaded stays: the collector need not look at it again and again."""
    if gc.get_freeze_count():
        # Of models before this one, some may be garbage by now, with sockets that only die with it.
        gc.unfreeze()
        gc.collect()
    gc.freeze()


def _cache_size(
    cost: CacheCost,
    training_context: int,
    context: int | None,
    max_sessions: int,
    room_for: Callable[[Purpose], int],
) -> tuple[int, int]:
    """The context limit, and how many tokens the cache holds for all sessions together."""
    room = max(CELL_QUANTUM, cost.max_cells(room_for(Purpose.CACHE)))
    if context is None:
        context = min(training_context, room)
    else:
        needed = cost.num_bytes(round_up(context, CELL_QUANTUM))
        free = room_for(Purpose.ASKED_FOR)
        if needed > free:
            raise CapacityError(
                f"a context of {context} tokens needs {format_bytes(needed)}, "
                f"{format_bytes(free)} are free",
                code="context.memory",
                needed=needed,
                available=free,
                hint=f"use --context {room} or less",
            )
    wanted = round_up(context, CELL_QUANTUM) * max_sessions
    return context, max(round_up(context, CELL_QUANTUM), min(wanted, room))
