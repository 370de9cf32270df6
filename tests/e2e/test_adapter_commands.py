"""Adapters as people use them: `bmrt run`, `bmrt adapters`, a running server, two machines.

The adapters are random, and strong enough that greedy answers change.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai import OpenAI
from safetensors.numpy import load_file

from baremetalrt.native.tensor_types import dequantize
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora, write_gguf_lora
from baremetalrt.weights.adapters.peft import write_peft
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import find_model
from commands import ServerProcess, bmrt
from oracle import LlamaCpp
from swarm_kit import SeedProcess, make_home
from tiny_adapters import random_adapter, write_adapter
from tiny_models import TinyModel, write

MODEL = "SmolLM2-135M-Instruct.Q4_1"
QUESTION = "Write a story about a fox."
ASK = ("-t", "0", "-n", "12", "--context", "512", "--threads", "2", "--json", QUESTION)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of the default model, as GGUF."""
    folder = tmp_path_factory.mktemp("adapters")
    base = find_model(None).path
    return [
        write_adapter(random_adapter(base, rank=8, seed=i, strength=0.4), folder / f"{name}.gguf")
        for i, name in enumerate(("pirate", "poet"))
    ]


def imported(files: list[Path], home: Path) -> Path:
    for path in files:
        done = bmrt("adapters", "import", str(path), home=home)
        assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def home(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both are in the store."""
    return imported(files, tmp_path_factory.mktemp("home"))


def said(*arguments: str, home: Path) -> list[int]:
    """The tokens of one greedy answer."""
    done = bmrt("run", *arguments, *ASK, home=home)
    assert done.returncode == 0, done.stderr
    tokens: list[int] = json.loads(done.stdout)["tokens"]
    return tokens


def error_of(*arguments: str, home: Path) -> dict[str, Any]:
    done = bmrt(*arguments, "--json", home=home)
    assert done.returncode in (2, 3) and "Traceback" not in done.stderr, done.stderr
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    return error


def test_run_with_adapters(home: Path, files: list[Path], tmp_path: Path) -> None:
    """By name, by file, as a PEFT folder: the same tokens; a weight of zero is none at all."""
    plain = said(home=home)
    pirate = said("--adapter", "pirate", home=home)
    assert pirate != plain
    assert said("--adapter", str(files[0]), home=home) == pirate
    assert said("--adapter", "pirate=0", home=home) == plain
    both = said("--adapter", "pirate=0.5", "--adapter", "poet=0.5", home=home)
    assert both not in (plain, pirate)
    done = bmrt("adapters", "export", "pirate", str(tmp_path / "peft"), home=home)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (tmp_path / "peft").stat().st_mode & 0o777 == 0o700
    assert config["r"] == 8 and "q_proj" in config["target_modules"]
    assert said("--adapter", str(tmp_path / "peft"), home=home) == pirate


def test_an_adapter_with_magnitudes_is_used_like_any_other(tmp_path: Path) -> None:
    """From a folder of PEFT into the store, computed with, back into a folder; not as GGUF for others."""
    home, base = tmp_path / "home", find_model(None).path
    plain = random_adapter(base, rank=8, seed=3, strength=0.3)
    scaled = {
        name: replace(m, row_scale_F=np.linspace(0.8, 1.2, len(m.b_FR), dtype=np.float32))
        for name, m in plain.matrices.items()
    }
    write_peft(replace(plain, matrices=scaled), tmp_path / "made", GGUFFile.open(base))
    assert json.loads((tmp_path / "made" / "adapter_config.json").read_text())["use_dora"]
    done = bmrt("adapters", "import", str(tmp_path / "made"), "--name", "dora", home=home)
    assert done.returncode == 0, done.stderr
    shown = json.loads(bmrt("adapters", "show", "dora", "--json", home=home).stdout)
    assert shown["method"] == "DoRA"
    learned = said("--adapter", "dora", home=home)
    write_adapter(plain, tmp_path / "plain.gguf")
    assert learned not in (
        said(home=home),
        said("--adapter", str(tmp_path / "plain.gguf"), home=home),
    )
    refused = bmrt("adapters", "export", "dora", str(tmp_path / "x.gguf"), home=home)
    assert refused.returncode == 2 and "DoRA" in refused.stderr
    assert not (tmp_path / "x.gguf").exists()
    done = bmrt("adapters", "export", "dora", str(tmp_path / "again"), home=home)
    assert done.returncode == 0, done.stderr
    made, again = (
        load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("made", "again")
    )
    assert made.keys() == again.keys() and len(made) == 3 * len(scaled)
    for name, numbers in made.items():
        np.testing.assert_allclose(again[name], numbers, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_added_is_one_clear_line(home: Path, tmp_path: Path) -> None:
    """An adapter that is not there, of another base, on peers, on a model that is still to come."""
    other = write(TinyModel("llama"), tmp_path / "tiny.gguf")
    strange = write_adapter(random_adapter(other), tmp_path / "strange.gguf")
    cases = {
        ("--adapter", "nobody"): "adapter.not-found",
        ("--adapter", "pirate=lots"): "adapter.scale",
        ("--adapter", str(strange)): "adapter.misfit",
        ("--adapter", "pirate", "--route", "lan"): "adapter.route",
    }
    for arguments, code in cases.items():
        error = error_of("run", *arguments, "Hello", home=home)
        assert error["code"] == code and error["hint"]
    magnet = "magnet:?xt=urn:btmh:1220" + "ab" * 32
    error = error_of("run", magnet, "Hello", "--adapter", "pirate", home=home)
    assert error["code"] == "adapter.arriving"
    changed = tmp_path / "changed.gguf"
    raw = bytearray(find_model(None).path.read_bytes())
    raw[-1] ^= 1
    changed.write_bytes(raw)
    error = error_of("run", str(changed), "Hello", "--adapter", "pirate", home=home)
    assert error["code"] == "adapter.base" and MODEL in error["message"]


def test_adapters_are_listed_shown_and_removed(files: list[Path], tmp_path: Path) -> None:
    home = imported(files, tmp_path)
    listed = json.loads(bmrt("adapters", "ls", "--json", home=home).stdout)
    assert [row["name"] for row in listed] == ["pirate", "poet"]
    assert {row["base_name"] for row in listed} == {MODEL}
    shown = json.loads(bmrt("adapters", "show", "poet", "--json", home=home).stdout)
    assert shown["rank"] == 8 and "ffn_down" in shown["targets"] and shown["privacy"] == "unknown"
    assert bmrt("adapters", "rm", "poet", home=home).returncode == 0
    assert [
        row["name"] for row in json.loads(bmrt("adapters", "ls", "--json", home=home).stdout)
    ] == ["pirate"]
    assert error_of("adapters", "show", "poet", home=home)["code"] == "adapter.not-found"
    again = error_of("adapters", "import", str(files[0]), home=home)
    assert again["code"] == "adapter.exists"


def values(file: GGUFFile, name: str) -> NDArray[np.float32]:
    """A tensor of the default model's files, as numbers."""
    info = file.tensors[name]
    raw = np.fromfile(file.path, np.uint8, count=info.num_bytes, offset=info.start)
    return dequantize(raw, info.type, info.shape[0])


def test_a_merged_model_answers_like_its_adapter(home: Path, tmp_path: Path) -> None:
    """llama.cpp opens it; matrices have the bits that keep what the adapter changes."""
    merged, lora = tmp_path / "merged.gguf", tmp_path / "lora.gguf"
    assert bmrt("adapters", "export", "pirate", str(lora), home=home).returncode == 0
    done = bmrt("adapters", "merge", "pirate", "-o", str(merged), home=home)
    assert done.returncode == 0, done.stderr
    assert "% of what is changed is kept" in done.stderr and "warning" not in done.stderr
    assert {p.stat().st_mode & 0o777 for p in (merged, lora)} == {0o600}
    old, new = (GGUFFile.open(path) for path in (find_model(None).path, merged))
    adapter = read_gguf_lora(lora)
    for name, m in adapter.matrices.items():
        change = m.b_FR @ m.a_RD * adapter.scale_of(name)
        came = values(new, name) - values(old, name)
        assert np.vdot(change, came) > 0.9 * np.vdot(change, change)
    with LlamaCpp(old.path, n_ctx=512) as oracle:
        tokens = oracle.tokenize("Once upon a time there was a torrent, and everybody had it.")
        plain = oracle.prefill(tokens)
        oracle.use_adapters((lora, 1.0))
        adapted = oracle.prefill(tokens)
    with LlamaCpp(merged, n_ctx=512) as oracle:
        theirs = oracle.prefill(tokens)
    assert np.abs(theirs - adapted).mean() < 0.5 * np.abs(plain - adapted).mean()
    answer = bmrt("run", str(merged), *ASK, home=home)
    assert answer.returncode == 0 and json.loads(answer.stdout)["model"] == "merged"
    twice = bmrt("adapters", "merge", "pirate", "-o", str(merged), home=home)
    assert twice.returncode == 2 and "exists" in twice.stderr


def test_what_a_merge_of_few_bits_loses_is_said(home: Path, tmp_path: Path) -> None:
    """Every weight is the sum, to half a step of the base's quantization: little of a small change."""
    merged, lora = tmp_path / "merged.gguf", tmp_path / "lora.gguf"
    assert bmrt("adapters", "export", "pirate", str(lora), home=home).returncode == 0
    small = ("adapters", "merge", "pirate=0.02", "-o", str(merged), "--type", "same")
    done = bmrt(*small, home=home)
    assert done.returncode == 0 and "warning: much of it was rounded away" in done.stderr
    old, new = (GGUFFile.open(path) for path in (find_model(None).path, merged))
    adapter = read_gguf_lora(lora)
    for name, m in adapter.matrices.items():
        assert old.tensors[name].type == new.tensors[name].type
        wanted = values(old, name) + 0.02 * (m.b_FR @ m.a_RD) * adapter.scale_of(name)
        blocks = wanted.reshape(-1, 32)
        step = np.ptp(blocks, axis=1, keepdims=True) / 15  # 4 bits between least and most: Q4_1
        off = np.abs(values(new, name).reshape(-1, 32) - blocks)
        assert (off <= 0.51 * step + 1e-3 * np.abs(blocks).max(1, keepdims=True)).all()


# a running server


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[ServerProcess, OpenAI, Path]]:
    home = tmp_path / "home"
    home.mkdir()
    with (
        ServerProcess("--context", "512", "--parallel", "4", home=home) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=240) as client,
    ):
        yield server, client, home


def asked(client: OpenAI, model: str) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=12,
    )
    assert answer.model == model
    return answer.choices[0].message.content or ""


def test_an_adapter_is_used_without_restarting_the_server(
    serving: tuple[ServerProcess, OpenAI, Path], files: list[Path]
) -> None:
    """What comes into the store answers at once, alone or together, and is listed; what goes, is gone."""
    _, client, home = serving
    plain = asked(client, MODEL)
    with pytest.raises(openai.NotFoundError) as missing:
        asked(client, f"{MODEL}:pirate")
    assert "pirate" in missing.value.message
    imported(files, home)
    listed = {model.id for model in client.models.list()}
    assert listed == {MODEL, f"{MODEL}:pirate", f"{MODEL}:poet"}
    assert client.models.retrieve(f"{MODEL}:poet").model_dump()["parent"] == MODEL
    pirate = asked(client, f"{MODEL}:pirate")
    both = asked(client, f"{MODEL}:pirate+poet=0.5")
    assert len({plain, pirate, both}) == 3
    assert asked(client, MODEL) == plain and asked(client, f"{MODEL}:pirate=0") == plain
    streamed = client.chat.completions.create(
        model=f"{MODEL}:pirate",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=12,
        stream=True,
    )
    assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices) == pirate
    done = client.completions.create(model=f"{MODEL}:poet", prompt="Once", max_tokens=3)
    assert done.model == f"{MODEL}:poet"
    # another adapter under the same name is another adapter
    assert bmrt("adapters", "rm", "pirate", home=home).returncode == 0
    assert bmrt("adapters", "import", str(files[1]), "--name", "pirate", home=home).returncode == 0
    assert asked(client, f"{MODEL}:pirate") == asked(client, f"{MODEL}:poet") != pirate
    for wrong in ("pirate+nobody", "pirate=x", "+", "../pirate"):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
            asked(client, f"{MODEL}:{wrong}")


def test_a_damaged_adapter_harms_only_who_asks_for_it(
    serving: tuple[ServerProcess, OpenAI, Path], files: list[Path]
) -> None:
    _, client, home = serving
    imported(files, home)
    path = home / "adapters" / "pirate" / "adapter.gguf"
    raw = bytearray(path.read_bytes())
    raw[-4:] = b"\x00\x00\xc0\x7f"  # not a number
    path.write_bytes(raw)
    with pytest.raises(openai.APIStatusError):
        asked(client, f"{MODEL}:pirate")
    assert asked(client, MODEL) and asked(client, f"{MODEL}:poet")


# two machines


def test_an_adapter_travels_and_knows_its_base(files: list[Path], tmp_path: Path) -> None:
    """Seeded by one process, pulled by another, used there; refused on any other base."""
    here, there = make_home(tmp_path / "here"), make_home(tmp_path / "there")
    imported(files[:1], here)
    with SeedProcess("pirate", home=here, command=("adapters", "seed")) as seed:
        assert seed.torrent["name"] == "pirate-LoRA-F32"
        pulled = bmrt(
            *("adapters", "pull", seed.magnet, "--peer", seed.peer, "--name", "mate", "--json"),
            home=there,
        )
        assert pulled.returncode == 0, pulled.stderr
        text = seed.stop()
    assert "can be found out" in text
    about = json.loads(pulled.stdout)
    base_id = json.loads((here / "adapters/pirate/adapter.json").read_bytes())["base_content_id"]
    assert about["base_content_id"] == base_id and len(base_id) == 64
    assert (there / "adapters" / "mate").stat().st_mode & 0o777 == 0o700
    ours = read_gguf_lora(here / "adapters/pirate/adapter.gguf")
    assert read_gguf_lora(there / "adapters/mate/adapter.gguf").digest == ours.digest
    assert said("--adapter", "mate", home=there) == said("--adapter", "pirate", home=here)
    changed = tmp_path / "changed.gguf"
    shutil.copy(find_model(None).path, changed)
    with changed.open("ab") as file:
        file.write(b"\0")
    error = error_of("run", str(changed), "Hello", "--adapter", "mate", home=there)
    assert error["code"] == "adapter.base" and error["hint"]


def test_what_is_no_adapter_is_not_pulled_as_one(tmp_path: Path) -> None:
    """A model, and an adapter that does not say whose it is."""
    here, there = make_home(tmp_path / "here"), make_home(tmp_path / "there")
    model = write(TinyModel("llama"), tmp_path / "tiny.gguf")
    nameless = tmp_path / "nameless.gguf"
    write_gguf_lora(random_adapter(model), nameless)
    for path, code in ((model, "adapter.type"), (nameless, "adapter.invalid")):
        with SeedProcess(path, home=here) as seed:
            error = error_of("adapters", "pull", seed.magnet, "--peer", seed.peer, home=there)
            assert error["code"] == code
        time.sleep(0.1)
    assert not (there / "adapters").exists() or not list((there / "adapters").iterdir())
