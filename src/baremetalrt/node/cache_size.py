"""How long a text may be, and how many tokens a cache holds, of what memory there is."""

from collections.abc import Callable

from baremetalrt.blocks.extents import CELL_QUANTUM
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.units import format_bytes, round_up
from baremetalrt.devices.budget import Purpose
from baremetalrt.node.options import ModelOptions


def cache_size(
    training_context: int,
    token_bytes: int,
    options: ModelOptions,
    room_for: Callable[[Purpose], int],
) -> tuple[int, int]:
    """The context limit, and how many tokens the cache holds for all sessions together.

    `token_bytes`: keys and values of one token, zero where texts take no more the longer they are.
    """
    context, max_sessions = options.context, options.max_sessions
    room = max(CELL_QUANTUM, room_for(Purpose.CACHE) // max(1, token_bytes))
    if context is None:
        context = min(training_context, room)
    else:
        needed, free = round_up(context, CELL_QUANTUM) * token_bytes, room_for(Purpose.ASKED_FOR)
        if needed > free:
            raise CapacityError(
                f"a context of {context} tokens needs {format_bytes(needed)}, "
                f"{format_bytes(free)} are free",
                code="context.memory",
                needed=needed,
                available=free,
                hint=f"use --context {room} or less",
            )
    wanted = round_up(context, CELL_QUANTUM) * max_sessions
    return context, max(round_up(context, CELL_QUANTUM), min(wanted, room))
