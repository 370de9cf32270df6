"""Spans of tiny models, opened the way a node opens them."""

from pathlib import Path

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import F16_CACHE, CacheTypes
from baremetalrt.blocks.extents import SlidingWindows
from baremetalrt.blocks.span import Span, SpanConfig
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native.backend import find_device
from baremetalrt.weights.gguf import GGUFFile


def open_span(
    path: Path,
    *,
    blocks: BlockSpan | None = None,
    num_cells: int = 2048,
    context: int = 1024,
    arrives: bool = False,
    step_tokens: int = 16,
    copy_budget_bytes: int = 1 << 30,
    weight_budget_bytes: int | None = None,
    cache_types: CacheTypes = F16_CACHE,
    windows: SlidingWindows | None = None,
    num_threads: int = 2,
    device: str = "cpu",
) -> Span:
    file = GGUFFile.open(path)
    architecture, h = read_model(file)
    return Span(
        file,
        architecture,
        h,
        blocks or BlockSpan(0, h.num_blocks),
        find_device(device),
        SpanConfig(
            num_threads=num_threads,
            context_limit=context,
            step_tokens=step_tokens,
            prompt_tokens=4096,
            num_cells=num_cells,
            copy_budget_bytes=copy_budget_bytes,
            weight_budget_bytes=weight_budget_bytes,
            cache_types=cache_types,
            windows=windows,
        ),
        arrives=arrives,
    )
