"""An engine from its package, by npm: what a user does, with the real thing."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.devices.processor import processor_features
from baremetalrt.engines.archives import unpack
from baremetalrt.engines.catalogue import Engine
from baremetalrt.engines.fetching import fetch
from baremetalrt.engines.installing import InstallRequest, install
from baremetalrt.engines.system import named, this_system
from baremetalrt.native.trial import try_library
from commands import BMRT, environment
from engine_kit import FAULT, FOLDER, member, place_in_file, write

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not shutil.which("npm"), reason="needs npm"),
    pytest.mark.skipif(sys.platform != "linux", reason="engines are for Linux"),
    pytest.mark.timeout(1800),
]


def command(
    *arguments: str, home: Path, variables: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """`bmrt`, where npm finds what it finds for whoever runs the tests."""
    env = {**variables, **environment(home), "HOME": os.environ.get("HOME", str(home))}
    env.pop("BMRT_LIBRARY", None)
    return subprocess.run(
        [*BMRT, *arguments], capture_output=True, text=True, timeout=1200, env=env
    )


def test_the_best_engine_uses_what_the_processor_has(tmp_path: Path) -> None:
    """Fetched, checked, tried, compared and used; answers are as they were, and nothing is chatty."""
    ask = ("run", "What is a torrent?", "-t", "0", "-n", "8")
    before = command(*ask, home=tmp_path)
    done = command("engine", "install", "cpu", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    # None on a machine that is too busy to tell.
    assert said["gain"] is None or (said["gain"]["device"] == "cpu" and said["gain"]["prefill"] > 0)
    assert "load_backend" not in done.stderr

    # Whatever came of comparing, on a machine that is busy with other tests.
    assert command("engine", "use", "cpu", home=tmp_path).returncode == 0
    health = json.loads(command("doctor", "--json", home=tmp_path).stdout)
    assert health["library"]["origin"] == "engine cpu-3.22.1"
    if this_system() == "linux-x86_64":
        # One object for each generation: the best one was taken.
        assert not health["unused"]
        best = {"AVX2", "AVX512", "AVX512_VNNI"} & set(processor_features())
        assert best <= set(health["devices"][0]["features"])
    after = command(*ask, home=tmp_path)
    assert (after.returncode, after.stderr) == (0, before.stderr)
    assert after.stdout.split()[:3] == before.stdout.split()[:3]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Path]:
    """The package archive for this processor."""
    engine, folder = named("cpu", this_system()), tmp_path_factory.mktemp("package")
    return engine, fetch(engine, folder)


def test_an_object_that_faults_is_named_and_can_be_left_out(
    package: tuple[Engine, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that for tiles does where a virtual machine only claims to have them; the next best computes."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    engine, archive = package
    unpack(archive, engine, tmp_path / "sound")
    best = next(o for o in try_library(tmp_path / "sound" / engine.library).objects if "cpu" in o)

    data = bytearray((tmp_path / "sound" / best).read_bytes())
    ctypes.CDLL(str(tmp_path / "sound" / "libggml-base.so"), ctypes.RTLD_GLOBAL)
    at = place_in_file(ctypes.CDLL(str(tmp_path / "sound" / best)).ggml_graph_compute)
    data[at : at + len(FAULT) // 2] = bytes.fromhex(FAULT)
    # Another file in its place: what this process has loaded would change under it.
    (tmp_path / "sound" / best).unlink()
    (tmp_path / "sound" / best).write_bytes(data)
    files = [path for path in (tmp_path / "sound").iterdir() if path.suffix == ".so"]
    made = write(
        [member(f"{FOLDER}/{path.name}", path.read_bytes()) for path in files],
        tmp_path / "made.tgz",
    )
    made = replace(made, library=engine.library)

    with pytest.raises(UsageError, match="SIGILL on cpu") as caught:
        install(InstallRequest(engine=made, archive=tmp_path / "made.tgz"), print)
    assert caught.value.code == "engine.faulted"
    assert (caught.value.hint or "").endswith(f"--without {best}")
    request = InstallRequest(engine=made, archive=tmp_path / "made.tgz", left_out=(best,))
    installed = install(request, print)
    assert installed.left_out == (best,) and not (installed.folder / best).exists()
    assert any(device.kind == "cpu" for device in installed.devices)
    with pytest.raises(UsageError, match="no object") as caught:
        install(replace(request, left_out=("libggml-base.so",)), print)
    assert best in (caught.value.hint or "") and "libggml-base.so" not in (caught.value.hint or "")


def test_an_engine_for_graphics_cards_says_what_is_missing(tmp_path: Path) -> None:
    """Where there is no card that it could use, nothing is installed."""
    done = command("engine", "install", "vulkan", "--json", home=tmp_path)
    error = json.loads(done.stdout).get("error")
    if error is None:
        pytest.skip("there is a graphics card here")
    assert error["code"] == (
        "engine.no-device" if this_system() == "linux-x86_64" else "engine.not-found"
    )
    rows = json.loads(command("engine", "ls", "--json", home=tmp_path).stdout)
    assert [row["name"] for row in rows if row["state"] != "not installed"] == ["bundled"]
