"""Tools that measure models over HTTP: what they measure is what llama.cpp has of the same file."""

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from clients_kit import require_python, run

from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.store import default_model
from commands import ServerProcess
from oracle import LlamaCpp

pytestmark = pytest.mark.clients

MODEL = "SmolLM2-135M-Instruct.Q4_1"
# Sums over a few tokens; steps of other sizes sum in another order.
TOLERANCE = 0.05
# Ours, of a kind that a small model has a chance with: a beginning, three ends, and which is right.
QUESTIONS = [
    ("The capital of France is", [" Paris", " Berlin", " a kind of bread"], 0),
    ("Snow is usually", [" black", " white", " made of iron"], 1),
    ("Two plus two is", [" seven", " four", " the colour blue"], 1),
    ("Fish live in the", [" water", " sky and the stars", " engine of a car"], 0),
    ("At night we can see the", [" stars", " bottom of the sea", " taste of sugar"], 0),
    ("A week has seven", [" days", " wheels", " oceans"], 0),
]
TASK = """\
task: ends_of_sentences
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{beginning}}}}"
doc_to_target: right
doc_to_choice: "{{{{ends}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("measured")
    with ServerProcess("--context", "1024", "--threads", "1", home=home) as process:
        yield process


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's vocabulary as these tools read it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    fields = gguf.GGUFReader(default_model().path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    special = [
        {"id": i, "content": token, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == gguf.TokenType.CONTROL
    ]
    by_bytes = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    whole = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [digits, {"type": "ByteLevel", **by_bytes}],
        },
        "decoder": {"type": "ByteLevel", **by_bytes},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def test_lm_eval_measures_what_llama_cpp_has(
    measured: ServerProcess, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Each log probability, and how many answers are right."""
    python = require_python()
    questions = [{"beginning": b, "ends": ends, "right": right} for b, ends, right in QUESTIONS]
    file = tmp_path / "questions.json"
    file.write_text("\n".join(json.dumps(one) for one in questions))
    (tmp_path / "ends.yaml").write_text(TASK.format(file=file))
    model = {
        "model": MODEL,
        "base_url": f"{measured.url}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(tokenizer_folder),
        "tokenized_requests": "True",
        "num_concurrent": "1",
    }
    given = ",".join(f"{name}={value}" for name, value in model.items())
    words = ("-m", "lm_eval", "run", "--model", "local-completions", "--model_args", given)
    words += ("--tasks", "ends_of_sentences", "--include_path", str(tmp_path), "--log_samples")
    out = tmp_path / "out"
    run(python, *words, "--output_path", str(out), home=tmp_path / "home", variables={})
    (results,) = out.rglob("results_*.json")
    accuracy = json.loads(results.read_text())["results"]["ends_of_sentences"]["acc,none"]
    (samples,) = out.rglob("samples_*.jsonl")
    said = [json.loads(line) for line in samples.read_text().splitlines()]
    theirs = {one["doc"]["beginning"]: [float(resp[0][0]) for resp in one["resps"]] for one in said}
    expected = {b: _by_llama_cpp(b, ends) for b, ends, _ in QUESTIONS}
    for beginning, values in expected.items():
        assert theirs[beginning] == pytest.approx(values, abs=TOLERANCE), beginning
    right = [int(np.argmax(expected[b])) == one for b, _, one in QUESTIONS]
    assert accuracy == pytest.approx(sum(right) / len(right))


def _by_llama_cpp(beginning: str, ends: list[str]) -> list[float]:
    tokenizer = Tokenizer(default_model().path)
    sums = []
    with LlamaCpp(default_model().path, n_ctx=256) as oracle:
        start = tokenizer.encode(beginning, special=False)
        for end in ends:
            tokens = tokenizer.encode(beginning + end, special=False)
            assert tokens[: len(start)] == start
            logits = oracle.prefill(tokens).astype(np.float64)
            top = logits.max(axis=1, keepdims=True)
            scores = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            places = range(len(start), len(tokens))
            sums.append(float(sum(scores[i - 1, tokens[i]] for i in places)))
    return sums


def test_guidellm_measures_a_few_requests(
    measured: ServerProcess, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """It needs PyTorch for nothing but a list: that of the project's environment does."""
    python = require_python()
    ours = sysconfig.get_paths()["purelib"]
    if not (Path(ours) / "torch").exists():
        pytest.skip("PyTorch is not installed: `make learn` does")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"Count to {i}."}) for i in range(3, 6)))
    out = tmp_path / "report.json"
    start = "import sys; sys.path.append(sys.argv.pop(1)); from guidellm.__main__ import cli; cli()"
    words = ("run", "--backend", f"kind=openai_http,target={measured.url},model={MODEL}")
    words += ("--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=3")
    words += ("--data", f"kind=json_file,path={prompts}", "--disable-console")
    words += ("--tokenizer", f"kind=hf_auto,model={tokenizer_folder}")
    words += ("--output", f"kind=json,path={out}")
    run(python, "-c", start, ours, *words, home=tmp_path / "home", variables={})
    report = json.loads(out.read_text())
    (benchmark,) = report["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] == 3 and totals["errored"] == 0
    assert os.path.getsize(out) > 0
