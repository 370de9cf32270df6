"""What tests of several folders share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from baremetalrt.native.library import ENVIRONMENT_VARIABLE, selected_engine
from commands import ServerProcess

# Processes that tests start have homes of their own: they compute with what this one does.
if _selected := selected_engine():
    os.environ.setdefault(ENVIRONMENT_VARIABLE, str(_selected))


@pytest.fixture(scope="session", autouse=True)
def unlisted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests load in this process, `bmrt ps` of its user does not list."""
    folder = tmp_path_factory.mktemp("running")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baremetalrt.node.presence.running_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The default model, two answers at once and one waiting."""
    home = tmp_path_factory.mktemp("home")
    arguments = ("--context", "1024", "--parallel", "2", "--queue", "1")
    with ServerProcess(*arguments, home=home) as process:
        yield process
    assert process.process.returncode == 0


@pytest.fixture(scope="session")
def talking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads and writes texts, of no sense. Its vocabulary takes seconds to write."""
    from tiny_models import write_talking

    return write_talking(tmp_path_factory.mktemp("talking") / "talking.gguf")


@pytest.fixture
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=240
    ) as openai:
        yield openai
