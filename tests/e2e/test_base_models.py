"""Models without a chat template go on with texts; answers that come to no end are ended."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from commands import ServerProcess, bmrt
from tiny_models import write_talking


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talking(tmp_path_factory.mktemp("base") / "base.gguf", has_template=False)


@pytest.fixture(scope="module")
def server(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("home")
    with ServerProcess(str(base_model), "--context", "1024", home=home) as process:
        yield process


def test_run_goes_on_with_the_text(base_model: Path, tmp_path: Path) -> None:
    """As `--raw` does, and says so; with instructions it is a conversation."""
    common = ("-t", "0", "-n", "12", "The sea is", "--context", "256")
    plain = bmrt("run", str(base_model), *common, home=tmp_path)
    raw = bmrt("run", str(base_model), "--raw", *common, home=tmp_path)
    assert plain.stdout == raw.stdout and "no chat template" in plain.stderr
    assert "no chat template" not in raw.stderr
    told = bmrt("run", str(base_model), "--system", "Be brief.", *common, home=tmp_path)
    assert told.stdout != raw.stdout


def test_a_conversation_ends_where_the_next_turn_begins(server: ServerProcess) -> None:
    """The vocabulary has tokens for turns: an answer has none of them, and ends with them."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hi"}],
            # A turn begins at once.
            logit_bias={"1": 100},
            max_tokens=50,
            temperature=0,
        )
        assert answer.choices[0].finish_reason == "stop"
        assert not answer.choices[0].message.content


def test_an_answer_that_repeats_itself_is_ended(base_model: Path, tmp_path: Path) -> None:
    """A model with weights of chance does nothing else, sooner or later."""
    arguments = ("-t", "0", "--context", "4096", "--repetition-penalty", "1")
    done = bmrt("run", str(base_model), *arguments, "The sea is", home=tmp_path)
    assert done.returncode == 0 and "over and over" in done.stderr
    said = json.loads(
        bmrt("run", str(base_model), *arguments, "--json", "The sea is", home=tmp_path).stdout
    )
    assert said["loop"] and said["finish_reason"] == "length" and len(said["tokens"]) < 4000


def test_the_longest_answer_is_stated(tmp_path: Path) -> None:
    assert "8192" in bmrt("run", "--help", home=tmp_path).stdout
