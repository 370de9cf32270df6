"""The weights of a span: all of them in memory, or some read from disk in every step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from baremetalrt.blocks.inventory import EXPERT_MATRICES, Inventory, Unit
from baremetalrt.blocks.weight_loader import SpanWeights, WeightLoader
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.native.backend import BackendDevice
from baremetalrt.weights.gguf import HEAD, GGUFFile

if TYPE_CHECKING:
    from baremetalrt.blocks.builder import FindExperts
    from baremetalrt.blocks.expert_pool import ExpertPool
    from baremetalrt.blocks.residency import HeadRows, Part, ResidencyPlan
    from baremetalrt.blocks.streamed_weights import StreamedWeights

_NOTHING: Final = nullcontext()


class LoadedWeights:
    """Loads what an inventory lists, unit by unit, and says in which parts it can be computed with.

    What does not fit into `budget_bytes` is read in turn, on the processor alone; None is no limit. Of a
    file that `arrives`, nothing is read ahead before it is there.

    Raises:
        CapacityError: not even one block at a time fits.
    """

    def __init__(
        self,
        file: GGUFFile,
        inventory: Inventory,
        device: BackendDevice,
        *,
        copy_budget_bytes: int,
        budget_bytes: int | None,
        arrives: bool,
    ) -> None:
        self._inventory = inventory
        # In what it is computed, where that is not everything at once.
        self._plan: ResidencyPlan | None = None
        self._streamed: StreamedWeights | None = None
        self._experts: ExpertPool | None = None
        needed = sum(len(r) for r in inventory.multiplied_ranges)
        streams = budget_bytes is not None and needed > budget_bytes and device.is_host
        self._loader = WeightLoader(
            inventory,
            file.map(),
            device,
            # Parts that are read in turn stay as they are in the file, and so does the rest: it is the
            # same product then, to the last bit, whatever the budget is.
            copy_budget_bytes=0 if streams else copy_budget_bytes,
        )
        self.tensors: SpanWeights = self._loader.weights
        if not streams:
            return
        assert budget_bytes is not None
        try:
            for_experts = budget_bytes - (needed - _expert_bytes(inventory))
            if _has_experts(inventory) and self._has_slots(for_experts):
                self._pool_experts(file, device, for_experts)
            else:
                self._stream_from(file, device, budget_bytes, arrives=arrives)
        except BaseException:
            self.close()
            raise

    def _has_slots(self, budget_bytes: int) -> bool:
        from baremetalrt.blocks.expert_pool import least_bytes

        return least_bytes(self._inventory) <= budget_bytes

    def _pool_experts(self, file: GGUFFile, device: BackendDevice, budget_bytes: int) -> None:
        from baremetalrt.blocks.expert_pool import ExpertPool
        from baremetalrt.blocks.residency import plan_in_blocks
        from baremetalrt.blocks.streamed_weights import block_sizes, head_size

        first, sizes = min(self._inventory.blocks), block_sizes(self._inventory)
        self._plan = plan_in_blocks(first, sizes, head_size(self._inventory))
        self._experts = ExpertPool(file, self._inventory, self.tensors, device, budget_bytes)

    def _stream_from(
        self, file: GGUFFile, device: BackendDevice, budget_bytes: int, *, arrives: bool
    ) -> None:
        from baremetalrt.blocks.residency import plan_residency
        from baremetalrt.blocks.streamed_weights import StreamedWeights, block_sizes, head_size

        first, sizes = min(self._inventory.blocks), block_sizes(self._inventory)
        plan = plan_residency(first, sizes, head_size(self._inventory), budget_bytes)
        if plan.streamed:
            self._plan = plan
            self._streamed = StreamedWeights(
                file, self._inventory, plan, self.tensors, device, arrives=arrives
            )

    @property
    def is_whole(self) -> bool:
        """Whether everything is computed at once."""
        return self._plan is None

    @property
    def num_parts(self) -> int:
        return len(self._plan.parts) if self._plan else 1

    @property
    def largest_part(self) -> BlockSpan | None:
        """The most blocks that are computed at once; None for all of them."""
        if self._plan is None:
            return None
        works = (part.work for part in self._plan.parts)
        return max((work for work in works if isinstance(work, BlockSpan)), key=len)

    @property
    def find_experts(self) -> "FindExperts | None":
        """Brings experts into memory that a router has chosen, where they do not all stay there."""
        return self._experts.slots if self._experts else None

    def parts(
        self, blocks: BlockSpan, *, has_head: bool
    ) -> "Iterator[tuple[Part, BlockSpan | HeadRows]]":
        """What these blocks are computed in, in order, where that is not everything at once."""
        assert self._plan is not None
        return self._plan.within(blocks, has_head=has_head)

    def holding(self, part: "Part") -> AbstractContextManager[None]:
        """The weights of a part are there until the block ends; raises `IntegrityError`."""
        return self._streamed.holding(part) if self._streamed else _NOTHING

    # loading

    @property
    def units(self) -> tuple[Unit, ...]:
        """What is loaded at once, in order of execution."""
        return self._inventory.units

    def unit_ranges(self, unit: Unit) -> tuple[ByteRange, ...]:
        """What has to be in the file before the unit can be loaded."""
        return self._inventory.unit_ranges(unit)

    def load(self, unit: Unit) -> None:
        """Puts the weights of a unit in place; raises `CapacityError` if they do not fit."""
        plan = self._plan
        if plan is None:
            self._loader.load(unit)
        elif unit == "head":
            self._loader.load(unit, but=() if plan.keeps_head else (HEAD,))
            if plan.keeps_head:
                self.tensors.head_rows[plan.head_rows] = self.tensors.outer[HEAD]
        elif unit == "entry" or plan.keeps(unit):
            self._loader.load(unit, but=EXPERT_MATRICES if self._experts else ())

    def finish_loading(self) -> None:
        """Every unit is there."""
        if self._streamed is not None:
            self._streamed.read_ahead()

    def populate(self) -> None:
        """Brings mapped weights into memory now, rather than page by page in the first step."""
        self.tensors.populate()

    def close(self) -> None:
        for source in (self._streamed, self._experts):
            if source is not None:
                source.close()
        self.tensors.close()

    @property
    def mapped_bytes(self) -> int:
        """Weights that steps read in place, in the mapped file."""
        return self.tensors.mapped_bytes

    @property
    def copied_bytes(self) -> int:
        """Weights held as a copy: reordered for speed, or on a device with memory of its own."""
        return self.tensors.copied_bytes

    @property
    def slots_bytes(self) -> int:
        """Memory through which weights pass that do not stay."""
        if self._experts is not None:
            return self._experts.num_bytes
        return self._streamed.slots_bytes if self._streamed else 0

    @property
    def read_bytes(self) -> int:
        """What was read from disk so far, of weights that do not stay."""
        source = self._experts or self._streamed
        return source.read_bytes if source else 0

    @property
    def hit_rate(self) -> float | None:
        """Of the experts that were chosen so far, the share that was in memory."""
        return self._experts.hit_rate if self._experts else None

    @property
    def streamed_bytes(self) -> int:
        """Weights that are read from disk in every step; of experts, those that have no room."""
        if self._experts is not None:
            return _expert_bytes(self._inventory) - self._experts.num_bytes
        return self._plan.streamed_bytes if self._plan else 0


def _expert_bytes(inventory: Inventory) -> int:
    blocks = inventory.blocks.values()
    return sum(b[name].info.num_bytes for b in blocks for name in EXPERT_MATRICES if name in b)


def _has_experts(inventory: Inventory) -> bool:
    """Whether every block is a mixture: of models where some are not, blocks are read."""
    return all(name in block for block in inventory.blocks.values() for name in EXPERT_MATRICES)
