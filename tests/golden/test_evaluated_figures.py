"""`bmrt eval` against the same figures out of llama.cpp's own logits."""

import json
import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.weights.store import default_model
from commands import bmrt
from oracle import LlamaCpp
from tiny_models import write_talking

WINDOW = 128
TEXT = pydoc_data.topics.topics["with"][:2500]


def scored(path: Path) -> tuple[NDArray[np.float64], list[int]]:
    """Log probabilities `(T, V)` at the scored positions, and the tokens that follow there."""
    rows, following = [], []
    with LlamaCpp(path, n_ctx=2 * WINDOW) as llama_cpp:
        tokens = llama_cpp.tokenize(TEXT)
        for start in range(0, len(tokens) - WINDOW + 1, WINDOW):
            part = tokens[start : start + WINDOW]
            llama_cpp.clear()
            logits = llama_cpp.prefill(part).astype(np.float64)
            # The second half, but for the last position, which nothing follows.
            for i in range(WINDOW // 2, WINDOW - 1):
                shifted = logits[i] - logits[i].max()
                rows.append(shifted - np.log(np.exp(shifted).sum()))
                following.append(part[i + 1])
    return np.array(rows), following


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same vocabulary that knows nothing."""
    return write_talking(tmp_path_factory.mktemp("other") / "other.gguf")


def test_figures_are_those_of_llama_cpp(other: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    default = default_model().path
    (theirs, following), (ours, _) = scored(default), scored(other)
    losses = [-rows[np.arange(len(following)), following] for rows in (ours, theirs)]
    kl = (np.exp(theirs) * (theirs - ours)).sum(axis=1)

    options = ("--text", str(text), "--window", str(WINDOW), "--json")
    alone = json.loads(bmrt("eval", str(default), *options, home=tmp_path).stdout)
    count = len(following)
    assert alone["nats"]["count"] == count and alone["windows"] == count // (WINDOW // 2 - 1)
    assert alone["perplexity"] == pytest.approx(np.exp(losses[1].mean()), rel=1e-4)
    error = losses[1].std(ddof=1) / np.sqrt(count)
    assert alone["nats"]["standard_error"] == pytest.approx(error, rel=1e-3)
    assert "kl" not in alone

    done = bmrt("eval", str(other), *options, "--reference", str(default), home=tmp_path)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout)
    assert both["perplexity"] == pytest.approx(np.exp(losses[0].mean()), rel=1e-4)
    assert both["kl"]["value"] == pytest.approx(kl.mean(), rel=1e-4)
    assert both["kl_99"] == pytest.approx(np.percentile(kl, 99), rel=1e-3)
    assert both["kl_99_9"] == pytest.approx(np.percentile(kl, 99.9), rel=1e-3)
    agrees = ours.argmax(axis=1) == theirs.argmax(axis=1)
    assert both["same_token"]["value"] == pytest.approx(agrees.mean())
    assert both["nats_more"]["value"] == pytest.approx((losses[0] - losses[1]).mean(), rel=1e-3)


def test_a_model_is_no_further_from_itself_than_rounding(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:900])
    done = bmrt("eval", "--text", str(text), "--window", "64", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    same = str(default_model().path)
    found = json.loads(
        bmrt(
            *("eval", "--text", str(text), "--window", "64", "--reference", same, "--json"),
            home=tmp_path,
        ).stdout
    )
    assert found["kl"]["value"] < 1e-9 and found["same_token"]["value"] == 1.0
    assert found["perplexity"] == pytest.approx(json.loads(done.stdout)["perplexity"], rel=1e-6)


def test_questions_are_answered_and_what_is_none_is_refused(tmp_path: Path) -> None:
    asked = tmp_path / "questions.jsonl"
    asked.write_text(
        '{"question": "The capital of France is", "choices": ["a fish.", "Paris."], "answer": 1}\n'
        "\n"
        '{"question": "2 + 2 =", "choices": ["4", "a house of stone"], "answer": "4"}\n'
        '{"question": "Say the word hello and nothing else.", "answer": ["hello", "hi"]}\n'
    )
    done = bmrt("eval", "--questions", str(asked), "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["choices"]["count"] == 2 and found["choices"]["value"] == 1.0
    # Two of two are not certain.
    assert found["choices"]["standard_error"] > 0.1
    assert len(found["replies"]) == found["exact"]["count"] == 1
    shown = bmrt("eval", "--questions", str(asked), home=tmp_path)
    assert "choices, by likelihood" in shown.stdout and "±" in shown.stdout
    for arguments, said in (
        ((), "nothing to measure on"),
        (("--questions", str(asked), "--reference", "x"), "compared with on a text"),
        (("--text", str(tmp_path / "none")), "cannot be read"),
        (("--questions", str(tmp_path)), "cannot be read"),
    ):
        refused = bmrt("eval", *arguments, home=tmp_path)
        assert refused.returncode != 0 and said in refused.stderr, refused.stderr
    text = tmp_path / "one.txt"
    text.write_text("a")
    refused = bmrt("eval", "--text", str(text), home=tmp_path)
    assert refused.returncode != 0 and "too few to score" in refused.stderr
