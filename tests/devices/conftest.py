"""Which library these tests compute with: an engine for graphics cards, which has to be installed."""

import os

import pytest

from baremetalrt.engines.store import installed
from baremetalrt.native.backend import BackendDevice, backend_devices
from baremetalrt.native.library import ENVIRONMENT_VARIABLE

_NEEDS = (
    "`make test-devices` needs an engine for graphics cards: `bmrt engine install vulkan`; where there "
    "is no card, Debian's packages mesa-vulkan-drivers and libvulkan1, and GGML_VK_VISIBLE_DEVICES=0"
)

if os.environ.get("BMRT_TEST_DEVICES"):
    # Before anything loads the library: a process has one.
    found = [one for one in installed() if any(d.kind != "cpu" for d in one.devices)]
    if not found:
        pytest.exit(_NEEDS, returncode=2)
    os.environ[ENVIRONMENT_VARIABLE] = str(found[-1].path)


@pytest.fixture(scope="session")
def card() -> BackendDevice:
    """The first device that is not the host."""
    others = [one for one in backend_devices() if one.kind in ("gpu", "integrated-gpu")]
    if not others:
        pytest.fail(_NEEDS)
    return others[0]


@pytest.fixture(scope="session")
def name(card: BackendDevice) -> str:
    return card.name.lower()
