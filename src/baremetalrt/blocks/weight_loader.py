"""Puts the weights of a span where a device can use them.

On the CPU a tensor stays in the mapped file, at no cost. Where the library knows a faster order for a
matrix, a reordered copy is made while the memory budget lasts, and the mapped pages are let go.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from baremetalrt.blocks.embedding import HostEmbedding
from baremetalrt.blocks.inventory import Inventory, Unit, Weight
from baremetalrt.blocks.residency import HeadRows
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import ByteRange, merge
from baremetalrt.core.units import MIB, format_bytes, round_up
from baremetalrt.native import backend, graph
from baremetalrt.native.backend import BackendDevice, Buffer, HostBuffer
from baremetalrt.native.graph import F32, I32, GraphBuilder, Tensor, TensorContext
from baremetalrt.native.handle import Handle
from baremetalrt.native.tensor_types import can_dequantize
from baremetalrt.weights.gguf import EMBEDDING, FileMapping, TensorInfo

# ggml wants tensors on vector boundaries; every writer of GGUF aligns to this or more.
_TENSOR_ALIGNMENT: Final = 32
# Norms and the like lie between the matrices; one call for a long stretch beats many.
_POPULATE_GAP_BYTES: Final = MIB


@dataclass
class SpanWeights:
    """Tensors by name, per block and outside of blocks, and the memory they live in."""

    blocks: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    outer: dict[str, Tensor] = field(default_factory=dict)
    # of which a step is sent its rows, where the device does not hold it
    embedding: HostEmbedding | None = None
    # rows of the head's matrix, where it is not there as a whole
    head_rows: dict[HeadRows, Tensor] = field(default_factory=dict)
    # blocks whose experts lie in slots, wherever there is room
    pooled: set[int] = field(default_factory=set)
    mapped_bytes: int = 0
    # mapped, too; a few rows of it are looked up now and then
    looked_up_bytes: int = 0
    copied_bytes: int = 0
    _memory: list[Handle] = field(default_factory=list)
    # matrices that every step reads from the mapped files
    streamed: list[ByteRange] = field(default_factory=list)
    mappings: list[FileMapping] = field(default_factory=list)

    def keep(self, memory: Handle) -> None:
        """Holds on to memory as long as the tensors in it."""
        self._memory.append(memory)

    def populate(self) -> None:
        """Brings mapped matrices into memory now, so that the first step need not wait page by page."""
        for r in merge(self.streamed, gap_bytes=_POPULATE_GAP_BYTES):
            self.mappings[r.file].populate(r.start, r.end)

    def close(self) -> None:
        for memory in reversed(self._memory):
            memory.close()
        self._memory.clear()


class WeightLoader:
    """Loads what an inventory lists, unit by unit, as the bytes of each are there.

    `copy_budget_bytes` bounds the reordered copies on the CPU, and all weights elsewhere. Closing
    `weights` frees everything.
    """

    def __init__(
        self,
        inventory: Inventory,
        mappings: list[FileMapping],
        device: BackendDevice,
        *,
        copy_budget_bytes: int,
    ) -> None:
        self.weights = SpanWeights(mappings=mappings)
        self._inventory = inventory
        self._device = device
        self._budget = copy_budget_bytes
        self._context = TensorContext(inventory.num_tensors)
        self._mapped = (
            [HostBuffer(device, m.address, m.num_bytes, m) for m in mappings]
            if device.is_host
            else []
        )
        self._repacking = device.repacking_buffer_types()
        self._repackable: dict[tuple[int, tuple[int, ...]], int | None] = {}
        for memory in (self._context, *self._mapped):
            self.weights.keep(memory)

    def load(self, unit: Unit, *, but: Collection[str] = ()) -> None:
        """Puts the tensors of a unit in place, all `but` these.

        Raises:
            CapacityError: they do not fit on the device.
        """
        weights = self._inventory.weights(unit)
        tensors = {
            name: self._load(w)
            for name, w in weights.items()
            if name not in but and not self._stays_on_host(name, w)
        }
        if isinstance(unit, int):
            self.weights.blocks.setdefault(unit, {}).update(tensors)
        else:
            self.weights.outer |= tensors

    def _stays_on_host(self, name: str, weight: Weight) -> bool:
        """Whether a few rows of it are sent with each step, instead of all of it at the start."""
        info = weight.info
        if name != EMBEDDING or self._device.is_host or not can_dequantize(info.type):
            return False
        self.weights.embedding = HostEmbedding(self.weights.mappings[info.file], info)
        self.weights.looked_up_bytes += info.num_bytes
        return True

    def _load(self, weight: Weight) -> Tensor:
        info = weight.info
        shape = graph.trim(info.shape)
        tensor = self._context.new_tensor(info.type, *shape)
        mapping = self.weights.mappings[info.file]
        address = mapping.address + info.start
        buffer_type = self._faster_memory(info, shape) if weight.multiplied else None
        if buffer_type is None and self._mapped and info.start % _TENSOR_ALIGNMENT == 0:
            backend.place(tensor, self._mapped[info.file], address)
            if len(shape) > 1 and not weight.multiplied:
                self.weights.looked_up_bytes += info.num_bytes
            else:
                self.weights.mapped_bytes += info.num_bytes
            if weight.multiplied:
                where = ByteRange(info.file, info.start, info.start + info.num_bytes)
                self.weights.streamed.append(where)
            return tensor
        self._copy(tensor, buffer_type or self._device.buffer_type(), address, info)
        mapping.release(info.start, info.start + info.num_bytes)
        return tensor

    def _copy(self, tensor: Tensor, buffer_type: int, address: int, info: TensorInfo) -> None:
        alignment = backend.alignment(buffer_type)
        num_bytes = backend.allocated_bytes(buffer_type, tensor) + alignment
        if num_bytes > self._budget:
            raise CapacityError(
                f"{self._device.name} has {format_bytes(self._budget)} left for weights, "
                f"{info.name} needs {format_bytes(num_bytes)}",
                code="device.memory",
                needed=num_bytes,
                available=self._budget,
                hint="run fewer blocks there",
            )
        self._budget -= num_bytes
        buffer = Buffer(buffer_type, num_bytes)
        self.weights.keep(buffer)
        backend.place(tensor, buffer, round_up(buffer.base, alignment))
        backend.write_from(tensor, address, info.num_bytes)
        self.weights.copied_bytes += info.num_bytes

    def _faster_memory(self, info: TensorInfo, shape: tuple[int, ...]) -> int | None:
        """The buffer type in which this matrix multiplies faster, while the budget lasts."""
        if info.num_bytes + _TENSOR_ALIGNMENT * 8 > self._budget:
            return None
        key = (info.type, shape)
        if key not in self._repackable:
            self._repackable[key] = next(
                (t for t in self._repacking if self._can_multiply(t, info, shape)), None
            )
        return self._repackable[key]

    def _can_multiply(self, buffer_type: int, info: TensorInfo, shape: tuple[int, ...]) -> bool:
        """Asks the device about one multiplication with the matrix in that kind of memory."""
        g = GraphBuilder(8)
        weight = g.context.new_tensor(info.type, *shape)
        num_bytes = backend.allocated_bytes(buffer_type, weight)
        with g.context, Buffer(buffer_type, num_bytes + _TENSOR_ALIGNMENT * 8) as buffer:
            backend.place(weight, buffer, round_up(buffer.base, backend.alignment(buffer_type)))
            if len(shape) == 3:
                x = g.context.new_tensor(F32, shape[0], 1, 1)
                chosen = g.context.new_tensor(I32, 1, 1)
                product = g.mul_mat_id(weight, x, chosen)
            else:
                product = g.mul_mat(weight, g.context.new_tensor(F32, shape[0], 1))
            return backend.supports(self._device, product)
