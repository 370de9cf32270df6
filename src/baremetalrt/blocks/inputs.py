"""The inputs of a graph: which a step needs, and what goes into them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.streams import StepShape, StreamGroup
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.graph import F16, F32, I32, I64, GraphBuilder, Tensor, host_view, is_placed

_F16_ZERO: Final = 0x0000
_F16_MINUS_INFINITY: Final = 0xFC00


class Input:
    """An input tensor and an array with what goes in.

    On the host both are the same memory; elsewhere `send` copies. The memory is shared with other
    graphs: values have to be written before every execution.
    """

    __slots__ = ("_copies", "_dtype", "_shape", "tensor", "values")

    def __init__(
        self,
        g: GraphBuilder,
        type_: int,
        dtype: DTypeLike,
        *,
        tensor_shape: tuple[int, ...],
        array_shape: tuple[int, ...],
    ) -> None:
        self.tensor = g.input(type_, *tensor_shape)
        self.values: NDArray[Any]
        self._dtype = dtype
        self._shape = array_shape
        self._copies = False

    def bind(self, device: BackendDevice) -> None:
        """Finds the memory of the tensor, once the graph is placed."""
        placed, on_host = is_placed(self.tensor), device.is_host
        self._copies = placed and not on_host
        self.values = (
            host_view(self.tensor, self._shape, self._dtype)
            if placed and on_host
            else np.empty(self._shape, self._dtype)
        )

    def send(self) -> None:
        """Makes `values` what the next execution reads."""
        if self._copies:
            backend.write(self.tensor, self.values)


class StepInputs:
    """The input tensors of a graph, created when a block first asks for one, and what goes in."""

    def __init__(self, g: GraphBuilder, shape: StepShape, h: Hyperparameters) -> None:
        self._g = g
        self._shape = shape
        self._h = h
        self._positions: Input | None = None
        self._temperatures: Input | None = None
        self._masks: dict[tuple[int, bool], Input] = {}
        self._selection: Input | None = None
        self._cells = self._rows(I64, np.int64, shape.tokens_each)

    def _rows(
        self, type_: int, dtype: DTypeLike, rows_each: int, *, leading: tuple[int, ...] = ()
    ) -> Input:
        """One number per row, behind `leading` dimensions of one element."""
        streams = self._shape.num_streams
        return Input(
            self._g,
            type_,
            dtype,
            tensor_shape=(*leading, streams * rows_each),
            array_shape=(streams, rows_each),
        )

    @property
    def cells(self) -> Tensor:
        """The cell that each row's key and value go to, `(T,)`."""
        return self._cells.tensor

    def positions(self) -> Tensor:
        """The position of every row in its text, `(T,)`."""
        if self._positions is None:
            self._positions = self._rows(I32, np.int32, self._shape.tokens_each)
        return self._positions.tensor

    def temperatures(self) -> Tensor:
        """What queries are multiplied by, `(1, 1, T)`."""
        if self._temperatures is None:
            rows = self._shape.tokens_each
            self._temperatures = self._rows(F32, np.float32, rows, leading=(1, 1))
        return self._temperatures.tensor

    def selection(self) -> Tensor:
        """The indices of the rows that are read, `(R,)`."""
        if self._selection is None:
            self._selection = self._rows(I32, np.int32, self._shape.outputs_each)
        return self._selection.tensor

    def mask(self, group: int, *, windowed: bool) -> Tensor:
        """0 where a row may look, minus infinity elsewhere: `(cells, rows, 1, streams)`."""
        key = (group, windowed)
        if key not in self._masks:
            stream = self._shape.groups[group]
            cells = stream.num_cells - (stream.window_start if windowed else 0)
            rows = self._shape.tokens_each
            self._masks[key] = Input(
                self._g,
                F16,
                np.uint16,
                tensor_shape=(cells, rows, 1, stream.num_streams),
                array_shape=(stream.num_streams, rows, cells),
            )
        return self._masks[key].tensor

    def bind(self, device: BackendDevice) -> None:
        """Finds the memory of all inputs, once the graph is placed."""
        rows = (self._cells, self._positions, self._temperatures, self._selection)
        for one in (*rows, *self._masks.values()):
            if one is not None:
                one.bind(device)

    def send(self, positions_S: Sequence[int], first_cells_S: Sequence[int]) -> None:
        """Fills all inputs for S sessions that stand at `positions_S`.

        `first_cells_S` is where each session's extent of the cache begins.
        """
        if self._shape.tokens_each == 1 and self._temperatures is None:
            self._send_decode(positions_S, first_cells_S)
            return
        starts = np.array(positions_S, np.int64)[:, None]
        rows_ST = starts + np.arange(self._shape.tokens_each)
        np.add(rows_ST, np.array(first_cells_S, np.int64)[:, None], out=self._cells.values)
        self._cells.send()
        if self._positions is not None:
            self._positions.values[:] = rows_ST
            self._positions.send()
        if self._temperatures is not None:
            steps = np.floor(rows_ST / self._h.rope.original_context) + 1.0
            self._temperatures.values[:] = 1.0 + self._h.temperature_scale * np.log(steps)
            self._temperatures.send()
        if self._selection is not None:
            streams = np.arange(self._shape.num_streams)[:, None]
            ends = (streams + 1) * self._shape.tokens_each
            self._selection.values[:] = ends - np.arange(self._shape.outputs_each, 0, -1)
            self._selection.send()
        first = 0
        for i, stream in enumerate(self._shape.groups):
            last = first + stream.num_streams
            for windowed in (False, True):
                mask = self._masks.get((i, windowed))
                if mask is not None:
                    window = self._h.window if windowed else 0
                    _fill_mask(mask.values, stream, rows_ST[first:last], window)
                    mask.send()
            first = last

    def _send_decode(self, positions_S: Sequence[int], first_cells_S: Sequence[int]) -> None:
        """The same for one token per session: with few calls, as the caches are cold after a step."""
        cells = self._cells.values
        for i, position in enumerate(positions_S):
            cells[i, 0] = first_cells_S[i] + position
        self._cells.send()
        if self._positions is not None:
            self._positions.values[:, 0] = positions_S
            self._positions.send()
        first = 0
        for i, stream in enumerate(self._shape.groups):
            for windowed in (False, True):
                mask = self._masks.get((i, windowed))
                if mask is None:
                    continue
                start = stream.window_start if windowed else 0
                for j, row in enumerate(mask.values[:, 0]):
                    end = positions_S[first + j] + 1 - start
                    row[:end] = _F16_ZERO
                    row[end:] = _F16_MINUS_INFINITY
                    if windowed:
                        row[: max(0, end - self._h.window)] = _F16_MINUS_INFINITY
                mask.send()
            first += stream.num_streams


def _fill_mask(
    mask: NDArray[np.uint16], stream: StreamGroup, rows_ST: NDArray[np.int64], window: int
) -> None:
    start = stream.window_start if window else 0
    cells = np.arange(start, stream.num_cells)
    visible = cells <= rows_ST[..., None]
    if window:
        visible &= cells > rows_ST[..., None] - window
    mask[:] = _F16_MINUS_INFINITY
    mask[visible] = _F16_ZERO
