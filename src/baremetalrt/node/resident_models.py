"""The models of a server: where not all fit into memory, those are there that were asked last."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from baremetalrt.core.tasks import in_thread
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.text_keeping import save_texts
from baremetalrt.weights.store import StoredModel


class ResidentModels:
    """Of the files given to it, loads models when they are asked for, in place of others."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._files: dict[str, StoredModel] = {}
        self._changing = asyncio.Lock()

    def begin(self, opening: Opening) -> Model | None:
        """Loads a model if it fits beside those that are there; else it waits until it is asked for.

        Blocks; raises like `Node.load`.
        """
        is_first = not self._files
        self._files[opening.stored.name] = opening.stored
        if is_first or self._node.fits(opening):
            return self._node.load(opening)
        return None

    @property
    def waiting(self) -> Mapping[str, int]:
        """Those that are served and not loaded: their names, and when their files were made."""
        return {
            name: int(file.path.stat().st_mtime)
            for name, file in self._files.items()
            if name not in self._node.models
        }

    @property
    def waiting_files(self) -> list[tuple[str, Path]]:
        """The same with their files."""
        return [(name, self._files[name].path) for name in self.waiting]

    async def load(self, name: str) -> Model:
        """One of those, loaded, in place of those that were asked longest ago; raises like `Node.load`.

        What is being answered is answered first. Whoever asks for what makes way waits for its turn.
        """
        async with self._changing:
            loaded = self._node.models.get(name)
            if loaded is not None:
                return loaded
            opening = await in_thread(Opening, self._files[name])
            await in_thread(opening.settle)
            while not await in_thread(self._node.fits, opening):
                others = [m for n, m in self._node.models.items() if n in self._files]
                if not others:
                    break
                oldest = min(others, key=lambda model: (model.use.num_users > 0, model.use.last))
                # Nobody finds it any more from now on.
                leaving = self._node.take(oldest.name)
                try:
                    await leaving.use.idle()
                    await save_texts(self._node, leaving.spans)
                except BaseException:
                    # Nobody waits for the other one any more.
                    self._node.keep(leaving)
                    raise
                await in_thread(self._node.end, leaving)
            return await in_thread(self._node.load, opening)
