"""The pieces that blocks are made of, appended to one graph.

Shapes, fastest dimension first, in this file and in `architectures/`:
    x_TD  (D, T)     T rows of model width D; T counts all tokens of the step
    q     (S, H, R)  R rows of H heads of size S, R being the rows that somebody will read
    k, v  (S, G, T)  G key/value heads
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.delta import Delta, adapted
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.inputs import Input, StepInputs
from baremetalrt.blocks.kv_cache import KVCache
from baremetalrt.blocks.streams import StepShape, StreamGroup
from baremetalrt.native.graph import F32, I32, GraphBuilder, Tensor

_F32_BYTES: Final = 4
# The smallest number that half precision can represent; llama.cpp clamps expert weights to it.
_MIN_EXPERT_WEIGHT: Final = 6.103515625e-5
# The processor has a fast way for so many rows, which takes keys and values of full width alone.
_MIN_UNPACKED_ROWS: Final = 64


@dataclass
class Routing:
    """The first `num_nodes` of a graph choose experts of a block; the rest must know `where` they are."""

    block: int
    num_nodes: int
    chosen: Tensor
    where: Input


# The slots of experts of a block that were chosen, `(R, used)` of both.
FindExperts = Callable[[int, NDArray[np.int32]], NDArray[np.int32]]


class BlockBuilder:
    """Appends one block to a graph; architectures are written in these terms.

    `selects` is true in the last block of a model: from its queries on, only the rows that somebody
    reads are computed.
    """

    def __init__(
        self,
        g: GraphBuilder,
        inputs: StepInputs,
        shape: StepShape,
        h: Hyperparameters,
        cache: KVCache,
        *,
        index: int,
        base_cell: int,
        weights: dict[str, Tensor],
        rope_factors: Tensor | None,
        rope_mode: int,
        selects: bool,
        deltas: Mapping[str, Delta],
        pools_experts: bool = False,
    ) -> None:
        self.g = g
        self.h = h
        self.index = index
        self.weights = weights
        self._inputs = inputs
        self._shape = shape
        self._cache = cache
        self._base_cell = base_cell
        # every view of the cache that attention reads
        self.key_views: list[Tensor] = []
        self.value_views: list[Tensor] = []
        self._rope_factors = rope_factors
        self._rope_mode = rope_mode
        self._deltas = deltas
        # first factors of adapters times rows, by both: several matrices use the same
        self._lowered: dict[tuple[Tensor, Tensor], Tensor] = {}
        self._pools_experts = pools_experts
        # where the graph stops until the experts are there that its router has chosen
        self.routings: list[Routing] = []
        self._selects = selects and 0 < shape.outputs_each < shape.tokens_each

    @property
    def num_tokens(self) -> int:
        """T: how many rows the block is given."""
        return self._shape.num_tokens

    @property
    def num_rows(self) -> int:
        """R: how many rows the block returns, and computes after attention."""
        return self._shape.num_outputs if self._selects else self._shape.num_tokens

    # small pieces

    def norm(self, x: Tensor, name: str) -> Tensor:
        """RMS norm over the fastest dimension, times a weight."""
        g = self.g
        return g.mul(g.rms_norm(x, self.h.norm_epsilon), self.weights[f"{name}.weight"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        """A matrix, and a bias where the model has one."""
        y = self.g.mul_mat(self.weights[f"{name}.weight"], x)
        if self._deltas and name in self._deltas:
            y = adapted(self.g, self._deltas[name], x, y, self._lowered)
        bias = self.weights.get(f"{name}.bias")
        return self.g.add(y, bias) if bias else y

    def outputs(self, x: Tensor) -> Tensor:
        """Those of T rows that somebody will read."""
        return self.g.get_rows(x, self._inputs.selection()) if self._selects else x

    def project(self, attended: Tensor) -> Tensor:
        """The output matrix of attention, for the rows that somebody will read.

        Rows are dropped here and not earlier: with fewer queries the attention kernel sums in another
        order, and coarser.
        """
        return self.outputs(self.linear(attended, "attn_output"))

    # attention

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`k (S, G, T)` and `v (S * G, T)` of every row."""
        h, tokens = self.h, self._shape.num_tokens
        k = self.g.reshape(self.linear(x, "attn_k"), h.head_size, h.num_kv_heads, tokens)
        return k, self.linear(x, "attn_v")

    def queries(self, x: Tensor) -> Tensor:
        """`q (S, H, T)` of every row."""
        h = self.h
        return self.g.reshape(
            self.linear(x, "attn_q"), h.head_size, h.num_heads, self._shape.num_tokens
        )

    def fused_queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same three from one matrix."""
        g, h, tokens = self.g, self.h, self._shape.num_tokens
        qkv = self.linear(x, "attn_qkv")
        q_width = h.num_heads * h.head_size
        head, row = h.head_size * _F32_BYTES, (q_width + 2 * h.kv_width) * _F32_BYTES
        q = g.view_3d(qkv, (h.head_size, h.num_heads, tokens), (head, row), 0)
        k = g.view_3d(qkv, (h.head_size, h.num_kv_heads, tokens), (head, row), q_width * _F32_BYTES)
        v = g.view_2d(qkv, (h.kv_width, tokens), row, (q_width + h.kv_width) * _F32_BYTES)
        return q, k, v

    def rope(self, x: Tensor) -> Tensor:
        """Rotary positions for queries or keys, by the model's rule for this block."""
        rope = self.h.rope_of(self.index)
        return self.g.rope(
            x,
            self._inputs.positions(),
            self._rope_factors,
            num_dims=rope.num_dims,
            mode=self._rope_mode,
            original_context=rope.original_context,
            base=rope.base,
            scale=rope.scale,
            extrapolation=rope.extrapolation,
            attention_factor=rope.attention_factor,
            beta_fast=rope.beta_fast,
            beta_slow=rope.beta_slow,
        )

    def temper(self, q: Tensor) -> Tensor:
        """Scales queries by their position, where the model asks for it."""
        if not self.h.temperature_scale:
            return q
        return self.g.mul(q, self._inputs.temperatures())

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Stores keys and values, and attends to all that is stored: `(S * H, T)`."""
        g, h = self.g, self.h
        k_cache, v_cache = self._cache.tensors(self.index)
        k_rows = g.reshape(k, h.kv_width, self._shape.num_tokens)
        g.run(g.set_rows(k_cache, k_rows, self._inputs.cells))
        g.run(g.set_rows(v_cache, v, self._inputs.cells))
        rows, first_stream = self._shape.tokens_each, 0
        head, row = h.head_size * _F32_BYTES, h.num_heads * h.head_size * _F32_BYTES
        parts: list[Tensor] = []
        for i, group in enumerate(self._shape.groups):
            q_group = g.view_4d(
                q,
                (h.head_size, h.num_heads, rows, group.num_streams),
                (head, row, row * rows),
                first_stream * rows * row,
            )
            windowed = h.is_windowed(self.index)
            keys = self._cells_of(k_cache, self._cache.key_bytes, group, windowed)
            values = self._cells_of(v_cache, self._cache.value_bytes, group, windowed)
            self.key_views.append(keys)
            self.value_views.append(values)
            if self._cache.unpacks and rows >= _MIN_UNPACKED_ROWS:
                keys, values = g.cast(keys, F32), g.cast(values, F32)
            out = g.flash_attention(
                g.permute(q_group, 0, 2, 1, 3),
                keys,
                values,
                self._inputs.mask(i, windowed=windowed),
                h.attention_scale,
                h.attention_softcap,
            )
            parts.append(g.reshape(out, h.num_heads * h.head_size, rows * group.num_streams))
            first_stream += group.num_streams
        joined = parts[0]
        for part in parts[1:]:
            joined = g.concat(joined, part, 1)
        return joined

    def _cells_of(self, cache: Tensor, cell: int, group: StreamGroup, windowed: bool) -> Tensor:
        """What a group's sessions have stored, `(S, cells, G, streams)`, without copying.

        `cell`: bytes of one token.
        """
        h = self.h
        start = group.window_start if windowed else 0
        return self.g.view_4d(
            cache,
            (h.head_size, group.num_cells - start, h.num_kv_heads, group.num_streams),
            (cell, cell // h.num_kv_heads, group.stride * cell),
            (self._base_cell + group.first_cell + start) * cell,
        )

    # feed-forward networks

    def silu_feed_forward(self, x: Tensor) -> Tensor:
        """Gate and up multiplied, then down; gate and up may be one matrix, one after the other."""
        if "ffn_gate_up.weight" in self.weights:
            return self.linear(self.g.swiglu(self.linear(x, "ffn_gate_up")), "ffn_down")
        gate, up = self.linear(x, "ffn_gate"), self.linear(x, "ffn_up")
        return self.linear(self.g.swiglu_split(gate, up), "ffn_down")

    def gelu_feed_forward(self, x: Tensor) -> Tensor:
        """The same with another activation."""
        if "ffn_gate_up.weight" in self.weights:
            return self.linear(self.g.geglu(self.linear(x, "ffn_gate_up")), "ffn_down")
        gate, up = self.linear(x, "ffn_gate"), self.linear(x, "ffn_up")
        return self.linear(self.g.geglu_split(gate, up), "ffn_down")

    def experts(self, x: Tensor) -> Tensor:
        """A softmax router picks `num_experts_used` networks per row and mixes their outputs.

        Source: Mixtral, arXiv 2401.04088; weights of the chosen are normalized to sum to one.
        """
        g, h, rows = self.g, self.h, self.num_rows
        used = h.num_experts_used
        probabilities = g.soft_max(self.linear(x, "ffn_gate_inp"))
        chosen = g.top_k(probabilities, used)
        experts = self._routed(chosen, rows) if self._pools_experts else chosen
        mix = g.get_rows(g.reshape(probabilities, 1, h.num_experts, rows), chosen)
        mix = g.reshape(mix, used, rows)
        total = g.clamp(g.sum_rows(mix), _MIN_EXPERT_WEIGHT, float("inf"))
        mix = g.reshape(g.div(mix, total), 1, used, rows)
        if h.expert_weights_scale not in (0.0, 1.0):
            mix = g.scale(mix, h.expert_weights_scale)
        x = g.reshape(x, h.width, 1, rows)
        up = self._experts_linear(x, "ffn_up_exps", chosen, experts)
        gate = self._experts_linear(x, "ffn_gate_exps", chosen, experts)
        y = self._experts_linear(g.swiglu_split(gate, up), "ffn_down_exps", chosen, experts)
        y = g.mul(y, mix)
        row = h.width * _F32_BYTES
        parts = [g.view_2d(y, (h.width, rows), row * used, row * i) for i in range(used)]
        out = parts[0] if used > 1 else g.contiguous(parts[0])
        for part in parts[1:]:
            out = g.add(out, part)
        return out

    def _routed(self, chosen: Tensor, rows: int) -> Tensor:
        """Where the chosen experts lie, which is found out while the graph waits."""
        g, used = self.g, self.h.num_experts_used
        copied = g.contiguous(chosen)
        g.output(copied)
        where = Input(g, I32, np.int32, tensor_shape=(used, rows), array_shape=(rows, used))
        self.routings.append(Routing(self.index, g.num_nodes, copied, where))
        return where.tensor

    def _experts_linear(self, x: Tensor, name: str, chosen: Tensor, experts: Tensor) -> Tensor:
        """One matrix per row and slot, as `chosen` says; `experts` says where it lies."""
        g, delta = self.g, self._deltas.get(name)
        y = g.mul_mat_id(self.weights[f"{name}.weight"], x, experts)
        if delta is None:
            return y
        return g.add(y, g.mul_mat_id(delta.b, g.mul_mat_id(delta.a, x, chosen), chosen))
