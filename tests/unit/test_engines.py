"""Other builds of the library: the catalogue, installing, trying, choosing, and going without."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.engines import archives, store, system
from baremetalrt.engines.catalogue import Engine, catalogue
from baremetalrt.engines.installing import InstallRequest, install
from baremetalrt.engines.store import Installed
from baremetalrt.native.library import SELECTION
from baremetalrt.native.trial import try_library
from commands import BMRT, environment
from engine_kit import FAULT, RETURN_ZERO, broken, renamed, working

linux = pytest.mark.skipif(sys.platform != "linux", reason="libraries are built for Linux here")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of this process, and of the commands of a test."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BMRT_LIBRARY", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Engine]]:
    """An archive of an engine that works. It is the size of the bundled library."""
    path = tmp_path_factory.mktemp("engine") / "engine.tgz"
    yield path, working(path)
    path.unlink()


def installed_from(archive: tuple[Path, Engine], engine: Engine | None = None) -> Installed:
    return install(InstallRequest(engine=engine or archive[1], archive=archive[0]), print)


def command(*arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`bmrt`, with other variables than tests have."""
    own = {k: v for k, v in environment(home).items() if k != "BMRT_LIBRARY"}
    return subprocess.run(
        [*BMRT, *arguments], capture_output=True, text=True, timeout=240, env={**own, **variables}
    )


def library_in_use(home: Path) -> tuple[str, str]:
    """Where the library of a new process comes from, and what it says to standard error."""
    done = command("doctor", "--json", home=home)
    return json.loads(done.stdout)["library"]["path"], done.stderr


def left_over(home: Path) -> list[Path]:
    return [path for path in (home / "engines").glob(".*") if path.is_dir()]


# the catalogue


def test_the_catalogue_is_well_formed() -> None:
    """Pinned versions, whole hashes, one engine of a name for a system, libraries of a known ggml."""
    engines = catalogue()
    assert len({(engine.system, engine.name) for engine in engines}) == len(engines) >= 4
    for engine in engines:
        kind, _, digest = engine.integrity.partition("-")
        assert kind == "sha512" and len(base64.b64decode(digest, validate=True)) == 64
        assert re.fullmatch(r"\d+\.\d+\.\d+", engine.version)
        assert engine.archive_bytes < engine.unpacked_bytes
        assert archives._OBJECT.fullmatch(engine.library)
        assert engine.folder.startswith("package/") and "/" not in engine.title
        assert system.numbers(engine.glibc) > (2,) and engine.ggml.startswith("0.25.")
        assert (engine.device == "cpu") == (not engine.needs)


def test_engines_are_for_systems() -> None:
    """The same name means another package elsewhere; where there is none, something else is said."""
    assert (
        system.named("cpu", "linux-x86_64").package != system.named("cpu", "linux-aarch64").package
    )
    assert system.named("vulkan-3.22.1", "linux-x86_64").name == "vulkan"
    with pytest.raises(UsageError, match="cudda") as caught:
        system.named("cudda", "linux-x86_64")
    assert caught.value.code == "engine.not-found" and "cuda" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no engine is known for plan9-mips") as caught:
        system.named("cpu", "plan9-mips")
    assert caught.value.code == "engine.system"


@pytest.mark.parametrize("version", [(2, 31), None])
def test_an_older_c_library_is_noticed_before_anything_is_fetched(
    version: tuple[int, ...] | None,
) -> None:
    """Or another one than GNU's."""
    engine = system.named("cpu", "linux-x86_64")
    with pytest.raises(UsageError, match=r"needs glibc 2\.34") as caught:
        system.require_libc(engine, version)
    assert caught.value.code == "engine.libc" and caught.value.hint
    system.require_libc(engine, (2, 100))


# installing


@linux
def test_an_engine_is_installed_used_and_removed(home: Path, archive: tuple[Path, Engine]) -> None:
    """New processes compute with it once it was chosen, and with the bundled one once it is gone."""
    bundled, _ = library_in_use(home)
    engine = installed_from(archive)
    assert store.installed() == [engine] and not left_over(home)
    assert engine.path.stat().st_mode & 0o777 == 0o600
    assert any(device.kind == "cpu" and device.features for device in engine.devices)
    assert library_in_use(home) == (bundled, "")

    assert command("engine", "use", "test", home=home).returncode == 0
    assert library_in_use(home) == (str(engine.path), "")
    rows = json.loads(command("engine", "ls", "--json", home=home).stdout)
    assert {row["name"]: row["state"] for row in rows[:2]} == {
        "bundled": "here",
        "test-1": "in use",
    }
    assert rows[0]["features"] == rows[1]["features"] and rows[1]["ggml"] == engine.ggml

    assert command("engine", "use", "bundled", home=home).returncode == 0
    assert library_in_use(home) == (bundled, "")
    assert command("engine", "use", "test-1", home=home).returncode == 0
    done = command("engine", "rm", "test", "--json", home=home)
    assert json.loads(done.stdout)["freed_bytes"] > archive[1].unpacked_bytes
    assert library_in_use(home) == (bundled, "") and not left_over(home)
    assert command("engine", "rm", "test", home=home).returncode == 2


@linux
def test_the_library_that_the_environment_names_goes_first(
    home: Path, archive: tuple[Path, Engine]
) -> None:
    """Whatever was chosen; and that is said when something is chosen."""
    engine = installed_from(archive)
    bundled, _ = library_in_use(home)
    done = command("engine", "use", "test", home=home, BMRT_LIBRARY=bundled)
    assert "BMRT_LIBRARY is set, and goes first" in done.stderr
    done = command("doctor", "--json", home=home, BMRT_LIBRARY=bundled)
    assert (
        json.loads(done.stdout)["library"] | {"path": bundled, "origin": "BMRT_LIBRARY"}
        == (json.loads(done.stdout)["library"])
    )
    assert library_in_use(home)[0] == str(engine.path)


@linux
def test_an_engine_that_vanished_is_done_without(home: Path, archive: tuple[Path, Engine]) -> None:
    """It is said once, in one line; doctor calls it a problem, and the list says that it is gone."""
    bundled, _ = library_in_use(home)
    engine = installed_from(archive)
    store.select(engine)
    engine.path.unlink()
    path, said = library_in_use(home)
    assert path == bundled
    assert said.count("\n") == 1 and "engine test-1 is gone; the bundled library" in said
    done = command("doctor", "--json", home=home)
    assert [one["code"] for one in json.loads(done.stdout)["problems"]] == ["engine.lost"]
    assert done.returncode == 1
    rows = json.loads(command("engine", "ls", "--json", home=home).stdout)
    assert {row["name"]: row["state"] for row in rows if row["state"] != "not installed"} == {
        "bundled": "here",
        "test-1": "gone",
    }
    assert command("engine", "rm", "test", home=home).returncode == 0
    assert library_in_use(home) == (bundled, "") and not engine.folder.exists()


@linux
@pytest.mark.parametrize(
    "said", ["../../etc/x.so", "a/b/c.so", "one", "", "\0/\0", "x" * 5000, "é/ü"]
)
def test_a_selection_that_names_no_engine_ends_nothing(home: Path, said: str) -> None:
    """Nobody writes such; a disk may."""
    (home / "engines").mkdir()
    (home / "engines" / SELECTION).write_bytes(said.encode("latin-1"))
    done = command("doctor", "--json", home=home)
    assert "xllamacpp" in json.loads(done.stdout)["library"]["origin"], done.stderr


def test_nothing_of_engines_is_imported_to_load_a_library(home: Path) -> None:
    """A start pays for what it needs: which one is in use is one line of a file."""
    program = (
        "import sys; from baremetalrt.native.library import load_library; load_library(); "
        "print([m for m in sys.modules if m.startswith('baremetalrt.engines')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment(home), check=True
    )
    assert done.stdout.strip() == b"[]"


@linux
def test_an_archive_that_is_not_the_known_one_changes_nothing(
    home: Path, archive: tuple[Path, Engine]
) -> None:
    """What was installed and in use before stays so."""
    engine = installed_from(archive)
    store.select(engine)
    wrong = home.parent / "wrong.tgz"
    wrong.write_bytes(archive[0].read_bytes()[:-1] + b"!")
    for version in ("1", "2"):
        with pytest.raises(IntegrityError):
            installed_from((wrong, renamed(archive[1], version)))
    assert store.installed() == [engine] and not left_over(home)
    assert library_in_use(home)[0] == str(engine.path)


@linux
@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [(FAULT, "SIGILL", "engine.faulted"), (RETURN_ZERO, "multiplies wrong", "engine.unusable")],
)
def test_an_engine_that_cannot_compute_here_is_not_installed(
    home: Path, code: str, said: str, kind: str
) -> None:
    """It is tried where a fault ends nothing else, and what it computes is compared."""
    path = home.parent / "broken.tgz"
    engine = broken(path, code)
    with pytest.raises(UsageError, match=said) as caught:
        installed_from((path, engine))
    assert caught.value.code == kind
    assert not store.installed() and not left_over(home)


@linux
def test_what_is_no_library_is_told_so(tmp_path: Path) -> None:
    """One line, from the process that tried it."""
    path = tmp_path / "libllama.so"
    path.write_bytes(b"words")
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        try_library(path)
    assert caught.value.code == "engine.unusable"


# ends in the middle

PROGRAM = """
import os, signal, sys
from pathlib import Path
from baremetalrt.engines.installing import InstallRequest, install
from engine_kit import entry
archive = Path(sys.argv[1])
engine = entry(archive.read_bytes(), 1 << 30)
def on_event(event):
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
if "small" in sys.argv:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    install(InstallRequest(engine=engine, archive=archive), on_event)
except Exception as error:
    sys.exit(f"{type(error).__name__} {error.code}")
"""


def program(archive: Path, how: str, home: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(archive), how],
        stderr=subprocess.PIPE,
        env={**environment(home), "PYTHONPATH": str(Path(__file__).parents[1])},
    )


@linux
@pytest.mark.parametrize("when", ["unpacking", "die"])
def test_an_interrupted_install_leaves_no_half_engine(
    home: Path, archive: tuple[Path, Engine], when: str
) -> None:
    """Killed while it unpacks, or before it tries: nothing is installed, and the next time all is."""
    with program(archive[0], when, home) as process:
        if when == "unpacking":
            while not list((home / "engines").glob(".*/test-1/lib*")):
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            process.kill()
        assert process.wait(120) == -9
    assert left_over(home) and not store.installed()
    engine = installed_from(archive)
    assert store.installed() == [engine] and not left_over(home)


@linux
def test_a_full_disk_leaves_no_half_engine(home: Path, archive: tuple[Path, Engine]) -> None:
    """It is said to be that."""
    with program(archive[0], "small", home) as process:
        _, said = process.communicate(timeout=120)
    assert said.decode().split() == ["CapacityError", "disk.write"]
    assert not store.installed() and not left_over(home)


def test_an_engine_larger_than_the_disk_is_refused_before_it_is_fetched(home: Path) -> None:
    """With what is needed and what is there."""
    engine = replace(catalogue()[0], unpacked_bytes=1 << 60)
    with pytest.raises(CapacityError) as caught:
        install(InstallRequest(engine=engine), print)
    assert caught.value.needed and caught.value.available is not None


@linux
def test_two_at_once_are_one_after_the_other(home: Path) -> None:
    """The second is told so; whoever only lists is not held up."""
    with store.changing():
        done = command("engine", "use", "bundled", home=home)
        assert done.returncode == 2 and "another process" in done.stderr
        assert command("engine", "ls", home=home).returncode == 0
    assert command("engine", "use", "bundled", home=home).returncode == 0


@linux
def test_without_a_package_client_there_is_another_way(home: Path) -> None:
    """The hint names it, and the exact archive."""
    done = command("engine", "install", "cpu", "--json", home=home, PATH=str(home))
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "engine.no-client"
    assert re.search(r"npm pack @node-llama-cpp/\S+@3\.22\.1", error["hint"])
    assert "--from" in error["hint"]


@linux
def test_what_the_package_client_says_is_passed_on(home: Path) -> None:
    """A registry that is not there: npm's own sentence, in one line."""
    client = home / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(
        "#!/bin/sh\necho 'npm error code E1' >&2\necho 'npm error the registry is out' >&2\nexit 1"
    )
    client.chmod(0o755)
    done = command(
        "engine", "install", "cpu", home=home, PATH=f"{client.parent}:{os.environ['PATH']}"
    )
    assert done.returncode == 2 and "could not fetch" in done.stderr
    assert "the registry is out" in done.stderr and not left_over(home)
