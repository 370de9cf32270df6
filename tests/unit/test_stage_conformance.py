"""What every kind of stage promises: see `docs/rooms/session.md`. The tests do not know which it is."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny_whole
import whole_kit
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.owner import PUBLIC, Owner
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.session.arriving_stage import ArrivingStage
from baremetalrt.session.spread_stage import Loss, SpreadStage
from baremetalrt.session.stage import (
    DirectStage,
    LocalStage,
    Place,
    QueuedStage,
    SoloStage,
    Stage,
)
from session_kit import run_async
from tiny_models import TinyModel, write
from tiny_spans import open_span

KINDS = ("solo", "local", "spread", "arriving", *(f"whole-{name}" for name in tiny_whole.BLOCKS))
NUM_CELLS = 1024
# Texts that are cut otherwise, or computed together, sum in another order: see `test_architectures.py`.
OTHER_ORDER = 2e-2
MINE, THEIRS = Owner("mine"), Owner("theirs")


class AllHere:
    """Where weights come from that have all come."""

    async def wait_for(self, ranges: Sequence[ByteRange]) -> None:
        pass

    def has(self, ranges: Sequence[ByteRange]) -> bool:
        return True


@dataclass
class Tried:
    """A stage, and what it says of texts when it has nothing to build upon."""

    stage: Stage
    goes_back: bool
    num_fresh: int = 0

    async def fresh(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits of every token, `(T, V)`."""
        self.num_fresh += 1
        place = await self.stage.open((), len(tokens), Owner("nobody", str(self.num_fresh)))
        rows = (await self.stage.forward(place, tokens, None, "all")).copy()
        self.stage.release(place, keep=True)
        return rows

    async def is_at(self, place: Place, text: Sequence[int]) -> None:
        """Whether a place is where it should be: the rest of the text is computed as ever."""
        rows = await self.stage.forward(place, text[place.length :], None, "last")
        assert_close(rows[0].copy(), (await self.fresh(text))[-1])


async def _never(loss: Loss) -> Sequence[LocalStage]:
    """No device is lost here: `test_spread.py` has them fail."""
    raise loss


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Tried]:
    with ThreadPoolExecutor(1) as worker:
        if kind.startswith("whole-"):
            name = kind.removeprefix("whole-")
            process = whole_kit.start(tiny_whole.write(folder / "model.gguf", name))
            try:
                texts = whole_kit.texts(process)
                # Both kinds of stage, each with models of both kinds.
                is_direct = name in ("falcon", "lfm2")
                stage = DirectStage(texts) if is_direct else QueuedStage(texts, worker)
                yield Tried(stage, name not in tiny_whole.WITH_STATE)
            finally:
                await asyncio.to_thread(worker.shutdown)
                process.close()
            return
        path = write(TinyModel("llama"), folder / "model.gguf")
        if kind == "spread":
            cuts = (BlockSpan(0, 1), BlockSpan(1, 2))
            spans = [open_span(path, blocks=blocks, num_cells=NUM_CELLS) for blocks in cuts]
            try:
                yield Tried(SpreadStage([LocalStage(span, worker) for span in spans], _never), True)
            finally:
                await asyncio.to_thread(worker.shutdown)
                for span in spans:
                    span.close()
            return
        span = open_span(path, num_cells=NUM_CELLS, arrives=kind == "arriving")
        try:
            if kind == "arriving":
                arriving = ArrivingStage(span, worker, AllHere())
                yield Tried(arriving, True)
                await arriving.close()
            else:
                yield Tried(SoloStage(span) if kind == "solo" else LocalStage(span, worker), True)
        finally:
            await asyncio.to_thread(worker.shutdown)
            span.close()


def text(seed: int, length: int) -> list[int]:
    """Tokens that no other seed begins with."""
    return [(seed + 3) % 150, *np.random.default_rng(seed).integers(3, 150, length - 1).tolist()]


def assert_close(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert np.isfinite(ours).all()
    assert np.abs(ours - theirs).max() <= OTHER_ORDER * np.abs(theirs).max()


pytestmark = pytest.mark.parametrize("kind", KINDS)


@run_async
async def test_reads_say_which_rows_come_back(kind: str, tmp_path: Path) -> None:
    """All, the last, or none; and they are the caller's to write to."""
    tokens = text(0, 40)
    async with opened(kind, tmp_path) as tried:
        found = {}
        for reads in ("all", "last", "none"):
            place = await tried.stage.open((), 40, MINE)
            rows = await tried.stage.forward(place, tokens, None, reads)
            found[reads] = rows.copy()
            rows[...] = 0.0
            assert place.length == 40
            tried.stage.release(place, keep=False)
        assert [len(found[reads]) for reads in ("all", "last", "none")] == [40, 1, 0]
        assert_close(found["last"][0], found["all"][-1])
        # Every row is about its own place.
        assert_close(found["all"][:25], await tried.fresh(tokens[:25]))


@run_async
async def test_token_by_token_is_the_same_text(kind: str, tmp_path: Path) -> None:
    tokens = text(1, 30)
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(tokens, 30, MINE)
        await tried.stage.forward(place, tokens[:18], None, "none")
        steps = [
            (await tried.stage.forward(place, [t], None, "last"))[0].copy() for t in tokens[18:]
        ]
        assert_close(np.stack(steps), (await tried.fresh(tokens))[18:])


@run_async
async def test_a_kept_text_goes_on(kind: str, tmp_path: Path) -> None:
    """The next text of its owner that begins with it has that behind it."""
    tokens = text(2, 60)
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(tokens[:40], 40, MINE)
        await tried.stage.forward(place, tokens[:40], None, "none")
        tried.stage.release(place, keep=True)
        place = await tried.stage.open(tokens, 60, MINE)
        assert place.length == 40
        await tried.is_at(place, tokens)


@run_async
async def test_a_text_that_is_asked_again_has_its_last_token_left(
    kind: str, tmp_path: Path
) -> None:
    """Its logits are wanted, from whatever they are computed."""
    tokens = text(3, 40)
    async with opened(kind, tmp_path) as tried:
        for known in (0, 39, 39):
            place = await tried.stage.open(tokens, 40, MINE)
            assert place.length == known
            await tried.is_at(place, tokens)
            tried.stage.release(place, keep=True)


@run_async
async def test_an_answer_is_followed_by_another_prompt(kind: str, tmp_path: Path) -> None:
    """Which begins with the prompt, and leaves out some of what was said."""
    prompt, said = text(40, 50), text(41, 10)
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(prompt, 60, MINE)
        await tried.stage.forward(place, prompt, None, "last")
        for token in said:
            await tried.stage.forward(place, [token], None, "last")
        tried.stage.release(place, keep=True)
        following = [*prompt, *text(42, 12)]
        place = await tried.stage.open(following, 70, MINE)
        assert place.length == (50 if tried.goes_back else 49)
        await tried.is_at(place, following)


@run_async
async def test_texts_that_part_share_their_beginning(kind: str, tmp_path: Path) -> None:
    """Where the stage can go back at all; what it says is right in any case."""
    first = text(4, 50)
    second = [*first[:30], *text(5, 20)]
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(first, 50, MINE)
        await tried.stage.forward(place, first, None, "none")
        tried.stage.release(place, keep=True)
        place = await tried.stage.open(second, 50, MINE)
        assert place.length == (30 if tried.goes_back else 0)
        await tried.is_at(place, second)


@run_async
async def test_a_text_in_use_lends_its_beginning(kind: str, tmp_path: Path) -> None:
    """Both then go on by themselves."""
    tokens = text(6, 40)
    async with opened(kind, tmp_path) as tried:
        one = await tried.stage.open(tokens[:30], 60, MINE)
        await tried.stage.forward(one, tokens[:30], None, "none")
        other = await tried.stage.open(tokens, 60, MINE)
        assert other.length == 30
        mine = [*tokens[:30], *text(7, 5)]
        await tried.stage.forward(one, mine[30:33], None, "none")
        await tried.is_at(other, tokens)
        await tried.is_at(one, mine)


@run_async
async def test_owners_share_nothing(kind: str, tmp_path: Path) -> None:
    """However alike, whether the text is in use or was left."""
    tokens = text(8, 40)
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(tokens, 40, MINE)
        await tried.stage.forward(place, tokens, None, "none")
        for _ in range(2):
            other = await tried.stage.open([*tokens, 5], 41, THEIRS)
            assert other.length == 0
            tried.stage.release(other, keep=True)
            tried.stage.release(place, keep=True)


@run_async
async def test_all_begin_with_what_is_public(kind: str, tmp_path: Path) -> None:
    """And nobody goes on with it: it is there for the next one, too."""
    public, rest = text(9, 32), text(10, 8)
    async with opened(kind, tmp_path) as tried:
        kept = await tried.stage.open(public, 32, PUBLIC)
        await tried.stage.forward(kept, public, None, "none")
        for owner in (MINE, THEIRS):
            place = await tried.stage.open([*public, *rest], 40, owner)
            assert place.length == 32
            await tried.is_at(place, [*public, *rest])
            tried.stage.release(place, keep=True)


@run_async
async def test_a_text_can_be_cut(kind: str, tmp_path: Path) -> None:
    """What comes after that is as if nothing else had been there."""
    first, other = text(11, 40), text(12, 12)
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(first, 60, MINE)
        await tried.stage.forward(place, first, None, "none")
        await tried.stage.truncate(place, 25)
        assert place.length == 25
        await tried.is_at(place, [*first[:25], *other])


@run_async
async def test_room_is_given_as_long_as_there_is_some(kind: str, tmp_path: Path) -> None:
    """What cannot be leaves everything as it was."""
    tokens = text(13, 300)
    async with opened(kind, tmp_path) as tried:
        place = await tried.stage.open(tokens, 256, MINE)
        await tried.stage.forward(place, tokens[:50], None, "none")
        with pytest.raises(CapacityError) as caught:
            await tried.stage.grow(place, NUM_CELLS + 1)
        assert caught.value.code == "cache.full"
        with pytest.raises(CapacityError):
            await tried.stage.open([1], NUM_CELLS, THEIRS)
        await tried.stage.grow(place, 300)
        for start in range(50, 290, 60):
            await tried.stage.forward(place, tokens[start : start + 60], None, "none")
        await tried.is_at(place, tokens)
        tried.stage.release(place, keep=True)
        # What was left goes for whoever needs its room.
        tried.stage.release(await tried.stage.open([1], NUM_CELLS, THEIRS), keep=False)
        assert (await tried.stage.open(tokens, 300, MINE)).length == 0


@run_async
async def test_texts_at_once_are_texts_alone(kind: str, tmp_path: Path) -> None:
    """Prompts of different length and their answers, interleaved as they come."""
    texts = [text(20 + i, n) for i, n in enumerate((30, 12, 21))]
    async with opened(kind, tmp_path) as tried:
        stage = tried.stage

        async def write_one(tokens: list[int]) -> NDArray[np.float32]:
            place = await stage.open(tokens, len(tokens), MINE)
            await stage.forward(place, tokens[:-8], None, "none")
            rows = [(await stage.forward(place, [t], None, "last"))[0].copy() for t in tokens[-8:]]
            return np.stack(rows)

        together = await asyncio.gather(*map(write_one, texts))
        for rows, tokens in zip(together, texts, strict=True):
            assert_close(rows, (await tried.fresh(tokens))[-8:])


@pytest.mark.parametrize("turns", [0, 1, 2, 20])
@run_async
async def test_who_leaves_in_the_middle_takes_nothing_along(
    kind: str, turns: int, tmp_path: Path
) -> None:
    """Whenever somebody is cancelled, the stage computes for the next one, with all its room."""
    async with opened(kind, tmp_path) as tried:
        stage = tried.stage

        async def leave() -> None:
            place = await stage.open(text(30, 500), 512, MINE)
            try:
                for start in range(0, 500, 60):
                    await stage.forward(place, text(30, 500)[start : start + 60], None, "none")
            finally:
                stage.release(place, keep=True)

        leaving = asyncio.create_task(leave())
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        place = await stage.open(text(31, 40), NUM_CELLS, THEIRS)
        assert place.length == 0
        await tried.stage.forward(place, text(31, 40)[:20], None, "none")
        tried.stage.release(place, keep=True)
        place = await stage.open(text(31, 40), 40, THEIRS)
        assert place.length == 20
        await tried.is_at(place, text(31, 40))
