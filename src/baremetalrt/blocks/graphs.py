"""The graphs of a span: built once per shape of step, kept, and run again and again."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.architecture import Architecture
from baremetalrt.blocks.builder import BlockBuilder
from baremetalrt.blocks.cache_types import F16_CACHE
from baremetalrt.blocks.delta import Delta, adapted
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.inputs import Input, StepInputs
from baremetalrt.blocks.kv_cache import KVCache
from baremetalrt.blocks.prefix_store import AdapterKey
from baremetalrt.blocks.streams import StepShape, StreamGroup
from baremetalrt.blocks.weight_loader import SpanWeights
from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice, HostBuffer
from baremetalrt.native.graph import (
    F32,
    I32,
    GraphAllocator,
    GraphBuilder,
    MovableViews,
    Tensor,
)

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import LoadedAdapters

# A block of any architecture is at most this many operations, views included; attention adds a few
# per group of streams, experts a few per expert used.
_NODES_PER_BLOCK: Final = 48
_NODES_PER_GROUP: Final = 12
_NODES_PER_EXPERT: Final = 4
_OUTER_NODES: Final = 32
# Per matrix that is adapted: two products, two views, a sum.
_NODES_PER_DELTA: Final = 6
# Prefill of a full and of a last odd chunk, decode before and after the next quantum of cells, for
# some numbers of sessions. As many again for each set of adapters.
_MAX_GRAPHS: Final = 12
_GraphKey = tuple[StepShape, int, BlockSpan, AdapterKey]


@dataclass
class SpanGraph:
    """A graph, its inputs and its output."""

    builder: GraphBuilder
    x: Input
    inputs: StepInputs
    output: Tensor
    output_shape: tuple[int, int]
    # where the output lies, when that is memory of the host
    rows: NDArray[np.float32] | None
    _rows_buffer: HostBuffer | None
    # views of keys and of values, which are not always equally large
    _views: tuple[list[Tensor], list[Tensor]]
    _movable: tuple[MovableViews, MovableViews] | None
    _base_cell: int

    def move_to(self, base_cell: int, cache: KVCache) -> None:
        """Lets attention read another stretch of the cache, laid out alike."""
        if base_cell == self._base_cell:
            return
        if self._movable is None:
            keys, values = self._views
            self._movable = MovableViews(keys), MovableViews(values)
        step = base_cell - self._base_cell
        self._movable[0].move(step * cache.key_bytes)
        self._movable[1].move(step * cache.value_bytes)
        self._base_cell = base_cell

    def close(self) -> None:
        self.builder.context.close()
        if self._rows_buffer is not None:
            self._rows_buffer.close()


class GraphCache:
    """Builds graphs for a span, and keeps the last few."""

    def __init__(
        self,
        architecture: Architecture,
        h: Hyperparameters,
        span: BlockSpan,
        device: BackendDevice,
        weights: SpanWeights,
        cache: KVCache,
        *,
        context_limit: int,
    ) -> None:
        self._architecture = architecture
        self._h = h
        self._span = span
        self._device = device
        self._weights = weights
        self._cache = cache
        self._context_limit = context_limit
        self._allocator = GraphAllocator(device.buffer_type())
        self._graphs: OrderedDict[_GraphKey, SpanGraph] = OrderedDict()
        self.generation = 0

    def get(
        self,
        shape: StepShape,
        base_cell: int,
        part: BlockSpan,
        adapters: "LoadedAdapters | None" = None,
    ) -> SpanGraph:
        """The graph for a step of this shape through the blocks `part`, all of them or some.

        The cells of its first session begin at `base_cell`. All its sessions use `adapters`.

        A graph stays usable until `generation` changes.

        Raises:
            CapacityError: no memory for the step.
        """
        # Views are moved by changing addresses, which is for the host alone.
        movable = self._device.kind == "cpu"
        key = shape, 0 if movable else base_cell, part, adapters.key if adapters else ()
        graph = self._graphs.get(key)
        if graph is None:
            built = self._build(shape, base_cell, part, adapters)
            graph = self._graphs[key] = self._place(built, shape)
        self._graphs.move_to_end(key)
        alike = [other for other in self._graphs if other[-1] == key[-1]]
        if len(alike) > _MAX_GRAPHS:
            self._graphs.pop(alike[0]).close()
            self.generation += 1
        return graph

    def forget(self, adapters: AdapterKey) -> None:
        """Drops the graphs that read these adapters, whose memory goes."""
        for key in [key for key in self._graphs if key[-1] == adapters]:
            self._graphs.pop(key).close()
        self.generation += 1

    def reserve(
        self, num_tokens: int, num_cells: int, adapters: "LoadedAdapters | None" = None
    ) -> None:
        """Takes the memory for the largest step that is expected, so that the buffer never moves.

        A buffer that grows step by step leaves holes behind, and costs the graphs placed in it.
        """
        is_last = self._span.end == self._h.num_blocks
        group = StreamGroup(
            first_cell=0, stride=0, num_streams=1, num_cells=num_cells, window_start=0
        )
        outputs = 1 if is_last else num_tokens
        self.get(StepShape(num_tokens, outputs, (group,)), 0, self._span, adapters)

    def close(self) -> None:
        self._drop()
        self._allocator.close()

    def _drop(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self.generation += 1

    def _place(self, graph: SpanGraph, shape: StepShape) -> SpanGraph:
        before = self._allocator.num_bytes
        if not self._allocator.allocate(graph.builder.graph):
            graph.close()
            # The old buffer was given back before the larger one was refused: the tensors of older graphs
            # point into freed memory, and the allocator takes its plan for done.
            self._drop()
            self._allocator.close()
            self._allocator = GraphAllocator(self._device.buffer_type())
            raise CapacityError(
                f"no memory for a step of {shape.num_tokens} tokens",
                code="native.allocation",
                hint="use a shorter context or fewer sessions",
            )
        if self._allocator.num_bytes != before:
            # The buffer moved: the tensors of older graphs point into freed memory.
            self._drop()
        if self._device.kind != "cpu":
            self._check_supported(graph)
        graph.x.bind(self._device)
        graph.inputs.bind(self._device)
        return graph

    def _check_supported(self, graph: SpanGraph) -> None:
        unsupported = backend.unsupported_operation(self._device, graph.builder.graph)
        if unsupported:
            graph.close()
            hint = "run it on the CPU, or use another quantization"
            if self._cache.types != F16_CACHE:
                hint = "run it on the CPU, or keep keys and values in f16"
            raise UsageError(
                f"{self._device.name} cannot compute {unsupported} of this model",
                code="device.unsupported",
                parameter="device",
                hint=hint,
            )

    def _build(
        self,
        shape: StepShape,
        base_cell: int,
        part: BlockSpan,
        adapters: "LoadedAdapters | None",
    ) -> SpanGraph:
        h, weights, device = self._h, self._weights, self._device
        per_block = _NODES_PER_BLOCK + _NODES_PER_GROUP * len(shape.groups)
        per_block += _NODES_PER_EXPERT * h.num_experts_used
        num_deltas = adapters.num_deltas if adapters else 0
        num_nodes = len(part) * per_block + _OUTER_NODES + _NODES_PER_DELTA * num_deltas
        g = GraphBuilder(num_nodes)
        outer_deltas = adapters.outer if adapters else {}
        inputs = StepInputs(g, shape, h)
        tokens = shape.num_tokens
        if part.start == 0:
            x = Input(g, I32, np.int32, tensor_shape=(tokens,), array_shape=(tokens,))
            y = g.get_rows(weights.outer["token_embd.weight"], x.tensor)
            if "token_embd" in outer_deltas:
                delta = outer_deltas["token_embd"]
                y = g.add(y, g.mul_mat(delta.a, g.get_rows(delta.b, x.tensor)))
            if h.embedding_scale != 1.0:
                y = g.scale(y, h.embedding_scale)
        else:
            widths = {"tensor_shape": (h.width, tokens), "array_shape": (tokens, h.width)}
            x = Input(g, F32, np.float32, **widths)
            y = x.tensor
        views: tuple[list[Tensor], list[Tensor]] = [], []
        for i in part:
            block = BlockBuilder(
                g,
                inputs,
                shape,
                h,
                self._cache,
                index=i,
                base_cell=base_cell,
                weights=weights.blocks[i],
                rope_factors=self._rope_factors(),
                rope_mode=self._architecture.rope_mode,
                selects=i == h.num_blocks - 1,
                deltas=adapters.blocks.get(i, {}) if adapters else {},
            )
            y = self._architecture.block(block, y)
            views[0].extend(block.key_views)
            views[1].extend(block.value_views)
        rows, rows_buffer = None, None
        output_shape = (shape.num_outputs, h.width)
        if shape.num_outputs:
            # Without a reader nothing asks for `y`: the last block only stores keys and values.
            if part.end == h.num_blocks:
                y = self._head(g, y, outer_deltas.get("output"))
                output_shape = (shape.num_outputs, h.vocabulary_size)
                if device.kind == "cpu":
                    # Results are written where they will be read: nothing is copied out.
                    rows, rows_buffer = backend.host_array(device, output_shape, np.float32)
                    backend.place(y, rows_buffer, rows_buffer.base)
            g.output(y)
        return SpanGraph(g, x, inputs, y, output_shape, rows, rows_buffer, views, None, base_cell)

    def _head(self, g: GraphBuilder, x: Tensor, delta: Delta | None) -> Tensor:
        h, outer = self._h, self._weights.outer
        normed = g.mul(g.rms_norm(x, h.norm_epsilon), outer["output_norm.weight"])
        y = g.mul_mat(outer["output.weight"], normed)
        if delta is not None:
            y = adapted(g, delta, normed, y, {})
        if "output.bias" in outer:
            y = g.add(y, outer["output.bias"])
        if h.logit_scale != 1.0:
            y = g.scale(y, h.logit_scale)
        if h.logit_softcap:
            y = g.scale(g.tanh(g.scale(y, 1.0 / h.logit_softcap)), h.logit_softcap)
        return y

    def _rope_factors(self) -> Tensor | None:
        """Llama 3's frequency factors, or Phi's long or short ones as the context asks."""
        outer = self._weights.outer
        if "rope_freqs.weight" in outer:
            return outer["rope_freqs.weight"]
        is_long = self._context_limit > self._h.rope.original_context
        return outer.get(f"rope_factors_{'long' if is_long else 'short'}.weight")
