"""Whether everything is here that is needed, and nothing that is in the way."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt import __version__
from baremetalrt.blocks.architectures import ARCHITECTURES
from baremetalrt.blocks.prefix_folder import held_in
from baremetalrt.core import sandbox
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.installation import DISTRIBUTION
from baremetalrt.core.places import models_folder, prefixes_folder
from baremetalrt.devices.memory import available_bytes, total_bytes
from baremetalrt.devices.processor import default_threads
from baremetalrt.devices.rates import TYPICAL, Rates, rates_of
from baremetalrt.devices.survey import DeviceSurvey, LibrarySurvey, survey_devices, survey_library
from baremetalrt.native.library import ENVIRONMENT_VARIABLE, selected_engine
from baremetalrt.node.device_choice import spannable_devices
from baremetalrt.node.engines import unused_features
from baremetalrt.weights.store import default_model, stored_models

_COMMAND: Final = "bmrt"
# Another program, which the package index calls by the name of our import package.
_OTHER_DISTRIBUTION: Final = "baremetalrt"


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what helps."""

    code: str
    message: str
    hint: str | None


@dataclass(frozen=True, kw_only=True)
class Health:
    """What was found. Sizes are bytes. `confined_…`: what those who read strangers' files give up.

    `architectures`: those with graphs here; the library runs those that it knows besides, whole.
    `rates`: how fast devices multiply, by name. `unused`: what this machine has, and only another build
    of the library would use.
    """

    version: str
    python: str
    system: str
    library: LibrarySurvey | None
    architectures: tuple[str, ...]
    devices: tuple[DeviceSurvey, ...]
    rates: Mapping[str, Rates]
    unused: tuple[str, ...]
    threads: int
    memory_available_bytes: int
    memory_total_bytes: int
    store: str
    models: int
    default_model: str | None
    # of texts that ended, for their beginnings
    prompt_cache: str
    prompt_cache_texts: int
    prompt_cache_bytes: int
    confined_files: bool
    confined_calls: bool
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Health:
    """Looks at library, devices, memory, store, and what else is called like this program."""
    problems = other_programs()
    library: LibrarySurvey | None = None
    devices: list[DeviceSurvey] = []
    rates: dict[str, Rates] = {}
    try:
        library = survey_library()
        devices = survey_devices()
        rates = _rates(problems)
        problems += lost_engine(library)
    except BareMetalError as error:
        problems.append(Problem(error.code, error.message, error.hint))
    default, confined = default_model(), sandbox.probe()
    texts = held_in(prefixes_folder())
    if default is None:
        problems.append(
            Problem(
                "model.not-found",
                "the embedded default model is not installed",
                "`make run` installs it",
            )
        )
    return Health(
        version=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        library=library,
        architectures=tuple(sorted(ARCHITECTURES)),
        devices=tuple(devices),
        rates=rates,
        unused=unused_features(devices),
        threads=default_threads(),
        memory_available_bytes=available_bytes(),
        memory_total_bytes=total_bytes(),
        store=str(models_folder()),
        models=len(stored_models()),
        default_model=str(default.path) if default else None,
        prompt_cache=str(prefixes_folder()),
        prompt_cache_texts=texts.count,
        prompt_cache_bytes=texts.num_bytes,
        confined_files=confined.files,
        confined_calls=confined.calls,
        problems=tuple(problems),
    )


def _rates(problems: list[Problem]) -> dict[str, Rates]:
    """How fast each device multiplies; those that fail when they are measured are problems."""
    rates = {}
    for device in spannable_devices():
        name, measured = device.name.lower(), rates_of(device, TYPICAL, anew=True)
        if measured is not None:
            rates[name] = measured
            continue
        problems.append(
            Problem(
                "device.failed",
                f"{name} does not multiply: it, or its driver, fails when it is tried",
                "it is left out; a newer driver is tried again",
            )
        )
    return rates


def lost_engine(library: LibrarySurvey) -> list[Problem]:
    """The engine that was chosen, where another library had to do in its place."""
    selected = selected_engine()
    if selected is None or ENVIRONMENT_VARIABLE in os.environ or library.path == str(selected):
        return []
    return [
        Problem(
            "engine.lost",
            f"the engine {selected.parent.name}, which was chosen, is gone or cannot be used",
            "`bmrt engine install` brings it back, `bmrt engine use bundled` forgets it",
        )
    ]


def other_programs() -> list[Problem]:
    """Programs that share a name with this one: on the search path, or in this environment."""
    problems = []
    ours = Path(sys.executable).parent / _COMMAND
    found = shutil.which(_COMMAND)
    if found and ours.exists() and not _is_same(Path(found), ours):
        problems.append(
            Problem(
                "path.other-program",
                f"`{_COMMAND}` on the search path is {found}, another program",
                f"call {ours}, or put its folder first in PATH",
            )
        )
    try:
        other = importlib.metadata.version(_OTHER_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return problems
    problems.append(
        Problem(
            "install.other-program",
            f"the package {_OTHER_DISTRIBUTION} {other} of the index, another program, is installed "
            f"over this one, which is called {DISTRIBUTION}",
            f"`pip uninstall {_OTHER_DISTRIBUTION}`, then install this program again from its folder",
        )
    )
    return problems


def _is_same(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False
