"""More models than memory holds: they take turns, and what is being answered is answered first."""

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt

# Room for the program and one of them.
LIMITS = ("--memory", "270MiB", "--context", "512", "--threads", "1")
NAMES = ("first", "second", "third")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return json.load(answer)


def ask(url: str, model: str, n: int = 4) -> str:
    body = {"model": model, "prompt": "The sea is", "max_tokens": n, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=200) as answer:
        reply = json.load(answer)
    assert reply["model"] == model
    return str(reply["choices"][0]["text"])


def loaded(home: Path) -> list[str]:
    listed = json.loads(bmrt("ps", "--json", home=home).stdout)["processes"]
    return [model["name"] for one in listed for model in one["models"]]


def test_models_take_turns_in_memory(tmp_path: Path) -> None:
    """One after the other, again and again, and several that are asked for at once."""
    (tmp_path / "models").mkdir()
    for name in NAMES:
        (tmp_path / "models" / f"{name}.gguf").symlink_to(default_model().path)
    with ServerProcess(*NAMES, *LIMITS, home=tmp_path) as server:
        assert loaded(tmp_path) == ["first"]
        cards = {card["id"]: card for card in get(f"{server.url}/v1/models")["data"]}
        assert set(cards) == set(NAMES)
        assert get(f"{server.url}/v1/models/third")["id"] == "third"
        expected = ask(server.url, "first")
        for name in ("second", "second", "third", "first"):
            assert ask(server.url, name) == expected
            assert loaded(tmp_path) == [name]

        answers: dict[str, str] = {}

        def long(name: str) -> None:
            answers[name] = ask(server.url, name, 40)

        threads = [threading.Thread(target=long, args=(name,)) for name in NAMES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 3 and len(set(answers.values())) == 1
        assert len(loaded(tmp_path)) == 1
