"""Files that harm whoever computes with them, and processes that end: one error, and all else goes on."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import tiny_whole
import whole_kit
from baremetalrt.core.errors import BareMetalError, CapacityError, IntegrityError
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.session.whole import process as whole_process
from baremetalrt.weights.store import StoredModel
from session_kit import run_async

PROMPT = list(range(10, 50))


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(ModelOptions(num_threads=1, max_sessions=2, context=512))
    yield node
    node.close()


def load(node: Node, path: Path) -> Model:
    return node.load(Opening(StoredModel(path.stem, path, is_default=False)))


async def answer(model: Model, prompt: list[int] = PROMPT, count: int = 6) -> list[int | None]:
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=count, ignore_end=True
    )
    return [token.id async for token in model.session(prompt, options).generate()]


def process_id(model: Model) -> int:
    assert model._process is not None
    return whole_kit.process_id(model._process)


def of_type(name: str, dtype: type) -> Callable[[tiny_whole.Writer, str, tuple[int, ...]], bool]:
    """A tensor of numbers that nothing multiplies by."""

    def write(w: tiny_whole.Writer, written: str, shape: tuple[int, ...]) -> bool:
        if written == name:
            w.out.add_tensor(name, np.zeros(shape[::-1], dtype))
        return written == name

    return write


def of_shape(name: str, *new: int) -> Callable[[tiny_whole.Writer, str, tuple[int, ...]], bool]:
    def write(w: tiny_whole.Writer, written: str, shape: tuple[int, ...]) -> bool:
        if written == name:
            w.out.add_tensor(name, np.zeros(new[::-1], np.float32))
        return written == name

    return write


HARM = {
    "a matrix of integers": (of_type("blk.0.ffn_up.weight", np.int32), "model.crashed"),
    "an embedding of integers": (of_type("token_embd.weight", np.int32), "model.crashed"),
    "a matrix of doubles": (of_type("blk.1.ffn_down.weight", np.float64), "model.crashed"),
    "another shape": (of_shape("blk.0.ffn_up.weight", 64, 95), "model.refused"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_ends_its_process_is_one_error(
    harm: str, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is blamed; a model that was there before answers as before."""
    other = load(node, tiny_whole.write(tmp_path / "good.gguf", "falcon"))
    before = asyncio.run(answer(other))
    write, code = HARM[harm]
    honest = tiny_whole.Writer.matrix

    def matrix(self: tiny_whole.Writer, name: str, *shape: int) -> None:
        if not write(self, name, shape):
            honest(self, name, *shape)

    monkeypatch.setattr(tiny_whole.Writer, "matrix", matrix)
    path = tiny_whole.write(tmp_path / "bad.gguf", "gpt2")
    with pytest.raises(IntegrityError) as caught:
        load(node, path)
    assert caught.value.code == code
    assert caught.value.source == str(path) and caught.value.hint
    assert set(node.models) == {"good"}
    assert asyncio.run(answer(other)) == before


def test_a_file_that_ends_early_is_one_error(node: Node, tmp_path: Path) -> None:
    """Where its header is whole."""
    path = tiny_whole.write(tmp_path / "cut.gguf", "gpt2")
    os.truncate(path, path.stat().st_size - 5000)
    with pytest.raises(IntegrityError, match="not within the file"):
        load(node, path)


def test_a_confined_process_reads_its_model_wherever_it_lies(node: Node, tmp_path: Path) -> None:
    """Behind a link, as caches of what was fetched have them, and in parts."""
    path = tiny_whole.write(tmp_path / "model.gguf", "gpt2")
    expected = asyncio.run(answer(load(node, path)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.gguf").symlink_to(path)
    assert asyncio.run(answer(load(node, elsewhere / "link.gguf"))) == expected
    first, *others = tiny_whole.write_parts(tmp_path / "parts", "gpt2")
    assert others
    for number, part in enumerate((first, *others)):
        part.rename(tmp_path / f"{number}.blob")
        part.symlink_to(tmp_path / f"{number}.blob")
    assert asyncio.run(answer(load(node, first))) == expected


def test_a_process_that_hangs_is_ended(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it waits for: nobody waits for it for ever."""
    command = (sys.executable, "-c", "import time; time.sleep(1000)")
    monkeypatch.setattr(whole_process, "_COMMAND", command)
    monkeypatch.setattr(whole_process, "_PATIENCE_S", 0.5)
    with pytest.raises(IntegrityError, match="hangs"):
        load(node, tiny_whole.write(tmp_path / "model.gguf", "gpt2"))


@pytest.mark.parametrize(
    "said", ["xxxxxxxxxxxx", "\\x02\\0\\0\\0\\x91\\x05", "\\xff\\xff\\xff\\xff"]
)
def test_a_process_that_says_nonsense_is_ended(
    said: str, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has taken it over, perhaps; it is believed nothing."""
    program = (
        f"import sys, time; sys.stdout.buffer.write(b'{said}'); sys.stdout.flush(); time.sleep(99)"
    )
    monkeypatch.setattr(whole_process, "_COMMAND", (sys.executable, "-c", program))
    with pytest.raises(IntegrityError, match="nonsense"):
        load(node, tiny_whole.write(tmp_path / "model.gguf", "gpt2"))


@run_async
async def test_a_step_that_hangs_is_ended(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next question is answered."""
    model = load(node, tiny_whole.write(tmp_path / "model.gguf", "gpt2"))
    expected = await answer(model)
    with monkeypatch.context() as patch:
        patch.setattr(whole_process, "_PATIENCE_S", 0.5)
        os.kill(process_id(model), signal.SIGSTOP)
        with pytest.raises(IntegrityError, match="hangs"):
            await answer(model)
    assert await answer(model) == expected


@run_async
async def test_nobody_waits_for_a_step_at_the_end(node: Node, tmp_path: Path) -> None:
    """However long it would take: what computes it is ended, and who asked comes back."""
    model = load(node, tiny_whole.write(tmp_path / "model.gguf", "gpt2"))
    pid = process_id(model)
    os.kill(pid, signal.SIGSTOP)
    asking = asyncio.create_task(answer(model))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(node.close)
    (ended,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(ended, Exception)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
@run_async
async def test_a_kill_in_the_middle_of_an_answer_is_one_error(
    architecture: str, node: Node, tmp_path: Path
) -> None:
    """The next question starts another process, and is answered as ever; so is another model's."""
    model = load(node, tiny_whole.write(tmp_path / "model.gguf", architecture))
    other = load(node, tiny_whole.write(tmp_path / "other.gguf", "falcon"))
    expected, others = await answer(model), await answer(other)
    first = process_id(model)
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=200, ignore_end=True
    )
    said = 0

    async def killed() -> None:
        nonlocal said
        async for _ in model.session(PROMPT, options).generate():
            said += 1
            if said == 5:
                os.kill(first, signal.SIGKILL)

    with pytest.raises(CapacityError) as caught:
        await killed()
    assert caught.value.code == "model.killed" and said < 10
    assert await answer(other) == others
    assert await answer(model) == expected
    assert process_id(model) != first


@run_async
async def test_who_was_not_in_the_step_that_ended_it_goes_on(node: Node, tmp_path: Path) -> None:
    """Their texts are computed again in the next process, without a word."""
    model = load(node, tiny_whole.write(tmp_path / "model.gguf", "gpt2"))
    expected = await answer(model, PROMPT[::-1], 8)
    stage = model.route.stages[0]
    place = await stage.open(PROMPT[::-1], 100)
    rows = await stage.forward(place, PROMPT[::-1][place.length :], None, "last")
    said = [int(rows[0].argmax())]
    os.kill(process_id(model), signal.SIGKILL)
    with pytest.raises(BareMetalError):
        await answer(model)
    while len(said) < 8:
        rows = await stage.forward(place, said[-1:], None, "last")
        said.append(int(rows[0].argmax()))
    assert said == expected


@run_async
async def test_a_model_whose_file_has_gone_bad_says_so(node: Node, tmp_path: Path) -> None:
    """It is loaded again only when its process has ended, and then there is nothing to load."""
    path = tiny_whole.write(tmp_path / "model.gguf", "gpt2")
    model = load(node, path)
    await answer(model)
    path.write_bytes(path.read_bytes()[:2000])
    os.kill(process_id(model), signal.SIGKILL)
    with pytest.raises(CapacityError):
        await answer(model)
    for _ in range(2):
        with pytest.raises(IntegrityError):
            await answer(model)


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
@run_async
async def test_a_poisoned_token_does_not_spoil_other_answers(
    architecture: str, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that is being written beside it, nor a later one that begins alike."""
    honest = tiny_whole.Writer.matrix

    def matrix(self: tiny_whole.Writer, name: str, *shape: int) -> None:
        if name != "token_embd.weight":
            honest(self, name, *shape)
            return
        values = np.random.default_rng(1).standard_normal(shape[::-1]).astype(np.float32)
        values[200] = np.nan
        self.out.add_tensor(name, values)

    monkeypatch.setattr(tiny_whole.Writer, "matrix", matrix)
    model = load(node, tiny_whole.write(tmp_path / "model.gguf", architecture))
    other = PROMPT[::-1]
    expected = await answer(model), await answer(model, other, 8)
    stage = model.route.stages[0]
    place = await stage.open(other, 100)
    rows = await stage.forward(place, other[place.length :], None, "last")
    said = [int(rows[0].argmax())]
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            await answer(model, [*PROMPT[:20], 200, 7, 8])
        assert caught.value.code == "model.not-finite"
    while len(said) < 8:
        rows = await stage.forward(place, said[-1:], None, "last")
        said.append(int(rows[0].argmax()))
    assert (await answer(model), said) == expected
