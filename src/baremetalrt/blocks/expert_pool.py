"""Experts that do not all stay in memory: slots, and what fills them when a router has chosen.

A block of a mixture computes with a few of its experts per token. So experts are read, not blocks, and
those that are chosen often stay. Experts of equal shape and type share their slots, whichever block they
are of.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.expert_cache import ExpertCache, ExpertKind, Key, share_slots
from baremetalrt.blocks.inventory import EXPERT_MATRICES, Inventory, Weight
from baremetalrt.blocks.weight_loader import SpanWeights
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice, PageBuffer
from baremetalrt.native.graph import Tensor, TensorContext
from baremetalrt.weights.direct_reads import NUM_READERS, DirectFile
from baremetalrt.weights.gguf import GGUFFile

# Rows of a tensor of experts begin where vectors do.
_ALIGNMENT: Final = 64


class ExpertPool:
    """Slots for experts in `budget_bytes`; gives `weights` the tensors that all blocks share.

    Raises:
        CapacityError: not even the experts of one block fit.
    """

    def __init__(
        self,
        file: GGUFFile,
        inventory: Inventory,
        weights: SpanWeights,
        device: BackendDevice,
        budget_bytes: int,
    ) -> None:
        self._inventory = inventory
        self._files = [DirectFile(path) for path in file.paths]
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="experts")
        self._kinds: dict[int, _Kind] = {}
        alike = _alike(inventory)
        slots = share_slots([kind_of(inventory, blocks) for blocks in alike], budget_bytes)
        for blocks, num_slots in zip(alike, slots, strict=True):
            kind = _Kind(inventory.blocks[blocks[0]], num_slots, device, weights)
            for i in blocks:
                self._kinds[i] = kind
                weights.blocks.setdefault(i, {}).update(kind.tensors)
                weights.pooled.add(i)
        self.num_bytes = sum(kind.num_bytes for kind in set(self._kinds.values()))
        self.read_bytes = 0

    def slots(self, block: int, chosen: NDArray[np.int32]) -> NDArray[np.int32]:
        """The slots of experts that a router has chosen, once they are there; raises `IntegrityError`."""
        kind = self._kinds[block]
        experts, where = np.unique(chosen, return_inverse=True)
        slots, missing = kind.cache.request([(block, int(expert)) for expert in experts])
        reads = [
            (key, self._readers.submit(self._read, kind, name, key, slot))
            for key, slot in missing
            for name in EXPERT_MATRICES
        ]
        failures: dict[Key, BaseException] = {}
        for key, read in reads:
            try:
                self.read_bytes += read.result()
            except BaseException as error:
                failures[key] = error
        for key in failures:
            kind.cache.forget(key)
        for failure in failures.values():
            raise failure
        return np.array(slots, np.int32)[where].reshape(chosen.shape)

    def _read(self, kind: "_Kind", name: str, key: Key, slot: int) -> int:
        block, expert = key
        info = self._inventory.blocks[block][name].info
        size = info.num_bytes // info.shape[2]
        read = self._files[info.file].read(info.start + expert * size, size)
        backend.write_part(kind.tensors[name], read, slot * size)
        return size

    @property
    def hit_rate(self) -> float:
        """Of all experts that were chosen, the share that was in memory."""
        caches = [kind.cache for kind in set(self._kinds.values())]
        hits, misses = sum(c.hits for c in caches), sum(c.misses for c in caches)
        return hits / (hits + misses) if hits + misses else 1.0

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)
        for file in self._files:
            file.close()


class _Kind:
    """Slots for experts of one shape and type."""

    def __init__(
        self,
        block: dict[str, Weight],
        num_slots: int,
        device: BackendDevice,
        weights: SpanWeights,
    ) -> None:
        matrices = {name: block[name].info for name in EXPERT_MATRICES}
        sizes = {name: info.num_bytes // info.shape[2] for name, info in matrices.items()}
        self.cache = ExpertCache(num_slots)
        self.num_bytes = num_slots * sum(sizes.values())
        self.tensors: dict[str, Tensor] = {}
        context = TensorContext(len(matrices))
        weights.keep(context)
        for name, info in matrices.items():
            buffer = PageBuffer(device, num_slots * sizes[name] + _ALIGNMENT)
            weights.keep(buffer)
            tensor = context.new_tensor(info.type, info.shape[0], info.shape[1], num_slots)
            backend.place(tensor, buffer, buffer.base)
            self.tensors[name] = tensor


def least_bytes(inventory: Inventory) -> int:
    """The least that slots for the experts of a span take."""
    kinds = (kind_of(inventory, blocks) for blocks in _alike(inventory))
    return sum(kind.block_bytes for kind in kinds)


def kind_of(inventory: Inventory, blocks: Sequence[int]) -> ExpertKind:
    """Of blocks whose experts are alike."""
    block = inventory.blocks[blocks[0]]
    num_experts = block[EXPERT_MATRICES[0]].info.shape[2]
    num_bytes = sum(block[name].info.num_bytes for name in EXPERT_MATRICES)
    return ExpertKind(len(blocks), num_experts, num_bytes // num_experts)


def _alike(inventory: Inventory) -> list[list[int]]:
    """The blocks of a span by the shapes and types of their experts."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, block in inventory.blocks.items():
        infos = (block[name].info for name in EXPERT_MATRICES)
        alike.setdefault(tuple((info.type, info.shape) for info in infos), []).append(i)
    return list(alike.values())
