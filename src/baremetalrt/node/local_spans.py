"""The spans in the memory of this process: loaded, counted, and computed in a thread for each device."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.needs import step_weight_bytes
from baremetalrt.blocks.span import Span
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.devices.budget import MemoryLedger, Promise
from baremetalrt.native.backend import BackendDevice, UnsupportedOperationError
from baremetalrt.node.device_choice import DeviceChoice, host_device
from baremetalrt.node.device_memory import DeviceMemory
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.node.span_loader import SpanLoader
from baremetalrt.session.stage import LocalStage
from baremetalrt.weights.gguf import GGUFFile

P = ParamSpec("P")
T = TypeVar("T")


class LocalSpans:
    """Loads spans on the devices of this machine. Safe to use from several threads."""

    def __init__(self, options: ModelOptions, ledger: MemoryLedger) -> None:
        self.options = options
        self.memory = DeviceMemory(options, ledger)
        self.devices = DeviceChoice(options, self.memory)
        self._ledger = ledger
        self._loader = SpanLoader(options, ledger, self.memory)
        self._promises: dict[Span, Promise] = {}
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._abandoned: list[Span] = []
        self._changing = threading.Lock()

    def fits(self, file: GGUFFile) -> bool:
        """Whether a model would be in memory as a whole, beside what is loaded."""
        return all(self._loader.fits(file, p.blocks, p.device) for p in self.devices.spans(file))

    def context(self, file: GGUFFile, blocks: BlockSpan, device: BackendDevice) -> int:
        """How long texts can be in a span there; raises `CapacityError`."""
        return self._loader.context(file, blocks, device)

    def load(
        self,
        opening: Opening,
        blocks: BlockSpan,
        device: BackendDevice,
        *,
        num_kept: int,
        arrives: bool = False,
        context: int | None = None,
    ) -> Span:
        """Loads a span for texts of this machine; raises like `SpanLoader.load`."""
        file = opening.file
        span = self._loader.load(
            file,
            blocks,
            device,
            num_kept=num_kept,
            arrives=arrives,
            settle=opening.settle,
            context=context,
        )
        self._note(span, 0)
        if not arrives and self.options.keeps_prefixes:
            span.prefixes = self._loader.prefixes(file, span)
        return span

    def load_for_peers(self, file: GGUFFile, blocks: BlockSpan, context: int) -> Span:
        """Loads a span for others to compute with, with texts of so many tokens; raises like `load`.

        On the fastest device that has room. Always in half precision: a peer that takes over computes the
        same numbers again. And whole: a text of peers may be cut far back when one of them is lost.
        """
        device = self.devices.for_span(file, blocks, step_weight_bytes(file, blocks))
        try:
            span = self._loader.load_for_peers(file, blocks, device, context)
        except (CapacityError, UnsupportedOperationError):
            if device.is_host or not self.devices.has_choice:
                raise
            span = self._loader.load_for_peers(file, blocks, host_device(), context)
        _, h = read_model(file)
        # What is passed on is kept as long as the text lasts: it may have to be sent again.
        self._note(span, 4 * h.width * span.cache.num_cells if blocks.end < h.num_blocks else 0)
        return span

    def _note(self, span: Span, rows_bytes: int) -> None:
        """What a span was promised counts, though it does not show as used yet."""
        promise = self._ledger.promise(lambda: _to_come(span) + rows_bytes)
        self.memory.note(span)
        with self._changing:
            self._promises[span] = promise

    def drop(self, span: Span) -> None:
        """Frees a span after whatever it still computes; blocks."""
        self._drop(span).result()

    def abandon(self, span: Span) -> None:
        """Frees one on a device that failed, whenever that ends what it does: nobody waits."""
        self._abandoned.append(span)
        self._drop(span)

    def _drop(self, span: Span) -> Future[None]:
        with self._changing:
            promise = self._promises.pop(span)
        promise.withdraw()
        self.memory.forget(span)
        return self.worker_of(span.device).submit(span.close)

    @property
    def all(self) -> list[Span]:
        """Those that are loaded now."""
        with self._changing:
            return list(self._promises)

    def worker_of(self, device: BackendDevice) -> ThreadPoolExecutor:
        """What computes there, one step after the other."""
        name = device.name.lower()
        with self._changing:
            if name not in self._workers:
                self._workers[name] = ThreadPoolExecutor(1, thread_name_prefix=f"compute-{name}")
            return self._workers[name]

    def stage(self, span: Span) -> LocalStage:
        """A stage of this span, for any number of sessions."""
        return LocalStage(span, self.worker_of(span.device))

    async def compute(
        self, span: Span, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls where nothing else touches a span that several texts use."""
        worker = self.worker_of(span.device)
        return await asyncio.wrap_future(worker.submit(call, *args, **kwargs))

    def compute_now(self, span: Span, call: Callable[[], T]) -> T:
        """The same, for threads, which wait."""
        return self.worker_of(span.device).submit(call).result()

    def settle(self) -> None:
        """Waits until nothing is computed that was asked for before; blocks."""
        for worker in list(self._workers.values()):
            worker.submit(lambda: None).result()

    def stop(self) -> None:
        """Computes nothing from now on; blocks until the steps that run are done."""
        for worker in self._workers.values():
            worker.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Frees all of them, once it has stopped."""
        with self._changing:
            promises, self._promises = self._promises, {}
        for promise in promises.values():
            promise.withdraw()
        for span in (*promises, *self._abandoned):
            span.close()


def _to_come(span: Span) -> int:
    """What a span was promised and does not show as used: cells not filled yet, and mapped weights."""
    return span.cache.unfilled_bytes + span.weights.mapped_bytes
