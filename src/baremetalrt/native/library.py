"""Finds a ggml/llama shared library, loads it once, and refuses one that it does not know."""

import ctypes
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.places import engines_folder
from baremetalrt.native import declarations, logs

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE: Final = "BMRT_LIBRARY"
# In the folder of engines: one line, the library of the engine in use as a path below that folder.
SELECTION: Final = "selected"
_MAX_SELECTION_CHARS: Final = 300
_BUNDLED: Final = "xllamacpp"
# ggml_backend_dev_type
_CPU: Final = 0
# The declarations were read from these releases; the parameters of models and contexts move between them.
_SUPPORTED_GGML: Final = ((0, 25), (0, 26))
_SUFFIX: Final = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


@dataclass(frozen=True)
class Library:
    """A loaded library. `c` has every function of `declarations.py`, typed."""

    path: Path
    origin: str
    ggml_version: str
    llama_version: str
    c: Any


@dataclass(frozen=True)
class Candidate:
    """A file that may be a ggml/llama library, and who says so."""

    path: Path
    origin: str
    is_engine: bool = False


def candidates() -> Iterator[Candidate]:
    """Where a library may be, best first. The environment, when set, is the only place looked at."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        path = Path(named).expanduser()
        if path.is_dir():
            yield from (Candidate(p, ENVIRONMENT_VARIABLE) for p in _libllama_in(path))
        elif path.is_file():
            yield Candidate(path, ENVIRONMENT_VARIABLE)
        return
    selected = selected_engine()
    if selected is not None:
        yield Candidate(selected, f"engine {selected.parent.name}", is_engine=True)
    yield from packaged()


def selected_engine() -> Path | None:
    """The library of the engine that was chosen by `bmrt engine use`, which may be gone by now."""
    folder = engines_folder()
    try:
        with open(folder / SELECTION, encoding="utf-8") as file:
            said = file.read(_MAX_SELECTION_CHARS).strip()
    except (OSError, UnicodeDecodeError):
        return None
    parts = Path(said).parts
    is_engine = len(parts) == 2 and ".." not in parts and said.isprintable()
    return folder.joinpath(*parts) if is_engine else None


def packaged() -> Iterator[Candidate]:
    """The libraries that packages of this environment bring, best first."""
    # A package is located, never imported: we want its library, not its code.
    for folder in _package_folders("llama_cpp"):
        yield from (Candidate(p, "llama-cpp-python") for p in _libllama_in(folder / "lib"))
    for folder in _package_folders(_BUNDLED):
        for path in sorted(folder.glob("xllamacpp*.so")):
            yield Candidate(path, _BUNDLED)


def _libllama_in(folder: Path) -> Iterator[Path]:
    for name in (f"libllama{_SUFFIX}", f"llama{_SUFFIX}"):
        if (folder / name).is_file():
            yield folder / name


def _package_folders(name: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(name)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location)


_lock = threading.Lock()
_loaded: Library | None = None


def load_library() -> Library:
    """The library, loaded on the first call.

    Raises:
        UsageError: none was found, or none of those found can be used.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load_first_usable()
        return _loaded


def _load_first_usable() -> Library:
    refused = []
    for candidate in candidates():
        try:
            library = _load(candidate)
        except UsageError as error:
            refused.append(f"{candidate.path}: {error.message}")
            if candidate.is_engine:
                _say_that_it_is_lost(candidate, error)
            else:
                logger.info("library refused: %s", refused[-1])
            continue
        return library
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if refused:
        # Here and not above: what is read for it takes a while.
        from baremetalrt.core.installation import how_to_reinstall

        raise UsageError(
            f"no usable ggml library; {refused[0]}",
            code="library.unusable",
            hint=f"supported: ggml {_versions()}; `{how_to_reinstall('xllamacpp')}` restores the "
            "bundled one",
        )
    raise UsageError(
        f"{ENVIRONMENT_VARIABLE}={named} holds no libllama" if named else "no ggml library found",
        code="library.not-found",
        hint=f"point {ENVIRONMENT_VARIABLE} at a libllama{_SUFFIX} or the folder that has it, "
        f"or unset it"
        if named
        else "the package xllamacpp brings a prebuilt one",
    )


def _say_that_it_is_lost(engine: Candidate, error: UsageError) -> None:
    why = f"cannot be used: {error.message}" if engine.path.exists() else "is gone"
    logger.warning(
        "the %s %s; the bundled library computes instead. `bmrt engine install` brings it back, "
        "`bmrt engine use bundled` forgets it",
        engine.origin,
        why,
    )


def _versions() -> str:
    return ", ".join(f"{major}.{minor}.x" for major, minor in _SUPPORTED_GGML)


def _load(candidate: Candidate) -> Library:
    try:
        c = ctypes.CDLL(str(candidate.path))
    except OSError as error:
        raise UsageError(f"cannot be loaded ({error})", code="library.unusable") from error
    if not hasattr(c, "ggml_version"):
        raise UsageError("exports no ggml functions", code="library.unusable")
    c.ggml_version.restype = ctypes.c_char_p
    ggml_version = c.ggml_version().decode()
    version = tuple(int(p) for p in ggml_version.split(".")[:2] if p.isdigit())
    if version not in _SUPPORTED_GGML:
        raise UsageError(
            f"is ggml {ggml_version}, not {_versions()}", code="library.unsupported-version"
        )
    missing = declarations.declare(c, version)
    if missing:
        raise UsageError(
            f"lacks {missing[0]} and {len(missing) - 1} more functions", code="library.unusable"
        )
    if not (_model_layout_matches(c) and _context_layout_matches(c)):
        raise UsageError(
            f"ggml {ggml_version} has other parameters of models or contexts",
            code="library.unusable",
        )
    logs.install(c)
    if candidate.origin != _BUNDLED:
        # Builds with one shared object per backend register them from their own folder.
        with logs.standard_error_withheld():
            c.ggml_backend_load_all_from_path(str(candidate.path.parent).encode())
    if not c.ggml_backend_dev_by_type(_CPU):
        raise UsageError("has nothing that this processor can run", code="library.unusable")
    return Library(
        path=candidate.path,
        origin=candidate.origin,
        ggml_version=ggml_version,
        llama_version=c.llama_version().decode(),
        c=c,
    )


def _model_layout_matches(c: Any) -> bool:
    """Compares the defaults with the documented ones: a moved field shows at once.

    Source: `llama_model_default_params` in `llama-model.cpp`.
    """
    p = c.llama_model_default_params()
    return (p.n_gpu_layers, p.split_mode, p.load_mode, p.lazy_mode, p.main_gpu) == (
        -1,
        1,
        -1,
        1,
        0,
    ) and (p.vocab_only, p.check_tensors, p.use_extra_bufts, p.no_host, p.no_alloc, p.load_mtp) == (
        False,
        False,
        True,
        False,
        False,
        False,
    )


def _context_layout_matches(c: Any) -> bool:
    """The same for contexts. Source: `llama_context_default_params` in `llama-context.cpp`."""
    p = c.llama_context_default_params()
    numbers = (p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.n_outputs_max_per_seq, p.n_threads)
    types = (p.ctx_type, p.rope_scaling_type, p.flash_attn_type, p.type_k, p.type_v)
    flags = (p.embeddings, p.offload_kqv, p.no_perf, p.op_offload, p.swa_full, p.kv_unified)
    return (
        numbers == (512, 2048, 512, 1, 1, 4)
        and types == (0, -1, -1, 1, 1)
        and (p.yarn_ext_factor, p.defrag_thold) == (-1.0, -1.0)
        and flags == (False, True, True, True, True, False)
        and (p.samplers, p.n_samplers, p.ctx_other) == (None, 0, None)
    )
