"""Weights that are read in turn: slots in memory, the tensors in them, and what fills them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from baremetalrt.blocks.disk_stream import DiskStream, Extract
from baremetalrt.blocks.inventory import Inventory, Weight
from baremetalrt.blocks.residency import HeadRows, HeadSize, Part, ResidencyPlan
from baremetalrt.blocks.weight_loader import SpanWeights
from baremetalrt.core.spans import ByteRange, merge
from baremetalrt.core.units import round_up
from baremetalrt.native import backend, graph
from baremetalrt.native.backend import BackendDevice, PageBuffer
from baremetalrt.native.graph import Tensor, TensorContext
from baremetalrt.weights.direct_reads import PAGE_BYTES, DirectFile
from baremetalrt.weights.gguf import HEAD, GGUFFile

# The vectors of the library are at most this long: rows are parted where a tensor may begin.
_ROW_QUANTUM = 32
# Smaller holes between tensors of a part are read along.
_GAP_BYTES = 16 * PAGE_BYTES


def head_size(inventory: Inventory) -> HeadSize | None:
    """The head as it can be parted, where the span has one."""
    weight = inventory.outer.get(HEAD)
    if weight is None:
        return None
    rows = weight.info.shape[1]
    # Begun within a page and ended within another.
    return HeadSize(rows, weight.info.num_bytes // rows, _ROW_QUANTUM, 2 * PAGE_BYTES)


def block_sizes(inventory: Inventory) -> list[int]:
    """The bytes of every block of the span, in whole pages."""
    return [
        sum(map(_page_bytes, _ranges(weights.values()))) for weights in inventory.blocks.values()
    ]


class StreamedWeights:
    """Places the tensors of streamed parts into slots, and reads them there in turn.

    `weights` is given their tensors, in memory that this owns.
    """

    def __init__(
        self,
        file: GGUFFile,
        inventory: Inventory,
        plan: ResidencyPlan,
        weights: SpanWeights,
        device: BackendDevice,
        *,
        arrives: bool,
    ) -> None:
        self.plan = plan
        self._numbers = {part: i for i, part in enumerate(plan.streamed)}
        layouts = [_Layout(inventory, part) for part in plan.streamed]
        slot_bytes = max(layout.num_bytes for layout in layouts)
        buffer = PageBuffer(device, plan.num_slots * slot_bytes)
        pages = buffer.view(buffer.base, plan.num_slots * slot_bytes)
        context = TensorContext(sum(len(layout.tensors) for layout in layouts))
        weights.keep(buffer)
        weights.keep(context)
        extracts = []
        for part, layout in zip(plan.streamed, layouts, strict=True):
            assert part.slot is not None
            base = part.slot * slot_bytes
            for where, weight, shape, offset in layout.tensors:
                tensor = context.new_tensor(weight.info.type, *shape)
                backend.place(tensor, buffer, buffer.base + base + offset)
                _note(weights, where, tensor)
            extracts.append(list(layout.extracts(memoryview(pages.data)[base:])))
        self._stream = DiskStream(
            [DirectFile(path) for path in file.paths],
            [part.slot or 0 for part in plan.streamed],
            extracts,
        )
        self._stream.reads_ahead = not arrives
        self.slots_bytes = plan.num_slots * slot_bytes

    @property
    def read_bytes(self) -> int:
        """What was read so far."""
        return self._stream.read_bytes

    def read_ahead(self) -> None:
        """From now on, everything that is to be read is there."""
        self._stream.reads_ahead = True

    @contextmanager
    def holding(self, part: Part) -> Iterator[None]:
        """The weights of a part are there until the block ends; raises `IntegrityError`."""
        if part.slot is None:
            yield
            return
        with self._stream.holding(self._numbers[part]):
            yield

    def close(self) -> None:
        self._stream.close()


_Where = tuple[int, str] | HeadRows


def _note(weights: SpanWeights, where: _Where, tensor: Tensor) -> None:
    if isinstance(where, HeadRows):
        weights.head_rows[where] = tensor
    else:
        block, name = where
        weights.blocks.setdefault(block, {})[name] = tensor


class _Layout:
    """How a part lies in its slot: whole pages of the file, one range after the other."""

    def __init__(self, inventory: Inventory, part: Part) -> None:
        self._ranges: tuple[ByteRange, ...]
        self.tensors: list[tuple[_Where, Weight, tuple[int, ...], int]] = []
        if isinstance(part.work, HeadRows):
            weight = inventory.outer[HEAD]
            row_bytes = weight.info.num_bytes // weight.info.shape[1]
            start = weight.info.start + part.work.start * row_bytes
            end = weight.info.start + part.work.end * row_bytes
            self._ranges = (ByteRange(weight.info.file, start, end),)
            shape = (weight.info.shape[0], part.work.end - part.work.start)
            self.tensors.append((part.work, weight, shape, self._offset(weight.info.file, start)))
        else:
            blocks = {i: inventory.blocks[i] for i in part.work}
            self._ranges = _ranges(w for block in blocks.values() for w in block.values())
            for i, block in blocks.items():
                for name, w in block.items():
                    offset = self._offset(w.info.file, w.info.start)
                    self.tensors.append(((i, name), w, graph.trim(w.info.shape), offset))

    @property
    def num_bytes(self) -> int:
        return sum(_page_bytes(r) for r in self._ranges)

    def _offset(self, file: int, start: int) -> int:
        """Where in the slot a byte of the file comes to lie."""
        offset = 0
        for r in self._ranges:
            if r.file == file and r.start <= start < r.end:
                return offset + start - _page_start(r)
            offset += _page_bytes(r)
        raise ValueError(f"byte {start} of file {file} is not of this part")

    def extracts(self, slot: memoryview) -> Iterator[Extract]:
        at = 0
        for r in self._ranges:
            first, size = _page_start(r), _page_bytes(r)
            yield Extract(r.file, first, size, r.end - first, slot[at : at + size])
            at += size


def _ranges(weights: Iterable[Weight]) -> tuple[ByteRange, ...]:
    return merge((w.info.byte_range for w in weights), gap_bytes=_GAP_BYTES)


def _page_start(r: ByteRange) -> int:
    return r.start // PAGE_BYTES * PAGE_BYTES


def _page_bytes(r: ByteRange) -> int:
    return round_up(r.end, PAGE_BYTES) - _page_start(r)
