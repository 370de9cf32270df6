"""Loads a span with what memory there is for it: weights, cells, copies, and what the disk keeps."""

import os
from collections.abc import Callable

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import F16_CACHE, CacheTypes
from baremetalrt.blocks.extents import CELL_QUANTUM, SlidingWindows
from baremetalrt.blocks.kv_cache import CacheCost
from baremetalrt.blocks.needs import kept_row_bytes, row_bytes, step_weight_bytes
from baremetalrt.blocks.prefix_folder import PrefixFolder
from baremetalrt.blocks.span import Span, SpanConfig
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.places import prefixes_folder
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up
from baremetalrt.devices.budget import MemoryLedger, Purpose
from baremetalrt.devices.fitting import MAX_PROMPT_TOKENS, MAX_STEP_TOKENS, Fit, Needs, fit
from baremetalrt.devices.processor import default_threads
from baremetalrt.devices.survey import survey_library
from baremetalrt.native.backend import BackendDevice
from baremetalrt.node.cache_config import load_cache_config
from baremetalrt.node.device_memory import DeviceMemory
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.content import quick_id
from baremetalrt.weights.gguf import GGUFFile


class SpanLoader:
    """Loads spans as `options` say, with what `memory` there is."""

    def __init__(self, options: ModelOptions, ledger: MemoryLedger, memory: DeviceMemory) -> None:
        self._options = options
        self._ledger = ledger
        self._memory = memory

    def fits(self, file: GGUFFile, blocks: BlockSpan, device: BackendDevice) -> bool:
        """Whether all of these blocks would be in memory, beside what is loaded."""
        options = self._options
        needs, _ = self._needs(file, blocks, options.context, options.cache_types, slides=True)
        try:
            fitted = self._fit(needs, device)
        except CapacityError:
            return False
        return fitted.weight_budget_bytes is None

    def context(self, file: GGUFFile, blocks: BlockSpan, device: BackendDevice) -> int:
        """How long texts can be in a span of its own; raises `CapacityError`."""
        options = self._options
        needs, _ = self._needs(file, blocks, options.context, options.cache_types, slides=True)
        return self._fit(needs, device).context

    def _fit(self, needs: Needs, device: BackendDevice, *, can_stream: bool = True) -> Fit:
        free = self._memory.free(device)
        if device.is_host:
            return fit(needs, free, can_stream=can_stream)
        return fit(needs, free, can_stream=False, must_hold=True)

    def load(
        self,
        file: GGUFFile,
        blocks: BlockSpan,
        device: BackendDevice,
        *,
        num_kept: int,
        arrives: bool,
        settle: Callable[[], object],
        context: int | None = None,
    ) -> Span:
        """A span for this machine's own texts, as long as is asked for, or as model and memory allow.

        `context`: as long as the other spans of a route take them. It has room for `num_kept` tokens
        besides, which stay. Where memory is scarce, `settle` waits for what else is being loaded; what
        does not fit then is read from disk in every step. Raises like `Span` and `fit`.
        """
        options = self._options
        return self._load(
            file,
            blocks,
            device,
            options.context if context is None else context,
            options.cache_types,
            num_kept=num_kept,
            slides=True,
            arrives=arrives,
            settle=settle,
        )

    def load_for_peers(
        self, file: GGUFFile, blocks: BlockSpan, device: BackendDevice, context: int
    ) -> Span:
        """A span for texts of others; raises likewise.

        A text may go from host to host, and comes out the same: in half precision everywhere, and with
        all that a window has left behind.
        """
        return self._load(
            file,
            blocks,
            device,
            context,
            F16_CACHE,
            num_kept=0,
            slides=False,
            arrives=False,
            settle=None,
        )

    def prefixes(self, file: GGUFFile, span: Span) -> PrefixFolder | None:
        """What is kept on disk of texts in a span, for all that its numbers depend on."""
        config = load_cache_config()
        if not config.disk:
            return None
        device, library = span.device, survey_library()
        built = os.stat(library.path)
        made_by = {
            "model": quick_id(file),
            "library": [library.ggml, library.llama, built.st_size, built.st_mtime_ns],
            "device": [device.kind, device.description],
            "types": [span.cache.types.keys, span.cache.types.values],
            "blocks": [span.blocks.start, span.blocks.end],
            # Reordered or not, sums are rounded in another order.
            "copied": span.weights.copied_bytes,
            "is_long": span.context_limit > span.hyperparameters.rope.original_context,
        }
        return PrefixFolder(
            prefixes_folder(),
            made_by,
            budget_bytes=config.budget,
            window=span.hyperparameters.window,
        )

    def _needs(
        self,
        file: GGUFFile,
        blocks: BlockSpan,
        context: int | None,
        cache_types: CacheTypes,
        *,
        slides: bool,
        prompt_tokens: int = MAX_STEP_TOKENS,
    ) -> tuple[Needs, SlidingWindows | None]:
        """What a span takes, and how its blocks with a sliding window give back what fell out of it.

        `prompt_tokens`: how much of a prompt is taken at once; until it is over, nothing falls out.
        """
        _, h = read_model(file)
        sessions = self._options.max_sessions
        windows = None
        if slides and any(map(h.is_windowed, blocks)):
            # One more than are active: some of what ended stays for who goes on with it.
            windows = SlidingWindows(
                size=h.window, num_texts=sessions + 1, step_tokens=prompt_tokens
            )
        needs = Needs(
            weight_bytes=step_weight_bytes(file, blocks),
            cache=CacheCost.of(h, blocks, cache_types, windows),
            row_bytes=row_bytes(h),
            kept_row_bytes=kept_row_bytes(h),
            context=context,
            max_context=h.training_context,
            num_texts=sessions,
            quantum=CELL_QUANTUM,
        )
        return needs, windows

    def _load(
        self,
        file: GGUFFile,
        blocks: BlockSpan,
        device: BackendDevice,
        context: int | None,
        cache_types: CacheTypes,
        *,
        num_kept: int,
        slides: bool,
        arrives: bool,
        settle: Callable[[], object] | None,
    ) -> Span:
        """`slides`: blocks with a sliding window give back what has fallen out of it."""
        architecture, h = read_model(file)
        needs, windows = self._needs(file, blocks, context, cache_types, slides=slides)
        can_stream = settle is not None
        fitted = self._fit(needs, device, can_stream=can_stream)
        if settle is not None and fitted.weight_budget_bytes is not None:
            settle()
            needs, windows = self._needs(
                file, blocks, context, cache_types, slides=slides, prompt_tokens=MAX_PROMPT_TOKENS
            )
            fitted = self._fit(needs, device, can_stream=can_stream)
        num_cells = fitted.num_cells + round_up(num_kept, CELL_QUANTUM)
        copies, repack = fitted.copy_budget_bytes, self._options.repack
        if not device.is_host:
            # It holds nothing but what is copied there.
            copies, repack = self._memory.free(device), True
        free = self._ledger.free()
        span = Span(
            file,
            architecture,
            h,
            blocks,
            device,
            SpanConfig(
                num_threads=self._options.num_threads or default_threads(),
                context_limit=fitted.context,
                step_tokens=fitted.step_tokens,
                prompt_tokens=fitted.prompt_tokens,
                num_cells=num_cells,
                copy_budget_bytes=copies if repack else 0,
                weight_budget_bytes=fitted.weight_budget_bytes,
                cache_types=cache_types,
                windows=windows,
            ),
            arrives=arrives,
        )
        if span.weights.mapped_bytes < self._ledger.room_for(Purpose.READ_AHEAD, free):
            # The vocabulary still loads: this costs no time.
            span.weights.populate()
        return span
