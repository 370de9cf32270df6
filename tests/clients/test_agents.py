"""Agents that others wrote, each started for one small task, against `bmrt serve`.

Their prompts are longer than the context of the embedded default: the model is Qwen2.5-Coder-0.5B, and
it takes minutes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients_kit import require_program, run

from baremetalrt.core.places import home
from baremetalrt.serve.agents import ServedModel, start_of
from baremetalrt.serve.looking import served_model
from commands import ServerProcess

pytestmark = pytest.mark.clients

TASK = "Say hello in one word. Use no tools."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    path = home() / "benchmarks" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    if not path.exists():
        pytest.skip("`python bench/qwen.py` fetches the model first")
    folder = tmp_path_factory.mktemp("agents")
    with ServerProcess(str(path), "--context", "24576", home=folder) as process:
        yield served_model(process.url, None, None)


def test_codex_answers(served: ServedModel, tmp_path: Path) -> None:
    program = require_program("codex", "@openai/codex")
    start = start_of("codex", served)
    flags = ("exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only", TASK)
    done = run(program, *start.words[1:], *flags, home=tmp_path, variables=dict(start.variables))
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "turn.completed" and events[-1]["usage"]["output_tokens"] > 0
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert any(item["type"] == "agent_message" and item["text"] for item in items), items


def test_opencode_answers(served: ServedModel, tmp_path: Path) -> None:
    program = require_program("opencode", "opencode-ai")
    start = start_of("opencode", served)
    done = run(
        program, "run", "--format", "json", TASK, home=tmp_path, variables=dict(start.variables)
    )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert not [event for event in events if event["type"] == "error"]
    texts = [event["part"]["text"] for event in events if event["type"] == "text"]
    assert any(text.strip() for text in texts), done.stdout
