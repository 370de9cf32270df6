"""What somebody is told for whose text a cache has no room."""

from collections.abc import Iterator
from contextlib import contextmanager

from baremetalrt.blocks.extents import NoRoomError, OverLimitError
from baremetalrt.blocks.sequence_table import SequenceTable
from baremetalrt.core.errors import CapacityError


@contextmanager
def room_for(capacity: int, table: SequenceTable) -> Iterator[None]:
    """Raises `CapacityError` where the table has no room for a text of `capacity` tokens."""
    try:
        yield
    except OverLimitError as error:
        raise CapacityError(
            f"no room for {capacity} tokens: {error.held} of {error.limit} that one peer may have "
            "are in use",
            code="cache.full",
            needed=capacity,
            available=max(0, error.limit - error.held),
            hint="wait for other answers of yours to end",
        ) from error
    except NoRoomError as error:
        allocator = table.allocator
        raise CapacityError(
            f"the cache of {allocator.num_cells} tokens has no room for {capacity} more",
            code="cache.full",
            needed=capacity,
            available=allocator.num_free,
            hint="wait for other answers to end, or give the cache more memory",
        ) from error
