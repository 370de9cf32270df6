"""How fast a device multiplies: measured once, and kept with everything that it depends on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from baremetalrt.core.places import device_rates_file
from baremetalrt.devices.kept import KeptAnswers, key_of
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.apart import run_apart
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.library import load_library

_WORKER: Final = Path(__file__).with_name("rates_worker.py")


@dataclass(frozen=True, kw_only=True)
class MatrixKind:
    """What is multiplied by: matrices of one type and width, the way most of a model is."""

    type: int
    width: int


# By which devices are compared where no model is at hand: Q4_0, as wide as models of a few billion.
TYPICAL: Final = MatrixKind(type=2, width=2048)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds for each byte of weights that one token is multiplied by, and for each step besides;
    multiplications and additions per second in a prompt."""

    byte_s: float
    step_s: float
    operations_per_s: float


def rates_of(device: BackendDevice, kind: MatrixKind, *, anew: bool = False) -> Rates | None:
    """How fast it is, out of what is kept or measured now, which takes a second. None: it fails."""
    answers, key = KeptAnswers(device_rates_file()), key_of(device, asdict(kind))
    kept = answers.all()
    if not anew and key in kept:
        return _read(kept[key])
    asked = [device.name, str(kind.type), str(kind.width), str(default_threads())]
    tried = run_apart(_WORKER, load_library().path, asked)
    measured = _read(tried.said[-1]) if tried.said else None
    # What it had no memory or no time for is tried again the next time.
    if measured is not None:
        answers.put(key, asdict(measured))
    elif tried.has_faulted or tried.status == 0:
        answers.put(key, None)
    return measured


def _read(kept: object) -> Rates | None:
    if not isinstance(kept, Mapping):
        return None
    said = [kept.get(name) for name in ("byte_s", "step_s", "operations_per_s")]
    values = [v for v in said if isinstance(v, float) and 0 <= v < float("inf")]
    if len(values) < len(said) or not values[0]:
        return None
    byte_s, step_s, operations_per_s = values
    return Rates(byte_s=byte_s, step_s=step_s, operations_per_s=operations_per_s)
