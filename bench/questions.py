"""Questions that a model makes of passages: how many are kept, why others are not, and the pairs.

One passage of each of some speeches (see `learning.py`). What is printed is for people to judge: that an
answer stands in the passage is certain, that it answers the question is not.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from itertools import pairwise
from pathlib import Path

from baremetalrt.documents.passages import split_passages
from baremetalrt.learning.questions import Made, QuestionConfig, make_pairs
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.weights.store import StoredModel, find_model
from learning import SPEECH, fetch, members
from qwen import fetch_qwen

PASSAGE_CHARS = 900
MIN_CHARS = 200


def passages(count: int) -> list[tuple[str, str]]:
    """Text and name of one passage of each of `count` speeches, always the same ones."""
    found = []
    for name, data in members(fetch(), SPEECH, count):
        parts = split_passages(json.loads(data)["text"], PASSAGE_CHARS)
        long_enough = [part.strip() for part in parts if len(part) > MIN_CHARS]
        found.append((random.Random(1).choice(long_enough), Path(name).stem))
    return found


def ask(stored: StoredModel, asked: list[tuple[str, str]]) -> tuple[Made, float]:
    """What came of it, and seconds per passage (median)."""
    times = [time.monotonic()]
    node = Node(ModelOptions(context=2048))
    try:
        model = node.load(Opening(stored))
        pairs = make_pairs(
            model,
            asked,
            QuestionConfig(),
            on_progress=lambda done, total: times.append(time.monotonic()),
        )
        made = asyncio.run(pairs)
    finally:
        node.close()
    return made, statistics.median(b - a for a, b in pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=16)
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder-0.5B too: 491 MB")
    arguments = parser.parse_args()
    paths = [None, *([str(fetch_qwen())] if arguments.qwen else [])]
    asked = passages(arguments.passages)
    for path in paths:
        stored = find_model(path)
        made, seconds = ask(stored, asked)
        why = ", ".join(f"{count} {reason}" for reason, count in made.left_out.items())
        print(
            f"{stored.name}: {len(made.pairs)} of {len(asked)} kept, {seconds:.1f} s each ({why})"
        )
        for pair in made.pairs:
            print(f"  {pair.question}\n    {pair.answer}", flush=True)


if __name__ == "__main__":
    main()
