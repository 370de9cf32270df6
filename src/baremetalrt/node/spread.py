"""A model on devices of this machine that may fail: loaded, and moved where one does."""

import logging
from collections.abc import Sequence

from baremetalrt.blocks.span import Span
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import in_thread
from baremetalrt.native.backend import BackendDevice, UnsupportedOperationError
from baremetalrt.node.device_choice import DeviceSpan, host_device
from baremetalrt.node.local_spans import LocalSpans
from baremetalrt.node.opening import Opening
from baremetalrt.session.spread_stage import Loss, SpreadStage
from baremetalrt.session.stage import LocalStage

_log = logging.getLogger("baremetalrt")


class SpreadModel:
    """The spans of one model, in order, and the stage that leads through them.

    `spans` changes where a device is lost.
    """

    def __init__(self, local: LocalSpans, opening: Opening, *, num_kept: int) -> None:
        """Loads it; blocks. Devices that have no room, or cannot compute it, are left out.

        Raises:
            UsageError, IntegrityError, CapacityError: see `SpanLoader.load`.
        """
        self._local = local
        self._opening = opening
        self._num_kept = num_kept
        self.spans: list[Span] = []
        self._load()
        self._stages = [local.stage(span) for span in self.spans]
        self.stage = SpreadStage(self._stages, self._replace)

    @property
    def context_limit(self) -> int:
        return self.spans[0].context_limit

    def _load(self) -> None:
        without: set[str] = set()
        while (
            name := self._try(self._local.devices.spans(self._opening.file, frozenset(without)))
        ) is not None:
            without.add(name)

    def _try(self, placed: Sequence[DeviceSpan]) -> str | None:
        """Loads all spans, or none: then the name of a device that others do without."""
        spans: list[Span] = []
        device = placed[0].device
        try:
            contexts = []
            for one in placed:
                device = one.device
                contexts.append(self._local.context(self._opening.file, one.blocks, device))
            for one in placed:
                device = one.device
                spans.append(self._load_on(device, one.blocks, min(contexts)))
        except BaseException as error:
            for span in spans:
                self._local.drop(span)
            is_its_own = isinstance(error, CapacityError | UnsupportedOperationError)
            if device.is_host or not is_its_own or not self._local.devices.has_choice:
                raise
            _log.info("%s is left out: %s", device.name.lower(), error)
            return device.name.lower()
        self.spans = spans
        return None

    def _load_on(self, device: BackendDevice, blocks: BlockSpan, context: int) -> Span:
        return self._local.load(
            self._opening, blocks, device, num_kept=self._num_kept, context=context
        )

    async def _replace(self, loss: Loss) -> Sequence[LocalStage]:
        """The stages without a device that has failed: the host computes what it had."""
        name = loss.device.lower()
        self._local.devices.leave(name)
        lost = [i for i, span in enumerate(self.spans) if span.device.name.lower() == name]
        for i in lost:
            self._stages[i].abandon(loss)
            blocks = self.spans[i].blocks
            _log.warning("%s; blocks %s go on without it", loss.message, blocks)
            span = await in_thread(self._load_on, host_device(), blocks, self.context_limit)
            old, self.spans[i] = self.spans[i], span
            self._stages[i] = self._local.stage(span)
            self._local.abandon(old)
        return tuple(self._stages)
