"""Routes what the C libraries print into `logging`, and keeps it beside the call that caused it."""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from baremetalrt.native import declarations as d

logger = logging.getLogger("baremetalrt.native")

# ggml_log_level: 0 none, 1 debug, 2 info, 3 warning, 4 error, 5 continuation of the last line
_LEVELS: Final = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_ERROR: Final = 4
_MAX_CAPTURED_LINES: Final = 100
_STANDARD_ERROR: Final = 2

_captured = threading.local()


def _on_log(level: int, text: bytes | None, _user_data: object) -> None:
    line = (text or b"").decode("utf-8", "replace").rstrip()
    if not line:
        return
    lines: list[str] | None = getattr(_captured, "lines", None)
    severity = _LEVELS.get(level, logging.DEBUG)
    if lines is not None and level >= _ERROR and len(lines) < _MAX_CAPTURED_LINES:
        lines.append(line)
        severity = logging.DEBUG  # the error that is raised says it
    logger.log(severity, "%s", line)


# The library keeps the address: this reference keeps the object alive as long as the process.
_callback = d.LOG_CALLBACK(_on_log)


def install(library: Any) -> None:
    """Sends the library's log lines here instead of to standard error."""
    library.ggml_log_set(_callback, None)
    library.llama_log_set(_callback, None)


@contextmanager
def silenced(library: Any) -> Iterator[None]:
    """Drops what the library logs inside the block, unless somebody debugs.

    A Python callback waits for the interpreter lock, line by line, while another thread imports or
    computes: that made loading a vocabulary take twice as long. There is no call for "log nowhere", so
    the lines go to a C function that takes no arguments and returns at once.
    """
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    nowhere = d.LOG_CALLBACK(ctypes.cast(library.ggml_time_us, ctypes.c_void_p).value or 0)
    library.ggml_log_set(nowhere, None)
    library.llama_log_set(nowhere, None)
    try:
        yield
    finally:
        install(library)


@contextmanager
def standard_error_withheld() -> Iterator[None]:
    """Drops what C code writes to standard error past our log, unless somebody debugs.

    Graphics drivers do so while they look for devices. It holds for the whole process, so what is done
    inside must be short.
    """
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    try:
        sys.stderr.flush()
        shown = os.dup(_STANDARD_ERROR)
    except (AttributeError, OSError):  # nobody has one
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(shown, _STANDARD_ERROR)
        os.close(shown)
        os.close(nowhere)


@contextmanager
def captured_errors() -> Iterator[list[str]]:
    """The error lines that C code logs on this thread inside the block, for use in a message."""
    outer = getattr(_captured, "lines", None)
    lines: list[str] = []
    _captured.lines = lines
    try:
        yield lines
    finally:
        _captured.lines = outer


def reason(lines: list[str], default: str) -> str:
    """The first error line without its `function:` prefix: usually the actual cause."""
    if not lines:
        return default
    _, _, rest = lines[0].partition(": ")
    return rest or lines[0]
