"""The graphs of a span: built once per shape of step, kept, and run again and again."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.architecture import Architecture
from baremetalrt.blocks.builder import BlockBuilder, FindExperts, Routing
from baremetalrt.blocks.cache_types import F16_CACHE
from baremetalrt.blocks.delta import Delta, adapted, rows_of
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.inputs import Input, StepInputs
from baremetalrt.blocks.kv_cache import KVCache
from baremetalrt.blocks.prefix_store import AdapterKey
from baremetalrt.blocks.residency import HeadRows
from baremetalrt.blocks.streams import StepShape, StreamGroup
from baremetalrt.blocks.weight_loader import SpanWeights
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native import backend
from baremetalrt.native.backend import (
    Backend,
    BackendDevice,
    DeviceError,
    HostBuffer,
    UnsupportedOperationError,
)
from baremetalrt.native.graph import (
    F32,
    I32,
    GraphAllocator,
    GraphBuilder,
    MovableViews,
    Tensor,
    host_view,
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
# Of a span that is computed in parts: the chunks of a prompt, and decoding.
_MAX_GRAPHS_PER_PART: Final = 3
# What is computed, in what shape, from which cell on; last, the adapters.
_GraphKey = tuple[StepShape, int, BlockSpan, bool, AdapterKey] | tuple[int, HeadRows, AdapterKey]


@dataclass
class SpanGraph:
    """A graph, its inputs and its output."""

    builder: GraphBuilder
    x: Input
    # which tokens those are, where `x` has their rows and an adapter changes the embedding
    ids: Input | None
    inputs: StepInputs
    output: Tensor
    output_shape: tuple[int, int]
    # where the output lies, when that is memory of the host
    rows: NDArray[np.float32] | None
    _rows_buffer: HostBuffer | None
    routings: list[Routing]
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

    def bind(self, device: BackendDevice) -> None:
        """Finds the memory of the inputs, once the graph is placed."""
        self.x.bind(device)
        if self.ids is not None:
            self.ids.bind(device)
        self.inputs.bind(device)
        for routing in self.routings:
            routing.where.bind(device)
        cuts = [0, *(routing.num_nodes for routing in self.routings), self.builder.num_nodes]
        if self.routings:
            self._stretches = [self.builder.stretch(a, b) for a, b in pairwise(cuts)]

    def compute(self, backend_: Backend, find: FindExperts | None) -> None:
        """Runs it to its end; `find` says where experts are, once it has brought them."""
        if not self.routings:
            backend_.compute(self.builder.graph)
            return
        assert find is not None
        for stretch, routing in zip(self._stretches, self.routings, strict=False):
            backend_.compute(stretch)
            shape = routing.where.values.shape
            routing.where.values[:] = find(
                routing.block, host_view(routing.chosen, shape, np.int32)
            )
            routing.where.send()
        backend_.compute(self._stretches[-1])

    def close(self) -> None:
        self.builder.context.close()
        if self._rows_buffer is not None:
            self._rows_buffer.close()


@dataclass
class HeadGraph:
    """From rows of model width `x (R, D)` to a stretch of their logits, `rows (R, stretch)`."""

    builder: GraphBuilder
    x: Input
    rows: NDArray[np.float32]
    _rows_buffer: HostBuffer

    def bind(self, device: BackendDevice) -> None:
        """Finds the memory of the input, once the graph is placed."""
        self.x.bind(device)

    def close(self) -> None:
        self.builder.context.close()
        self._rows_buffer.close()


_Graph = TypeVar("_Graph", SpanGraph, HeadGraph)


class GraphCache:
    """Builds graphs for a span, and keeps the last few of each of `num_parts` that it is computed in."""

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
        num_parts: int = 1,
    ) -> None:
        self._architecture = architecture
        self._h = h
        self._span = span
        self._device = device
        self._weights = weights
        self._cache = cache
        self._context_limit = context_limit
        self._max_graphs = _MAX_GRAPHS if num_parts == 1 else _MAX_GRAPHS_PER_PART * num_parts
        self._allocator = GraphAllocator(device.buffer_type())
        self._graphs: OrderedDict[_GraphKey, SpanGraph | HeadGraph] = OrderedDict()
        self.generation = 0

    def get(
        self,
        shape: StepShape,
        base_cell: int,
        part: BlockSpan,
        adapters: "LoadedAdapters | None" = None,
        *,
        has_head: bool,
    ) -> SpanGraph:
        """The graph for a step of this shape through the blocks `part`, all of them or some.

        The cells of its first session begin at `base_cell`. All its sessions use `adapters`. Behind
        the last block of the model comes the head, where the part `has_head`.

        A graph stays usable until `generation` changes.

        Raises:
            CapacityError: no memory for the step.
        """
        # Views are moved by changing addresses, which is for the host alone.
        movable = self._device.is_host
        cell = 0 if movable else base_cell
        key = shape, cell, part, has_head, adapters.key if adapters else ()
        graph = self._graphs.get(key)
        if graph is None:
            built = self._build(shape, base_cell, part, adapters, has_head=has_head)
            graph = self._graphs[key] = self._place(built, shape.num_tokens)
        assert isinstance(graph, SpanGraph)
        self._used(key)
        return graph

    def head(
        self, num_rows: int, part: HeadRows, adapters: "LoadedAdapters | None" = None
    ) -> HeadGraph:
        """The graph from `num_rows` rows of model width to the logits `part`; raises like `get`."""
        key = num_rows, part, adapters.key if adapters else ()
        graph = self._graphs.get(key)
        if graph is None:
            built = self._build_head(num_rows, part, adapters)
            graph = self._graphs[key] = self._place(built, num_rows)
        assert isinstance(graph, HeadGraph)
        self._used(key)
        return graph

    def _used(self, key: _GraphKey) -> None:
        """Drops the graph that was not used for longest, if they are too many."""
        self._graphs.move_to_end(key)
        alike = [other for other in self._graphs if other[-1] == key[-1]]
        if len(alike) > self._max_graphs:
            self._graphs.pop(alike[0]).close()
            self.generation += 1

    def forget(self, adapters: AdapterKey) -> None:
        """Drops the graphs that read these adapters, whose memory goes."""
        for key in [key for key in self._graphs if key[-1] == adapters]:
            self._graphs.pop(key).close()
        self.generation += 1

    def reserve(
        self,
        num_tokens: int,
        num_cells: int,
        adapters: "LoadedAdapters | None" = None,
        *,
        part: BlockSpan | None = None,
    ) -> None:
        """Takes the memory for the largest step that is expected, so that the buffer never moves.

        A buffer that grows step by step leaves holes behind, and costs the graphs placed in it.
        `part`: the blocks of the span that are computed at once, where that is not all of it.
        """
        part = part or self._span
        is_last = part.end == self._h.num_blocks
        group = StreamGroup(
            first_cell=0, stride=0, num_streams=1, num_cells=num_cells, window_start=0
        )
        outputs = 1 if is_last else num_tokens
        has_head = is_last and part == self._span
        self.get(StepShape(num_tokens, outputs, (group,)), 0, part, adapters, has_head=has_head)

    def close(self) -> None:
        self._drop()
        self._allocator.close()

    def _drop(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self.generation += 1

    def _place(self, graph: _Graph, num_tokens: int) -> _Graph:
        before = self._allocator.num_bytes
        if not self._allocator.allocate(graph.builder.graph):
            graph.close()
            # The old buffer was given back before the larger one was refused: the tensors of older graphs
            # point into freed memory, and the allocator takes its plan for done.
            self._drop()
            self._allocator.close()
            self._allocator = GraphAllocator(self._device.buffer_type())
            if not self._device.is_host:
                raise DeviceError(self._device, f"has no memory for a step of {num_tokens} tokens")
            raise CapacityError(
                f"no memory for a step of {num_tokens} tokens",
                code="native.allocation",
                hint="use a shorter context or fewer sessions",
            )
        if self._allocator.num_bytes != before:
            # The buffer moved: the tensors of older graphs point into freed memory.
            self._drop()
        if not self._device.is_host:
            self._check_supported(graph)
        graph.bind(self._device)
        return graph

    def _check_supported(self, graph: SpanGraph | HeadGraph) -> None:
        unsupported = backend.unsupported_operation(self._device, graph.builder.graph)
        if unsupported:
            graph.close()
            hint = "run it on the CPU, or use another quantization"
            if self._cache.types != F16_CACHE:
                hint = "run it on the CPU, or keep keys and values in f16"
            raise UnsupportedOperationError(self._device, f"{unsupported} of this model", hint=hint)

    def _build(
        self,
        shape: StepShape,
        base_cell: int,
        part: BlockSpan,
        adapters: "LoadedAdapters | None",
        *,
        has_head: bool,
    ) -> SpanGraph:
        h, weights, device = self._h, self._weights, self._device
        per_block = _NODES_PER_BLOCK + _NODES_PER_GROUP * len(shape.groups)
        per_block += _NODES_PER_EXPERT * h.num_experts_used
        num_deltas = adapters.num_deltas if adapters else 0
        num_nodes = len(part) * per_block + _OUTER_NODES + _NODES_PER_DELTA * num_deltas
        pools = [i for i in part if i in weights.pooled]
        if pools and part.end == h.num_blocks and not shape.num_outputs:
            # Nobody asks the last block for more than keys and values.
            pools.remove(h.num_blocks - 1)
        g = GraphBuilder(num_nodes, num_stretches=len(pools) + 1 if pools else 0)
        outer_deltas = adapters.outer if adapters else {}
        inputs = StepInputs(g, shape, h)
        tokens = shape.num_tokens
        counts = {"tensor_shape": (tokens,), "array_shape": (tokens,)}
        widths = {"tensor_shape": (h.width, tokens), "array_shape": (tokens, h.width)}
        ids: Input | None = None
        if part.start == 0 and weights.embedding is None:
            x = Input(g, I32, np.int32, **counts)
            y = g.get_rows(weights.outer["token_embd.weight"], x.tensor)
        else:
            x = Input(g, F32, np.float32, **widths)
            y = x.tensor
        if part.start == 0:
            if "token_embd" in outer_deltas:
                ids = x if weights.embedding is None else Input(g, I32, np.int32, **counts)
                delta = outer_deltas["token_embd"]
                y = g.add(y, g.mul_mat(delta.a, g.get_rows(delta.b, ids.tensor)))
            if h.embedding_scale != 1.0:
                y = g.scale(y, h.embedding_scale)
        views: tuple[list[Tensor], list[Tensor]] = [], []
        routings: list[Routing] = []
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
                pools_experts=i in pools,
            )
            y = self._architecture.block(block, y)
            views[0].extend(block.key_views)
            views[1].extend(block.value_views)
            routings += block.routings
        rows, rows_buffer = None, None
        output_shape = (shape.num_outputs, h.width)
        if shape.num_outputs:
            # Without a reader nothing asks for `y`: the last block only stores keys and values.
            if has_head:
                y = self._head(g, y, weights.outer["output.weight"], outer_deltas.get("output"))
                output_shape = (shape.num_outputs, h.vocabulary_size)
                if device.is_host:
                    # Results are written where they will be read: nothing is copied out.
                    rows, rows_buffer = backend.host_array(device, output_shape, np.float32)
                    backend.place(y, rows_buffer, rows_buffer.base)
            g.output(y)
        return SpanGraph(
            g,
            x,
            None if ids is x else ids,
            inputs,
            y,
            output_shape,
            rows,
            rows_buffer,
            routings,
            views,
            None,
            base_cell,
        )

    def _build_head(
        self, num_rows: int, part: HeadRows, adapters: "LoadedAdapters | None"
    ) -> HeadGraph:
        h = self._h
        g = GraphBuilder(_OUTER_NODES + (_NODES_PER_DELTA + 2 if adapters else 0))
        widths = {"tensor_shape": (h.width, num_rows), "array_shape": (num_rows, h.width)}
        x = Input(g, F32, np.float32, **widths)
        delta = adapters.outer.get("output") if adapters else None
        y = self._head(g, x.tensor, self._weights.head_rows[part], delta, part)
        shape = (num_rows, part.end - part.start)
        rows, rows_buffer = backend.host_array(self._device, shape, np.float32)
        backend.place(y, rows_buffer, rows_buffer.base)
        g.output(y)
        return HeadGraph(g, x, rows, rows_buffer)

    def _head(
        self,
        g: GraphBuilder,
        x: Tensor,
        matrix: Tensor,
        delta: Delta | None,
        part: HeadRows | None = None,
    ) -> Tensor:
        """The logits of rows of model width; with `part`, `matrix` has these rows of the head alone."""
        h, outer = self._h, self._weights.outer
        normed = g.mul(g.rms_norm(x, h.norm_epsilon), outer["output_norm.weight"])
        y = g.mul_mat(matrix, normed)
        if delta is not None:
            if part is not None:
                count = part.end - part.start
                delta = rows_of(g, delta, part.start, count, h.vocabulary_size)
            y = adapted(g, delta, normed, y, {})
        if "output.bias" in outer:
            bias = outer["output.bias"]
            if part is not None:
                bias = g.view_1d(bias, part.end - part.start, 4 * part.start)
            y = g.add(y, bias)
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
