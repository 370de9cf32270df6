"""Long prompts are computed once: over turns that change in the middle, restarts, and runs."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from commands import ServerProcess, bmrt

# Each of these is a few dozen tokens.
SENTENCES = [f"Line {i}: the {i % 7}th ferry left harbour {i % 11} at dawn." for i in range(220)]


def ask(url: str, messages: list[dict[str, str]], key: str = "unused") -> tuple[int, int, str]:
    """Tokens of a prompt, those of them that were known, and the answer."""
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=240) as client:
        said = client.chat.completions.create(
            model="",
            messages=messages,
            max_tokens=4,
            temperature=0.0,  # type: ignore[arg-type]
        )
    usage: Any = said.usage
    details = usage.prompt_tokens_details
    return usage.prompt_tokens, details.cached_tokens, said.choices[0].message.content or ""


def conversation() -> list[dict[str, str]]:
    """Four turns, which come to more than 2,000 tokens."""
    turns = []
    for i in range(4):
        turns.append({"role": "user", "content": "\n".join(SENTENCES[50 * i : 50 * i + 40])})
        turns.append({"role": "assistant", "content": f"Noted, {i}."})
    return [*turns, {"role": "user", "content": "Which ferry was first?"}]


@pytest.fixture
def arguments(talking_model: Path) -> tuple[str, ...]:
    return str(talking_model), "--context", "8192", "--threads", "1", "--no-torrents"


def test_a_change_in_the_middle_recomputes_only_what_follows(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """With the chat template around it: of 2,000 tokens and more, the last turns alone."""
    with ServerProcess(*arguments, home=tmp_path) as server:
        messages = conversation()
        total, known, _ = ask(server.url, messages)
        assert total > 2000 and known == 0
        assert ask(server.url, messages)[1] == total - 1
        messages[4] = {"role": "user", "content": "Never mind the third part."}
        shorter, known, _ = ask(server.url, messages)
        # The first two turns, and the beginning of the third, up to what its author says.
        before = ask(server.url, messages[:4])[0]
        assert before - 10 <= known < before and known < shorter
        messages.append({"role": "assistant", "content": "I see."})
        messages.append({"role": "user", "content": "Go on."})
        longer, known, _ = ask(server.url, messages)
        assert known >= shorter - 10 and longer > shorter


def test_a_prompt_outlives_its_server(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """And a run uses what a server has left, unless it is told not to."""
    keys = ("--api-key", "one", "--api-key", "two")
    with ServerProcess(*arguments, *keys, home=tmp_path) as server:
        total, _, _ = ask(server.url, conversation(), "one")
        _, _, said = ask(server.url, conversation(), "one")
    with ServerProcess(*arguments, *keys, home=tmp_path) as server:
        assert ask(server.url, conversation(), "two")[1] == 0
        assert ask(server.url, conversation(), "one") == (total, total - 1, said)
    with ServerProcess(*arguments, *keys, "--no-prompt-cache", home=tmp_path) as server:
        assert ask(server.url, conversation(), "one")[1] == 0
        server.process.send_signal(signal.SIGTERM)
    held = json.loads(bmrt("doctor", "--json", home=tmp_path).stdout)
    assert held["prompt_cache_texts"] == 2 and held["prompt_cache_bytes"] > 2 * total
    freed = json.loads(bmrt("gc", "--prompt-cache", "--json", home=tmp_path).stdout)
    assert freed == {"texts": 2, "freed_bytes": held["prompt_cache_bytes"], "dry_run": False}
    assert not list((tmp_path / "prefixes").rglob("*.kv"))


def test_a_run_leaves_what_took_a_while(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    model, text = arguments[0], "\n".join(SENTENCES[:120])

    def run(*more: str) -> dict[str, Any]:
        done = bmrt(
            "run", model, "-n", "2", "-t", "0", "--json", "-", *more, home=tmp_path, stdin=text
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    first, second = run(), run()
    assert first["cached_tokens"] == 0 and first["prompt_tokens"] > 1024
    assert second["cached_tokens"] == first["prompt_tokens"] - 1
    assert run("--no-prompt-cache")["cached_tokens"] == 0
