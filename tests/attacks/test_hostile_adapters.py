"""Adapters made to harm: refused with one line, before anything computes or is written."""

import json
import os
import pickle
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from raw_gguf import RawFile, RawTensor, scalar, string
from safetensors.numpy import load_file, save_file

from baremetalrt.core.errors import BareMetalError, IntegrityError, UsageError
from baremetalrt.core.units import MIB
from baremetalrt.node.adapter_shelf import AdapterShelf, check_base, parse_names, read_adapter
from baremetalrt.weights.adapters import module_patterns, store
from baremetalrt.weights.adapters.adapter import Adapter, LowRank, check_fits
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora, write_gguf_lora
from baremetalrt.weights.adapters.peft import read_peft, write_peft
from baremetalrt.weights.gguf import GGUFFile
from tiny_adapters import random_adapter
from tiny_models import TinyModel, write

D, F, R = 64, 64, 4


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def base(tmp_path: Path) -> GGUFFile:
    return GGUFFile.open(write(TinyModel("llama"), tmp_path / "base.gguf"))


# GGUF


def values(*shape: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).standard_normal(shape).astype("<f4").tobytes()


def good() -> RawFile:
    """A LoRA of rank 4 on the queries of block 0, which is read."""
    file = RawFile()
    for key, value in (
        ("general.type", string("adapter")),
        ("general.architecture", string("llama")),
        ("adapter.type", string("lora")),
        ("adapter.lora.alpha", scalar(6, 8.0)),
    ):
        file.set(key, value)
    file.tensors = [
        RawTensor("blk.0.attn_q.weight.lora_a", (D, R), values(D, R)),
        RawTensor("blk.0.attn_q.weight.lora_b", (R, F), values(R, F, seed=1)),
    ]
    return file


def with_tensors(*tensors: RawTensor) -> Callable[[RawFile], None]:
    return lambda file: setattr(file, "tensors", list(tensors))


def poisoned(number: float) -> Callable[[RawFile], None]:
    def poison(file: RawFile) -> None:
        data = bytearray(file.tensors[1].data)
        data[400:404] = struct.pack("<f", number)
        file.tensors[1].data = bytes(data)

    return poison


A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
SCALE = "blk.0.attn_q.weight.lora_row_scale"
HOSTILE_GGUF: dict[str, Callable[[RawFile], object]] = {
    "a model": lambda f: f.drop("general.type"),
    "another kind of adapter": lambda f: f.set("adapter.type", string("control_vector")),
    "an activated one": lambda f: f.set("adapter.alora.invocation_tokens", scalar(4, 1)),
    "no alpha": lambda f: f.drop("adapter.lora.alpha"),
    "alpha as a word": lambda f: f.set("adapter.lora.alpha", string("8")),
    "alpha that is no number": lambda f: f.set("adapter.lora.alpha", scalar(6, float("nan"))),
    "alpha without end": lambda f: f.set("adapter.lora.alpha", scalar(6, float("inf"))),
    "an absurd alpha": lambda f: f.set("adapter.lora.alpha", scalar(6, 1e30)),
    "a negative alpha": lambda f: f.set("adapter.lora.alpha", scalar(6, -1.0)),
    "no tensors": with_tensors(),
    "one factor": lambda f: f.tensors.pop(),
    "a tensor that is no factor": lambda f: f.tensors.append(
        RawTensor("blk.0.attn_q.weight", (D, F), values(D, F))
    ),
    "a magnitude of DoRA": lambda f: f.tensors.append(
        RawTensor("blk.0.attn_q.weight.lora_magnitude", (F,), values(F))
    ),
    "a scale of too few rows": lambda f: f.tensors.append(
        RawTensor(SCALE, (F - 1,), values(F - 1))
    ),
    "a scale for other rows": lambda f: f.tensors.append(
        RawTensor("blk.1.attn_q.weight.lora_row_scale", (F,), values(F))
    ),
    "a scale beside an adapted embedding": lambda f: f.tensors.extend(
        [
            RawTensor(SCALE, (F,), values(F)),
            RawTensor("token_embd.weight.lora_a", (R, D), values(R, D)),
            RawTensor("token_embd.weight.lora_b", (R, 300), values(R, 300)),
        ]
    ),
    "a scale that is no number": lambda f: f.tensors.append(
        RawTensor(SCALE, (F,), np.full(F, np.nan, np.float32).tobytes())
    ),
    "factors that do not belong together": with_tensors(
        RawTensor(A, (D, R), values(D, R)), RawTensor(B, (R + 1, F), values(R + 1, F))
    ),
    "factors the wrong way round": with_tensors(
        RawTensor(A, (R, D), values(R, D)), RawTensor(B, (F, R), values(F, R))
    ),
    "an absurd rank": with_tensors(
        RawTensor(A, (D, 1500), values(D, 1500)), RawTensor(B, (1500, F), values(1500, F))
    ),
    "a rank that is not in the file": with_tensors(
        RawTensor(A, (D, 1 << 30), b""), RawTensor(B, (1 << 30, F), b"")
    ),
    "four dimensions": with_tensors(
        RawTensor(A, (D, R, 1, 2), values(D, R, 2)), RawTensor(B, (R, F, 1, 2), values(R, F, 2))
    ),
    "experts in one factor alone": with_tensors(
        RawTensor(A, (D, R, 2), values(D, R, 2)), RawTensor(B, (R, F), values(R, F))
    ),
    "whole numbers": with_tensors(
        RawTensor(A, (D, R), values(D, R), type=26), RawTensor(B, (R, F), values(R, F), type=26)
    ),
    "not a number": poisoned(float("nan")),
    "infinity": poisoned(float("-inf")),
    "tensors behind the end": lambda f: setattr(f.tensors[1], "offset", 1 << 20),
}


def refused(call: Callable[[], object], *codes: str) -> BareMetalError:
    with pytest.raises((UsageError, IntegrityError)) as caught:
        call()
    error = caught.value
    assert error.message.isprintable() and len(error.message) <= 500
    assert not codes or error.code in codes, (error.code, error.message)
    return error


def test_the_model_of_these_attacks_is_read(base: GGUFFile, tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    path = tmp_path / "a.gguf"
    path.write_bytes(good().to_bytes())
    adapter = read_gguf_lora(path)
    check_fits(adapter, base)
    assert adapter.rank == R and adapter.scale_of("blk.0.attn_q.weight") == 2.0


@pytest.mark.parametrize("name", HOSTILE_GGUF)
def test_a_hostile_gguf_is_refused(name: str, base: GGUFFile, tmp_path: Path) -> None:
    """Wrong shapes, absurd ranks, numbers that are none: before ggml could end the process."""
    file = good()
    HOSTILE_GGUF[name](file)
    path = tmp_path / "a.gguf"
    path.write_bytes(file.to_bytes())
    refused(lambda: check_fits(read_gguf_lora(path), base))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A download that stopped: in the header, between tensors, within one."""
    whole = good().to_bytes()
    path = tmp_path / "a.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(lambda: read_gguf_lora(path), "adapter.invalid", "gguf.header", "gguf.magic")


def test_changed_headers_are_refused_or_harmless(base: GGUFFile, tmp_path: Path) -> None:
    """Random bytes of the header: an error of ours, or an adapter that fits and is finite."""
    whole = good().to_bytes()
    rng = random.Random(5)
    path = tmp_path / "a.gguf"
    num_refused = 0
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(4, 360)] = rng.randrange(256)
        path.write_bytes(raw)
        try:
            adapter = read_gguf_lora(path)
            check_fits(adapter, base)
        except (UsageError, IntegrityError):
            num_refused += 1
            continue
        assert all(np.isfinite(m.b_FR).all() for m in adapter.matrices.values())
    assert num_refused > 100


# does it fit?


def with_matrix(adapter: Adapter, name: str, width: int, rows: int) -> Adapter:
    rng = np.random.default_rng(0)
    m = LowRank(
        rng.standard_normal((R, width)).astype(np.float32),
        rng.standard_normal((rows, R)).astype(np.float32),
    )
    return replace(adapter, matrices={**adapter.matrices, name: m})


@pytest.mark.parametrize(
    ("name", "width", "rows"),
    [
        ("blk.0.attn_q.weight", 64, 65),
        ("blk.0.attn_q.weight", 32, 64),
        ("blk.2.attn_q.weight", 64, 64),
        ("blk.0.attn_norm.weight", 64, 1),
        ("blk.0.ffn_gate_up.weight", 64, 192),
        ("../../etc/passwd", 64, 64),
        ("rope_freqs.weight", 8, 8),
    ],
)
def test_targets_that_the_model_lacks_are_refused(
    name: str, width: int, rows: int, base: GGUFFile
) -> None:
    """By name and by shape: ggml would end the process on a product that does not fit."""
    adapter = with_matrix(random_adapter(base.path), name, width, rows)
    refused(lambda: check_fits(adapter, base), "adapter.misfit")


@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight"])
def test_factors_of_another_vocabulary_are_refused(name: str, tmp_path: Path) -> None:
    """Also for a head that the file does not have, because it is the embedding."""
    base = GGUFFile.open(write(TinyModel("llama", tied=True), tmp_path / "tied.gguf"))
    rows = base.tensors["token_embd.weight"].shape[1]
    check_fits(with_matrix(random_adapter(base.path), name, 64, rows), base)
    adapter = with_matrix(random_adapter(base.path), name, 64, rows + 1)
    refused(lambda: check_fits(adapter, base), "adapter.misfit")


def test_another_architecture_is_refused(base: GGUFFile, tmp_path: Path) -> None:
    """Even where every shape is the same: rows of queries lie in another order."""
    other = GGUFFile.open(write(TinyModel("seed_oss"), tmp_path / "other.gguf"))
    refused(lambda: check_fits(random_adapter(other.path), base), "adapter.architecture")


def test_a_card_that_names_another_base_is_refused(base: GGUFFile) -> None:
    """In the card alone, in the file alone, and where the two differ."""
    adapter = random_adapter(base.path)
    stored = store.add(replace(adapter, base_content_id="ab" * 32))
    refused(lambda: check_base(store.load(stored), base), "adapter.base")
    card = json.loads((stored.folder / "adapter.json").read_bytes())
    for claimed in ("cd" * 32, None):
        text = json.dumps(card | {"base_content_id": claimed})
        (stored.folder / "adapter.json").write_text(text)
        refused(lambda: check_base(store.load(stored), base), "adapter.base", "adapter.invalid")
    for damage in ("{", "[]", '{"name": 3}', "[" * 100_000, json.dumps(card | {"format": 99})):
        (stored.folder / "adapter.json").write_text(damage)
        refused(lambda: store.load(stored), "adapter.card")


# PEFT

KEY = "base_model.model.model.layers.0.self_attn.v_proj"


def peft_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {
        f"{KEY}.lora_A.weight": rng.standard_normal((R, D)).astype(np.float32),
        f"{KEY}.lora_B.weight": rng.standard_normal((32, R)).astype(np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    full = {"peft_type": "LORA", "r": R, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(full))
    return folder


def test_the_folder_of_these_attacks_is_read(base: GGUFFile, tmp_path: Path) -> None:
    assert read_peft(peft_folder(tmp_path / "peft"), base).rank == R


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"peft_type": "IA3"}, "adapter.unsupported"),
        ({"use_dora": True}, "adapter.invalid"),
        ({"use_qalora": True}, "adapter.unsupported"),
        ({"modules_to_save": ["lm_head"]}, "adapter.unsupported"),
        ({"bias": "all"}, "adapter.unsupported"),
        ({"lora_bias": True}, "adapter.unsupported"),
        ({"fan_in_fan_out": True}, "adapter.unsupported"),
        ({"init_lora_weights": "pissa_niter_16"}, "adapter.unsupported"),
        ({"layer_replication": [[0, 1]]}, "adapter.unsupported"),
        ({"r": 0}, "adapter.invalid"),
        ({"r": 1 << 40}, "adapter.invalid"),
        ({"r": 2.5}, "adapter.invalid"),
        ({"r": "4"}, "adapter.invalid"),
        ({"r": True}, "adapter.invalid"),
        ({"r": 8}, "adapter.invalid"),
        ({"lora_alpha": 0}, "adapter.invalid"),
        ({"lora_alpha": 1e300}, "adapter.invalid"),
        ({"lora_alpha": float("nan")}, "adapter.invalid"),
        ({"alpha_pattern": {"v_proj": float("inf")}}, "adapter.invalid"),
        ({"alpha_pattern": ["v_proj"]}, "adapter.invalid"),
        ({"alpha_pattern": {"(a+)+(": 3}}, "adapter.invalid"),
        ({"alpha_pattern": {f"({i}|a)+": 3 for i in range(300)}}, "adapter.invalid"),
        ({"alpha_pattern": {"(a|b)" * 1000: 3}}, "adapter.invalid"),
        ({"rank_pattern": {"v_proj": 0}}, "adapter.invalid"),
        ({"rank_pattern": {"v_proj": 2}}, "adapter.invalid"),
    ],
)
def test_a_hostile_configuration_is_refused(
    config: dict[str, Any], code: str, base: GGUFFile, tmp_path: Path
) -> None:
    """What is not plain LoRA is not computed as if it were; what is absurd is said to be."""
    folder = peft_folder(tmp_path / "peft", **config)
    error = refused(lambda: read_peft(folder, base), code)
    assert code != "adapter.unsupported" or error.hint


def test_an_expression_without_end_is_given_up(
    base: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of backtracking: the standard library's would not stop."""
    monkeypatch.setattr(module_patterns, "_DEADLINE_S", 0.2)
    endless = r"((\w|\w\w|\w\w\w|\.)+)+(?<!j)"
    folder = peft_folder(tmp_path / "peft", alpha_pattern={endless: 3})
    error = refused(lambda: read_peft(folder, base), "adapter.invalid")
    assert "too slow" in error.message


@pytest.mark.parametrize(
    "magnitudes", [np.ones(31), np.ones((32, 1)), np.full(32, np.nan), np.full(32, np.inf)]
)
def test_hostile_magnitudes_are_refused(
    magnitudes: NDArray[np.float64], base: GGUFFile, tmp_path: Path
) -> None:
    """Too few, of another shape, not finite."""
    folder = peft_folder(tmp_path / "peft", use_dora=True)
    with_magnitudes(folder, magnitudes)
    error = refused(lambda: read_peft(folder, base), "adapter.invalid")
    assert error.source == str(folder)
    with_magnitudes(folder, np.ones(32))
    assert read_peft(folder, base).is_dora


def with_magnitudes(folder: Path, magnitudes: NDArray[np.float64]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"{KEY}.lora_magnitude_vector"] = magnitudes.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_magnitudes_that_are_not_announced_are_refused(base: GGUFFile, tmp_path: Path) -> None:
    """And those for factors of another size than the matrix, before anything is multiplied."""
    folder = peft_folder(tmp_path / "peft")
    with_magnitudes(folder, np.ones(32))
    refused(lambda: read_peft(folder, base), "adapter.invalid")
    folder = peft_folder(tmp_path / "wide", use_dora=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"{KEY}.lora_A.weight"] = np.ones((R, D + 32), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    with_magnitudes(folder, np.ones(32))
    refused(lambda: read_peft(folder, base), "adapter.misfit")


def test_magnitudes_wait_for_the_weights(base: GGUFFile, tmp_path: Path) -> None:
    """Their lengths are those of rows that may not have arrived yet."""
    folder = peft_folder(tmp_path / "peft", use_dora=True)
    with_magnitudes(folder, np.ones(32))
    short = tmp_path / "short.gguf"
    short.write_bytes(base.path.read_bytes()[: base.tensors["blk.0.attn_v.weight"].start + 8])
    refused(lambda: read_peft(folder, GGUFFile.open(short)), "adapter.arriving")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_refused(raw: bytes, base: GGUFFile, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft")
    (folder / "adapter_config.json").write_bytes(raw)
    refused(lambda: read_peft(folder, base), "adapter.invalid")


def test_pickled_weights_are_never_read(base: GGUFFile, tmp_path: Path) -> None:
    """Neither in a folder nor named as a file: the program in them does not run."""
    marker = tmp_path / "ran"

    class Program:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    folder = peft_folder(tmp_path / "peft")
    (folder / "adapter_model.safetensors").unlink()
    for name in ("adapter_model.bin", "adapter_model.pt"):
        for other in folder.glob("adapter_model*"):
            other.unlink()
        (folder / name).write_bytes(pickle.dumps(Program()))
        for path in (folder, folder / name):
            error = refused(lambda path=path: read_adapter(path, base), "adapter.invalid")
            assert "pickled" in error.message and "safetensors" in (error.hint or "")
    assert not marker.exists()


def tensors_of(base: GGUFFile, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    plain = {
        f"{KEY}.lora_A.weight": rng.standard_normal((R, D)).astype(np.float32),
        f"{KEY}.lora_B.weight": rng.standard_normal((32, R)).astype(np.float32),
    }
    return {n: t for n, t in (plain | more).items() if t is not None}


ZEROS = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    "change",
    [
        {f"{KEY}.lora_B.weight": None},
        {f"{KEY}.lora_magnitude_vector": np.ones(32, np.float32)},
        {"base_model.model.lm_head.weight": ZEROS},
        {f"{KEY}.lora_B.weight": np.full((32, R), np.nan, np.float32)},
        {f"{KEY}.lora_A.weight": np.full((R, D), np.inf, np.float32)},
        {f"{KEY}.lora_A.weight": np.zeros((R, D), np.int32)},
        {f"{KEY}.lora_A.weight": np.zeros((R, D, 1), np.float32)},
        {f"{KEY}.lora_A.weight": np.zeros((R + 1, D), np.float32)},
        {f"{KEY}.lora_B.weight": np.zeros((32, R + 1), np.float32)},
        {
            "base_model.model.vision.encoder.lora_A.weight": ZEROS,
            "base_model.model.vision.encoder.lora_B.weight": ZEROS,
        },
        {
            "base_model.model.model.layers.99.mlp.up_proj.lora_A.weight": ZEROS,
            "base_model.model.model.layers.99.mlp.up_proj.lora_B.weight": ZEROS,
        },
        {
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ZEROS,
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": ZEROS[:3],
        },
    ],
    ids=range(12),
)
def test_hostile_tensors_are_refused(
    change: dict[str, Any], base: GGUFFile, tmp_path: Path
) -> None:
    """One factor, no number, no float, no shape, no such module."""
    folder = peft_folder(tmp_path / "peft")
    save_file(tensors_of(base, **change), folder / "adapter_model.safetensors")
    codes = ("adapter.invalid", "adapter.misfit", "adapter.unsupported")
    refused(lambda: check_fits(read_peft(folder, base), base), *codes)


def test_damaged_safetensors_are_refused(base: GGUFFile, tmp_path: Path) -> None:
    """Truncated anywhere, with a header that lies, or of another kind altogether."""
    folder = peft_folder(tmp_path / "peft")
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    lies = [
        struct.pack("<Q", 1 << 60) + whole[8:],
        struct.pack("<Q", 8) + b"{" * 8,
        whole.replace(b'"shape":[4,64]', b'"shape":[4,65]'),
        whole.replace(b'"F32"', b'"F99"'),
        b"PK\x03\x04" + whole,
    ]
    for raw in [*(whole[:n] for n in range(0, len(whole), 97)), *lies]:
        path.write_bytes(raw)
        refused(lambda: read_peft(folder, base), "adapter.invalid")


# names


def test_clients_of_a_server_name_no_paths(base: GGUFFile, tmp_path: Path) -> None:
    """What stands behind the colon is a name of the store, whatever it looks like."""
    path = tmp_path / "a.gguf"
    write_gguf_lora(random_adapter(base.path), path)
    shelf = AdapterShelf()
    for text in (
        str(path),
        "../adapters/x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\0b",
        "~",
        "~x",
        "x" * 5000,
    ):
        for choice in parse_names(text):
            found = refused(
                lambda c=choice: shelf.find(c.reference, base, allow_paths=False),
                "adapter.not-found",
            )
            assert found.hint
    assert shelf.find(str(path), base, allow_paths=True).rank == R


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a+b", "a=1", "a:b", "-x", "x" * 65]
)
def test_names_that_mean_something_else_are_refused(name: str, base: GGUFFile) -> None:
    """To the file system, to the API, or to a command line."""
    adapter = replace(random_adapter(base.path), name=name)
    refused(lambda: store.add(adapter), "adapter.name")


def test_an_exported_folder_says_nothing_of_this_machine(base: GGUFFile, tmp_path: Path) -> None:
    """The base by its last name, no path, no time, no user."""
    folder = peft_folder(
        tmp_path / "peft", base_model_name_or_path="/home/somebody/secret/models/Tiny-1B"
    )
    adapter = read_peft(folder, base)
    assert adapter.base_name == "Tiny-1B"
    write_peft(adapter, tmp_path / "out", base)
    for path in (tmp_path / "out").iterdir():
        raw = path.read_bytes()
        assert b"somebody" not in raw and bytes(tmp_path) not in raw


# files that are none


def test_what_is_no_file_is_not_read(base: GGUFFile, tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device without end, in the place of any part of an adapter."""
    stored = store.add(replace(random_adapter(base.path), name="mine"))
    for number, (make, said) in enumerate(PLACEHOLDERS.items()):
        path = tmp_path / f"{number}.gguf"
        make(path)
        error = refused(lambda p=path: read_adapter(p, base), *UNREADABLE)
        assert said in error.message
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            folder = peft_folder(tmp_path / f"{number}-{name}")
            (folder / name).unlink()
            make(folder / name)
            error = refused(lambda f=folder: read_peft(f, base), "adapter.unreadable")
            assert said in error.message.lower()
        folder = peft_folder(tmp_path / f"{number}-index")
        (folder / "adapter_model.safetensors").unlink()
        make(folder / "adapter_model.safetensors.index.json")
        refused(lambda f=folder: read_peft(f, base), "adapter.unreadable")
        for name in ("adapter.json", "adapter.gguf"):
            kept = (stored.folder / name).read_bytes()
            (stored.folder / name).unlink()
            make(stored.folder / name)
            refused(
                lambda: store.load(stored), "adapter.card", "model.unreadable", "model.not-found"
            )
            if (stored.folder / name).is_dir():
                (stored.folder / name).rmdir()
            else:
                (stored.folder / name).unlink()
            (stored.folder / name).write_bytes(kept)
    assert store.load(stored).rank == R


UNREADABLE = ("model.unreadable", "model.not-found", "adapter.unreadable")


def to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def to_itself(path: Path) -> None:
    path.symlink_to(path)


PLACEHOLDERS: dict[Callable[[Path], object], str] = {
    os.mkfifo: "a pipe",
    to_zero: "a device",
    to_itself: "",
    Path.mkdir: "",
}


def test_huge_and_empty_files_are_refused_at_once(base: GGUFFile, tmp_path: Path) -> None:
    """1 TiB of nothing is neither read nor mapped into memory."""
    for size in (0, 1 << 40):
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            folder = peft_folder(tmp_path / f"{size}-{name}")
            os.truncate(folder / name, 0)
            os.truncate(folder / name, size)
            tracemalloc.start()
            refused(lambda f=folder: read_peft(f, base), "adapter.invalid", "adapter.unreadable")
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
            tracemalloc.stop()
        path = tmp_path / f"{size}.gguf"
        path.touch()
        os.truncate(path, size)
        refused(lambda p=path: read_adapter(p, base), "gguf.magic")


def test_a_folder_of_links_is_read(base: GGUFFile, tmp_path: Path) -> None:
    """Caches of what was fetched keep the files elsewhere, and folders that link to them."""
    folder = peft_folder(tmp_path / "peft")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert read_peft(linked, base).digest == read_peft(folder, base).digest
