"""What a model needs and how fast this machine is: the figures that placement plans with."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from baremetalrt.blocks.needs import span_needs
from baremetalrt.blocks.span import Span
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.devices.budget import Purpose
from baremetalrt.node.device_choice import DeviceChoice, asked_devices
from baremetalrt.node.device_memory import DeviceMemory
from baremetalrt.node.model_profile import disk_byte_s, profile_model
from baremetalrt.node.node import Node
from baremetalrt.node.options import ModelOptions
from baremetalrt.placement.profiles import Demand, DeviceProfile, Sizes
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import default_model

_WARM_UP_STEPS: Final = 2
_STEPS: Final = 7
# Blocks that are loaded only to be timed: enough that fixed costs of a step fade.
_PROBE_BLOCKS: Final = 4
_PROBE_CONTEXT: Final = 256


def decode_step_s(span: Span) -> float:
    """Median seconds of a decode step of one text. Nothing else may use the span meanwhile."""
    h = span.hyperparameters
    rows = None if span.blocks.start == 0 else np.full((1, h.width), 0.01, dtype=np.float32)
    sequence = span.open((), _WARM_UP_STEPS + _STEPS)
    seconds = []
    try:
        for _ in range(_WARM_UP_STEPS + _STEPS):
            started = time.perf_counter()
            span.forward([Slice(sequence, [1], rows)], "last")
            seconds.append(time.perf_counter() - started)
    finally:
        span.release(sequence, keep=False)
    return statistics.median(seconds[_WARM_UP_STEPS:])


def byte_s(file: GGUFFile, blocks: BlockSpan, step_s: float) -> float:
    """Seconds for each byte that a step of a span reads, from the seconds of the step."""
    return step_s / Sizes(profile_model(file), Demand(context=0)).read_bytes(blocks)


# Seconds for a byte that a decode step reads: see `byte_s`.
Measure = Callable[[Node, GGUFFile], float]


def measurable(
    file: GGUFFile, has_weights: Callable[[Sequence[ByteRange]], bool] | None = None
) -> GGUFFile:
    """What is timed: the model itself, if the blocks for that are here, or the embedded default.

    `has_weights` knows what is here, None for all. What has not come yet reads as zeros, much too fast.

    Raises:
        UsageError: neither is here.
    """
    needs = span_needs(file, _probed(file))
    if not file.missing(needs) and (has_weights is None or has_weights(needs)):
        return file
    default = default_model()
    if default is None:
        raise UsageError(
            "this machine has no blocks to time itself by",
            code="model.not-found",
            hint="`make run` installs the embedded default; or `bmrt pull` the model with --blocks 0:4",
        )
    return GGUFFile.open(default.path)


def _probed(file: GGUFFile) -> BlockSpan:
    return BlockSpan(0, min(_PROBE_BLOCKS, len(file.blocks)))


def profile_here(
    node: Node, file: GGUFFile, timed: GGUFFile, measure: Measure, budget_bytes: int, id_: str
) -> DeviceProfile:
    """This machine, for spans of `file`: how fast it computes `timed`, and reads what has no room."""
    reads = timed is file and file.num_bytes > budget_bytes
    return DeviceProfile(
        id=id_,
        budget_bytes=budget_bytes,
        byte_s=measure(node, timed),
        disk_byte_s=disk_byte_s(file) if reads else None,
    )


def profiles_here(
    options: ModelOptions,
    file: GGUFFile,
    timed: GGUFFile,
    measure: Measure,
    budget_bytes: int | None,
    id_: str,
) -> list[DeviceProfile]:
    """The devices of this machine: the host first, if it may be used, as `id_`, others as `id_/NAME`.

    `budget_bytes`: what the first one gives, None for most of what is free.
    """
    usable = asked_devices(options)
    first = next((one for one in usable if one.is_host), usable[0])
    node = Node(replace(options, device=first.name))
    try:
        room = node.ledger.room_for(Purpose.SHARING) if budget_bytes is None else budget_bytes
        limits = dict(options.device_memory)
        room = min(room, limits.get(first.name.lower(), room))
        profile = profile_here(node, file, timed, measure, room, id_)
        choice = DeviceChoice(options, DeviceMemory(options, node.ledger))
        others = choice.others(file, first)
        return [profile, *(replace(one, id=f"{id_}/{one.id}") for one in others)]
    finally:
        node.close()


def measure_here(node: Node, file: GGUFFile) -> float:
    """`byte_s` of this machine by a few blocks; they have to be here."""
    blocks = _probed(file)
    span, _ = node.host(file, blocks, _PROBE_CONTEXT)
    return byte_s(file, blocks, decode_step_s(span))
