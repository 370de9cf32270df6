"""What happens to a model that may run on peers, as people see it on standard error."""

from typing import TYPE_CHECKING

from baremetalrt.cli import output
from baremetalrt.cli.torrent_display import TorrentDisplay
from baremetalrt.node import events as node

if TYPE_CHECKING:
    from baremetalrt.hosting.events import Event


class ModelDisplay(TorrentDisplay):
    """Prints events of a model wherever it runs."""

    def on_event(self, event: "Event") -> None:
        if isinstance(event, node.Event):
            super().on_event(event)
            return
        # Here and not above: a model that runs on this machine has none of these.
        from baremetalrt.hosting import events

        if isinstance(event, events.Comparing):
            self._work("asking peers whether they are faster")
        elif isinstance(event, events.PeersLeft):
            self._end_work()
            output.note(f"peers are not asked: {event.reason}")
        elif isinstance(event, events.NotYet):
            output.note(f"not answered over peers yet: {event.reason}")
        elif isinstance(event, events.StageLost):
            output.note(f"lost {event.peer[:8]} with blocks {event.blocks}: {event.why}")
        else:
            output.note(f"blocks {event.blocks} go on at {event.peer[:8]}")
