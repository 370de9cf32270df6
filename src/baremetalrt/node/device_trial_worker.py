"""Computes two blocks of a model on a device and on the host, in a process that may die of it.

Run by path, with a file, blocks, a device, and the types of keys and values, and the library in
`BMRT_LIBRARY`. One JSON object out: how far the rows are apart, as a part of their length, or what the
device does not know. What there is no memory for is an exception like others.
"""

import json
import sys
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.cache_types import CacheType, CacheTypes
from baremetalrt.blocks.span import Span, SpanConfig
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import GIB
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.backend import UnsupportedOperationError, find_device
from baremetalrt.node.device_trials import tried_blocks
from baremetalrt.weights.gguf import GGUFFile

# A prompt, a token after it, and a few more: what takes different ways through a library.
_STEPS: Final = (40, 1, 3)
_CELLS: Final = 256


def _rows(file: GGUFFile, blocks: BlockSpan, device: str, types: CacheTypes) -> NDArray[np.float32]:
    """What these blocks make of the same numbers."""
    architecture, h = read_model(file)
    config = SpanConfig(
        num_threads=default_threads(),
        context_limit=_CELLS,
        step_tokens=max(_STEPS),
        prompt_tokens=max(_STEPS),
        num_cells=_CELLS,
        copy_budget_bytes=64 * GIB if device != "cpu" else 0,
        cache_types=types,
    )
    span = Span(file, architecture, h, blocks, find_device(device), config)
    chance = np.random.default_rng(0)
    sequence, out = span.open((), sum(_STEPS)), []
    for count in _STEPS:
        tokens = chance.integers(0, h.vocabulary_size, count).tolist()
        x_TD = None
        if blocks.start:
            x_TD = chance.standard_normal((count, h.width), np.float32)
        out.append(span.forward([Slice(sequence, tokens, x_TD)], "all").copy())
    span.close()
    return np.concatenate(out)


def main() -> None:
    path, blocks, device, keys, values = sys.argv[1:6]
    start, _, end = blocks.partition(":")
    types = CacheTypes(keys=cast(CacheType, keys), values=cast(CacheType, values))
    file = GGUFFile.open(Path(path))
    worst = 0.0
    try:
        for tried in tried_blocks(BlockSpan(int(start), int(end))):
            host, card = (_rows(file, tried, name, types) for name in ("cpu", device))
            difference = np.linalg.norm(card - host) / np.linalg.norm(host)
            # What is not a number is far off.
            worst = max(worst, float(np.nan_to_num(difference, nan=1e9, posinf=1e9)))
    except UnsupportedOperationError as error:
        print(json.dumps({"unsupported": error.message}), flush=True)
        return
    print(json.dumps({"difference": worst}), flush=True)


if __name__ == "__main__":
    main()
