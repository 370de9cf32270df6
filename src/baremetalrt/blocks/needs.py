"""What of a file a span of blocks needs before it can be computed."""

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.hyperparameters import Hyperparameters
from baremetalrt.blocks.inventory import list_tensors, take_inventory
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.weights.gguf import HEAD, GGUFFile


def require_blocks(num_blocks: int, span: BlockSpan) -> None:
    """Raises `UsageError` unless a model of so many blocks has these."""
    if span.end > num_blocks:
        raise UsageError(
            f"the model has blocks 0:{num_blocks}, not {span}",
            code="blocks.range",
            parameter="blocks",
        )


def span_needs(file: GGUFFile, span: BlockSpan) -> tuple[ByteRange, ...]:
    """What a span needs: the header, its blocks, and embedding or head if it is an end.

    Raises:
        UsageError: the model has fewer blocks, or an architecture that cannot be run here.
    """
    architecture, h = read_model(file)
    require_blocks(h.num_blocks, span)
    inventory = take_inventory(file, architecture, h, span)
    return (*file.header_ranges, *inventory.byte_ranges)


def step_weight_bytes(file: GGUFFile, span: BlockSpan) -> int:
    """The weights that every step of a span reads: its blocks, and the head where it is the end.

    Raises:
        UsageError: the architecture cannot be run here.
        IntegrityError: a tensor is missing, unknown, or of another shape or type.
    """
    architecture, h = read_model(file)
    inventory = list_tensors(file, architecture, h, span)
    num_bytes = sum(file.blocks[i].num_bytes for i in span)
    if HEAD in inventory.outer:
        num_bytes += inventory.outer[HEAD].info.num_bytes
    return num_bytes


def row_bytes(h: Hyperparameters) -> int:
    """About what a step computes in for each of its tokens: the rows that are alive at the same time."""
    widest = max(h.feed_forward_width, h.expert_width * h.num_experts_used)
    return 4 * (3 * widest + 6 * h.width)


def kept_row_bytes(h: Hyperparameters) -> int:
    """What a prompt keeps for each of its tokens from one part of a span to the next, copies included."""
    return 3 * 4 * h.width
