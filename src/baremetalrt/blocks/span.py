"""A span of blocks on one device: weights, KV cache and the graphs that run them.

Not safe for concurrent use: one thread at a time, see `session/stage.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.architecture import Architecture
from baremetalrt.blocks.cache_types import F16_CACHE, CacheTypes
from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence, SlidingWindows
from baremetalrt.blocks.graphs import GraphCache, SpanGraph
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.inventory import Unit, take_inventory
from baremetalrt.blocks.kv_cache import KVCache
from baremetalrt.blocks.prefix_folder import PrefixFolder
from baremetalrt.blocks.prefix_store import AdapterKey
from baremetalrt.blocks.prefix_transfer import restore
from baremetalrt.blocks.room import room_for
from baremetalrt.blocks.span_weights import LoadedWeights
from baremetalrt.blocks.steps import CHUNK_TOKENS, Reads, Slice
from baremetalrt.blocks.streams import StepShape, group_streams, last_quantum, window_start
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.core.units import round_up
from baremetalrt.native import backend
from baremetalrt.native.backend import Backend, BackendDevice
from baremetalrt.weights.gguf import GGUFFile

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterRack, AdapterSet, LoadedAdapters
    from baremetalrt.blocks.residency import HeadRows

_MAX_RECENT: Final = 32


@dataclass(frozen=True, kw_only=True)
class SpanConfig:
    """How a span uses its device.

    `context_limit` picks between long and short rope factors. Memory for steps of `step_tokens` at the
    end of the longest context is taken at the start; larger steps take more when they come. Weights that
    do not fit into `weight_budget_bytes`, if it is given, are read from disk in every step, which then
    takes `prompt_tokens` at once: in steps of `step_tokens` through one part, then through the next.
    """

    num_threads: int
    context_limit: int
    step_tokens: int
    prompt_tokens: int
    num_cells: int
    copy_budget_bytes: int
    weight_budget_bytes: int | None = None
    cache_types: CacheTypes = F16_CACHE
    # how blocks with a sliding window give back what has fallen out of it, None if they keep everything
    windows: SlidingWindows | None = None


class Span:
    """The blocks `span` of a model on `device`, with embedding and head where it is an end.

    With `arrives`, nothing is loaded yet: `load` every unit of `units` once its bytes are there, in any
    order, then `finish_loading`. Parts of the span can run before that.
    """

    def __init__(
        self,
        file: GGUFFile,
        architecture: Architecture,
        h: Hyperparameters,
        span: BlockSpan,
        device: BackendDevice,
        config: SpanConfig,
        *,
        arrives: bool = False,
    ) -> None:
        self.hyperparameters = h
        self.blocks = span
        self._inventory = take_inventory(file, architecture, h, span)
        self.weights = LoadedWeights(
            file,
            self._inventory,
            device,
            copy_budget_bytes=config.copy_budget_bytes,
            budget_bytes=config.weight_budget_bytes,
            arrives=arrives,
        )
        if not arrives:
            try:
                for unit in self.units:
                    self.load(unit)
            except BaseException:
                self.weights.close()
                raise
        self._backend = Backend(device, num_threads=config.num_threads)
        self.cache = KVCache(h, span, device, config.num_cells, config.cache_types, config.windows)
        self._graphs = GraphCache(
            architecture,
            h,
            span,
            device,
            self.weights.tensors,
            self.cache,
            context_limit=config.context_limit,
            num_parts=self.weights.num_parts,
        )
        self._device = device
        self._config = config
        if not arrives:
            self.finish_loading()
        # Graphs by what a step brings along, which is quicker to compare than the shape it makes.
        self._recent: dict[tuple[object, ...], SpanGraph] = {}
        self._max_recent = max(_MAX_RECENT, 2 * self.weights.num_parts)
        self._generation = 0
        # what the disk keeps of texts in this span, where it keeps anything
        self.prefixes: PrefixFolder | None = None

    @cached_property
    def adapters(self) -> "AdapterRack":
        """The adapters that are loaded; made, and imported, for the first one."""
        from baremetalrt.blocks.loaded_adapters import AdapterRack

        return AdapterRack(self._inventory, self._device, self._graphs.forget)

    @property
    def device(self) -> BackendDevice:
        return self._device

    @property
    def context_limit(self) -> int:
        """Tokens of the longest text that it was loaded for."""
        return self._config.context_limit

    # loading

    @property
    def units(self) -> tuple[Unit, ...]:
        """What is loaded at once, in order of execution."""
        return self.weights.units

    def unit_ranges(self, unit: Unit) -> tuple[ByteRange, ...]:
        """What has to be in the file before the unit can be loaded."""
        return self.weights.unit_ranges(unit)

    def load(self, unit: Unit) -> None:
        """Puts the weights of a unit in place; raises `CapacityError` if they do not fit."""
        self.weights.load(unit)

    def finish_loading(self) -> None:
        """Takes the memory for the longest step, now that the whole span can be computed."""
        self.weights.finish_loading()
        self._reserve(None)

    def _reserve(self, adapters: "LoadedAdapters | None") -> None:
        config, cache = self._config, self.cache
        longest = min(round_up(config.context_limit, CELL_QUANTUM), cache.num_cells)
        part = self.weights.largest_part
        self._graphs.reserve(min(config.step_tokens, longest), longest, adapters, part=part)

    # sequences

    def open(
        self,
        tokens: Sequence[int],
        capacity: int,
        part: BlockSpan | None = None,
        adapters: "AdapterSet | None" = None,
        owner: Owner = THIS_USER,
        limit: int | None = None,
    ) -> CachedSequence:
        """A sequence with room for `capacity` tokens, standing after what the cache has of `tokens`.

        With `part`, it is to be stepped through these blocks of the span alone. With `adapters`, which
        are loaded if they are not, they are added to every step; their text is shared with nobody
        who uses others; nor is that of one `owner` with another. All of a principal hold at most `limit`
        cells, whole quanta of which count.

        Raises:
            CapacityError: other sequences hold too much of the cache, or adapters do not fit.
        """
        if adapters is not None:
            self._hold(adapters)
        key = adapters.key if adapters else ()
        try:
            with room_for(capacity, self.cache.sequences):
                opened = self.cache.sequences.open(tokens, capacity, part, key, owner, limit)
        except BaseException:
            self._let_go(key)
            raise
        self.cache.copy(opened.copies)
        self.cache.give_back()
        return opened.sequence

    def restore(self, sequence: CachedSequence, tokens: Sequence[int]) -> Iterator[None]:
        """Fills a text that was just opened with what the disk has of it, in pieces; see `restore`."""
        if self.prefixes is not None:
            yield from restore(self.cache, self.prefixes, sequence, tokens)

    def _hold(self, adapters: "AdapterSet") -> None:
        is_new = adapters.key not in self.adapters.keys
        loaded = self.adapters.hold(adapters)
        if is_new:
            try:
                # At once, so that the buffer of the steps does not grow, and move, one by one later.
                self._reserve(loaded)
            except BaseException:
                self._let_go(adapters.key)
                raise

    def _let_go(self, key: AdapterKey) -> None:
        if key:
            self.adapters.let_go(key)

    def grow(self, sequence: CachedSequence, capacity: int) -> None:
        """Makes room for `capacity` tokens; raises like `open`."""
        with room_for(capacity, self.cache.sequences):
            copies = self.cache.sequences.grow(sequence, capacity)
        self.cache.copy(copies)
        self.cache.give_back()

    def truncate(self, sequence: CachedSequence, length: int) -> None:
        """Forgets all but the first `length` tokens of a text."""
        self.cache.truncate(sequence, length)

    def release(self, sequence: CachedSequence, *, keep: bool) -> None:
        """Ends a sequence. `keep` leaves its text for others; numbers gone bad must not stay."""
        if not keep:
            self.cache.scrub(sequence)
        self.cache.sequences.close(sequence, keep=keep)
        self.cache.give_back()
        self._let_go(sequence.adapters)

    def forget_unused(self, clock: int) -> None:
        """Gives back the memory of idle texts that nobody used since the table's clock stood there."""
        for sequence in self.cache.sequences.unused_since(clock):
            self.cache.sequences.drop(sequence)
        self.cache.give_back()

    # steps

    @property
    def chunk_tokens(self) -> int:
        """How many tokens of a prompt are best computed with one call of `forward`."""
        return CHUNK_TOKENS if self.weights.is_whole else self._config.prompt_tokens

    def forward(
        self, slices: Sequence[Slice], reads: Reads, *, part: BlockSpan | None = None
    ) -> NDArray[np.float32]:
        """Computes one step for one or more sessions, which contribute equally many tokens.

        The first span of a model takes token ids, later ones `x_TD`. Returns one row per token that
        is read (`reads` picks per session): logits `(R, V)` from the last span, `x_RD` from others.
        The sequences grow by what was computed. The rows belong to the caller until the next call of
        `forward`, which may compute into the same memory; so long they may be written to.

        With `part`, only these blocks of the span are computed: as if they were a span of their own.

        Raises:
            ValueError: slices of unequal length, tokens outside of the vocabulary, or a sequence
                without room: all of them mistakes of the caller.
            CapacityError: no memory for a step this large.
        """
        part = part or self.blocks
        if len(slices) == 1:
            out = self._step(slices, reads, part)
            self._slide(slices, part)
            return out
        # Streams are grouped by where they lie in the cache; results return in the caller's order.
        order = sorted(range(len(slices)), key=lambda i: slices[i].sequence.first_cell)
        out = self._step([slices[i] for i in order], reads, part)
        self._slide(slices, part)
        each = out.reshape(len(slices), -1, out.shape[1])
        return each[np.argsort(order)].reshape(out.shape)

    def _slide(self, slices: Sequence[Slice], part: BlockSpan) -> None:
        """Not before all blocks have seen the tokens: the next part still needs what windows had."""
        if part == self.blocks:
            for s in slices:
                self.cache.slide(s.sequence)

    def _step(self, slices: Sequence[Slice], reads: Reads, part: BlockSpan) -> NDArray[np.float32]:
        has_head = part.end == self.hyperparameters.num_blocks
        self._check(slices, is_first=part.start == 0)
        is_short = len(slices[0].tokens) <= CHUNK_TOKENS
        if self.weights.is_whole and is_short:
            return self._compute(slices, reads, part, has_head=has_head)
        from baremetalrt.blocks.in_parts import compute_in_chunks, compute_in_parts

        if self.weights.is_whole:
            return compute_in_chunks(
                lambda cut, blocks, wants: self._compute(cut, wants, blocks, has_head=has_head),
                slices,
                reads,
                part,
                CHUNK_TOKENS,
            )
        key = slices[0].sequence.adapters
        adapters = self.adapters.get(key) if key else None
        return compute_in_parts(
            self.weights.parts(part, has_head=has_head),
            self.weights.holding,
            slices,
            blocks=lambda cut, blocks, wants: self._compute(cut, wants, blocks, has_head=False),
            head=lambda x_RD, rows: self._compute_head(x_RD, rows, adapters),
            reads=reads,
            vocabulary_size=self.hyperparameters.vocabulary_size,
            step_tokens=min(CHUNK_TOKENS, self._config.step_tokens),
        )

    def _compute(
        self, slices: Sequence[Slice], reads: Reads, part: BlockSpan, *, has_head: bool
    ) -> NDArray[np.float32]:
        graph = self._graph_for(slices, reads, part, has_head=has_head)
        self._fill(graph, slices, is_first=part.start == 0)
        graph.inputs.send(
            [len(s.sequence.tokens) for s in slices], [s.sequence.first_cell for s in slices]
        )
        graph.compute(self._backend, self.weights.find_experts)
        for s in slices:
            s.sequence.tokens.extend(s.tokens)
        if not graph.output_shape[0]:
            return np.empty(graph.output_shape, dtype=np.float32)
        if graph.rows is not None:
            return graph.rows
        out = np.empty(graph.output_shape, dtype=np.float32)
        backend.read(graph.output, out)
        return out

    def _fill(self, graph: SpanGraph, slices: Sequence[Slice], *, is_first: bool) -> None:
        """Sends tokens, or their rows."""
        x, tokens_each = graph.x.values, len(slices[0].tokens)
        embedding = self.weights.tensors.embedding if is_first else None
        for i, s in enumerate(slices):
            here = slice(i * tokens_each, (i + 1) * tokens_each)
            if embedding is not None:
                embedding.look_up(s.tokens, x[here])
                if graph.ids is not None:
                    graph.ids.values[here] = s.tokens
            else:
                x[here] = s.tokens if is_first else s.x_TD
        graph.x.send()
        if graph.ids is not None:
            graph.ids.send()

    def _compute_head(
        self, x_RD: NDArray[np.float32], rows: "HeadRows", adapters: "LoadedAdapters | None"
    ) -> NDArray[np.float32]:
        graph = self._graphs.head(len(x_RD), rows, adapters)
        graph.x.values[:] = x_RD
        graph.x.send()
        self._backend.compute(graph.builder.graph)
        return graph.rows

    def _check(self, slices: Sequence[Slice], *, is_first: bool) -> None:
        h, tokens_each = self.hyperparameters, len(slices[0].tokens)
        for s in slices:
            if s.sequence.adapters != slices[0].sequence.adapters:
                raise ValueError("the sessions of a step use the same adapters")
            if len(s.tokens) != tokens_each or tokens_each == 0:
                raise ValueError("every session contributes the same number of tokens to a step")
            if s.sequence.length + tokens_each > s.sequence.capacity:
                raise ValueError("a sequence has no room for its next tokens")
            if not 0 <= min(s.tokens) <= max(s.tokens) < h.vocabulary_size:
                raise ValueError("a token is not in the vocabulary")
            if not is_first and (s.x_TD is None or s.x_TD.shape != (tokens_each, h.width)):
                raise ValueError(f"expected {tokens_each} rows of {h.width}")

    def _graph_for(
        self, slices: Sequence[Slice], reads: Reads, part: BlockSpan, *, has_head: bool
    ) -> SpanGraph:
        """The graph that computes these slices. Nearly always the one of the step before."""
        tokens_each, window = len(slices[0].tokens), self.hyperparameters.window
        base_cell = slices[0].sequence.first_cell
        adapters = slices[0].sequence.adapters
        features: list[object] = [tokens_each, reads, part.start, part.end, has_head, adapters]
        for s in slices:
            features += (s.sequence.first_cell, last_quantum(s.sequence, tokens_each))
            if window:
                features.append(window_start(s.sequence, window))
        key = tuple(features)
        graph = self._recent.get(key) if self._generation == self._graphs.generation else None
        if graph is None:
            outputs = {"all": tokens_each, "last": 1, "none": 0}[reads]
            sequences = [s.sequence for s in slices]
            shape = StepShape(
                tokens_each=tokens_each,
                outputs_each=outputs
                if part.end == self.hyperparameters.num_blocks
                else tokens_each,
                groups=group_streams(sequences, tokens_each, window, self.cache.num_cells),
            )
            loaded = self.adapters.get(adapters) if adapters else None
            graph = self._graphs.get(shape, base_cell, part, loaded, has_head=has_head)
            if self._generation != self._graphs.generation or len(self._recent) >= self._max_recent:
                self._recent.clear()
                self._generation = self._graphs.generation
            self._recent[key] = graph
        graph.move_to(base_cell, self.cache)
        return graph

    def close(self) -> None:
        """Frees weights, cache and graphs. The span cannot be used afterwards."""
        self._graphs.close()
        self._recent.clear()
        if "adapters" in vars(self):
            self.adapters.close()
        self.cache.close()
        self.weights.close()
        self._backend.close()
