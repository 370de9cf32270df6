"""Loads a library and computes on each of its devices, in a process that may die of it.

Run by path, with the library in `BMRT_LIBRARY`. One JSON object per line out, each before what might end
the process: `trial.py` reads what was said last.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.units import round_up
from baremetalrt.native import backend
from baremetalrt.native.backend import Backend, BackendDevice, Buffer, backend_devices
from baremetalrt.native.graph import F32, GraphAllocator, GraphBuilder
from baremetalrt.native.library import load_library
from baremetalrt.native.tensor_types import quantize

_WIDTH: Final = 512
_ROWS: Final = 256
# Single tokens take another way through the library than prompts do.
_COLUMNS: Final = (1, 32)
# Type -> how far a product may be from what numpy computes of the same numbers, as a part of its length.
# Half precision, in which graphics cards add up, and the steps of the types are in it.
_TOLERANCES: Final = {F32: 0.01, 2: 0.2, 8: 0.03, 12: 0.15}


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _objects() -> list[str]:
    """The files of the library that this process has loaded, where the system tells."""
    folder = str(load_library().path.parent)
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            paths = {line.split(maxsplit=5)[-1].strip() for line in lines}
    except OSError:
        return []
    return sorted(p.rpartition("/")[2] for p in paths if p.rpartition("/")[0] == folder)


def _product_error(
    device: BackendDevice, type_: int, buffer_type: int, columns: int
) -> float | None:
    """How far a product is from the right one; None where this memory is not for this type."""
    chance = np.random.default_rng(columns)
    weight = chance.standard_normal((_ROWS, _WIDTH), np.float32)
    x = chance.standard_normal((columns, _WIDTH), np.float32)
    g = GraphBuilder(8)
    matrix = g.context.new_tensor(type_, _WIDTH, _ROWS)
    alignment = backend.alignment(buffer_type)
    num_bytes = backend.allocated_bytes(buffer_type, matrix) + alignment
    with (
        g.context,
        Buffer(buffer_type, num_bytes) as buffer,
        GraphAllocator(device.buffer_type()) as allocator,
        Backend(device, num_threads=1) as stream,
    ):
        backend.place(matrix, buffer, round_up(buffer.base, alignment))
        given = g.input(F32, _WIDTH, columns)
        product = g.mul_mat(matrix, given)
        if not backend.supports(device, product):
            return None
        backend.write(matrix, _as_type(weight, type_))
        g.output(product)
        if not allocator.allocate(g.graph):
            return math.inf
        backend.write(given, x)
        stream.compute(g.graph)
        found = np.empty((columns, _ROWS), np.float32)
        backend.read(product, found)
    expected = x @ weight.T
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _as_type(weight: NDArray[np.float32], type_: int) -> NDArray[Any]:
    return weight if type_ == F32 else quantize(weight, type_)


def _errors(device: BackendDevice) -> Iterator[tuple[int, float]]:
    """Of every type, in every memory that the device multiplies from."""
    for type_ in _TOLERANCES:
        for buffer_type in (device.buffer_type(), *device.repacking_buffer_types()):
            for columns in _COLUMNS:
                error = _product_error(device, type_, buffer_type, columns)
                if error is not None:
                    yield type_, error


def main() -> None:
    try:
        _try()
    except BareMetalError as error:
        _say(error=error.message)


def _try() -> None:
    library = load_library()
    _say(ggml=library.ggml_version, llama=library.llama_version, objects=_objects())
    for device in backend_devices():
        _say(device=device.name.lower(), kind=device.kind, features=device.features())
        wrong = [t for t, error in _errors(device) if not error <= _TOLERANCES[t]]
        _say(device=device.name.lower(), wrong=wrong)


if __name__ == "__main__":
    main()
