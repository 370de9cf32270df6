"""Who may import whom. The table is the map of the house; `ARCHITECTURE` in prose says why."""

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import baremetalrt

PACKAGE = Path(baremetalrt.__file__).parent

# The rooms, from the ground up, and the rooms below that each may import besides `core`.
_ENGINE = ("native", "weights", "devices", "blocks", "session")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "core": (),
    "native": (),
    "placement": (),
    "documents": (),
    "membership": (),
    "weights": ("native",),
    "devices": ("native",),
    # other builds of the library
    "engines": ("native",),
    # names and what they mean
    "index": (),
    # a hub of files, and files of other programs
    "hub": (),
    # torrents of models, private ones with the certificates of a swarm
    "swarm": ("weights", "membership"),
    "blocks": ("native", "weights"),
    "session": ("native", "weights", "blocks"),
    # hosted spans are stages like others
    "peers": ("membership", "blocks", "session"),
    # texts become tokens, weights floats; the engine says what a model is made of
    "tuning": _ENGINE,
    # puts models together; peers and tuning are for others
    "node": (*_ENGINE, "engines", "placement", "membership", "swarm", "hub", "index"),
    "hosting": (*_ENGINE, "placement", "membership", "swarm", "peers", "node"),
    "learning": (*_ENGINE, "documents", "tuning", "node"),
    "serve": ("session", "node", "hosting", "learning"),
    "cli": ("node", "hosting", "learning", "serve"),
    # `python -m baremetalrt`
    "__main__": ("cli",),
}
# Single modules that may do more than their room.
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    # founds, invites and joins: there is no use of a membership above it
    "cli.swarm": ("membership",),
    # turn arguments into what an answer and a run are asked for
    "cli.options": ("session.grammar",),
    "cli.tuning_options": ("tuning.config",),
}
MAX_EXCEPTIONS = 8
# Libraries that belong to rooms: whoever replaces one has one place to look.
ROOMS_OF_LIBRARIES: dict[str, tuple[str, ...]] = {
    # and the calls by which a process gives up what it never needs
    "ctypes": ("native", "core.sandbox"),
    "libtorrent": ("swarm",),
    "grpc": ("peers",),
    "zeroconf": ("peers",),
    "llguidance": ("session",),
    "regex": ("weights",),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
    "sse_starlette": ("serve",),
    "click": ("cli",),
    "prompt_toolkit": ("cli",),
    "rich": ("cli",),
    # and what tokenizers of a hub need
    "huggingface_hub": ("hub", "tuning"),
    # and who signs a list of models
    "cryptography": ("membership", "peers", "index"),
    "torch": ("tuning",),
    "transformers": ("tuning",),
    "peft": ("tuning",),
    "safetensors.torch": ("tuning",),
    "opacus": ("tuning",),
    "matplotlib": ("tuning",),
    "plotille": ("tuning",),
    "selectolax": ("documents",),
    "pypdfium2": ("documents",),
    "chardet": ("documents",),
    "python_calamine": ("documents",),
    "striprtf": ("documents",),
}
# These come with an extra, or take long to import: never at the start of a module.
LATE = ("platformdirs", "filelock", "rich", "llguidance", "regex")
LATE += ("selectolax", "pypdfium2", "chardet", "python_calamine", "striprtf")


def modules() -> dict[str, Path]:
    """Every module by its name below the package: `serve.openai.chat`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Full names of what a file imports, inside of functions too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> Iterator[str]:
    """What a file imports of ours, without the name of the package."""
    for name in imports(path):
        if name.startswith("baremetalrt.") and name != "baremetalrt.__version__":
            yield name.removeprefix("baremetalrt.")


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


MODULES = modules()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    """A new arrow between rooms is a decision: it is written into the table."""
    broken = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if within(module, (room,))
        for name in ours(path)
        if not within(name, (room, "core", *MAY_IMPORT[room], *EXCEPTIONS.get(module, ())))
    ]
    assert not broken


def test_every_room_is_in_the_table() -> None:
    """No room escapes the rules by being new."""
    assert {module.partition(".")[0] for module in MODULES if module} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", EXCEPTIONS)
def test_no_exception_outlives_its_need(module: str) -> None:
    """An exception that nobody uses any more is struck from the table."""
    used = tuple(ours(MODULES[module]))
    assert not [e for e in EXCEPTIONS[module] if not any(within(name, (e,)) for name in used)]


def test_exceptions_stay_few() -> None:
    """A table of exceptions is no map."""
    assert len(EXCEPTIONS) <= MAX_EXCEPTIONS


def test_nobody_imports_the_command_line() -> None:
    """What a command can do, a program can do without it."""
    outside = [path for module, path in MODULES.items() if not within(module, ("cli", "__main__"))]
    assert not [path for path in outside for name in ours(path) if within(name, ("cli",))]


@pytest.mark.parametrize("library", ROOMS_OF_LIBRARIES)
def test_a_library_is_imported_by_its_room_alone(library: str) -> None:
    """And it is imported: a rule about nothing would protect nothing."""
    users = [m for m, path in MODULES.items() if any(within(n, (library,)) for n in imports(path))]
    assert users
    assert not [module for module in users if not within(module, ROOMS_OF_LIBRARIES[library])]


def test_no_imports_run_in_a_circle() -> None:
    """Neither at the start of a module, nor later, nor for its types."""
    below = {
        module: {found for name in ours(path) if (found := module_of(name)) not in (None, module)}
        for module, path in MODULES.items()
    }
    sorter = TopologicalSorter(below)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
    # The sorter knows them all, so nothing was left out.
    assert len(tuple(TopologicalSorter(below).static_order())) == len(MODULES)


def module_of(name: str) -> str | None:
    """The module that an imported name is, or is in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize("library", LATE)
def test_what_takes_long_or_is_an_extra_is_imported_late(library: str) -> None:
    """Inside of functions: whoever does not use it does not pay for it."""
    assert not [
        m for m, path in MODULES.items() if any(within(n, (library,)) for n in at_start(path))
    ]


def at_start(path: Path) -> Iterator[str]:
    """What a file imports when it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
