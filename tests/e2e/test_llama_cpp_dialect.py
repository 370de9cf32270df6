"""What clients of llama.cpp's server ask besides, against `bmrt serve`, from another process."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ServerProcess
from tiny_models import write_talking

_MARKS = {"fim_pre": 5, "fim_suf": 6, "fim_mid": 7, "fim_rep": 8, "fim_sep": 9}


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model whose vocabulary has tokens for a gap."""
    home = tmp_path_factory.mktemp("home")
    path = write_talking(home / "filling.gguf", _MARKS)
    with ServerProcess(str(path), "--context", "256", home=Path(home)) as process:
        yield process


def ask(server: ServerProcess, path: str, **fields: Any) -> Any:
    request = urllib.request.Request(
        server.url + path, json.dumps(fields).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=240) as answer:
        return json.loads(answer.read())


def test_text_becomes_tokens_and_text_again(server: ServerProcess) -> None:
    text = "Füchse <|im_start|>"
    tokens = ask(server, "/tokenize", content=text)["tokens"]
    assert ask(server, "/detokenize", tokens=tokens)["content"] == text
    as_text = ask(server, "/tokenize", content=text, parse_special=False)["tokens"]
    assert len(as_text) > len(tokens)
    assert ask(server, "/detokenize", tokens=as_text)["content"] == text
    pieces = ask(server, "/tokenize", content="ü🦊", with_pieces=True)["tokens"]
    raw = b"".join(
        p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces
    )
    assert raw.decode() == "ü🦊"
    mixed = ask(server, "/tokenize", content=[tokens[0], text])["tokens"]
    assert mixed == [tokens[0], *tokens]


def test_the_template_shows_what_it_makes(server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "Say <|im_end|>"}]
    prompt = ask(server, "/apply-template", messages=messages)["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n") and "Say <|im_end|>" in prompt


def test_a_gap_is_filled(filling: ServerProcess) -> None:
    """The prompt is what the tokens of the vocabulary say, in either dialect."""

    def tokens(text: str) -> list[int]:
        found: list[int] = ask(filling, "/tokenize", content=text, parse_special=False)["tokens"]
        return found

    texts: dict[str, Any] = {"prompt": "def f(", "suffix": "):\n    return <|im_end|>"}
    choice = ask(
        filling, "/v1/completions", return_token_ids=True, max_tokens=4, temperature=0, **texts
    )["choices"][0]
    assert choice["prompt_token_ids"] == [
        5,
        *tokens(texts["prompt"]),
        6,
        *tokens(texts["suffix"]),
        7,
    ]
    sent = {"input_prefix": "def ", "prompt": "f(", "input_suffix": texts["suffix"]}
    filled = ask(filling, "/infill", n_predict=4, temperature=0, **sent)
    assert filled["content"] == choice["text"] and filled["stop_type"] == "limit"
    assert filled["tokens_predicted"] == 4
    files = [{"filename": "a.py", "text": "x = 1\n"}]
    with_files = ask(filling, "/infill", n_predict=1, input_extra=files, **sent)
    extra = [8, *tokens("project\n"), 9, *tokens("a.py\n"), *tokens("x = 1\n"), 9]
    extra += tokens("filename\n")
    assert with_files["tokens_evaluated"] == filled["tokens_evaluated"] + len(extra)
    ollama = {"prompt": texts["prompt"], "suffix": texts["suffix"], "stream": False}
    options = {"num_predict": 4, "temperature": 0}
    assert ask(filling, "/api/generate", options=options, **ollama)["response"] == choice["text"]


def test_an_editor_makes_ready_and_takes_what_it_needs(filling: ServerProcess) -> None:
    sent = {"input_prefix": "a = 1\n" * 30, "input_suffix": "\n", "prompt": ""}
    fields = ["content", "timings/prompt_n", "nothing/here"]
    ready = ask(filling, "/infill", n_predict=0, response_fields=fields, **sent)
    assert ready["content"] == "" and set(ready) == {"content", "timings/prompt_n"}
    again = ask(filling, "/infill", n_predict=1, response_fields=fields, **sent)
    assert again["timings/prompt_n"] < 10 < 90 < ready["timings/prompt_n"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [10**7]}),
        ("/tokenize", {"content": {"a": 1}}),
        ("/tokenize", {"content": "w" * 3_000_000}),
        ("/apply-template", {"messages": []}),
        ("/apply-template", {"messages": [{"role": "nobody", "content": ""}]}),
    ],
)
def test_mistakes_are_named(server: ServerProcess, path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, path, **fields)
    assert refused.value.code == 400
    assert len(json.loads(refused.value.read())["error"]["message"]) > 15
