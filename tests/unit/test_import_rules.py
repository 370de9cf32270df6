"""Who may import whom. The table is the map of the house; `ARCHITECTURE` in prose says why."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import baremetalrt

PACKAGE = Path(baremetalrt.__file__).parent

# Room or module -> the rooms or modules it may import besides itself and `core`.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "core": (),
    "native": (),
    "devices": ("native",),
    "weights": ("native",),
    "swarm": ("weights",),
    "blocks": ("native", "weights"),
    "session": ("native", "blocks"),
    # texts become tokens, weights floats; the engine says what a model is made of
    "tuning": ("native", "devices", "weights", "blocks", "session"),
    "placement": (),
    "documents": (),
    # what its certificates mean; hosted spans are stages like others
    "peers": ("swarm.certificates", "blocks", "session"),
    "serve": ("weights", "swarm", "blocks", "session", "peers", "placement", "documents", "tuning"),
    "cli": ("serve", "weights.store"),
    # `python -m baremetalrt`
    "__main__": ("cli",),
}
# Single modules that may do more than their room.
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    # wires everything
    "serve.node": ("native.backend", "devices"),
    # write to disk for good
    "tuning.adapter": ("swarm.files",),
    "tuning.checkpoints": ("swarm.files",),
    "tuning.curves": ("swarm.files",),
    "tuning.examples": ("swarm.files",),
    "tuning.report": ("swarm.files",),
    "tuning.resuming": ("swarm.files",),
    "serve.sharing": ("native.library",),
    "serve.measuring": ("devices.memory",),
    "serve.library": ("devices.memory",),
    "serve.opening": ("native.vocabulary_guard",),
    # turn arguments into options of a gathering
    "cli.learn": (
        *("documents.gathering", "documents.judging", "documents.splitting"),
        "tuning.requirements",
    ),
    "cli.reading": ("documents.gathering",),
    # turn arguments into options of a generation
    "cli.adapters": ("weights.adapters",),
    "cli.adapter_files": ("weights.adapters", "weights.content", "weights.gguf"),
    "cli.adapter_torrents": ("weights.adapters", "swarm.client"),
    "cli.bench": ("session.sampling", "session.session"),
    "cli.chat": ("session.session",),
    "cli.options": ("session.sampling", "session.grammar", "swarm.config"),
    "cli.run": ("session.session",),
    # show and steer torrents
    "cli.pull": ("swarm",),
    "cli.seed": ("swarm",),
    "cli.serve": ("swarm.config",),
    "cli.over_peers": ("swarm.client",),
    "cli.swarm": ("swarm",),
    "cli.opened": ("swarm",),
    "cli.transfer": ("swarm", "weights.gguf"),
    # describe a machine or a file, without running anything
    "cli.doctor": ("devices",),
    # starts a run and shows how it goes
    "cli.finetune": ("tuning",),
    "cli.gc": ("swarm",),
    "cli.ls": ("weights.gguf", "swarm.catalog"),
    "cli.rm": ("weights.gguf", "swarm.catalog"),
    "cli.show": ("weights.gguf", "blocks.architectures", "swarm.catalog"),
}


def modules() -> dict[str, Path]:
    """Every module by its name below the package: `serve.openai.chat`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, inside of functions too."""
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


def test_nobody_imports_the_command_line() -> None:
    """What a command can do, a program can do without it."""
    outside = [path for module, path in MODULES.items() if not within(module, ("cli", "__main__"))]
    assert not [path for path in outside for name in ours(path) if within(name, ("cli",))]


def test_foreign_calls_are_in_one_room() -> None:
    """`ctypes` appears in `native` only."""
    outside = [path for module, path in MODULES.items() if not within(module, ("native",))]
    assert not [path for path in outside for name in imports(path) if within(name, ("ctypes",))]


def test_libtorrent_is_in_one_room() -> None:
    """`libtorrent` appears in `swarm` only."""
    outside = [path for module, path in MODULES.items() if not within(module, ("swarm",))]
    assert not [path for path in outside for name in imports(path) if within(name, ("libtorrent",))]


@pytest.mark.parametrize("library", ["selectolax", "pypdfium2", "charset_normalizer", "rensa"])
def test_readers_of_documents_are_in_one_room(library: str) -> None:
    """What the `learn` extra installs appears in `documents` only, and there inside of functions."""
    for module, path in MODULES.items():
        found = [name for name in imports(path) if within(name, (library,))]
        assert not found or within(module, ("documents",))
        at_start = ast.parse(path.read_text(encoding="utf-8")).body
        names = [
            alias.name for node in at_start if isinstance(node, ast.Import) for alias in node.names
        ] + [node.module or "" for node in at_start if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if within(name, (library,))]


def test_pytorch_is_in_one_room() -> None:
    """PyTorch and what stands on it appear in `tuning` only."""
    outside = [path for module, path in MODULES.items() if not within(module, ("tuning",))]
    heavy = ("torch", "transformers", "peft", "safetensors.torch", "matplotlib", "plotille")
    assert not [path for path in outside for name in imports(path) if within(name, heavy)]
