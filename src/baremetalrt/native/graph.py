"""Tensors and compute graphs.

Tensors are plain C addresses (`Tensor`): a graph has a thousand of them and is built between two
tokens. Shapes in this file follow ggml: the first number varies fastest, so a matrix of T rows of
width D has shape `(D, T)`.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any, Final, NewType

import numpy as np
from numpy.typing import DTypeLike, NDArray

from baremetalrt.native import declarations as d
from baremetalrt.native.handle import Handle
from baremetalrt.native.library import load_library

Tensor = NewType("Tensor", int)

F32: Final = 0
F16: Final = 1
Q4_0: Final = 2
Q8_0: Final = 8
I32: Final = 26
I64: Final = 27

ROPE_INTERLEAVED: Final = 0
ROPE_NEOX: Final = 2
_PRECISION_F32: Final = 10
# `struct ggml_object`, which precedes each tensor in its context
_OBJECT_HEADER_BYTES: Final = 32


class TensorContext(Handle):
    """Holds the descriptions of up to `max_tensors` tensors, and of a graph over them."""

    def __init__(self, max_tensors: int, *, graph_nodes: int = 0, num_graphs: int = 1) -> None:
        self._c = load_library().c
        num_bytes = max_tensors * self._c.ggml_tensor_overhead()
        if graph_nodes:
            num_bytes += num_graphs * self._c.ggml_graph_overhead_custom(graph_nodes, False)
        super().__init__(
            self._c.ggml_init(d.InitParams(num_bytes, None, True)),
            self._c.ggml_free,
            what="a tensor context",
        )

    def new_tensor(self, type_: int, *shape: int) -> Tensor:
        """A tensor without storage."""
        return Tensor(
            self._c.ggml_new_tensor(
                self.pointer, type_, len(shape), (ctypes.c_int64 * len(shape))(*shape)
            )
        )

    def new_view(self, base: Tensor, width: int, rows: int, stride: int, offset: int) -> Tensor:
        """Rows of a placed matrix, with storage; `stride` and `offset` in bytes."""
        view = self._c.ggml_view_2d(self.pointer, base, width, rows, stride, offset)
        self._c.ggml_backend_view_init(view)
        return Tensor(view)


def trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same shape without its last dimensions of one."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def row_bytes(type_: int, width: int) -> int:
    """The size of one row of `width` elements, in bytes."""
    return int(load_library().c.ggml_row_size(type_, width))


def num_bytes(tensor: Tensor) -> int:
    return int(load_library().c.ggml_nbytes(tensor))


def copy(source: Tensor, target: Tensor) -> None:
    """Copies a placed tensor into another of the same shape on the same device."""
    load_library().c.ggml_backend_tensor_copy(source, target)


def zero(tensor: Tensor) -> None:
    """Overwrites a placed tensor with zeros."""
    c = load_library().c
    c.ggml_backend_tensor_memset(tensor, 0, 0, c.ggml_nbytes(tensor))


@functools.cache
def _address_offset() -> int:
    """Where in its C structure a tensor keeps the address of its data; found by looking.

    The structure has moved between releases, and no function sets the field of a placed tensor.
    """
    memory = (ctypes.c_uint8 * 128)()
    address = -(-ctypes.addressof(memory) // 64) * 64
    c = load_library().c
    buffer = c.ggml_backend_dev_buffer_from_host_ptr(c.ggml_backend_dev_by_type(0), address, 64, 64)
    with TensorContext(1) as context:
        tensor = context.new_tensor(F32, 1)
        c.ggml_backend_tensor_alloc(buffer, tensor, address)
        size = c.ggml_tensor_overhead() - _OBJECT_HEADER_BYTES
        words = (ctypes.c_uint64 * (size // 8)).from_address(tensor)
        found = [i * 8 for i, word in enumerate(words) if word == address]
    c.ggml_backend_buffer_free(buffer)
    if len(found) != 1:
        raise RuntimeError("the library keeps tensor addresses in an unknown way")
    return found[0]


def is_placed(tensor: Tensor) -> bool:
    """Whether a tensor has storage: the inputs of operations that nobody reads get none."""
    return bool(ctypes.c_uint64.from_address(tensor + _address_offset()).value)


def host_view(tensor: Tensor, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """The memory of a tensor that is placed on the host, valid as long as it stays there."""
    address = ctypes.c_uint64.from_address(tensor + _address_offset()).value
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * num_bytes).from_address(address)
    return np.frombuffer(memoryview(memory), dtype).reshape(shape)


class MovableViews:
    """Placed views of one tensor, all of which can be moved along it at once."""

    def __init__(self, views: Sequence[Tensor]) -> None:
        offset = _address_offset()
        self._addresses = [ctypes.c_uint64.from_address(view + offset) for view in views]

    def move(self, num_bytes: int) -> None:
        """Shifts every view by `num_bytes`; they must stay inside of what they view."""
        for address in self._addresses:
            address.value += num_bytes


class GraphBuilder:
    """Appends operations to a graph. Shapes must fit: ggml ends the process when they do not."""

    def __init__(self, max_nodes: int, *, num_stretches: int = 0) -> None:
        self._c = load_library().c
        # Views and reshapes are tensors without being work, hence twice as many.
        self.context = TensorContext(
            2 * max_nodes, graph_nodes=2 * max_nodes, num_graphs=1 + num_stretches
        )
        self._p = self.context.pointer
        self.graph: int = self._c.ggml_new_graph_custom(self._p, 2 * max_nodes, False)

    @property
    def num_nodes(self) -> int:
        """How many operations it has so far."""
        return int(self._c.ggml_graph_n_nodes(self.graph))

    def stretch(self, start: int, end: int) -> int:
        """A graph of some of the operations of this one, once that is complete and placed."""
        part: int = self._c.ggml_new_graph_custom(self._p, max(1, end - start), False)
        for i in range(start, end):
            self._c.ggml_graph_add_node(part, self._c.ggml_graph_node(self.graph, i))
        return part

    # inputs and outputs

    def input(self, type_: int, *shape: int) -> Tensor:
        """A tensor that is written before each execution."""
        tensor = self.context.new_tensor(type_, *shape)
        self._c.ggml_set_input(tensor)
        return tensor

    def output(self, x: Tensor) -> None:
        """Keeps `x` readable after execution."""
        self._c.ggml_set_output(x)
        self._c.ggml_build_forward_expand(self.graph, x)

    def run(self, x: Tensor) -> None:
        """Orders `x` here: before everything that is appended later."""
        self._c.ggml_build_forward_expand(self.graph, x)

    # arithmetic

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return Tensor(self._c.ggml_add(self._p, a, b))

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return Tensor(self._c.ggml_mul(self._p, a, b))

    def div(self, a: Tensor, b: Tensor) -> Tensor:
        return Tensor(self._c.ggml_div(self._p, a, b))

    def scale(self, a: Tensor, factor: float) -> Tensor:
        return Tensor(self._c.ggml_scale(self._p, a, factor))

    def clamp(self, a: Tensor, low: float, high: float) -> Tensor:
        return Tensor(self._c.ggml_clamp(self._p, a, low, high))

    def tanh(self, a: Tensor) -> Tensor:
        return Tensor(self._c.ggml_tanh(self._p, a))

    def rms_norm(self, a: Tensor, epsilon: float) -> Tensor:
        return Tensor(self._c.ggml_rms_norm(self._p, a, epsilon))

    def mul_mat(self, weight: Tensor, x: Tensor) -> Tensor:
        """`x @ weight.T`: `(D, F)` and `(D, T)` give `(F, T)`."""
        return Tensor(self._c.ggml_mul_mat(self._p, weight, x))

    def mul_mat_id(self, experts: Tensor, x: Tensor, chosen: Tensor) -> Tensor:
        """One matrix of `experts` per token and slot, as `chosen` says."""
        return Tensor(self._c.ggml_mul_mat_id(self._p, experts, x, chosen))

    def out_prod(self, columns: Tensor, x: Tensor) -> Tensor:
        """`x.T @ columns`, with sums over rows: `(F, R)` and `(T, R)` give `(F, T)`."""
        return Tensor(self._c.ggml_out_prod(self._p, columns, x))

    def transpose(self, a: Tensor) -> Tensor:
        return Tensor(self._c.ggml_transpose(self._p, a))

    def swiglu(self, halves: Tensor) -> Tensor:
        """`silu(first half) * second half` of every row."""
        return Tensor(self._c.ggml_swiglu(self._p, halves))

    def geglu(self, halves: Tensor) -> Tensor:
        """`gelu(first half) * second half` of every row."""
        return Tensor(self._c.ggml_geglu(self._p, halves))

    def swiglu_split(self, gate: Tensor, up: Tensor) -> Tensor:
        return Tensor(self._c.ggml_swiglu_split(self._p, gate, up))

    def geglu_split(self, gate: Tensor, up: Tensor) -> Tensor:
        return Tensor(self._c.ggml_geglu_split(self._p, gate, up))

    def soft_max(self, a: Tensor) -> Tensor:
        return Tensor(self._c.ggml_soft_max(self._p, a))

    def sum_rows(self, a: Tensor) -> Tensor:
        return Tensor(self._c.ggml_sum_rows(self._p, a))

    def top_k(self, a: Tensor, k: int) -> Tensor:
        """The indices of the `k` largest elements of every row, largest first."""
        return Tensor(self._c.ggml_argsort_top_k(self._p, a, k))

    def rope(
        self,
        x: Tensor,
        positions: Tensor,
        frequency_factors: Tensor | None,
        *,
        num_dims: int,
        mode: int,
        original_context: int,
        base: float,
        scale: float,
        extrapolation: float,
        attention_factor: float,
        beta_fast: float,
        beta_slow: float,
    ) -> Tensor:
        """Rotary position embedding of `(head size, heads, T)`."""
        return Tensor(
            self._c.ggml_rope_ext(
                self._p,
                x,
                positions,
                frequency_factors,
                num_dims,
                mode,
                original_context,
                base,
                scale,
                extrapolation,
                attention_factor,
                beta_fast,
                beta_slow,
            )
        )

    def flash_attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float
    ) -> Tensor:
        """Attention of `(head size, T, heads, streams)`; returns `(head size, heads, T, streams)`."""
        out = self._c.ggml_flash_attn_ext(self._p, q, k, v, mask, scale, 0.0, softcap)
        self._c.ggml_prec_set_acc(out, _PRECISION_F32)
        return Tensor(out)

    # moving rows

    def get_rows(self, table: Tensor, indices: Tensor) -> Tensor:
        return Tensor(self._c.ggml_get_rows(self._p, table, indices))

    def set_rows(self, table: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
        return Tensor(self._c.ggml_set_rows(self._p, table, rows, indices))

    def concat(self, a: Tensor, b: Tensor, dim: int) -> Tensor:
        return Tensor(self._c.ggml_concat(self._p, a, b, dim))

    def contiguous(self, a: Tensor) -> Tensor:
        return Tensor(self._c.ggml_cont(self._p, a))

    def cast(self, a: Tensor, type_: int) -> Tensor:
        """The same numbers in another type, side by side."""
        return Tensor(self._c.ggml_cast(self._p, a, type_))

    def permute(self, a: Tensor, *axes: int) -> Tensor:
        return Tensor(self._c.ggml_permute(self._p, a, *axes))

    def reshape(self, a: Tensor, *shape: int) -> Tensor:
        if len(shape) == 2:
            return Tensor(self._c.ggml_reshape_2d(self._p, a, *shape))
        return Tensor(self._c.ggml_reshape_3d(self._p, a, *shape))

    def view_1d(self, a: Tensor, count: int, offset: int) -> Tensor:
        return Tensor(self._c.ggml_view_1d(self._p, a, count, offset))

    def view_2d(self, a: Tensor, ne: tuple[int, int], stride: int, offset: int) -> Tensor:
        return Tensor(self._c.ggml_view_2d(self._p, a, *ne, stride, offset))

    def part_of_rows(self, a: Tensor, first: int, count: int, width: int) -> Tensor:
        """`count` elements of every row of a contiguous F32 matrix of rows of `width`."""
        if count == width:
            return a
        return self.view_2d(a, (count, int(self._c.ggml_nrows(a))), 4 * width, 4 * first)

    def view_3d(
        self, a: Tensor, ne: tuple[int, int, int], strides: tuple[int, int], offset: int
    ) -> Tensor:
        return Tensor(self._c.ggml_view_3d(self._p, a, *ne, *strides, offset))

    def view_4d(
        self, a: Tensor, ne: tuple[int, int, int, int], strides: tuple[int, int, int], offset: int
    ) -> Tensor:
        return Tensor(self._c.ggml_view_4d(self._p, a, *ne, *strides, offset))


class GraphAllocator(Handle):
    """Gives the intermediate tensors of graphs room in one shared buffer that only grows."""

    def __init__(self, buffer_type: int) -> None:
        self._c = load_library().c
        super().__init__(
            self._c.ggml_gallocr_new(buffer_type),
            self._c.ggml_gallocr_free,
            what="a graph allocator",
        )

    @property
    def num_bytes(self) -> int:
        return int(self._c.ggml_gallocr_get_buffer_size(self.pointer, 0))

    def allocate(self, graph: int) -> bool:
        """Places every tensor of `graph`. False when the memory could not be had.

        When `num_bytes` changed, the buffer moved: graphs placed earlier must not run again. After False
        they must not either, and the allocator is to be closed.
        """
        return bool(self._c.ggml_gallocr_alloc_graph(self.pointer, graph))
