"""Pipes, devices and endless files in the place of those that people name: one line, at once."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from baremetalrt.cli.options import grammar, read_text
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.files import NotRegularError, open_regular, read_regular
from baremetalrt.core.settings import load_settings
from baremetalrt.native.vocabulary_guard import check_vocabulary
from baremetalrt.swarm.stored_torrent import read_torrent_file
from baremetalrt.tuning.examples import read_files
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import find_model, stored_models
from commands import BMRT, bmrt, environment


@pytest.fixture(params=["pipe", "device", "nothing"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A pipe that nobody writes to, an endless device, and one that is always empty."""
    path = tmp_path / "special.gguf"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "nothing": "/dev/null"}[request.param])
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "a model": GGUFFile.open,
    "a vocabulary": check_vocabulary,
    "the name of a model": lambda path: find_model(str(path)),
    "a torrent": lambda path: read_torrent_file(str(path)),
    "examples": lambda path: read_files([path]),
    "a template": read_text,
    "a schema": lambda path: grammar(str(path), None),
    "a grammar": lambda path: grammar(None, path),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_waited_for(reader: str, special: Path) -> None:
    """Whoever reads it says so, and has read nothing."""
    with pytest.raises(BareMetalError) as caught:
        READERS[reader](special)
    assert caught.value.message.isprintable()
    if reader != "a vocabulary":
        assert "a pipe" in caught.value.message


def test_settings_that_are_no_file_are_refused(
    special: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMRT_HOME", str(special.parent))
    special.rename(special.parent / "config.toml")
    from baremetalrt.swarm.config import SwarmConfig

    with pytest.raises(BareMetalError) as caught:
        load_settings("swarm", SwarmConfig)
    assert caught.value.code == "config.invalid"


def test_files_are_read_and_no_more_of_them_than_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    assert read_regular(path, 1000) == b"x" * 1000
    with pytest.raises(OSError, match="larger"):
        read_regular(path, 999)
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="larger"):
        read_regular(path, 1 << 20)
    assert read_regular(Path("/proc/self/status"), 1 << 20).startswith(b"Name")
    link = tmp_path / "link"
    link.symlink_to(path)
    open_regular(link).close()
    with pytest.raises(OSError, match="symbolic"):
        open_regular(link, follow=False)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(NotRegularError):
        open_regular("/dev/null")


def test_the_store_does_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing ends, whatever lies in the folder of models."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    os.mkfifo(tmp_path / "models" / "pipe.gguf")
    (tmp_path / "models" / "zero.gguf").symlink_to("/dev/zero")
    (tmp_path / "models" / "real.gguf").write_bytes(b"GGUF")
    assert [m.name for m in stored_models() if not m.is_default] == ["real"]


def test_commands_say_it_on_one_line(tmp_path: Path) -> None:
    """As a model, as an adapter, and on standard input without an end."""
    os.mkfifo(tmp_path / "pipe.gguf")
    for arguments in (
        ("run", str(tmp_path / "pipe.gguf"), "Hello"),
        ("adapters", "import", str(tmp_path / "pipe.gguf")),
    ):
        done = bmrt(*arguments, home=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "a pipe" in done.stderr and "hint:" in done.stderr
    with open("/dev/zero", "rb") as zeros:
        ended = subprocess.run(
            [*BMRT, "run", "-"],
            stdin=zeros,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(tmp_path),
        )
    assert ended.returncode == 2 and "longer than" in ended.stderr
