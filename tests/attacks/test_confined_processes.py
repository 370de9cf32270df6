"""Processes that read what strangers wrote, taken over by them: no key, no network, no other process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import document_kit as kit
import tiny_whole
import whole_kit
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.sandbox import probe
from baremetalrt.documents import reader_process
from baremetalrt.documents.reader_process import ReaderProcess
from baremetalrt.native.whole_model import WholeSlice
from baremetalrt.session.chat_template import CHATML, ChatTemplate, TemplateProcess
from baremetalrt.session.whole import process as whole_process
from baremetalrt.session.whole import wire

WORKER = Path(__file__).with_name("confined_worker.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process so")


@pytest.fixture(scope="module", autouse=True)
def capable() -> None:
    """Skips where the kernel has not been built with both means."""
    if not all(held := probe()):
        pytest.skip(f"this kernel cannot: {held}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What lies in the home folder: a key, and files."""
    found = tmp_path / "keys"
    found.mkdir()
    for name in ("member.key", "old"):
        (found / name).write_text("-----BEGIN PRIVATE KEY-----")
        (found / name).chmod(0o600)
    return found


def check(outcomes: dict[str, str], folder: Path) -> None:
    assert len(outcomes) > 15
    assert not {name: said for name, said in outcomes.items() if said == "done"}
    assert all(
        "not permitted" in said or "denied" in said or "not implemented" in said
        for name, said in outcomes.items()
        if name != "look up a name"
    ), outcomes
    assert sorted(p.name for p in folder.iterdir()) == ["member.key", "old"]
    assert (folder / "member.key").stat().st_mode & 0o777 == 0o600


def test_what_is_tried_works_elsewhere(folder: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    said = subprocess.run(
        [sys.executable, str(WORKER), "free", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = dict(line.split("=", 1) for line in said.stdout.splitlines())
    rare = {"read the memory of its parent", "trace its parent", "queue calls past the filter"}
    assert {name for name, said in outcomes.items() if said != "done"} <= rare


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReaderProcess]:
    command = (sys.executable, "-I", str(WORKER), "reader", str(folder))
    monkeypatch.setattr(reader_process, "_COMMAND", command)
    with ReaderProcess() as process:
        yield process


def test_a_reader_that_is_taken_over_reaches_nothing(
    reader: ReaderProcess, folder: Path, tmp_path: Path
) -> None:
    """It has the document that it was given, and reads the next one."""
    documents, unread = kit.read(kit.write(tmp_path, "a.attack", "words"), reader=reader)
    assert not unread
    check({d.title: d.text for d in documents}, folder)
    honest = kit.write(tmp_path, "honest.txt", "An honest text.")
    assert [d.text for d in kit.read(honest, reader=reader)[0]] == ["An honest text."]


def test_a_template_that_gets_out_of_jinja_reaches_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "template_worker.py"
    lines = (
        "import runpy, sys",
        f"sys.argv = [{str(WORKER)!r}, 'template', {str(folder)!r}]",
        f"runpy.run_path({str(WORKER)!r}, run_name='__main__')",
    )
    script.write_text("\n".join(lines))
    monkeypatch.setattr("baremetalrt.session.chat_template._WORKER", script)
    process = TemplateProcess()
    try:
        source = "{% for name, said in outcomes() %}{{ name }}={{ said }}\n{% endfor %}"
        said = ChatTemplate(process, source, bos="", eos="").render([])
        check(dict(line.split("=", 1) for line in said.splitlines()), folder)
        messages = [{"role": "user", "content": "Hello"}]
        assert "Hello" in ChatTemplate(process, CHATML, bos="", eos="").render(messages)
    finally:
        process.close()


def test_a_whole_model_that_takes_over_its_process_reaches_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its file, and threads to compute with: it does, on two of them, all the while."""
    command = (sys.executable, "-I", str(WORKER), "whole", str(folder))
    monkeypatch.setattr(whole_process, "_COMMAND", command)
    process = whole_kit.start(
        tiny_whole.write(tmp_path / "model.gguf", "gpt2"), num_threads=2, max_texts=1
    )
    try:
        found = {}
        for attempt in range(16):
            slices = [WholeSlice(0, attempt, [attempt])]
            with pytest.raises(CapacityError) as caught:
                process.step(wire.Step([], slices, "none"))
            name, _, said = caught.value.message.partition("=")
            found[name] = said
        assert psutil.Process(whole_kit.process_id(process)).num_threads() > 1
        check(found, folder)
    finally:
        process.close()


def test_keys_in_the_environment_stay_with_their_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such process is told what the user's programs are."""
    monkeypatch.setenv("SECRET_TOKEN", "opensesame")
    whole = whole_kit.start(tiny_whole.write(tmp_path / "model.gguf", "gpt2"))
    template = TemplateProcess()
    try:
        with ReaderProcess() as reader:
            kit.read(kit.write(tmp_path, "a.txt", "words"), reader=reader)
            ChatTemplate(template, CHATML, bos="", eos="").render([])
            for name in ("reader_worker", "template_worker", "whole.worker"):
                own = psutil.Process().children()
                found = [child for child in own if name in " ".join(child.cmdline())]
                assert found and not any("SECRET_TOKEN" in child.environ() for child in found)
    finally:
        template.close()
        whole.close()
