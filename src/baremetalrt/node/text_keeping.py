"""Looks after texts that have ended: to disk once they rest, out of memory once nobody needs them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

from baremetalrt.blocks.extents import CELL_QUANTUM, CachedSequence
from baremetalrt.blocks.prefix_folder import MIN_TOKENS
from baremetalrt.blocks.prefix_transfer import TextGoneError, text_of
from baremetalrt.blocks.span import Span
from baremetalrt.core.tasks import Tasks, in_thread
from baremetalrt.node.cache_config import CacheConfig, load_cache_config
from baremetalrt.node.node import Node

_log = logging.getLogger("baremetalrt")
# A text that is gone on with at once is not worth writing: it will be longer in a moment.
_LOOK_S: Final = 30.0
# A server that is told to end does not keep whoever told it waiting.
_LAST_WRITES_S: Final = 10.0
# One answer is over, and somebody waits for the prompt of the shell: only what took a while to compute.
_MIN_TOKENS_OF_A_RUN: Final = 4 * CELL_QUANTUM


class TextKeeper:
    """Call `look` every `_LOOK_S` seconds, or `save_rest` in the end, or both.

    How much of a text was written is noted with the text.
    """

    def __init__(
        self,
        node: Node,
        config: CacheConfig,
        *,
        min_tokens: int = MIN_TOKENS,
        look_s: float = _LOOK_S,
    ) -> None:
        self._node = node
        self._min_tokens = min_tokens
        looks = max(1, round(60 * config.idle_minutes / look_s)) if config.idle_minutes else 0
        self._num_looks = looks
        # The clocks of each span's table at the last looks: what was not used since is idle for as long.
        self._clocks: WeakKeyDictionary[Span, deque[int]] = WeakKeyDictionary()
        self._has_complained = False

    async def look(self) -> None:
        """Writes what was not used since the last look, and forgets what was not for `idle_minutes`."""
        for span in self._node.spans:
            table = span.cache.sequences
            clocks = self._clocks.setdefault(span, deque(maxlen=self._num_looks + 1))
            if clocks:
                for text in await self._node.local.compute(span, table.unused_since, clocks[-1]):
                    await self._save(span, text, min_growth=text.num_saved // 2)
            if self._num_looks and len(clocks) > self._num_looks:
                for text in await self._node.local.compute(span, table.unused_since, clocks[0]):
                    await self._save(span, text)
                await self._node.local.compute(span, span.forget_unused, clocks[0])
            clocks.append(await self._node.local.compute(span, _clock_of, span))

    async def save_rest(self, spans: Sequence[Span], seconds: float = _LAST_WRITES_S) -> None:
        """Writes what is in memory alone, what was used last first, as long as there is time."""
        until = time.monotonic() + seconds
        for span in spans:
            table = span.cache.sequences
            idle = await self._node.local.compute(span, table.unused_since)
            for text in sorted(idle, key=lambda s: s.last_used, reverse=True):
                if time.monotonic() < until:
                    await self._save(span, text)

    async def _save(self, span: Span, sequence: CachedSequence, *, min_growth: int = 0) -> None:
        """Writes a text that has grown enough since it was written: each time, all of it is."""
        folder, node = span.prefixes, self._node
        growth = sequence.length - sequence.num_saved
        if folder is None or sequence.length < self._min_tokens:
            return
        if growth < max(min_growth, CELL_QUANTUM) and sequence.num_saved:
            return
        text = await node.local.compute(
            span, text_of, span.cache, sequence, partial(node.local.compute_now, span)
        )
        try:
            await in_thread(folder.insert, text)
            self._has_complained = False
        except TextGoneError:
            return
        except OSError as error:
            if not self._has_complained:
                _log.warning("texts are not kept in %s: %s", folder.folder, error.strerror or error)
            self._has_complained = True
        # Whether that went well or not: it is not tried again before the text has grown.
        sequence.num_saved = len(text.tokens)


def _clock_of(span: Span) -> int:
    return span.cache.sequences.clock


@asynccontextmanager
async def keeping_texts(node: Node) -> AsyncIterator[None]:
    """Looks after the texts of all models of a server, and writes what is left in the end."""
    keeper = TextKeeper(node, load_cache_config())

    async def look() -> None:
        await asyncio.sleep(_LOOK_S)
        await keeper.look()

    async with Tasks() as tasks:
        tasks.repeat("looking after texts that have ended", look, lambda: 0.0)
        yield
    await keeper.save_rest(node.spans)


async def keep_what_a_run_leaves(node: Node) -> None:
    """Writes the texts of a run or a chat that took a while to compute."""
    keeper = TextKeeper(node, load_cache_config(), min_tokens=_MIN_TOKENS_OF_A_RUN)
    await keeper.save_rest(node.spans)


async def save_texts(node: Node, spans: Sequence[Span]) -> None:
    """Writes the texts of spans that are about to be freed."""
    await TextKeeper(node, load_cache_config()).save_rest(spans)
