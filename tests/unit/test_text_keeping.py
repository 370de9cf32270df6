"""Texts that nobody goes on with go to disk, leave memory, and are there again after a restart."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from baremetalrt.blocks.prefix_folder import held_in
from baremetalrt.core.errors import UsageError
from baremetalrt.core.owner import Owner
from baremetalrt.core.places import prefixes_folder
from baremetalrt.node.cache_config import CacheConfig, load_cache_config
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.node.text_keeping import TextKeeper
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.weights.store import StoredModel
from session_kit import answer, ids, run_async

OPTIONS = GenerationOptions(sampling=SampleOptions(temperature=0.0), max_tokens=4, ignore_end=True)
# Half a minute apart: a minute is two looks.
CONFIG = CacheConfig(idle_minutes=1)


def text(seed: int, length: int = 400) -> list[int]:
    return [1000 * (seed + 1) + (7 * i) % 900 for i in range(length)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    return tmp_path


class Machine:
    """One model, loaded as a server does, and looked after by hand."""

    def __init__(self, path: Path, config: CacheConfig = CONFIG) -> None:
        options = ModelOptions(context=2048, num_threads=1, max_sessions=2, keeps_prefixes=True)
        self.node = Node(options, serves=True)
        self.model: Model = self.node.load(Opening(StoredModel("talking", path, is_default=False)))
        self.keeper = TextKeeper(self.node, config)
        (self.span,) = self.node.spans

    async def say(
        self, tokens: list[int], owner: Owner | None = None
    ) -> tuple[int, list[int | None]]:
        """How much of a text was known, and the answer."""
        model = self.model.owned_by(owner) if owner else self.model
        session = model.session(tokens, OPTIONS)
        said = ids(await answer(session))
        return session.stats.cached_tokens, said

    @property
    def num_in_memory(self) -> int:
        return len(self.span.cache.sequences.sequences)


@pytest.fixture
def machines(home: Path, talking_model: Path) -> Iterator[list[Machine]]:
    opened: list[Machine] = []
    yield opened
    for one in opened:
        one.node.close()


@run_async
async def test_a_text_outlives_a_restart(machines: list[Machine], talking_model: Path) -> None:
    """What a server leaves when it ends is there for the next one, for whoever it belongs to alone.

    It answers as it does with what memory kept: the last token of the prompt is a step of its own then.
    """
    machines.append(Machine(talking_model))
    await machines[0].say(text(0))
    _, said = await machines[0].say(text(0))
    await machines[0].say(text(1), Owner("key:a"))
    await machines[0].keeper.save_rest(machines[0].node.spans)
    machines.append(Machine(talking_model))
    assert await machines[1].say(text(0)) == (399, said)
    assert (await machines[1].say(text(0), Owner("key:a")))[0] == 0
    assert (await machines[1].say(text(1), Owner("key:a")))[0] == 399
    assert (await machines[1].say(text(2)))[0] == 0


@run_async
async def test_what_rests_is_written_and_what_is_idle_leaves_memory(
    machines: list[Machine], talking_model: Path
) -> None:
    machines.append(machine := Machine(talking_model))
    await machine.say(text(0))
    _, said = await machine.say(text(0))
    await machine.keeper.look()
    assert held_in(prefixes_folder()).count == 0
    await machine.keeper.look()
    assert held_in(prefixes_folder()).count == 1 and machine.num_in_memory == 1
    filled = machine.span.cache.unfilled_bytes
    for _ in range(2):
        # one who is asked for stays
        assert (await machine.say(text(1)))[0] in (0, 399)
        await machine.keeper.look()
    assert machine.num_in_memory == 1 and machine.span.cache.unfilled_bytes >= filled
    assert await machine.say(text(0)) == (399, said)


@run_async
async def test_without_a_disk_idle_texts_are_dropped_all_the_same(
    machines: list[Machine], home: Path, talking_model: Path
) -> None:
    (home / "config.toml").write_text("[cache]\ndisk = false\n")
    machines.append(machine := Machine(talking_model))
    await machine.say(text(0))
    for _ in range(4):
        await machine.keeper.look()
    assert machine.num_in_memory == 0 and not prefixes_folder().exists()


@run_async
async def test_idle_texts_stay_where_that_is_asked_for(
    machines: list[Machine], talking_model: Path
) -> None:
    machines.append(machine := Machine(talking_model, CacheConfig(idle_minutes=0)))
    await machine.say(text(0))
    for _ in range(5):
        await machine.keeper.look()
    assert machine.num_in_memory == 1 and held_in(prefixes_folder()).count == 1


@run_async
async def test_a_disk_that_takes_nothing_is_complained_of_once(
    machines: list[Machine], talking_model: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers go on; a text that could not be written is not tried again and again."""
    machines.append(machine := Machine(talking_model))
    prefixes_folder().write_text("where the folder should be")
    for seed in range(2):
        await machine.say(text(seed))
    for _ in range(3):
        await machine.keeper.look()
    assert len([r for r in caplog.records if "not kept" in r.message]) == 1
    assert (await machine.say(text(0)))[0] == 399


@run_async
async def test_another_file_under_the_same_name_shares_nothing(
    machines: list[Machine], talking_model: Path, tmp_path: Path
) -> None:
    """A model is its bytes: one that was written anew has to be computed anew."""
    path = tmp_path / "copy.gguf"
    path.write_bytes(talking_model.read_bytes())
    machines.append(Machine(path))
    await machines[0].say(text(0))
    await machines[0].keeper.save_rest(machines[0].node.spans)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    machines.append(Machine(path))
    assert (await machines[1].say(text(0)))[0] == 0


def test_settings_are_read_and_checked(home: Path) -> None:
    (home / "config.toml").write_text('[cache]\nbudget = "1 GiB"\nidle_minutes = 3\n')
    assert load_cache_config() == CacheConfig(budget=1 << 30, idle_minutes=3)
    (home / "config.toml").write_text("[cache]\nbudgte = 3\n")
    with pytest.raises(UsageError, match="unknown key"):
        load_cache_config()
