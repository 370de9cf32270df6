"""Adapters where a device computes with them: joined, scaled, loaded once, counted.

However many adapters a session uses, every matrix gets one pair of factors: those of all adapters side
by side, the second one times its weight. Matrices that multiply the same rows (queries, keys, values;
gate and up) share the first factor, so that one multiplication serves them all.

Shapes as in `weights/adapters/adapter.py`: a_RD, b_FR, row_scale_F; R counts the ranks of all adapters.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.delta import Delta
from baremetalrt.blocks.inventory import Inventory, Weight
from baremetalrt.blocks.prefix_store import AdapterKey
from baremetalrt.core.units import GIB, round_up
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice, Buffer
from baremetalrt.native.graph import F32, Tensor, TensorContext
from baremetalrt.weights.adapters.adapter import Adapter, LowRank, combined, shape_of
from baremetalrt.weights.gguf import EMBEDDING, HEAD

# Sets of adapters that nobody uses now, kept for the next who does: in numbers and in memory.
_MAX_IDLE: Final = 8
_MAX_IDLE_BYTES: Final = GIB
_SAME_INPUT: Final = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))
_EXPERTS: Final = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_SUFFIX: Final = ".weight"


@dataclass(frozen=True)
class WeightedAdapter:
    """An adapter, and how much of it."""

    adapter: Adapter
    scale: float = 1.0


@dataclass(frozen=True)
class AdapterSet:
    """What one session uses together; the order does not matter."""

    members: tuple[WeightedAdapter, ...]
    key: AdapterKey = field(init=False)

    def __post_init__(self) -> None:
        named = sorted((m.adapter.digest, m.scale) for m in self.members)
        object.__setattr__(self, "key", tuple(named))


@dataclass(eq=False)
class _Joined:
    """The arrays of a delta: `rank` rows of `a`, from `first` on, belong to `b`."""

    name: str
    block: int | None
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    first: int
    rank: int
    row_scale_F: NDArray[np.float32] | None = None


@dataclass
class LoadedAdapters:
    """A set of adapters on a device, by the names of matrices without `.weight`."""

    key: AdapterKey
    blocks: dict[int, dict[str, Delta]] = field(default_factory=dict)
    outer: dict[str, Delta] = field(default_factory=dict)
    num_bytes: int = 0
    num_users: int = 0
    unwanted: bool = False
    _memory: list[Buffer | TensorContext] = field(default_factory=list)

    @property
    def num_deltas(self) -> int:
        """How many matrices are adapted."""
        return len(self.outer) + sum(len(block) for block in self.blocks.values())

    def close(self) -> None:
        for memory in reversed(self._memory):
            memory.close()
        self._memory.clear()


class AdapterRack:
    """The adapters of one span. `on_free` hears of every set before its memory goes."""

    def __init__(
        self, inventory: Inventory, device: BackendDevice, on_free: Callable[[AdapterKey], None]
    ) -> None:
        self._inventory = inventory
        self._device = device
        self._on_free = on_free
        self._sets: OrderedDict[AdapterKey, LoadedAdapters] = OrderedDict()

    def hold(self, adapters: AdapterSet) -> LoadedAdapters:
        """Loads a set unless it is here, for one more user.

        Raises:
            CapacityError: the device has no memory for it.
        """
        loaded = self._sets.get(adapters.key)
        if loaded is None:
            loaded = self._sets[adapters.key] = _load(adapters, self._inventory, self._device)
        self._sets.move_to_end(adapters.key)
        loaded.num_users += 1
        loaded.unwanted = False
        return loaded

    def get(self, key: AdapterKey) -> LoadedAdapters:
        """A set that somebody holds."""
        return self._sets[key]

    def let_go(self, key: AdapterKey) -> None:
        """One user less. The set stays for the next one, unless it is unwanted or there are many."""
        loaded = self._sets[key]
        loaded.num_users -= 1
        if loaded.unwanted and not loaded.num_users:
            self._free(key)
        idle = [k for k, one in self._sets.items() if not one.num_users]
        num_bytes = sum(self._sets[k].num_bytes for k in idle)
        while idle and (len(idle) > _MAX_IDLE or num_bytes > _MAX_IDLE_BYTES):
            oldest = idle.pop(0)
            num_bytes -= self._sets[oldest].num_bytes
            self._free(oldest)

    def unload(self, digest: str) -> None:
        """Frees every set with this adapter: now, or when its last user ends."""
        for key in [k for k in self._sets if any(digest == one for one, _ in k)]:
            if self._sets[key].num_users:
                self._sets[key].unwanted = True
            else:
                self._free(key)

    @property
    def keys(self) -> tuple[AdapterKey, ...]:
        """The sets that are loaded, used longest ago first."""
        return tuple(self._sets)

    @property
    def num_bytes(self) -> int:
        return sum(loaded.num_bytes for loaded in self._sets.values())

    def close(self) -> None:
        for loaded in self._sets.values():
            loaded.close()
        self._sets.clear()

    def _free(self, key: AdapterKey) -> None:
        self._on_free(key)
        self._sets.pop(key).close()


def _load(adapters: AdapterSet, inventory: Inventory, device: BackendDevice) -> LoadedAdapters:
    """Joins the factors of a set and puts them into one buffer."""
    arrays: list[_Joined] = []
    for index, weights in inventory.blocks.items():
        arrays += _join_block(adapters, index, weights)
    for name in (EMBEDDING, HEAD):
        weight = inventory.outer.get(name)
        if weight is None:
            continue
        m = _combined(adapters, name, weight)
        if m is not None:
            # Rows of the embedding are looked up, so its second factor lies by rows; its first is
            # multiplied by transposed.
            a, b = (m.a_RD.T, m.b_FR) if name == EMBEDDING else (m.a_RD, m.b_FR.T)
            called = name.removesuffix(_SUFFIX)
            arrays.append(_Joined(called, None, a, b, 0, m.rank, m.row_scale_F))
    if lies_by_rows(device):
        for one in arrays:
            one.b = one.b if _looked_up(one.name) else one.b.T
    loaded = LoadedAdapters(adapters.key)
    distinct = {
        id(array): array
        for one in arrays
        for array in (one.a, one.b, one.row_scale_F)
        if array is not None
    }
    tensors = _place(list(distinct.values()), device, loaded)
    placed = dict(zip(distinct, tensors, strict=True))
    for one in arrays:
        delta = Delta(
            a=placed[id(one.a)],
            b=placed[id(one.b)],
            first=one.first,
            rank=one.rank,
            total=one.a.shape[-2],
            by_rows=lies_by_rows(device) or _looked_up(one.name),
            row_scale=None if one.row_scale_F is None else placed[id(one.row_scale_F)],
        )
        where = loaded.outer if one.block is None else loaded.blocks.setdefault(one.block, {})
        where[one.name] = delta
    return loaded


def lies_by_rows(device: BackendDevice) -> bool:
    """Whether the second factor is multiplied by, rather than added up column by column.

    On the CPU the columns are faster: sums over a rank are so short that a dot product spends its time
    on beginning and ending. Other devices multiply, and not all of them have an outer product.
    """
    return not device.is_host


def _looked_up(name: str) -> bool:
    """Whether rows of the second factor, or experts, are picked by number."""
    return name in _EXPERTS or name == EMBEDDING.removesuffix(_SUFFIX)


def _join_block(adapters: AdapterSet, index: int, weights: dict[str, Weight]) -> list[_Joined]:
    """The factors of one block: per matrix, or per group of matrices that multiply the same rows."""
    parts = {
        target: found
        for name, weight in weights.items()
        for target in _targets(name)
        if (found := _combined(adapters, f"blk.{index}.{target}{_SUFFIX}", weight))
    }
    joined: list[_Joined] = []
    for group in (*_SAME_INPUT, *((name,) for name in parts)):
        members = {name: parts.pop(name) for name in group if name in parts}
        if not members:
            continue
        if group[0] in _EXPERTS:
            (name, m) = next(iter(members.items()))
            joined.append(_Joined(name, index, m.a_RD, m.b_FR, 0, m.rank))
            continue
        a_RD = np.concatenate([m.a_RD for m in members.values()])
        if "ffn_gate_up.weight" in weights and group[0] == "ffn_gate":
            rows = weights["ffn_gate_up.weight"].info.shape[1] // 2
            b, scale_F = _diagonal(members, rows)
            joined.append(_Joined("ffn_gate_up", index, a_RD, b, 0, len(a_RD), scale_F))
            continue
        first = 0
        for name, m in members.items():
            joined.append(_Joined(name, index, a_RD, m.b_FR.T, first, m.rank, m.row_scale_F))
            first += m.rank
    return joined


def _targets(name: str) -> tuple[str, ...]:
    """The matrices of the file that a weight of ours holds."""
    if name == "ffn_gate_up.weight":
        return ("ffn_gate", "ffn_up")
    return (name.removesuffix(_SUFFIX),) if name.endswith(_SUFFIX) else ()


def _combined(adapters: AdapterSet, tensor: str, weight: Weight) -> LowRank | None:
    """What a set does to one tensor."""
    for member in adapters.members:
        if tensor in member.adapter.matrices:
            _check(member.adapter.matrices[tensor], tensor, weight)
    return combined(((m.adapter, m.scale) for m in adapters.members), tensor)


def _check(m: LowRank, tensor: str, weight: Weight) -> None:
    """ggml ends the process on shapes that do not fit: `check_fits` has compared them before."""
    shape = shape_of(weight.info)
    joined = (shape[0], shape[1] // 2)  # gate and up, each half of one matrix
    if m.target_shape not in (shape, joined):
        raise ValueError(f"an adapter of shape {m.target_shape} for {tensor} of shape {shape}")


def _diagonal(
    members: dict[str, LowRank], rows: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Gate's and up's second factors for the joined matrix, `(R, 2 * rows)`, and what scales its rows."""
    out = np.zeros((sum(m.rank for m in members.values()), 2 * rows), np.float32)
    scale_F = np.ones(2 * rows, np.float32)
    first = 0
    for name, m in members.items():
        column = 0 if name == "ffn_gate" else rows
        out[first : first + m.rank, column : column + rows] = m.b_FR.T
        if m.row_scale_F is not None:
            scale_F[column : column + rows] = m.row_scale_F
        first += m.rank
    return out, scale_F if any(m.row_scale_F is not None for m in members.values()) else None


def _place(
    arrays: list[NDArray[np.float32]], device: BackendDevice, loaded: LoadedAdapters
) -> list[Tensor]:
    """Tensors with these numbers, in one buffer."""
    context = TensorContext(max(1, len(arrays)))
    loaded._memory.append(context)
    tensors = [context.new_tensor(F32, *array.shape[::-1]) for array in arrays]
    buffer_type = device.buffer_type()
    alignment = backend.alignment(buffer_type)
    sizes = [round_up(backend.allocated_bytes(buffer_type, t), alignment) for t in tensors]
    buffer = Buffer(buffer_type, sum(sizes) + alignment)
    loaded._memory.append(buffer)
    loaded.num_bytes = sum(sizes)
    at = round_up(buffer.base, alignment)
    for tensor, array, size in zip(tensors, arrays, sizes, strict=True):
        backend.place(tensor, buffer, at)
        backend.write(tensor, np.ascontiguousarray(array))
        at += size
    return tensors
