"""What tests of several folders share."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from commands import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The default model, two answers at once and one waiting."""
    home = tmp_path_factory.mktemp("home")
    arguments = ("--context", "1024", "--parallel", "2", "--queue", "1")
    with ServerProcess(*arguments, home=home) as process:
        yield process
    assert process.process.returncode == 0


@pytest.fixture
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=240
    ) as openai:
        yield openai
