"""The inputs of a graph: which a step needs, and what goes into them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.streams import StepShape, StreamGroup
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.graph import F16, F32, I32, I64, GraphBuilder, Tensor, host_view

_F16_ZERO: Final = 0x0000
_F16_MINUS_INFINITY: Final = 0xFC00
# (windowed, selected)
_MASK_KINDS: Final = ((False, False), (False, True), (True, False), (True, True))


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
        """Finds the memory of the tensor, once it is placed."""
        self._copies = device.kind != "cpu"
        self.values = (
            np.empty(self._shape, self._dtype)
            if self._copies
            else host_view(self.tensor, self._shape, self._dtype)
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
        self._first_output = shape.tokens_each - shape.outputs_each
        self._positions: dict[bool, Input] = {}
        self._temperatures: dict[bool, Input] = {}
        self._masks: dict[tuple[int, bool, bool], Input] = {}
        self._selection: Input | None = None
        self._cells = self._rows(I64, np.int64, selected=False)

    def _rows(self, type_: int, dtype: DTypeLike, *, selected: bool) -> Input:
        """One number per row."""
        shape = self._shape.num_streams, self.rows_each(selected)
        return Input(
            self._g,
            type_,
            dtype,
            tensor_shape=(shape[0] * shape[1],),
            array_shape=shape,
        )

    def rows_each(self, selected: bool) -> int:
        return self._shape.outputs_each if selected else self._shape.tokens_each

    @property
    def cells(self) -> Tensor:
        """The cell that each row's key and value go to, `(T,)`."""
        return self._cells.tensor

    def positions(self, selected: bool) -> Tensor:
        """The position of every row in its text, `(R,)`."""
        if selected not in self._positions:
            self._positions[selected] = self._rows(I32, np.int32, selected=selected)
        return self._positions[selected].tensor

    def temperatures(self, selected: bool) -> Tensor:
        """What queries are multiplied by, `(1, 1, R)`."""
        if selected not in self._temperatures:
            shape = self._shape.num_streams, self.rows_each(selected)
            self._temperatures[selected] = Input(
                self._g,
                F32,
                np.float32,
                tensor_shape=(1, 1, shape[0] * shape[1]),
                array_shape=shape,
            )
        return self._temperatures[selected].tensor

    def selection(self) -> Tensor:
        """The indices of the rows that are read, `(R,)`."""
        if self._selection is None:
            self._selection = self._rows(I32, np.int32, selected=True)
        return self._selection.tensor

    def mask(self, group: int, *, windowed: bool, selected: bool) -> Tensor:
        """0 where a row may look, minus infinity elsewhere: `(cells, rows, 1, streams)`."""
        key = (group, windowed, selected)
        if key not in self._masks:
            stream = self._shape.groups[group]
            cells = stream.num_cells - (stream.window_start if windowed else 0)
            rows = self.rows_each(selected)
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
        optional = (self._selection,) if self._selection else ()
        for one in (
            self._cells,
            *self._positions.values(),
            *self._temperatures.values(),
            *self._masks.values(),
            *optional,
        ):
            one.bind(device)

    def send(self, positions_S: Sequence[int], first_cells_S: Sequence[int]) -> None:
        """Fills all inputs for S sessions that stand at `positions_S`.

        `first_cells_S` is where each session's extent of the cache begins.
        """
        if self._shape.tokens_each == 1 and not self._temperatures:
            self._send_decode(positions_S, first_cells_S)
            return
        starts = np.array(positions_S, np.int64)[:, None]
        rows = {False: starts + np.arange(self._shape.tokens_each)}
        rows[True] = rows[False][:, self._first_output :]
        np.add(rows[False], np.array(first_cells_S, np.int64)[:, None], out=self._cells.values)
        self._cells.send()
        for selected, positions in self._positions.items():
            positions.values[:] = rows[selected]
            positions.send()
        for selected, temperatures in self._temperatures.items():
            steps = np.floor(rows[selected] / self._h.rope.original_context) + 1.0
            temperatures.values[:] = 1.0 + self._h.temperature_scale * np.log(steps)
            temperatures.send()
        if self._selection is not None:
            streams = np.arange(self._shape.num_streams)[:, None]
            first_rows = streams * self._shape.tokens_each + self._first_output
            self._selection.values[:] = first_rows + np.arange(self._shape.outputs_each)
            self._selection.send()
        first = 0
        for i, stream in enumerate(self._shape.groups):
            last = first + stream.num_streams
            for windowed, selected in _MASK_KINDS:
                found = self._masks.get((i, windowed, selected))
                if found is not None:
                    window = self._h.window if windowed else 0
                    _fill_mask(found.values, stream, rows[selected][first:last], window)
                    found.send()
            first = last

    def _send_decode(self, positions_S: Sequence[int], first_cells_S: Sequence[int]) -> None:
        """The same for one token per session: with few calls, as the caches are cold after a step."""
        cells = self._cells.values
        for i, position in enumerate(positions_S):
            cells[i, 0] = first_cells_S[i] + position
        self._cells.send()
        for found in self._positions.values():
            found.values[:, 0] = positions_S
            found.send()
        first = 0
        for i, stream in enumerate(self._shape.groups):
            for windowed in (False, True):
                mask = self._masks.get((i, windowed, False))
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
    mask: NDArray[np.uint16], stream: StreamGroup, rows_SR: NDArray[np.int64], window: int
) -> None:
    start = stream.window_start if window else 0
    cells = np.arange(start, stream.num_cells)
    visible = cells <= rows_SR[..., None]
    if window:
        visible &= cells > rows_SR[..., None] - window
    mask[:] = _F16_MINUS_INFINITY
    mask[visible] = _F16_ZERO
