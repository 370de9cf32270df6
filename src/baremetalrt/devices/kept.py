"""What was found out about devices, kept from run to run: a small file of answers by what was asked."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import CapacityError
from baremetalrt.core.files import disk_errors, read_regular, write_durably
from baremetalrt.core.units import MIB
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.library import load_library

_MAX_BYTES: Final = MIB
_MAX_ANSWERS: Final = 512


class KeptAnswers:
    """Answers in one file. What cannot be read is not there, and what cannot be written is not kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Any]:
        try:
            kept = json.loads(read_regular(self._path, _MAX_BYTES))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def put(self, key: str, answer: Any) -> None:
        answers = {**self.all(), key: answer}
        data = json.dumps(dict(list(answers.items())[-_MAX_ANSWERS:])).encode()
        try:
            with disk_errors():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(self._path, data)
        except CapacityError:
            return


def key_of(device: BackendDevice, *asked: Any) -> str:
    """A name for a question about a device: another driver calls itself, or the library, otherwise."""
    library = load_library()
    built = os.stat(library.path)
    threads = default_threads() if device.is_host else 0
    parts = (
        [device.name, device.kind, device.description, threads],
        [str(library.path), library.ggml_version, built.st_size, built.st_mtime_ns],
        asked,
    )
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]
