"""The models of a server: where not all fit into memory, those are there that were asked last."""

import asyncio
import time
from typing import Final

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.ids import folded
from baremetalrt.core.tasks import in_thread
from baremetalrt.node.listing import whole_models
from baremetalrt.node.model import Model
from baremetalrt.node.names import meant_by
from baremetalrt.node.naming import is_hub_name, resolve
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.text_keeping import save_texts
from baremetalrt.weights.store import StoredModel as StoredModel

_FOREVER: Final = float("inf")


class ResidentModels:
    """Loads models when they are asked for, in place of others, and lets go of those that nobody asks.

    They are those that are given to it, and, if it `lists_store`, whatever is whole on this machine.
    What was asked for and not given stays for `keep_alive_s` after its last use; what was given, stays.
    """

    def __init__(
        self, node: Node, *, lists_store: bool = False, keep_alive_s: float = _FOREVER
    ) -> None:
        self._node = node
        self._lists_store = lists_store
        self._keep_alive_s = keep_alive_s
        self._given: dict[str, StoredModel] = {}
        # of those that were loaded here, how long each stays after its last use
        self._kept_s: dict[str, float] = {}
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()

    def begin(self, opening: Opening) -> Model | None:
        """Loads a model if it fits beside those that are there; else it waits until it is asked for.

        Blocks; raises like `Node.load`.
        """
        is_first = not self._given
        self._given[opening.stored.name] = opening.stored
        if is_first or self._node.fits(opening):
            self._kept_s[opening.stored.name] = _FOREVER
            return self._node.load(opening)
        return None

    def waiting(self) -> list[StoredModel]:
        """Those that are served and not loaded. Blocks, where the store is listed."""
        files = list(self._given.values())
        if self._lists_store:
            known = {folded(name) for name in self._given}
            files += [one for one in whole_models() if folded(one.name) not in known]
        loaded = {folded(name) for name in self._node.models}
        return [one for one in files if folded(one.name) not in loaded]

    def called(self, name: str) -> StoredModel | None:
        """The model that a name of a hub or a list means, if it was pulled. Blocks."""
        if not (self._lists_store and (is_hub_name(name) or meant_by(name) != name)):
            return None
        try:
            found = resolve(name)
        except BareMetalError:
            return None
        return found if isinstance(found, StoredModel) else None

    async def load(self, file: StoredModel) -> Model:
        """One of those, loaded, in place of those that were asked longest ago; raises like `Node.load`.

        What is being answered is answered first. Whoever asks for what makes way waits for its turn.
        """
        async with self._changing:
            loaded = self._node.models.get(file.name)
            if loaded is not None:
                return loaded
            opening = await in_thread(Opening, file)
            await in_thread(opening.settle)
            while not await in_thread(self._node.fits, opening):
                others = [m for n, m in self._node.models.items() if n in self._kept_s]
                if not others:
                    break
                await self._unload(
                    min(others, key=lambda model: (model.use.num_users > 0, model.use.last))
                )
            model = await in_thread(self._node.load, opening)
            given = file.name in self._given
            self._kept_s.setdefault(file.name, _FOREVER if given else self._keep_alive_s)
            self._changed.set()
            return model

    def keep(self, name: str, keep_alive_s: float) -> None:
        """From now on this model stays so long after its last use."""
        if name in self._kept_s:
            self._kept_s[name] = keep_alive_s
            self._changed.set()

    async def let_go(self) -> None:
        """Unloads, until it is cancelled, what nobody has asked for long enough."""
        while True:
            self._changed.clear()
            ends = [(self._ends_at(model), name) for name, model in self._node.models.items()]
            at, name = min(ends, default=(_FOREVER, ""))
            if at == _FOREVER:
                await self._changed.wait()
            elif (left_s := at - time.time()) > 0:
                try:
                    await asyncio.wait_for(self._changed.wait(), left_s)
                except TimeoutError:
                    continue
            else:
                await self._end_if_due(name)

    def _ends_at(self, model: Model) -> float:
        return model.use.last + self._kept_s.get(model.name, _FOREVER)

    async def _end_if_due(self, name: str) -> None:
        async with self._changing:
            model = self._node.models.get(name)
            if model is None:
                return
            await model.use.idle()
            if self._ends_at(model) <= time.time() and name in self._node.models:
                await self._unload(model)

    async def _unload(self, model: Model) -> None:
        """Nobody finds it any more from now on; what it answers is answered first."""
        leaving = self._node.take(model.name)
        try:
            await leaving.use.idle()
            await save_texts(self._node, leaving.spans)
        except BaseException:
            # Nobody waits for another one any more.
            self._node.keep(leaving)
            raise
        if leaving.name not in self._given:
            self._kept_s.pop(leaving.name, None)
        await in_thread(self._node.end, leaving)
