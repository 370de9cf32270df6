"""Clients that others wrote, each by its own package, against `bmrt serve` of the embedded default."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clients_kit import answers_of, with_tools
from openai import OpenAI

from commands import ServerProcess

pytestmark = pytest.mark.clients

MODEL = "SmolLM2-135M-Instruct.Q4_1"
# Its answer ends by itself: some clients take one that was cut for a failure.
PROMPT = "What is 2+2?"
NUM_TOKENS = 32
SCRIPTS = (
    "litellm_client.py",
    "langchain_client.py",
    "pydantic_ai_client.py",
    "openai_agents_client.py",
    "llm_client.py",
    "instructor_client.py",
    "openai_client.mjs",
    "ai_client.mjs",
)


@pytest.fixture(scope="module")
def tools_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("clients")
    arguments = ("--context", "1024", "--threads", "1", *with_tools(home))
    with ServerProcess(*arguments, home=home) as process:
        yield process


@pytest.fixture(scope="module")
def expected(tools_server: ServerProcess) -> str:
    """What OpenAI's own client is answered."""
    client = OpenAI(base_url=f"{tools_server.url}/v1", api_key="none", timeout=240)
    messages = [{"role": "user", "content": PROMPT}]
    answer = client.chat.completions.create(
        model=MODEL,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=NUM_TOKENS,
    )
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_client_is_answered(
    script: str, tools_server: ServerProcess, expected: str, tmp_path: Path
) -> None:
    """The same words whole and in pieces, a call of a tool, and an object of a schema."""
    said = answers_of(script, tmp_path, tools_server.url, MODEL, PROMPT, NUM_TOKENS)
    assert said["chat"].strip() == expected.strip()
    if "stream" in said:
        pieces = [piece for piece in said["stream"] if piece]
        assert len(pieces) > 2 and "".join(pieces).strip() == expected.strip()
    if "response" in said:
        assert said["response"].strip() == expected.strip()
    if "call" in said:
        name, arguments = said["call"]
        assert name == "get_weather" and list(arguments) == ["city"]
        assert arguments["city"] in ("Paris", "Rome")
    person = said["person"]
    assert set(person) == {"name", "age"} and len(person["name"]) <= 12
    assert 0 <= person["age"] <= 120
