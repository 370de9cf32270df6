"""A machine with a second device: the processor once more, as one with memory of its own.

What holds for cards holds for it: weights are copied, inputs sent, outputs fetched. It can fail.
"""

from dataclasses import dataclass, replace

import pytest

from baremetalrt.devices.rates import MatrixKind, Rates
from baremetalrt.native import backend
from baremetalrt.native.backend import Backend, BackendDevice, DeviceError, find_device

SPARE = "spare0"


@dataclass
class SpareDevice:
    """`steps_left` until it fails, None for never; `byte_s`, and what is `wrong`, as if it was tried."""

    device: BackendDevice
    byte_s: float = 1e-12
    steps_left: int | None = None
    steps: int = 0
    wrong: str | None = None

    def fail_after(self, steps: int) -> None:
        self.steps_left = self.steps + steps


def add_spare(monkeypatch: pytest.MonkeyPatch) -> SpareDevice:
    """From now on there is such a device, as long as the patch lasts."""
    device = replace(find_device("cpu"), name=SPARE.upper(), description="a second one", kind="gpu")
    spare = SpareDevice(device)
    real_devices, real_compute = backend.backend_devices, Backend.compute

    def compute(self: Backend, graph: int) -> None:
        if self.device.name == device.name:
            if spare.steps_left is not None and spare.steps >= spare.steps_left:
                raise DeviceError(self.device, "was pulled out")
            spare.steps += 1
        real_compute(self, graph)

    def rates(one: BackendDevice, kind: MatrixKind) -> Rates:
        byte_s = spare.byte_s if one.name == device.name else 1e-7
        return Rates(byte_s=byte_s, step_s=0.0, operations_per_s=1e11)

    monkeypatch.setattr(backend, "backend_devices", lambda: iter((*real_devices(), device)))
    monkeypatch.setattr(Backend, "compute", compute)
    # The processes in which devices are measured and tried have the real ones.
    monkeypatch.setattr("baremetalrt.node.device_choice.rates_of", rates)
    monkeypatch.setattr("baremetalrt.node.device_choice.wrong_with", lambda *asked: spare.wrong)
    return spare
