"""The embedded default model against llama.cpp: 128 greedy tokens, and the logits behind every one.

Our session generates; llama.cpp then computes the same text, and at every position its choice is
compared with our token, and the log probabilities of our twenty best tokens with its own. Both compute
a prompt in chunks of 512 and read whole quanta of 256 cells, so the sums are the same sums in the same
order: the tolerance of reordering is stated, and what was seen is no difference at all.
"""

import asyncio
import inspect
import pydoc_data.topics
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest

from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.session import GenerationOptions, Token
from baremetalrt.weights.store import find_model
from oracle import LlamaCpp

NUM_TOKENS = 128
CONTEXT = 2560
# Of the largest logit. Decoding and prefilling the same text differ by 1e-2 within llama.cpp itself.
TOLERANCE = 1e-5

_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_MANUAL = "\n".join(pydoc_data.topics.topics[t] for t in ("with", "try", "typesseq", "class"))
_SOURCE = inspect.getsource(textwrap)
# name -> text, and how many of its tokens
PROMPTS = {
    "five words": ("Once upon a time there", 5),
    "question": (_CHAT.format("What is a torrent? Answer in two sentences."), 40),
    "german": (_CHAT.format("Erkläre, was ein Straßenfest ist, und wozu man es feiert."), 60),
    "chinese and emoji": ("今天天气很好,我们去公园散步吧。🌳🌞 " * 6, 100),
    "numbers": (", ".join(str(n * n) for n in range(60)) + ",", 180),
    "json": ('{"users": [' + ", ".join(f'{{"id": {i}, "on": true}}' for i in range(24)), 256),
    "manual": (_MANUAL, 511),
    "source code": (_SOURCE, 900),
    "longer manual": (_MANUAL[4000:], 1400),
    "longest": (_CHAT.format(_SOURCE + _MANUAL), 2000),
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    node = Node(ModelOptions(context=CONTEXT, num_threads=2))
    yield node.load(Opening(find_model(None)))
    node.close()


@pytest.fixture(scope="module")
def oracle() -> Iterator[LlamaCpp]:
    with LlamaCpp(find_model(None).path, n_ctx=CONTEXT) as llama_cpp:
        yield llama_cpp


def generate(model: Model, prompt: list[int]) -> list[Token]:
    """Greedy tokens with the log probabilities of the twenty best at each."""
    options = GenerationOptions(
        sampling=SampleOptions(temperature=0.0),
        max_tokens=NUM_TOKENS,
        ignore_end=True,
        top_logprobs=20,
    )

    async def collect() -> list[Token]:
        session = model.session(prompt, options)
        return [token async for token in session.generate() if token.id is not None]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if length > 200 else ())
        for name, (_, length) in PROMPTS.items()
    ],
)
def test_greedy_tokens_equal_llama_cpp(name: str, model: Model, oracle: LlamaCpp) -> None:
    """128 tokens, all of them llama.cpp's own choice, with its probabilities."""
    text, count = PROMPTS[name]
    prompt = oracle.tokenize(text)[:count]
    assert model.encode(text)[:count] == prompt
    tokens = generate(model, prompt)
    assert len(tokens) == NUM_TOKENS
    oracle.clear()
    for start in range(0, len(prompt), 512):
        chunk = prompt[start : start + 512]
        oracle.decode(chunk, range(start, start + len(chunk)))
    logits_V = oracle.logits(len(chunk) - 1)
    for i, token in enumerate(tokens):
        tolerance = TOLERANCE * np.abs(logits_V).max()
        best = int(logits_V.argmax())
        assert token.id == best or logits_V[best] - logits_V[token.id] <= tolerance, (
            f"token {i}: {token.id} has {logits_V[token.id]}, "
            f"llama.cpp prefers {best} by {logits_V[best]}"
        )
        if token.id != best:
            print(f"tie at token {i}: {token.id} {logits_V[token.id]}, {best} {logits_V[best]}")
        shifted = logits_V.astype(np.float64) - logits_V.max()
        theirs = shifted - np.log(np.exp(shifted).sum())
        assert len(token.alternatives) == 20
        for ours in token.alternatives:
            assert abs(ours.logprob - theirs[ours.token]) <= 2 * tolerance
        logits_V = oracle.step(token.id, len(prompt) + i)
