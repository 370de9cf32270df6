"""Measures the default model with the library that `BMRT_LIBRARY` names, in a process of its own.

Run by path, with the name of a device: one process can load one library. One JSON object out.
"""

import asyncio
import json
import sys

from baremetalrt.node.benchmark import measure_speed
from baremetalrt.node.events import ignore
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import find_model

_PREFILL_TOKENS = 256
_REPEAT = 2


def main() -> None:
    options = ModelOptions(device=sys.argv[1], max_sessions=1)
    found = asyncio.run(
        measure_speed(
            Opening(find_model(None)),
            options,
            _REPEAT,
            ignore,
            prefills=(_PREFILL_TOKENS,),
            num_sessions=(1,),
        )
    )
    prefill, decode = (speed.median for speed in found.speeds)
    print(json.dumps({"prefill": prefill, "decode": decode}))


if __name__ == "__main__":
    main()
