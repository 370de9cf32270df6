"""Devices, the memory on them, and graph execution.

Source: `ggml-backend.h`. A backend is one stream of work on one device.
"""

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from baremetalrt.core.errors import CapacityError, UsageError
from baremetalrt.core.units import round_up
from baremetalrt.native import declarations as d
from baremetalrt.native.handle import Handle
from baremetalrt.native.library import load_library

DeviceKind = Literal["cpu", "gpu", "integrated-gpu", "accelerator", "meta"]

_KINDS: Final[tuple[DeviceKind, ...]] = ("cpu", "gpu", "integrated-gpu", "accelerator", "meta")
# Source: TENSOR_ALIGNMENT in `ggml-impl.h`.
_HOST_ALIGNMENT: Final = 32
# Source: `ggml_backend_amx_buffer_type_get_name`.
_TILES: Final = "AMX"
_STATUS_SUCCESS: Final = 0
_STATUS_ALLOCATION_FAILED: Final = -2


class DeviceError(CapacityError):
    """A device other than the host gave no memory for a step, or did not end it: others still may."""

    def __init__(self, device: "BackendDevice", what: str) -> None:
        super().__init__(
            f"{device.name.lower()} {what}",
            code="device.failed",
            hint="leave it out: --device cpu",
        )
        self.device = device.name


class UnsupportedOperationError(UsageError):
    """A device cannot compute something of a model: another one may."""

    def __init__(self, device: "BackendDevice", what: str, *, hint: str) -> None:
        super().__init__(
            f"{device.name.lower()} cannot compute {what}",
            code="device.unsupported",
            parameter="device",
            hint=hint,
        )
        self.device = device.name


@dataclass(frozen=True)
class BackendDevice:
    """A device as the library reports it."""

    pointer: int
    name: str
    description: str
    kind: DeviceKind

    @property
    def is_host(self) -> bool:
        """Whether it computes in this machine's own memory, and on mapped files in place."""
        return self.kind == "cpu"

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory, in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        load_library().c.ggml_backend_dev_memory(self.pointer, free, total)
        return free.value, total.value

    def features(self) -> tuple[str, ...]:
        """What the library was built to use here: `AVX2`, `REPACK`, `OPENMP`, …"""
        function = _procedure(self.pointer, b"ggml_backend_get_features")
        if not function:
            return ()
        registry = load_library().c.ggml_backend_dev_backend_reg(self.pointer)
        listed = d.GET_FEATURES(function)(registry)
        names = []
        for i in range(256):
            if not listed[i].name:
                break
            if listed[i].value != b"0":
                names.append(listed[i].name.decode())
        return tuple(names)

    def buffer_type(self) -> int:
        """The ordinary memory of this device."""
        return int(load_library().c.ggml_backend_dev_buffer_type(self.pointer))

    def repacking_buffer_types(self) -> tuple[int, ...]:
        """Memory that reorders a matrix on the way in, so that multiplying by it is faster.

        Without Intel's tiles: there are virtual machines that name them among their features and fault
        at the first one, and llama.cpp with them (seen with ggml 0.25.3, compiled for such a machine).
        """
        return tuple(t for t in self._extra_buffer_types() if buffer_type_name(t) != _TILES)

    def has_tiles(self) -> bool:
        """Whether the library would multiply by those tiles."""
        return any(buffer_type_name(t) == _TILES for t in self._extra_buffer_types())

    def _extra_buffer_types(self) -> Iterator[int]:
        function = _procedure(self.pointer, b"ggml_backend_dev_get_extra_bufts")
        if not function:
            return
        listed = d.EXTRA_BUFFER_TYPES(function)(self.pointer)
        for i in range(16):
            if not listed[i]:
                return
            yield int(listed[i])


def backend_devices() -> Iterator[BackendDevice]:
    """Every device that the library can compute on, in its order."""
    c = load_library().c
    for i in range(c.ggml_backend_dev_count()):
        pointer = c.ggml_backend_dev_get(i)
        yield BackendDevice(
            pointer=pointer,
            name=c.ggml_backend_dev_name(pointer).decode("utf-8", "replace"),
            description=c.ggml_backend_dev_description(pointer).decode("utf-8", "replace").strip(),
            kind=_KINDS[c.ggml_backend_dev_type(pointer)],
        )


def _procedure(device: int, name: bytes) -> int | None:
    c = load_library().c
    address: int | None = c.ggml_backend_reg_get_proc_address(
        c.ggml_backend_dev_backend_reg(device), name
    )
    return address


class Backend(Handle):
    """A stream of graph executions on one device."""

    def __init__(self, device: BackendDevice, *, num_threads: int) -> None:
        self._c = load_library().c
        self.device = device
        super().__init__(
            self._c.ggml_backend_dev_init(device.pointer, None),
            self._c.ggml_backend_free,
            what=f"a backend on {device.name}",
        )
        set_threads = _procedure(device.pointer, b"ggml_backend_set_n_threads")
        if set_threads:
            d.SET_N_THREADS(set_threads)(self.pointer, num_threads)

    def compute(self, graph: int) -> None:
        """Runs a graph to its end; blocks, with the interpreter lock released.

        Raises:
            DeviceError: a device other than the host did not get there.
            CapacityError: the host has no memory for it.
        """
        status = self._c.ggml_backend_graph_compute(self.pointer, graph)
        if status != _STATUS_SUCCESS and not self.device.is_host:
            raise DeviceError(self.device, f"ended a step with status {status}")
        if status == _STATUS_ALLOCATION_FAILED:
            raise CapacityError(
                f"{self.device.name} has no memory for this step",
                code="native.allocation",
                hint="use a shorter context or fewer sessions",
            )
        if status != _STATUS_SUCCESS:
            raise RuntimeError(f"graph execution failed with status {status}")


class Buffer(Handle):
    """Memory on a device, with whatever was in it before."""

    def __init__(self, buffer_type: int, num_bytes: int) -> None:
        self._c = load_library().c
        super().__init__(
            self._c.ggml_backend_buft_alloc_buffer(buffer_type, num_bytes),
            self._c.ggml_backend_buffer_free,
            what=f"{num_bytes} bytes of {self._c.ggml_backend_buft_name(buffer_type).decode()}",
        )
        self.base = int(self._c.ggml_backend_buffer_get_base(self.pointer))

    def clear(self) -> None:
        """Fills the buffer with zeros."""
        self._c.ggml_backend_buffer_clear(self.pointer, 0)


class HostBuffer(Handle):
    """Host memory that `owner` keeps alive (a mapped file, say), usable as tensor storage in place."""

    def __init__(self, device: BackendDevice, address: int, num_bytes: int, owner: object) -> None:
        if address % _HOST_ALIGNMENT:
            raise ValueError(f"host memory for tensors begins at a multiple of {_HOST_ALIGNMENT}")
        self._c = load_library().c
        self._owner = owner
        self.base = address
        super().__init__(
            self._c.ggml_backend_dev_buffer_from_host_ptr(
                device.pointer, address, num_bytes, num_bytes
            ),
            self._c.ggml_backend_buffer_free,
            what=f"a view of {num_bytes} bytes of host memory",
        )


class PageBuffer(HostBuffer):
    """Pages of zeros that appear as they are first written, and can be given back."""

    # Only there is it said that pages which were given back read as zeros.
    can_discard = sys.platform == "linux"

    def __init__(self, device: BackendDevice, num_bytes: int) -> None:
        """Raises `CapacityError`."""
        try:
            private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
            self._pages = mmap.mmap(-1, num_bytes, **private)
        except (OSError, OverflowError) as error:
            raise CapacityError(
                f"no {num_bytes} bytes of memory to be had",
                code="native.allocation",
                needed=num_bytes,
            ) from error
        self._bytes = np.frombuffer(self._pages, np.uint8)
        super().__init__(device, self._bytes.ctypes.data, num_bytes, self._bytes)

    def discard(self, address: int, num_bytes: int) -> None:
        """Gives back the pages that lie wholly in a range, which reads as zeros from then on."""
        start, end = self._whole_pages(address, num_bytes)
        if self.can_discard and start < end:
            self._pages.madvise(mmap.MADV_DONTNEED, start, end - start)

    def clear(self, address: int, num_bytes: int) -> None:
        """Makes a range read as zeros, and gives back what it can of it."""
        first, last = address - self.base, address - self.base + num_bytes
        start, end = self._whole_pages(address, num_bytes)
        if not self.can_discard or start >= end:
            start = end = last
        self._bytes[first:start] = 0
        self._bytes[end:last] = 0
        self.discard(address, num_bytes)

    def view(self, address: int, num_bytes: int) -> NDArray[np.uint8]:
        """A range as it lies in memory."""
        first = address - self.base
        return self._bytes[first : first + num_bytes]

    def _whole_pages(self, address: int, num_bytes: int) -> tuple[int, int]:
        start = round_up(address - self.base, mmap.PAGESIZE)
        return start, (address - self.base + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE


def zeroed_buffer(device: BackendDevice, num_bytes: int) -> Buffer | PageBuffer:
    """Memory full of zeros. That of the host appears page by page as it is first written."""
    if device.is_host:
        return PageBuffer(device, num_bytes)
    buffer = Buffer(device.buffer_type(), num_bytes)
    buffer.clear()
    return buffer


def host_array(
    device: BackendDevice, shape: tuple[int, ...], dtype: DTypeLike
) -> tuple[NDArray[Any], HostBuffer]:
    """An array, and the same memory as storage for a tensor; raises `CapacityError` if there is none."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        memory = np.empty(num_bytes + _HOST_ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise CapacityError(
            f"no {num_bytes} bytes of memory to be had", code="native.allocation", needed=num_bytes
        ) from error
    skipped = -memory.ctypes.data % _HOST_ALIGNMENT
    aligned = memory[skipped : skipped + num_bytes]
    buffer = HostBuffer(device, aligned.ctypes.data, num_bytes, memory)
    return aligned.view(dtype).reshape(shape), buffer


def buffer_type_name(buffer_type: int) -> str:
    return str(load_library().c.ggml_backend_buft_name(buffer_type).decode())


def alignment(buffer_type: int) -> int:
    """The byte alignment that tensors in such a buffer need."""
    return int(load_library().c.ggml_backend_buft_get_alignment(buffer_type))


def allocated_bytes(buffer_type: int, tensor: int) -> int:
    """The room that `tensor` takes in such a buffer, padding included."""
    return int(load_library().c.ggml_backend_buft_get_alloc_size(buffer_type, tensor))


def place(tensor: int, buffer: Buffer | HostBuffer, address: int) -> None:
    """Gives a tensor its storage at `address`, which must lie in `buffer`."""
    status = load_library().c.ggml_backend_tensor_alloc(buffer.pointer, tensor, address)
    if status != _STATUS_SUCCESS:
        raise CapacityError("a tensor could not be placed in its buffer", code="native.allocation")


def write(tensor: int, data: NDArray[Any]) -> None:
    """Copies a whole contiguous array to the start of a tensor."""
    load_library().c.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)


def write_from(tensor: int, address: int, num_bytes: int) -> None:
    """Fills a tensor from host memory at `address`."""
    load_library().c.ggml_backend_tensor_set(tensor, address, 0, num_bytes)


def write_part(tensor: int, data: NDArray[np.uint8], offset: int) -> None:
    """Copies bytes into a tensor, from `offset` on."""
    load_library().c.ggml_backend_tensor_set(tensor, data.ctypes.data, offset, data.nbytes)


def read(tensor: int, out: NDArray[Any]) -> None:
    """Copies the start of a tensor into a whole contiguous array."""
    load_library().c.ggml_backend_tensor_get(tensor, out.ctypes.data, 0, out.nbytes)


def supports(device: BackendDevice, operation: int) -> bool:
    """Whether the device can compute this graph node."""
    return bool(load_library().c.ggml_backend_dev_supports_op(device.pointer, operation))


def unsupported_operation(device: BackendDevice, graph: int) -> str | None:
    """The name of an operation in `graph` that the device cannot compute, or None."""
    c = load_library().c
    for i in range(c.ggml_graph_n_nodes(graph)):
        node = c.ggml_graph_node(graph, i)
        if not c.ggml_backend_dev_supports_op(device.pointer, node):
            return str(c.ggml_op_desc(node).decode())
    return None


def find_device(name: str) -> BackendDevice:
    """The device called `name`, matched without regard to case.

    Raises:
        UsageError: there is none; the hint lists those there are.
    """
    devices = list(backend_devices())
    for device in devices:
        if device.name.lower() == name.lower():
            return device
    raise UsageError(
        f"no device called {name!r}",
        code="device.not-found",
        parameter="device",
        hint="this machine has: " + ", ".join(device.name.lower() for device in devices),
    )
