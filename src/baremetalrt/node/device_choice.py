"""Which devices of this machine compute which blocks of a model."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.inventory import list_tensors
from baremetalrt.blocks.needs import row_bytes
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import round_up
from baremetalrt.devices.fitting import MAX_STEP_TOKENS
from baremetalrt.devices.rates import MatrixKind, Rates, rates_of
from baremetalrt.native import backend
from baremetalrt.native.backend import BackendDevice, UnsupportedOperationError
from baremetalrt.node.device_memory import DeviceMemory
from baremetalrt.node.device_trials import wrong_with
from baremetalrt.node.options import AUTO, ModelOptions
from baremetalrt.weights.gguf import GGUFFile

if TYPE_CHECKING:
    from baremetalrt.placement.profiles import DeviceProfile

_log = logging.getLogger("baremetalrt")
# Widths that every quantization takes.
_WIDTH_QUANTUM: Final = 256
# Beyond that, matrices are read at the same rate, and a few of them take gigabytes.
_MAX_WIDTH: Final = 4096


@dataclass(frozen=True)
class DeviceSpan:
    """Blocks of a model, and the device that is to hold them."""

    device: BackendDevice
    blocks: BlockSpan


def asked_devices(options: ModelOptions) -> tuple[BackendDevice, ...]:
    """The devices that a model may use: those that were named, or all that can hold blocks.

    Raises:
        UsageError: there is no such device.
    """
    if options.device != AUTO:
        names = [name.strip() for name in options.device.split(",")]
        return tuple(dict.fromkeys(backend.find_device(name) for name in names))
    return spannable_devices()


def spannable_devices() -> tuple[BackendDevice, ...]:
    """All that can hold blocks."""
    # What only multiplies for the processor holds nothing; what stands for several is those several.
    kinds = ("cpu", "gpu", "integrated-gpu")
    return tuple(device for device in backend.backend_devices() if device.kind in kinds)


def matrix_kind(file: GGUFFile) -> MatrixKind:
    """What most of a model is; raises like `read_model` and `list_tensors`."""
    architecture, h = read_model(file)
    list_tensors(file, architecture, h, BlockSpan(0, h.num_blocks))
    counts: Counter[int] = Counter()
    for block in file.blocks:
        for info in block.tensors.values():
            counts[info.type] += info.num_bytes
    width = min(round_up(h.width, _WIDTH_QUANTUM), _MAX_WIDTH)
    return MatrixKind(type=counts.most_common(1)[0][0], width=width)


class DeviceChoice:
    """Chooses as `options` say, by speed and by what `memory` there is. Devices that failed are left."""

    def __init__(self, options: ModelOptions, memory: DeviceMemory) -> None:
        self._options = options
        self._memory = memory
        self._failed: set[str] = set()

    def leave(self, device_name: str) -> None:
        """Uses a device no more."""
        self._failed.add(device_name.lower())

    def usable(self) -> tuple[BackendDevice, ...]:
        """Those that may be used, and have not failed; the host, where that leaves none."""
        asked = asked_devices(self._options)
        left = tuple(one for one in asked if one.name.lower() not in self._failed)
        return left or (host_device(),)

    @property
    def has_choice(self) -> bool:
        """Whether another device may do what one does not."""
        return len(asked_devices(self._options)) > 1

    def spans(
        self, file: GGUFFile, without: frozenset[str] = frozenset()
    ) -> tuple[DeviceSpan, ...]:
        """All blocks of a model, in order, on the devices that compute them fastest together.

        What fits nowhere is for the host, which may read it from disk in every step. All of the model is
        here: devices other than the host are tried with its blocks before they are chosen.

        Raises:
            UnsupportedOperationError: the only device that was asked for computes it wrong.
        """
        while True:
            placed = self._placed(file, without)
            wrong = {one.device.name.lower() for one in placed if not self._is_right(one, file)}
            if not wrong:
                return placed
            without |= wrong

    def _is_right(self, placed: DeviceSpan, file: GGUFFile) -> bool:
        device = placed.device
        if device.is_host:
            return True
        wrong = wrong_with(device, file, placed.blocks, self._options.cache_types)
        if wrong is None:
            return True
        if not self.has_choice:
            raise UnsupportedOperationError(
                device,
                f"this model: {wrong}, when two of its blocks were tried",
                hint="run it on the CPU, or try a newer driver",
            )
        _log.info("%s is left out: %s", device.name.lower(), wrong)
        return False

    def _placed(self, file: GGUFFile, without: frozenset[str]) -> tuple[DeviceSpan, ...]:
        everything = BlockSpan(0, read_model(file)[1].num_blocks)
        usable = [one for one in self.usable() if one.name.lower() not in without]
        if not usable:
            usable = [host_device()]
        if len(usable) == 1:
            return (DeviceSpan(usable[0], everything),)
        # Here and not above: most machines have one device.
        from baremetalrt.node.model_profile import demand_of, profile_model
        from baremetalrt.placement.planning import plan
        from baremetalrt.placement.profiles import LOCAL_LINK, Network

        profiles = {
            one.name.lower(): self._profile(one, file, rates)
            for one, rates in self._measured(usable, matrix_kind(file))
        }
        host = host_device()
        if not profiles:
            return (DeviceSpan(host, everything),)
        try:
            best = plan(
                # Rows of the embedding are looked up on the host, whoever has the first block.
                replace(profile_model(file), entry_bytes=0, shared_bytes=0),
                list(profiles.values()),
                Network(default=LOCAL_LINK),
                caller=host.name.lower(),
                demand=demand_of(file, self._options),
            )
        except CapacityError:
            return (DeviceSpan(host, everything),)
        by_name = {one.name.lower(): one for one in usable}
        return tuple(DeviceSpan(by_name[p.device], p.blocks) for p in best.route)

    def for_span(self, file: GGUFFile, blocks: BlockSpan, needed_bytes: int) -> BackendDevice:
        """The fastest device for one span that is here; raises like `spans`."""
        return self.fastest(
            matrix_kind(file),
            needed_bytes,
            lambda device: self._is_right(DeviceSpan(device, blocks), file),
        )

    def fastest(
        self,
        kind: MatrixKind,
        needed_bytes: int,
        is_right: Callable[[BackendDevice], bool] = lambda device: True,
    ) -> BackendDevice:
        """The fastest device with room for so much that `is_right`; the host, where there is none."""
        usable = self.usable()
        if len(usable) == 1:
            return usable[0] if is_right(usable[0]) else host_device()
        measured = self._measured(usable, kind)
        fitting = [(r.byte_s, one) for one, r in measured if self._memory.free(one) >= needed_bytes]
        for _, device in sorted(fitting, key=lambda pair: pair[0]):
            if is_right(device):
                return device
        return host_device()

    def others(self, file: GGUFFile, but: BackendDevice) -> "list[DeviceProfile]":
        """How fast the other devices are that could hold blocks of a model beside one, and their room."""
        others = [one for one in self.usable() if one != but]
        if not others:
            return []
        measured = self._measured(others, matrix_kind(file))
        return [self._profile(one, file, rates) for one, rates in measured]

    def _measured(
        self, devices: Sequence[BackendDevice], kind: MatrixKind
    ) -> list[tuple[BackendDevice, Rates]]:
        """How fast each of them is; those that fail when they are measured are left."""
        measured = []
        for one in devices:
            rates = rates_of(one, kind)
            if rates is not None:
                measured.append((one, rates))
        return measured

    def _profile(self, device: BackendDevice, file: GGUFFile, rates: Rates) -> "DeviceProfile":
        from baremetalrt.node.model_profile import disk_byte_s
        from baremetalrt.placement.profiles import DeviceProfile

        room = self._memory.free(device)
        if not device.is_host:
            # What a step computes in is there, too.
            room = max(0, room - MAX_STEP_TOKENS * row_bytes(read_model(file)[1]))
        reads = device.is_host and file.num_bytes > room
        return DeviceProfile(
            id=device.name.lower(),
            budget_bytes=room,
            byte_s=rates.byte_s,
            step_s=rates.step_s,
            disk_byte_s=disk_byte_s(file) if reads else None,
        )


def host_device() -> BackendDevice:
    """The processor, with this machine's own memory."""
    return next(device for device in backend.backend_devices() if device.is_host)
