"""What the header says of a model of any architecture: enough to give it room, and to describe it.

Source: the keys of ggml's `docs/gguf.md`.
"""

from dataclasses import dataclass
from typing import Final

from baremetalrt.blocks.architectures import ARCHITECTURES
from baremetalrt.blocks.hyperparameters import MAX_CONTEXT, MetadataReader
from baremetalrt.core.errors import IntegrityError
from baremetalrt.weights.gguf import GGUFFile

_MAX_BLOCKS: Final = 4096
_MAX_WIDTH: Final = 1 << 20
# Keys and values are kept in half precision.
_ELEMENT_BYTES: Final = 2


@dataclass(frozen=True, kw_only=True)
class Outline:
    """`token_bytes`: what the keys and values of a token take at most; none, where a state is kept."""

    architecture: str
    num_blocks: int
    width: int
    training_context: int
    vocabulary_size: int
    token_bytes: int


def runs_whole(file: GGUFFile) -> bool:
    """Whether a model is of an architecture that we have no graphs for: the library may know it."""
    return bool(file.architecture) and file.architecture not in ARCHITECTURES


def read_outline(file: GGUFFile) -> Outline:
    """The outline of a model that runs whole.

    Raises:
        IntegrityError: a number is absent or absurd.
    """
    reader = MetadataReader(file)
    num_blocks = reader.integer("block_count", low=1, high=_MAX_BLOCKS)
    width = reader.integer("embedding_length", low=1, high=_MAX_WIDTH)
    num_tokens = file.array_length("tokenizer.ggml.tokens")
    if not num_tokens:
        raise IntegrityError(
            f"{file.path.name} has no tokens", code="gguf.vocabulary", source=str(file.path)
        )
    return Outline(
        architecture=file.architecture,
        num_blocks=num_blocks,
        width=width,
        training_context=reader.integer("context_length", low=1, high=MAX_CONTEXT),
        vocabulary_size=num_tokens,
        token_bytes=_ELEMENT_BYTES * _elements(reader, num_blocks, width),
    )


def _elements(reader: MetadataReader, num_blocks: int, width: int) -> int:
    """Of the keys and values of one token, in all blocks."""
    heads = reader.counts("attention.head_count", num_blocks)
    kv_heads = reader.counts("attention.head_count_kv", num_blocks) or heads
    if heads is None or kv_heads is None:
        # As many as there can be.
        return 2 * width * num_blocks
    size = max(1, width // max(1, *heads))
    sizes = [
        reader.integer(f"attention.{part}_length", low=0, high=_MAX_WIDTH, default=size)
        for part in ("key", "value")
    ]
    return sum(kv_heads) * sum(sizes)
