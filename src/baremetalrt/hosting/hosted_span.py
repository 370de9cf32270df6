"""Loads a span for peers, and says of this machine what they need to know."""

from baremetalrt import __version__
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.tasks import in_thread
from baremetalrt.devices.survey import survey_library
from baremetalrt.node.measurements import decode_step_s
from baremetalrt.node.node import Node
from baremetalrt.peers.hosted import Hosted, HostProfile
from baremetalrt.weights.gguf import GGUFFile


def host_profile(budget_bytes: int, seconds_per_byte: float | None) -> HostProfile:
    """What this machine says of itself; without a speed, until one is measured."""
    library = survey_library()
    build = f"{library.origin}, ggml {library.ggml}"
    return HostProfile(__version__, build, budget_bytes, seconds_per_byte)


async def load_hosted(
    node: Node, file: GGUFFile, name: str, model: str, blocks: BlockSpan, context: int
) -> Hosted:
    """A span that is loaded and measured. `model` is the id of its content."""

    def work() -> Hosted:
        span, stage = node.host(file, blocks, context)
        return Hosted(model, name, span, stage, decode_step_s(span), context)

    return await in_thread(work)
