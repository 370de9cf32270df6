"""Times products on one device, in a process that may die of it.

Run by path, with a device, a type, a width and threads, and the library in `BMRT_LIBRARY`. One JSON
object out; none where the device cannot multiply by such matrices.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import numpy as np

from baremetalrt.core.units import MIB, round_up
from baremetalrt.native import backend
from baremetalrt.native.backend import Backend, Buffer, find_device
from baremetalrt.native.graph import (
    F32,
    GraphAllocator,
    GraphBuilder,
    Tensor,
    TensorContext,
    row_bytes,
)

# More than processors keep near: weights come from memory in every step.
_WEIGHT_BYTES: Final = 128 * MIB
_PROMPT_TOKENS: Final = 128
# Prompts take longer, and need no more than a few matrices.
_PROMPT_MATRICES: Final = 4
_BUDGET_S: Final = 0.3
_MAX_RUNS: Final = 20


class _Products:
    """A chain of products with square matrices, as long as is asked for."""

    def __init__(self, device_name: str, type_: int, width: int, num_threads: int) -> None:
        self._device = find_device(device_name)
        self._stream = Backend(self._device, num_threads=num_threads)
        self._width = width
        self.matrix_bytes = width * row_bytes(type_, width)
        self.count = max(4, min(256, _WEIGHT_BYTES // self.matrix_bytes))
        buffer_type = self._memory(type_)
        self._context = TensorContext(self.count)
        self._matrices = [self._context.new_tensor(type_, width, width) for _ in range(self.count)]
        alignment = backend.alignment(buffer_type)
        each = round_up(backend.allocated_bytes(buffer_type, self._matrices[0]), alignment)
        self._buffer = Buffer(buffer_type, each * self.count + alignment)
        at = round_up(self._buffer.base, alignment)
        zeros = np.zeros(self.matrix_bytes, np.uint8)
        for i, matrix in enumerate(self._matrices):
            backend.place(matrix, self._buffer, at + i * each)
            backend.write(matrix, zeros)

    def _memory(self, type_: int) -> int:
        """The memory in which such a matrix multiplies fastest."""
        for buffer_type in self._device.repacking_buffer_types():
            g = GraphBuilder(8)
            matrix = g.context.new_tensor(type_, self._width, self._width)
            num_bytes = backend.allocated_bytes(buffer_type, matrix)
            alignment = backend.alignment(buffer_type)
            with g.context, Buffer(buffer_type, num_bytes + alignment) as buffer:
                backend.place(matrix, buffer, round_up(buffer.base, alignment))
                product = g.mul_mat(matrix, g.context.new_tensor(F32, self._width, 1))
                if backend.supports(self._device, product):
                    return buffer_type
        return self._device.buffer_type()

    def seconds(self, num_tokens: int, num_matrices: int) -> float:
        """Of one step through some of the matrices: the median of a few."""
        with ExitStack() as stack:
            g = GraphBuilder(num_matrices + 8)
            stack.enter_context(g.context)
            allocator = stack.enter_context(GraphAllocator(self._device.buffer_type()))
            x: Tensor = g.input(F32, self._width, num_tokens)
            given = x
            for matrix in self._matrices[:num_matrices]:
                x = g.mul_mat(matrix, x)
            if not backend.supports(self._device, x):
                return math.inf
            g.output(x)
            if not allocator.allocate(g.graph):
                return math.inf
            values = np.zeros((num_tokens, self._width), np.float32)
            out = np.empty_like(values)

            def step() -> float:
                started = time.perf_counter()
                backend.write(given, values)
                self._stream.compute(g.graph)
                backend.read(x, out)
                return time.perf_counter() - started

            step()
            return statistics.median(_few(step))


def _few(step: Callable[[], float]) -> Sequence[float]:
    taken: list[float] = []
    while len(taken) < 3 or (sum(taken) < _BUDGET_S and len(taken) < _MAX_RUNS):
        taken.append(step())
        if sum(taken) > 10 * _BUDGET_S:
            break
    return taken


def main() -> None:
    name, type_, width, num_threads = sys.argv[1], *map(int, sys.argv[2:5])
    products = _Products(name, type_, width, num_threads)
    first = products.seconds(1, 2)
    if not math.isfinite(first):
        return
    # As many as there are, unless the device is slow.
    many = max(4, min(products.count, int(2 * _BUDGET_S / first)))
    few = many // 2
    short, long = products.seconds(1, few), products.seconds(1, many)
    num_multiplied = min(many // 2, _PROMPT_MATRICES)
    prompt = products.seconds(_PROMPT_TOKENS, num_multiplied)
    if not math.isfinite(prompt):
        return
    # Where the machine was busy, half of the matrices may seem to take as long as all.
    num_bytes = many * products.matrix_bytes
    byte_s = max((long - short) * many / (many - few), 0.5 * long) / num_bytes
    step_s = max(0.0, long - byte_s * num_bytes)
    operations = 2 * _PROMPT_TOKENS * num_multiplied * width * width
    print(json.dumps({"byte_s": byte_s, "step_s": step_s, "operations_per_s": operations / prompt}))


if __name__ == "__main__":
    main()
