"""Rows and steps as they travel. What comes from others is checked here before anything computes."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from baremetalrt.blocks.steps import CHUNK_TOKENS, Reads
from baremetalrt.peers import compute_pb2 as pb
from baremetalrt.peers.activations import Activations

VERSION: Final = 1
SERVICE: Final = "/baremetalrt.compute.v1.Compute/"
# Callers send a prompt in chunks of so many.
MAX_STEP_TOKENS: Final = CHUNK_TOKENS
# A token id takes at most so many bytes, and what is around tokens and rows far less than this.
_TOKEN_BYTES: Final = 5
_AROUND_BYTES: Final = 4096
TEXT_BYTES: Final = 16
SCOPE_BYTES: Final = 16
# Rows of every model are multiples of this wide.
_Q8_GROUP: Final = 32
_Q8_MAX: Final = 127
_LITTLE_F32: Final = np.dtype("<f4")
_LITTLE_F16: Final = np.dtype("<f2")
_F16_MAX: Final = 65504.0
_ROW_ITEM_BYTES: Final = 4

ENCODINGS: Final[dict[Activations, "pb.Encoding"]] = {
    "f32": pb.ENCODING_F32,
    "f16": pb.ENCODING_F16,
    "q8": pb.ENCODING_Q8,
}
_READS_CODES: Final[dict[Reads, "pb.Reads"]] = {
    "none": pb.READS_NONE,
    "last": pb.READS_LAST,
    "all": pb.READS_ALL,
}
_READS: Final[dict[int, Reads]] = {code: name for name, code in _READS_CODES.items()}


Message = TypeVar("Message", pb.Command, pb.Passed)


def max_message_bytes(context: int, width: int) -> int:
    """The longest that an honest caller sends: a whole text of tokens, or a chunk with its rows."""
    return _AROUND_BYTES + max(
        _TOKEN_BYTES * context, MAX_STEP_TOKENS * (_TOKEN_BYTES + _ROW_ITEM_BYTES * width)
    )


async def read_messages(
    sent: AsyncIterator[bytes], kind: type[Message], max_bytes: Callable[[], int]
) -> AsyncIterator[Message]:
    """What a member sends, as messages: measured before they are looked into.

    Raises:
        StepError: one is too long, or is none.
    """
    async for data in sent:
        if len(data) > max_bytes():
            raise StepError("message.size", f"a message of {len(data)} bytes is too long")
        try:
            yield kind.FromString(data)
        except DecodeError as error:
            raise StepError("message.unknown", "what came is no message") from error


class StepError(Exception):
    """A step that cannot be computed. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def make_step(
    position: int,
    tokens: Sequence[int],
    x_TD: NDArray[np.float32] | None,
    reads: Reads,
    epoch: int,
    encoding: "pb.Encoding" = pb.ENCODING_F32,
) -> pb.Step:
    """The next tokens of a text, as a message."""
    step = pb.Step(position=position, tokens=tokens, epoch=epoch, reads=_READS_CODES[reads])
    if x_TD is not None:
        step.rows, step.encoding = encode_rows(x_TD, encoding), encoding
    return step


def encode_rows(x_TD: NDArray[np.float32], encoding: "pb.Encoding") -> bytes:
    """Rows as they travel; see `Encoding` in the protocol."""
    if encoding == pb.ENCODING_F16:
        halves: NDArray[np.float16] = np.clip(x_TD, -_F16_MAX, _F16_MAX).astype(_LITTLE_F16)
        return halves.tobytes()
    if encoding == pb.ENCODING_Q8:
        groups = x_TD.reshape(-1, _Q8_GROUP)
        scales: NDArray[np.float32] = np.abs(groups).max(axis=1) / np.float32(_Q8_MAX)
        # A group of zeros stays one.
        steps = np.where(scales > 0, scales, 1)[:, None]
        numbers: NDArray[np.int8] = np.rint(groups / steps).astype(np.int8)
        return scales.astype(_LITTLE_F32).tobytes() + numbers.tobytes()
    return x_TD.astype(_LITTLE_F32, copy=False).tobytes()


def read_step(
    step: pb.Step, *, length: int, capacity: int, vocabulary_size: int, width: int | None
) -> tuple[list[int], NDArray[np.float32] | None, Reads]:
    """Tokens, rows `x_TD` (None where `width` is) and what is read, if the step fits a text.

    Raises:
        StepError: it does not.
    """
    if not 1 <= (size := len(step.tokens)) <= MAX_STEP_TOKENS:
        raise StepError("step.size", f"{size} tokens in a step of 1 to {MAX_STEP_TOKENS}")
    tokens = list(step.tokens)
    if step.position != length:
        raise StepError("step.position", f"position {step.position} in a text of {length} tokens")
    if length + len(tokens) > capacity:
        raise StepError("step.capacity", f"more than the {capacity} tokens there is room for")
    if max(tokens) >= vocabulary_size:
        raise StepError("step.tokens", "a token is not in the vocabulary")
    if step.reads not in _READS:
        raise StepError("step.reads", "it does not say what is read")
    x_TD = None if width is None else read_rows(step.rows, len(tokens), width, step.encoding)
    if width is None and step.rows:
        raise StepError("rows.shape", "the first stage takes tokens, not rows")
    return tokens, x_TD, _READS[step.reads]


def read_rows(
    data: bytes, num_rows: int, width: int, encoding: "pb.Encoding" = pb.ENCODING_F32
) -> NDArray[np.float32]:
    """Rows `(num_rows, width)` of finite numbers.

    Raises:
        StepError: they are of another shape, or not all of them are numbers.
    """
    count = num_rows * width
    sizes = {
        pb.ENCODING_F32: 4 * count,
        pb.ENCODING_F16: 2 * count,
        pb.ENCODING_Q8: count + 4 * count // _Q8_GROUP,
    }
    if encoding not in sizes:
        raise StepError("rows.encoding", f"rows of an unknown encoding, {encoding}")
    if len(data) != sizes[encoding]:
        raise StepError("rows.shape", f"{len(data)} bytes are not {num_rows} rows of {width}")
    with np.errstate(over="ignore", invalid="ignore"):
        rows = _decode(data, count, encoding).reshape(num_rows, width)
    # The sum of squares is finite only if every number is, unless they are absurd anyway.
    if not np.isfinite(np.vdot(rows, rows)):
        raise StepError("rows.not-finite", "not all of the rows are finite numbers")
    # Logits may be written to.
    return rows.astype(np.float32, copy=True)


def _decode(data: bytes, count: int, encoding: "pb.Encoding") -> NDArray[np.float32]:
    if encoding == pb.ENCODING_F16:
        return np.frombuffer(data, dtype=_LITTLE_F16).astype(np.float32)
    if encoding == pb.ENCODING_Q8:
        num_groups = count // _Q8_GROUP
        scales = np.frombuffer(data, dtype=_LITTLE_F32, count=num_groups)
        numbers = np.frombuffer(data, dtype=np.int8, offset=scales.nbytes)
        return np.multiply(
            numbers.reshape(num_groups, _Q8_GROUP), scales[:, None], dtype=np.float32
        )
    return np.frombuffer(data, dtype=_LITTLE_F32)
