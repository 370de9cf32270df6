"""Puts a model together: file, tokenizer, template, spans on devices, route. The only place that does."""

import gc
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.outline import read_outline, runs_whole
from baremetalrt.blocks.span import Span
from baremetalrt.core.errors import CapacityError, IntegrityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.devices.budget import LEDGER, MemoryLedger, Promise, Purpose
from baremetalrt.devices.rates import TYPICAL
from baremetalrt.native.allocator import return_freed
from baremetalrt.native.backend import BackendDevice
from baremetalrt.node.device_choice import host_device
from baremetalrt.node.loaded import loaded_span, loaded_whole
from baremetalrt.node.local_spans import LocalSpans
from baremetalrt.node.model import Model, Use
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.node.presence import Presence
from baremetalrt.session.chat_template import ChatTemplate, TemplateProcess, template_of
from baremetalrt.session.public_text import beginning_of
from baremetalrt.session.recommended import recommended
from baremetalrt.session.route import Route
from baremetalrt.session.stage import DirectStage, LocalStage, QueuedStage, SoloStage, Stage
from baremetalrt.weights.gguf import GGUFFile

if TYPE_CHECKING:
    from baremetalrt.session.arriving_stage import ArrivingStage, WeightSource
    from baremetalrt.session.whole.process import WholeProcess

P = ParamSpec("P")
T = TypeVar("T")


class Node:
    """This machine: its devices, the models it has loaded, the process that renders chats."""

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
        self.local = LocalSpans(options, ledger)
        if options.memory_bytes is not None:
            ledger.limit(options.memory_bytes)
        self._promises: dict[WholeProcess, Promise] = {}
        self._hosted: dict[Span, tuple[Use, str]] = {}
        self._presence: Presence | None = None
        self._arriving: list[ArrivingStage] = []
        self.templates = TemplateProcess()
        self._growing = ledger.promise(self.templates.to_come)
        # models come and go in threads, while the loop answers with those that are there
        self._changing = threading.Lock()

    @property
    def models(self) -> Mapping[str, Model]:
        """Those that are loaded now, by name: what is asked for once does not change any more."""
        return self._models

    def keep(self, model: Model) -> None:
        """One more that can be asked, from any thread."""
        model.use.on_use = self._note_use
        with self._changing:
            self._models = MappingProxyType({**self._models, model.name: model})
        self._show()

    def _note_use(self) -> None:
        if self._presence is not None and self._presence.is_due:
            self._show()

    def _show(self) -> None:
        """Says on this machine what is loaded now."""
        if self._presence is None:
            command = "serve" if self._serves else "run"
            self._presence = Presence(command, self.options.memory_bytes)
        with self._changing:
            hosted = [(span, use, name) for span, (use, name) in self._hosted.items()]
        own = [(span, m.use, m.name) for m in self._models.values() for span in m.spans]
        spans = (loaded_span(span, use, name) for span, use, name in (*own, *hosted))
        whole = [
            loaded_whole(m, m.process.config.device) for m in self._models.values() if m.process
        ]
        self._presence.write((*spans, *whole))

    def take(self, name: str) -> Model:
        """A model that nobody can ask any more; `end` it once nobody does."""
        with self._changing:
            models = dict(self._models)
            model = models.pop(name)
            self._models = MappingProxyType(models)
        return model

    def end(self, model: Model) -> None:
        """Frees a model that was taken, after whatever it still computes; blocks."""
        model.end_process()
        for span in list(model.spans):
            self.local.drop(span)
        self.local.settle()
        model.close()
        if model.process is not None:
            with self._changing:
                promise = self._promises.pop(model.process)
            promise.withdraw()
        return_freed()
        self._show()

    def fits(self, opening: Opening) -> bool:
        """Whether a model would be in memory as a whole, beside those that are loaded."""
        file = opening.file
        if runs_whole(file):
            return file.num_bytes <= self.ledger.room_for(Purpose.WHOLE_MODEL)
        return self.local.fits(file)

    def load(self, opening: Opening, source: "WeightSource | None" = None) -> Model:
        """Loads a model that has begun to open; blocks. The vocabulary loads beside the weights.

        With a `source`, the weights are still arriving: they load as they come, behind the prompts that
        wait for them. Where a model `runs_whole`, they must all be here.

        Raises:
            UsageError, IntegrityError, CapacityError: see `GGUFFile.open`, `read_model`, `Span`, and
                `start_whole`.
        """
        if runs_whole(opening.file):
            if source is not None:
                raise ValueError("a model that runs whole cannot follow its download")
            return self._load_whole(opening)
        beginning = self._public_beginning(opening) if source is None else []
        usable = self.local.devices.usable()
        # What has not all come cannot be tried on a device that nobody asked for by its name.
        device = usable[0] if len(usable) == 1 else host_device()
        if source is None:
            placed = self.local.devices.spans(opening.file)
            if any(not one.device.is_host for one in placed):
                return self._load_spread(opening, beginning)
        blocks = BlockSpan(0, read_model(opening.file)[1].num_blocks)
        span = self.local.load(
            opening, blocks, device, num_kept=len(beginning), arrives=source is not None
        )
        try:
            stage = self._stage(span, source)
            model = self._add(opening, [stage], span.context_limit, [span])
            model.beginning = beginning
            return model
        except BaseException:
            self.local.drop(span)
            raise

    def _load_spread(self, opening: Opening, beginning: list[int]) -> Model:
        # Here and not above: most machines have one device.
        from baremetalrt.node.spread import SpreadModel

        spread = SpreadModel(self.local, opening, num_kept=len(beginning))
        try:
            model = self._add(opening, [spread.stage], spread.context_limit, spread.spans)
            model.beginning = beginning
            return model
        except BaseException:
            for span in spread.spans:
                self.local.drop(span)
            raise

    def _load_whole(self, opening: Opening) -> Model:
        # Here and not above: most models never need it.
        from baremetalrt.node.whole_model import tokenizer_of
        from baremetalrt.session.whole.texts import WholeTexts

        vocabulary_size = tokenizer_of(opening).size
        beginning = self._public_beginning(opening)
        process, context_limit, device = self._start_whole(opening, vocabulary_size, beginning)
        # Its weights are mapped there, and count as if they were all in memory.
        promise = self.ledger.promise(lambda: opening.file.num_bytes)
        with self._changing:
            self._promises[process] = promise
        try:
            texts = WholeTexts(process, vocabulary_size)
            stage = (
                QueuedStage(texts, self.local.worker_of(device))
                if self._is_shared
                else DirectStage(texts)
            )
            model = self._add(opening, [stage], context_limit, [], process)
            model.beginning = beginning
            return model
        except BaseException:
            with self._changing:
                del self._promises[process]
            promise.withdraw()
            process.close()
            raise

    def _start_whole(
        self, opening: Opening, vocabulary_size: int, beginning: list[int]
    ) -> "tuple[WholeProcess, int, BackendDevice]":
        """On the fastest device that has room; on the host, if it fails there and nobody asked for it."""
        from baremetalrt.node.whole_model import start_whole

        device = self.local.devices.fastest(TYPICAL, opening.file.num_bytes)
        while True:
            free = self.local.memory.free(device)
            try:
                process, context_limit = start_whole(
                    opening.file,
                    vocabulary_size,
                    self.options,
                    device,
                    free,
                    num_kept=len(beginning),
                )
                return process, context_limit, device
            except (CapacityError, IntegrityError):
                if device.is_host or not self.local.devices.has_choice:
                    raise
                device = host_device()

    def load_route(self, opening: Opening, stages: Sequence[Stage], context_limit: int) -> Model:
        """A model whose blocks run in these stages, elsewhere; only its vocabulary is loaded here."""
        return self._add(opening, stages, context_limit, [])

    def host(self, file: GGUFFile, blocks: BlockSpan, context: int) -> tuple[Span, LocalStage]:
        """Loads a span for others to compute with, with texts of so many tokens; raises like `load`."""
        span = self.local.load_for_peers(file, blocks, context)
        with self._changing:
            self._hosted[span] = Use(), file.path.stem
        self._show()
        return span, self.local.stage(span)

    def drop(self, span: Span) -> None:
        """Frees a span that was hosted, after whatever it still computes; blocks."""
        with self._changing:
            del self._hosted[span]
        self.local.drop(span)
        self._show()

    @property
    def spans(self) -> list[Span]:
        """All that are loaded now."""
        return self.local.all

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
        process: "WholeProcess | None" = None,
    ) -> Model:
        stored, file = opening.stored, opening.file
        shape = read_outline(file) if process else read_model(file)[1]
        model = Model(
            name=stored.name,
            path=stored.path,
            num_blocks=shape.num_blocks,
            vocabulary_size=shape.vocabulary_size,
            tokenizer=opening.tokenizer(),
            template=self._template(opening),
            route=Route(stages),
            context_limit=context_limit,
            created=int(stored.path.stat().st_mtime),
            slides=self.options.context_overflow == "slide",
            sampling=recommended(file.get),
            _spans=spans,
            _process=process,
        )
        self.keep(model)
        _keep_out_of_the_collector()
        return model

    def _stage(self, span: Span, source: "WeightSource | None") -> Stage:
        if source is not None:
            from baremetalrt.session.arriving_stage import ArrivingStage

            stage = ArrivingStage(span, self.local.worker_of(span.device), source)
            self._arriving.append(stage)
            return stage
        return self.local.stage(span) if self._is_shared else SoloStage(span)

    @property
    def _is_shared(self) -> bool:
        return self._serves or self.options.max_sessions > 1

    async def stop_arriving(self) -> None:
        """Waits for no more weights. Call it from the event loop that models arrive on."""
        while self._arriving:
            await self._arriving.pop().close()

    def close(self) -> None:
        """Ends everything that was started; blocks until the step that runs is done."""
        for model in self._models.values():
            # Such a step ends with its process.
            model.end_process()
        self.local.stop()
        with self._changing:
            promises, models = self._promises, self._models
            self._promises, self._models, self._hosted = {}, MappingProxyType({}), {}
        if self._presence is not None:
            self._presence.withdraw()
        for promise in promises.values():
            promise.withdraw()
        for model in models.values():
            model.close()
        self.local.close()
        self._growing.withdraw()
        self.templates.close()


def _keep_out_of_the_collector() -> None:
    """What was loaded stays: the collector need not look at it again and again."""
    if gc.get_freeze_count():
        # Of models before this one, some may be garbage by now, with sockets that only die with it.
        gc.unfreeze()
        gc.collect()
    gc.freeze()
