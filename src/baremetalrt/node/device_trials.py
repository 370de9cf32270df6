"""Whether a device computes blocks like those of a model right: tried once for each kind of them.

In a process of its own, against the host: there are drivers that end a program at an operation which they
said they support, and drivers that compute something else.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import CacheTypes
from baremetalrt.blocks.inventory import take_inventory
from baremetalrt.core.places import device_trials_file
from baremetalrt.core.spans import BlockSpan
from baremetalrt.devices.kept import KeptAnswers, key_of
from baremetalrt.native.apart import run_apart
from baremetalrt.native.backend import BackendDevice
from baremetalrt.native.library import load_library
from baremetalrt.weights.gguf import GGUFFile

_WORKER: Final = Path(__file__).with_name("device_trial_worker.py")
# How far the rows of a block may be from the host's, as a part of their length. Half precision, and the
# steps of the types, are in it.
_TOLERANCE: Final = 0.1


def tried_blocks(blocks: BlockSpan) -> tuple[BlockSpan, ...]:
    """What is tried of a span: its first block and its last one, with embedding and head if need be."""
    first = BlockSpan(blocks.start, blocks.start + 1)
    last = BlockSpan(blocks.end - 1, blocks.end)
    return (first, last) if len(blocks) > 1 else (first,)


def wrong_with(
    device: BackendDevice, file: GGUFFile, blocks: BlockSpan, types: CacheTypes
) -> str | None:
    """Why a device is not to compute this span, out of what is kept or tried now; None if it may.

    Raises:
        IntegrityError: the file does not have what the span needs.
    """
    about = _about(file, blocks)
    answers, key = KeptAnswers(device_trials_file()), key_of(device, about, asdict(types))
    kept = answers.all().get(key)
    if isinstance(kept, str):
        return kept or None
    asked = [str(file.path), str(blocks), device.name, types.keys, types.values]
    tried = run_apart(_WORKER, load_library().path, asked)
    if tried.status != 0:
        # What it had no memory or no time for is tried again the next time.
        if tried.has_faulted:
            answers.put(key, f"it {tried.end}")
        return f"it {tried.end}"
    (said,) = tried.said
    wrong = said.get("unsupported", "")
    if not wrong and not said["difference"] <= _TOLERANCE:
        wrong = f"its numbers are {100 * said['difference']:.0f} % off"
    answers.put(key, wrong)
    return wrong or None


def _about(file: GGUFFile, blocks: BlockSpan) -> list[object]:
    """What the operations of a model depend on, and not its numbers."""
    architecture, h = read_model(file)
    about: list[object] = [architecture.name, repr(h)]
    for tried in tried_blocks(blocks):
        inventory = take_inventory(file, architecture, h, tried)
        for group in (inventory.outer, *inventory.blocks.values()):
            about += [[name, w.info.type, w.info.shape] for name, w in sorted(group.items())]
    return about
