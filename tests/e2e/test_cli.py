"""`bmrt` at the command line, as a process of its own."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import BMRT, bmrt, environment
from tiny_models import TinyModel, write, write_talking

GREEDY = ("-t", "0", "-n", "12")


def test_run_prints_the_answer_and_nothing_else(tmp_path: Path) -> None:
    """Text to standard output; a prompt as an argument, or from standard input."""
    argued = bmrt("run", "Name a color.", *GREEDY, home=tmp_path)
    assert argued.returncode == 0 and argued.stderr == ""
    assert argued.stdout.strip()
    assert bmrt("run", *GREEDY, home=tmp_path, stdin="Name a color.").stdout == argued.stdout
    marked = bmrt("run", *GREEDY, home=tmp_path, stdin="\ufeffName a color.")
    assert marked.stdout == argued.stdout
    mixed = bmrt("run", "Repeat:", "-", "--json", *GREEDY, home=tmp_path, stdin="a b c")
    assert json.loads(mixed.stdout)["prompt_tokens"] > 30


def test_run_json_is_one_object(tmp_path: Path) -> None:
    """What a program needs: text, tokens as ids, counts, and timings that fit together."""
    answer = json.loads(bmrt("run", "Name a color.", "--json", *GREEDY, home=tmp_path).stdout)
    assert answer["model"] == "SmolLM2-135M-Instruct.Q4_1"
    assert answer["text"] and len(answer["tokens"]) <= 12
    assert all(isinstance(token, int) for token in answer["tokens"])
    assert answer["finish_reason"] in ("stop", "length")
    timings = answer["timings"]
    assert 0 < timings["load_s"] < timings["time_to_first_token_s"] <= timings["total_s"]
    computed = answer["prompt_tokens"] / timings["prefill_tokens_per_s"]
    assert computed == pytest.approx(timings["prefill_s"], rel=0.01)


def test_options_reach_the_answer(tmp_path: Path) -> None:
    """Raw prompts, stops, seeds, schemas, grammars."""

    def text(*arguments: str) -> str:
        done = bmrt("run", *arguments, "--json", home=tmp_path)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["text"])

    assert "three" in text("One, two,", "--raw", "-t", "0", "-n", "3")
    assert "three" not in text("One, two,", "--raw", "-t", "0", "-n", "8", "--stop", "three")
    hot = ("Tell me a story.", "-t", "1.5", "-n", "12")
    assert text(*hot, "--seed", "5") == text(*hot, "--seed", "5")
    assert text(*hot, "--seed", "5") != text(*hot, "--seed", "6")
    # Bounded: a model may go on with digits, and with properties, for ever.
    number = {"type": "integer", "minimum": 0, "maximum": 999}
    shape = {"type": "object", "properties": {"n": number}, "required": ["n"]}
    schema = json.dumps(shape | {"additionalProperties": False})
    assert isinstance(json.loads(text("A number.", "--json-schema", schema))["n"], int)
    grammar = tmp_path / "yes.gbnf"
    grammar.write_text('root ::= "yes" | "no"')
    assert text("Is water wet?", "--grammar", str(grammar)) in ("yes", "no")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nowhere.gguf", "hi"), "nowhere.gguf"),
        (("run", "two words", "hi"), "two words"),
        (("run", "  "), "empty"),
        (("run", "hi", "--context", "16"), "context"),
        (("run", "hi", "-t", "-1"), "temperature"),
        (("run", "hi", "--context", "100000000"), "needs"),
        (("run", "hi", "--device", "gpu7"), "gpu7"),
        (("run", "hi", "--json-schema", "{"), "schema"),
        (("run", "hi", "--chat-template", "/nowhere"), "/nowhere"),
        (("show", "nowhere.gguf"), "nowhere.gguf"),
        (("rnu",), "run"),
        (("run", "--no-such-option"), "--no-such-option"),
    ],
)
def test_mistakes_are_one_line_and_a_status(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    """Nothing on standard output, no trace, a hint where there is one to give."""
    done = bmrt(*arguments, home=tmp_path)
    assert done.returncode in (2, 3, 4) and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr
    assert "error: " in done.stderr.lower()


def test_errors_are_json_where_json_was_asked_for(tmp_path: Path) -> None:
    done = bmrt("run", "nowhere.gguf", "hi", "--json", home=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "model.not-found" and error["hint"]


def test_show_works_on_a_file_whose_blocks_have_not_arrived(tmp_path: Path) -> None:
    """The header says everything; `run` says what is missing."""
    path = write(TinyModel("llama", num_blocks=3), tmp_path / "tiny.gguf")
    whole = json.loads(bmrt("show", str(path), "--json", home=tmp_path).stdout)
    assert whole["architecture"] == "llama" and whole["complete"] is True
    assert [block["index"] for block in whole["blocks"]] == [0, 1, 2]
    assert sum(b["bytes"] for b in whole["blocks"]) < whole["bytes"]
    os.truncate(path, whole["blocks"][1]["ranges"][0][1])
    part = json.loads(bmrt("show", str(path), "--json", home=tmp_path).stdout)
    assert part["complete"] is False and part["blocks"] == whole["blocks"]
    refused = bmrt("run", str(path), "hi", home=tmp_path)
    assert refused.returncode != 0 and "Traceback" not in refused.stderr


def test_the_store_is_listed(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write(TinyModel("qwen3"), models / "mine.gguf")
    (models / "broken.gguf").write_bytes(b"GGUF")
    listed = json.loads(bmrt("ls", "--json", home=tmp_path).stdout)
    names = {model["name"] for model in listed}
    assert {"mine", "SmolLM2-135M-Instruct.Q4_1"} <= names
    assert "mine" in bmrt("ls", home=tmp_path).stdout


def test_doctor_says_what_is_here(tmp_path: Path) -> None:
    report = json.loads(bmrt("doctor", "--json", home=tmp_path).stdout)
    assert report["problems"] == [] and report["devices"][0]["kind"] == "cpu"
    assert report["devices"][0]["features"]
    assert "llama" in report["architectures"]
    said = bmrt("doctor", home=tmp_path).stdout
    assert "all is well" in said and "run whole: not on peers" in said


def test_bench_measures(tmp_path: Path) -> None:
    model = write_talking(tmp_path / "tiny.gguf")
    arguments = ("bench", str(model), "--json", "--repeat", "1", "--context", "1024")
    measured = bmrt(*arguments, home=tmp_path, timeout_s=280)
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)


def test_version_help_and_completion(tmp_path: Path) -> None:
    assert bmrt("--version", home=tmp_path).stdout.startswith("bmrt")
    for command in ("run", "serve", "ls", "show", "doctor", "bench", "completion"):
        assert "--help" in bmrt(command, "--help", home=tmp_path).stdout
    for shell in ("bash", "zsh", "fish"):
        assert "bmrt" in bmrt("completion", shell, home=tmp_path).stdout


def test_an_interrupt_ends_an_answer(tmp_path: Path) -> None:
    """Ctrl-C: status 130, no trace, what was said so far stays."""
    process = subprocess.Popen(
        [*BMRT, "run", "Write a very long story.", "-t", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdout is not None
    first = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=200)
    assert process.returncode == 130 and b"Traceback" not in errors
    assert len(first + rest) >= 5


def test_a_reader_that_had_enough_is_no_error(tmp_path: Path) -> None:
    """`bmrt run … | head -c 5` ends quietly."""
    process = subprocess.Popen(
        [*BMRT, "run", "Write a very long story.", "-t", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(5)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait(120)
    process.stderr.close()


class Terminal:
    """A terminal with `bmrt run` on it."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._screen, program = pty.openpty()
        self.process = subprocess.Popen(
            [*BMRT, "run", "-t", "0", *(arguments or ("-n", "16"))],
            stdin=program,
            stdout=program,
            stderr=program,
            env=environment(home) | {"TERM": "dumb"},
            start_new_session=True,
        )
        os.close(program)
        self._unread = ""

    def read_until(self, text: str, *, timeout_s: float = 200.0) -> str:
        """What appears until `text` does; the next call begins behind it."""
        deadline = time.monotonic() + timeout_s
        while text not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._screen], [], [], left)[0]:
                raise TimeoutError(f"no {text!r} in {self._unread!r}")
            self._unread += os.read(self._screen, 65536).decode("utf-8", "replace")
        seen, _, self._unread = self._unread.partition(text)
        return seen

    def type(self, line: str) -> None:
        os.write(self._screen, (line + "\r").encode())

    def press(self, key: bytes) -> None:
        os.write(self._screen, key)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def test_a_chat_on_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    """Answers, commands, mistakes; the conversation can be saved; Ctrl-D leaves."""
    saved = tmp_path / "chat.json"
    for line, says in (
        ("Name a color.", ""),
        ("/stats", "generated at"),
        ("/nonsense", "no command /nonsense"),
        ("/set temperature 900", "temperature is 900"),
        ("/set top_k 20", ""),
        ("/adapter nobody", "no adapter 'nobody'"),
        ("/adapter", "answers from now on"),
        ("/retry", ""),
        (f"/save {saved}", ""),
        ("/help", "/clear"),
    ):
        terminal.read_until("» ")
        terminal.type(line)
        terminal.read_until(says or "\n")
    terminal.read_until("» ")
    # Again if need be: pressed between two prompts, the terminal itself takes it for an end of file.
    for _ in range(40):
        terminal.press(b"\x04")
        try:
            assert terminal.process.wait(0.5) == 0
            break
        except subprocess.TimeoutExpired:
            continue
    messages = json.loads(saved.read_text())
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "Name a color." and messages[1]["content"]
    assert "Name a color." in (tmp_path / "history").read_text()


def test_an_interrupted_answer_is_part_of_the_chat(tmp_path: Path) -> None:
    """With what was said of it; the next question goes on from there, as strict templates want it."""
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) or not m.content %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{{ m.content }}\n{% endfor %}"
    )
    saved = tmp_path / "chat.json"
    chat = Terminal(tmp_path, "-n", "100", "--chat-template", str(strict))
    try:
        chat.read_until("» ")
        chat.type("1, 2, 3, 4, 5, 6, 7, 8, 9, 10,")
        chat.read_until("11, 12")
        chat.process.send_signal(signal.SIGINT)
        for line in ("And now?", f"/save {saved}"):
            chat.read_until("» ")
            chat.type(line)
            chat.read_until("\n")
        chat.read_until("» ")
        turns = json.loads(saved.read_text())
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
        assert "11, 12" in turns[1]["content"] and "51, 52" not in turns[1]["content"]
    finally:
        chat.close()
