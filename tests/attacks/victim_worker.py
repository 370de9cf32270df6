"""Does what a user does with a model file, again and again, and tells how each try ended."""

import asyncio
import json
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from baremetalrt.core.errors import BareMetalError
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session import grammar
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import StoredModel
from processes import peak_memory_bytes

TEXTS = ("", "he hehe <|start|> <s>", "\0\x01\x7f\n\t 123", "žluťoučký 👩‍👧 \u0301\ufffd", "\ud800")
NODE = Node(ModelOptions(context=256, num_threads=1))


def load(path: str) -> Model:
    opening = Opening(StoredModel("victim", Path(path), is_default=False))
    try:
        return NODE.load(opening)
    finally:
        # It loads in a thread: what it brings down must be blamed on this file, not on the next.
        opening._tokenizer.exception()


def unload(model: Model) -> None:
    # No command unloads a model.
    NODE._models = {}
    model.close()


def read_and_write(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        tokenizer.encode_prompt(text)
    for token in range(tokenizer.size):
        tokenizer.piece(token), tokenizer.name(token), tokenizer.is_end(token)


async def _generate(model: Model, prompt: list[int], options: dict[str, Any]) -> dict[str, Any]:
    session = model.session(
        prompt,
        GenerationOptions(
            sampling=SampleOptions(temperature=0.0), max_tokens=4, ignore_end=True, **options
        ),
    )
    tokens = [token async for token in session.generate()]
    return {"tokens": [t.id for t in tokens], "text": "".join(t.text for t in tokens)}


def generate(path: str, prompts: list[list[int]]) -> dict[str, Any]:
    """Loads a file, reads and writes text with its vocabulary, and continues each prompt."""
    model = load(path)
    try:
        answers: list[dict[str, Any]] = []
        read_and_write(model.tokenizer)
        for prompt in prompts:
            answers.append(_caught(lambda p=prompt: asyncio.run(_generate(model, p, {}))))
        return {"answers": answers}
    finally:
        unload(model)


@cache
def _kept(path: str) -> Model:
    """The same model for many requests, with the whole of its context."""
    node = Node(ModelOptions(num_threads=1))
    return node.load(Opening(StoredModel("kept", Path(path), is_default=False)))


def encode(path: str, piece: str, repeats: int) -> dict[str, Any]:
    """Tokenizes a text, given as a piece and how often it comes."""
    return {"count": len(_kept(path).encode(piece * repeats))}


def answer(path: str, text: str, stop: list[str]) -> dict[str, Any]:
    """Continues a text."""
    model = _kept(path)
    return asyncio.run(_generate(model, model.encode(text), {"stop": tuple(stop)}))


def follow(path: str, kind: str, source: Any) -> dict[str, Any]:
    """Generates under a JSON schema or a grammar."""
    read = {
        "schema": grammar.from_json_schema,
        "gbnf": grammar.from_gbnf,
        "lark": grammar.from_lark,
    }[kind]
    model = _kept(path)
    return asyncio.run(_generate(model, model.encode("Answer:"), {"grammar": read(source)}))


def _caught(action: Any) -> dict[str, Any]:
    try:
        result: dict[str, Any] = action()
    except BareMetalError as error:
        return {
            "error": type(error).__name__,
            "code": error.code,
            "message": error.message,
            "hint": error.hint or "",
        }
    return result


def main() -> None:
    actions = {f.__name__: f for f in (generate, encode, answer, follow)}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        action = actions[request.pop("action")]
        started = time.perf_counter()
        reply = _caught(lambda a=action, r=request: a(**r))
        reply["seconds"] = time.perf_counter() - started
        reply["peak_bytes"] = peak_memory_bytes()
        print(json.dumps(reply), flush=True)
    NODE.close()


if __name__ == "__main__":
    main()
