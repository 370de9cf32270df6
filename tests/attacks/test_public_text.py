"""What the owner of a server says is public is shared by all; nothing else is, and nobody is told."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ServerProcess

_PUBLIC = "You are the assistant of a small library. Answer in one sentence. " * 4
_SECRET = "My password is swordfish, and my account number is 4711 0815 2342. " * 2


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("home")
    told = home / "system.txt"
    told.write_text(_PUBLIC)
    # Each is asked for once where what it has of its own would be in the way.
    names = ("alice", "bob", "carol", "dave", "erin", "frank", "grace")
    keys = [word for name in names for word in ("--api-key", name)]
    arguments = (*keys, "--public-system", str(told), "--no-torrents", "--context", "256")
    arguments += ("--parallel", "2", "--threads", "1")
    with ServerProcess(*arguments, home=home) as process:
        yield process


def cached(server: ServerProcess, key: str, system: str, user: str, **more: Any) -> int:
    """How many tokens of a question its key is told that it did not have to wait for."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    body = json.dumps({"messages": messages, "max_tokens": 1, "temperature": 0, **more})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = json.loads(connection.getresponse().read())
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    finally:
        connection.close()


def test_only_what_is_public_is_shared(library: ServerProcess) -> None:
    """The first who asks, others, and who guesses what another said are told the same."""
    first = cached(library, "alice", _PUBLIC, _SECRET)
    assert first > 50
    # What one said itself is its own, as ever.
    assert cached(library, "alice", _PUBLIC, _SECRET) > first + 30
    assert cached(library, "bob", _PUBLIC, "Where is the atlas?") == first
    assert cached(library, "carol", _PUBLIC, _SECRET) == first
    assert cached(library, "dave", _PUBLIC, _SECRET) == first


def test_another_beginning_shares_what_it_has_in_common_with_the_public_one(
    library: ServerProcess,
) -> None:
    """Nothing of what another key sent: neither a system text of its own, nor what followed."""
    own = "I tell my own assistant things that nobody else has to know of. " * 4
    assert cached(library, "alice", own, "Hello") == 0
    assert cached(library, "bob", own, "Hello") == 0
    half = _PUBLIC[: len(_PUBLIC) // 2]
    shared = cached(library, "alice", half + own, "Hello")
    assert 0 < shared < cached(library, "erin", _PUBLIC, "Hello")
    assert cached(library, "bob", half + own, "Hello") == shared
    # Said where others say something else, the same words are not what was declared.
    assert cached(library, "bob", _SECRET, _PUBLIC) == 0


def test_what_is_public_stays(library: ServerProcess) -> None:
    """However much is asked for since: it is not pushed out, and nobody writes into it."""
    first = cached(library, "frank", _PUBLIC, "What is new?")
    for number in range(5):
        cached(library, "alice", f"{number} " + _SECRET, "Hello")
    assert cached(library, "grace", _PUBLIC, "Something else, then.") == first


def test_the_text_of_a_model_that_is_not_here_is_refused(tmp_path: Path) -> None:
    told = tmp_path / "system.txt"
    told.write_text(_PUBLIC)
    with pytest.raises(RuntimeError, match="models that are here"):
        ServerProcess(
            f"magnet:?xt=urn:btih:{'a' * 40}", "--public-system", str(told), home=tmp_path
        )
