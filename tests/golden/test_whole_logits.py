"""Models that run whole give libllama's logits, and what our graphs compute of the same file."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tiny_whole
import whole_kit
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.route import Route
from baremetalrt.session.session import GenerationOptions, Session
from baremetalrt.session.stage import QueuedStage
from baremetalrt.weights.store import find_model
from oracle import LlamaCpp

# Of the largest logit; the steps are the same on both sides, and we see no difference at all.
TOLERANCE = 1e-6
PROMPT = np.random.default_rng(5).integers(3, 250, 50).tolist()
CHUNKS = (30, 1, 19)


@pytest.mark.parametrize("architecture", tiny_whole.BLOCKS)
def test_logits_equal_libllama_called_directly(architecture: str, tmp_path: Path) -> None:
    """Prefill in chunks, then token by token."""
    path = tiny_whole.write(tmp_path / "model.gguf", architecture)
    process = whole_kit.start(path)
    with LlamaCpp(path, n_ctx=1024, num_threads=1) as oracle, ThreadPoolExecutor(1) as worker:
        stage = QueuedStage(whole_kit.texts(process), worker)

        async def compare() -> None:
            place = await stage.open(PROMPT, 80)
            text, done = list(PROMPT), 0
            for n in (*CHUNKS, *[1] * 20):
                chunk = text[done : done + n]
                # Of which all are read: else a prompt may end in a step of its own, in another order.
                row_V = (await stage.forward(place, chunk, None, "all"))[-1]
                oracle.decode(chunk, range(done, done + n))
                theirs_V = oracle.logits(n - 1)
                assert np.abs(row_V - theirs_V).max() <= TOLERANCE * np.abs(theirs_V).max()
                done += n
                if done >= len(PROMPT):
                    text.append(int(row_V.argmax()))

        asyncio.run(compare())
    process.close()


def test_both_kinds_of_stage_say_the_same() -> None:
    """The default model, by our graphs and whole: the same greedy tokens."""
    stored = find_model(None)
    node = Node(ModelOptions(num_threads=2, context=512))
    model = node.load(Opening(stored))
    prompt = model.encode("The harbour was dug in the year")
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0), max_tokens=48, ignore_end=True
    )
    process = whole_kit.start(stored.path, vocabulary_size=model.vocabulary_size, num_threads=2)

    async def tokens_of(session: Session) -> list[int | None]:
        return [token.id async for token in session.generate()]

    with ThreadPoolExecutor(1) as worker:
        texts = whole_kit.texts(process, vocabulary_size=model.vocabulary_size)
        route = Route([QueuedStage(texts, worker)])
        whole = Session(
            route,
            model.tokenizer,
            model._grammars,
            context_limit=512,
            prompt=prompt,
            options=options,
        )
        ours = asyncio.run(tokens_of(model.session(prompt, options)))
        assert asyncio.run(tokens_of(whole)) == ours
    process.close()
    node.close()
