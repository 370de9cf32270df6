"""Adapters on disk: PEFT and GGUF, cards, the store, the name of a base, merging."""

import asyncio
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from architecture_cases import CASES
from baremetalrt.blocks.architectures import ARCHITECTURES
from baremetalrt.core.errors import UsageError
from baremetalrt.native.gguf import type_name
from baremetalrt.native.graph import ROPE_INTERLEAVED
from baremetalrt.native.tensor_types import can_dequantize, can_quantize, dequantize, quantize
from baremetalrt.node.adapter_shelf import (
    AdapterChoice,
    AdapterShelf,
    check_base,
    parse_choice,
    parse_names,
)
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.swarm.publishing import PublishOptions, publish
from baremetalrt.weights.adapters import names, store
from baremetalrt.weights.adapters.adapter import Adapter, LowRank
from baremetalrt.weights.adapters.card import DifferentialPrivacy
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora, write_gguf_lora
from baremetalrt.weights.adapters.merge import MERGED_KEY, merge
from baremetalrt.weights.adapters.merge_types import MergeType
from baremetalrt.weights.adapters.peft import read_peft, write_peft
from baremetalrt.weights.adapters.store import StoredAdapter
from baremetalrt.weights.content import content_id, known_content_id
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import find_model
from tiny_adapters import random_adapter, write_adapter
from tiny_models import TinyModel, write


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def model(tmp_path: Path, tiny: TinyModel) -> GGUFFile:
    return GGUFFile.open(write(tiny, tmp_path / "model.gguf"))


def write_folder(folder: Path, tensors: dict[str, NDArray[np.float32]], **config: object) -> Path:
    """A PEFT folder as `peft` leaves it."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    full = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(full))
    return folder


def pair(rank: int, width: int, rows: int, seed: int = 0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(shape).astype(np.float32) for shape in ((rank, width), (rows, rank))
    ]


def delta(m: LowRank, scale: float) -> NDArray[np.float32]:
    return m.b_FR @ m.a_RD * np.float32(scale)


# PEFT


def reorder(w: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys as GGUF stores them, by the definition: row 2i+h of a head was h*S/2+i."""
    size = len(w) // heads
    out = np.empty_like(w)
    for head in range(heads):
        for i in range(size // 2):
            for half in range(2):
                out[head * size + 2 * i + half] = w[head * size + half * size // 2 + i]
    return out


@pytest.mark.parametrize(("module", "heads"), [("q_proj", 4), ("k_proj", 2)])
def test_queries_and_keys_are_reordered_like_the_weights(
    module: str, heads: int, tmp_path: Path
) -> None:
    """P (W + s B A) = P W + s (P B) A: what is added to the rows of GGUF is what was trained."""
    file = model(tmp_path, TinyModel("llama"))
    a, b = pair(4, 64, heads * 16)
    key = f"base_model.model.model.layers.1.self_attn.{module}"
    folder = write_folder(tmp_path / "peft", {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b})
    adapter = read_peft(folder, file)
    tensor = f"blk.1.attn_{module[0]}.weight"
    w_hf = np.random.default_rng(5).standard_normal((heads * 16, 64)).astype(np.float32)
    trained = reorder(w_hf + 2.0 * (b @ a), heads)
    found = reorder(w_hf, heads) + delta(adapter.matrices[tensor], adapter.scale_of(tensor))
    np.testing.assert_allclose(found, trained, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(adapter.matrices[tensor].b_FR, b)


def test_rows_are_reordered_where_positions_are_interleaved() -> None:
    """The table of names agrees with the rope that the engine computes."""
    interleaved = {n for n, a in ARCHITECTURES.items() if a.rope_mode == ROPE_INTERLEAVED}
    assert interleaved == names.PERMUTED
    assert names.known_architectures() == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_matrix_goes_to_peft_and_back(architecture: str, tmp_path: Path) -> None:
    """For every architecture; experts have no place there, and are left out here."""
    file = model(tmp_path, CASES[architecture])
    adapter = random_adapter(
        file.path,
        targets=lambda name: not name.endswith("_exps.weight"),
        rank=3,
        alpha=5.0,
        base_content_id="ab" * 32,
    )
    write_peft(adapter, tmp_path / "peft", file)
    back = read_peft(tmp_path / "peft", file)
    assert back.matrices.keys() == adapter.matrices.keys() and len(back.matrices) >= 8
    assert back.base_content_id == "ab" * 32
    for name, m in adapter.matrices.items():
        assert back.scale_of(name) == pytest.approx(adapter.scale_of(name))
        np.testing.assert_array_equal(back.matrices[name].a_RD, m.a_RD)
        np.testing.assert_array_equal(back.matrices[name].b_FR, m.b_FR)


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma3"])
def test_magnitudes_go_to_peft_and_back(architecture: str, tmp_path: Path) -> None:
    """Of DoRA there are lengths of rows in PEFT, and what rows are multiplied by in GGUF."""
    file = model(tmp_path, CASES[architecture])
    plain = random_adapter(file.path, targets=lambda name: name.startswith("blk."), rank=3)
    scaled = {
        name: replace(m, row_scale_F=np.linspace(0.5, 2.0, len(m.b_FR), dtype=np.float32))
        for name, m in plain.matrices.items()
    }
    adapter = replace(plain, matrices=scaled)
    write_peft(adapter, tmp_path / "peft", file)
    write_gguf_lora(adapter, tmp_path / "adapter.gguf")
    for back in (read_peft(tmp_path / "peft", file), read_gguf_lora(tmp_path / "adapter.gguf")):
        assert back.is_dora and back.matrices.keys() == adapter.matrices.keys()
        for name, m in scaled.items():
            found = back.matrices[name]
            assert found.row_scale_F is not None and m.row_scale_F is not None
            np.testing.assert_allclose(found.row_scale_F, m.row_scale_F, rtol=1e-4)
            np.testing.assert_allclose(found.b_FR, m.b_FR, rtol=1e-4, atol=1e-6)
    assert adapter.digest != plain.digest
    assert adapter.num_bytes > plain.num_bytes


def test_alpha_rank_and_their_patterns_scale_each_matrix(tmp_path: Path) -> None:
    """Also with rank-stabilized scaling; one alpha in GGUF says the same."""
    file = model(tmp_path, TinyModel("qwen2", biases=True))
    tensors, pairs = {}, {}
    for layer, module, rank, width, rows in (
        (0, "self_attn.q_proj", 4, 64, 64),
        (0, "mlp.down_proj", 2, 96, 64),
        (1, "mlp.down_proj", 4, 96, 64),
        (1, "self_attn.v_proj", 4, 64, 32),
    ):
        a, b = pair(rank, width, rows, seed=layer + rank)
        key = f"model.layers.{layer}.{module}"
        tensors[f"base_model.model.{key}.lora_A.weight"] = a
        tensors[f"base_model.model.{key}.lora_B.weight"] = b
        pairs[key] = a, b
    patterns = {
        "rank_pattern": {"layers.0.mlp.down_proj": 2},
        "alpha_pattern": {"v_proj": 32},
    }
    targets = {
        "model.layers.0.self_attn.q_proj": ("blk.0.attn_q.weight", 8, 4),
        "model.layers.0.mlp.down_proj": ("blk.0.ffn_down.weight", 8, 2),
        "model.layers.1.mlp.down_proj": ("blk.1.ffn_down.weight", 8, 4),
        "model.layers.1.self_attn.v_proj": ("blk.1.attn_v.weight", 32, 4),
    }
    for stabilized in (False, True):
        folder = write_folder(tmp_path / "peft", tensors, use_rslora=stabilized, **patterns)
        adapter = read_peft(folder, file)
        write_gguf_lora(adapter, tmp_path / "a.gguf")
        for found in (adapter, read_gguf_lora(tmp_path / "a.gguf")):
            for key, (tensor, alpha, rank) in targets.items():
                a, b = pairs[key]
                expected = b @ a * (alpha / (rank**0.5 if stabilized else rank))
                ours = delta(found.matrices[tensor], found.scale_of(tensor))
                np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_is_read(tmp_path: Path) -> None:
    """F16 and BF16, which numpy does not have: what fine-tuners save most."""
    file = model(tmp_path, TinyModel("qwen2", biases=True))
    a, b = pair(4, 64, 64)
    key = "base_model.model.model.layers.0.self_attn.o_proj"
    half = {
        f"{key}.lora_A.weight": a.astype(np.float16),
        f"{key}.lora_B.weight": b.astype(np.float16),
    }
    folder = write_folder(tmp_path / "peft", half)
    m = read_peft(folder, file).matrices["blk.0.attn_output.weight"]
    np.testing.assert_array_equal(m.a_RD, a.astype(np.float16).astype(np.float32))
    bits = {n: (v.view(np.uint32) >> 16).astype("<u2") for n, v in (("A", a), ("B", b))}
    header, data, at = {}, b"", 0
    for n, raw in bits.items():
        header[f"{key}.lora_{n}.weight"] = {
            "dtype": "BF16",
            "shape": list(raw.shape),
            "data_offsets": [at, at + raw.nbytes],
        }
        data += raw.tobytes()
        at += raw.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    m = read_peft(folder, file).matrices["blk.0.attn_output.weight"]
    expected = (a.view(np.uint32) >> 16 << 16).view(np.float32)
    np.testing.assert_array_equal(m.a_RD, expected)


def test_experts_become_one_tensor(tmp_path: Path) -> None:
    """One module each in a PEFT folder; those that are not adapted get zeros."""
    file = model(tmp_path, CASES["qwen3moe"])
    tensors = {}
    for expert in (1, 6):
        key = f"base_model.model.model.layers.0.mlp.experts.{expert}.down_proj"
        a, b = pair(4, 96, 64, seed=expert)
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a, b
    m = read_peft(write_folder(tmp_path / "peft", tensors), file).matrices[
        "blk.0.ffn_down_exps.weight"
    ]
    assert m.a_RD.shape == (8, 4, 96) and m.b_FR.shape == (8, 64, 4)
    np.testing.assert_array_equal(m.b_FR[6], pair(4, 96, 64, seed=6)[1])
    assert not m.a_RD[0].any() and m.a_RD[1].any()


# base


@pytest.mark.parametrize("size", [1, 16384, 16385, 100_000, 1 << 20])
def test_a_base_is_named_as_its_torrent_names_it(size: int, tmp_path: Path) -> None:
    """The v2 root, without making a torrent; remembered until the file changes."""
    path = write(TinyModel("llama", num_blocks=1), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes() + np.random.default_rng(size).bytes(size))
    file = GGUFFile.open(path)
    assert known_content_id(file) is None
    found = content_id(file)
    assert found == publish(file, PublishOptions()).content_id
    assert known_content_id(file) == found
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert known_content_id(file) is None and content_id(file) != found


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    """Same architecture, same shapes, other bytes: every quantization is a model of its own."""
    file = GGUFFile.open(write(TinyModel("llama"), tmp_path / "a.gguf"))
    other = GGUFFile.open(write(TinyModel("llama", seed=3), tmp_path / "b.gguf"))
    adapter = random_adapter(file.path, base_content_id=content_id(file))
    check_base(adapter, file)
    with pytest.raises(UsageError) as caught:
        check_base(adapter, other)
    assert caught.value.code == "adapter.base" and content_id(other)[:12] in caught.value.message


def test_choices_are_names_with_weights() -> None:
    assert parse_choice("pirate").scale == 1.0
    assert [(c.reference, c.scale) for c in parse_names("a=0.5+b+c=-1")] == [
        ("a", 0.5),
        ("b", 1.0),
        ("c", -1.0),
    ]
    for wrong in ("a=", "a=much", "a=nan", "a=1e9"):
        with pytest.raises(UsageError) as caught:
            parse_choice(wrong)
        assert caught.value.code == "adapter.scale"


# store


def test_the_store_is_its_owners_alone(home: Path, tmp_path: Path) -> None:
    """Folders 0700, files 0600, nothing half-written, and the card says what the file says."""
    file = model(tmp_path, TinyModel("llama"))
    adapter = random_adapter(file.path, base_content_id=content_id(file))
    stored = store.add(adapter, privacy=DifferentialPrivacy(epsilon=3.0, delta=1e-5))
    assert {p.name for p in (home / "adapters").iterdir()} == {adapter.name}
    assert stored.folder.stat().st_mode & 0o777 == 0o700
    assert (home / "adapters").stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in stored.folder.iterdir()} == {
        "adapter.gguf": 0o600,
        "adapter.json": 0o600,
    }
    card = stored.card()
    assert card.base_content_id == content_id(file) and card.rank == 4
    assert card.privacy == DifferentialPrivacy(epsilon=3.0, delta=1e-5)
    assert store.load(store.find_adapter(adapter.name.upper())).digest == adapter.digest
    with pytest.raises(UsageError) as caught:
        store.add(adapter)
    assert caught.value.code == "adapter.exists"
    store.remove(stored)
    assert not list((home / "adapters").iterdir())


def test_a_trained_folder_is_completed(home: Path, tmp_path: Path) -> None:
    """PEFT files alone become an adapter that can be used, and whose card says how private it is."""
    file = model(tmp_path, TinyModel("llama"))
    folder = home / "adapters" / "mine"
    write_peft(random_adapter(file.path), folder, file)
    assert store.stored_adapters() == []
    store.complete_trained(folder, file, base_name="tiny")
    card = store.find_adapter("mine").card()
    assert card.privacy == "not differentially private" and card.base_name == "tiny"
    assert store.load(store.find_adapter("mine")).base_content_id == content_id(file)


# merging


@pytest.mark.parametrize("name", ["llama", "llama-tied", "phi3", "mixtral", "gemma2"])
def test_a_merged_file_holds_the_sum(name: str, tmp_path: Path) -> None:
    """Every adapted matrix is W + s B A to the last bit but one, every other byte is as it was."""
    file = model(tmp_path, CASES[name])
    one = random_adapter(file.path, seed=1, targets=lambda n: "attn_k" not in n)
    two = random_adapter(
        file.path, seed=2, rank=2, targets=lambda n: "blk.1" in n and "_q" not in n
    )
    target = tmp_path / "merged.gguf"
    assert merge(file, [(one, 0.5), (two, -1.0)], target).kept == pytest.approx(1, rel=1e-4)
    merged = GGUFFile.open(target)
    assert merged.get(MERGED_KEY) is not None and "tiny-1 * 0.5" in str(merged.get(MERGED_KEY))
    old, new = file.path.read_bytes(), target.read_bytes()
    assert file.tensors.keys() == merged.tensors.keys()
    changed = 0
    for tensor, info in file.tensors.items():
        moved = merged.tensors[tensor]
        before = np.frombuffer(old[info.start : info.start + info.num_bytes], np.float32)
        after = np.frombuffer(new[moved.start : moved.start + moved.num_bytes], np.float32)
        expected = before.copy()
        for adapter, scale in ((one, 0.5), (two, -1.0)):
            if tensor in adapter.matrices:
                m = adapter.matrices[tensor]
                expected += (m.b_FR @ m.a_RD * scale * adapter.scale_of(tensor)).ravel()
                changed += 1
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-5)
        if tensor not in one.matrices and tensor not in two.matrices:
            assert before.tobytes() == after.tobytes()
    assert changed == len(one.matrices) + len(two.matrices)
    for refused, code in ((target, "file.exists"), (tmp_path / "again.gguf", "merge.twice")):
        with pytest.raises(UsageError) as caught:
            merge(merged if code == "merge.twice" else file, [(one, 1.0)], refused)
        assert caught.value.code == code


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_merging_says_how_much_is_left(strength: float, tmp_path: Path) -> None:
    """Steps of four bits swallow most of a small change, and little of a large one."""
    tiny = TinyModel("llama", weights="Q4_0", width=256, head_size=64, feed_forward_width=512)
    file = model(tmp_path, tiny)
    adapter = random_adapter(file.path, strength=strength, targets=lambda n: "ffn_up" in n)
    kept = merge(file, [(adapter, 1.0)], tmp_path / "merged.gguf", type_="same").kept
    merged = GGUFFile.open(tmp_path / "merged.gguf")
    along = whole = 0.0
    for name, m in adapter.matrices.items():
        old, new = (
            dequantize(
                np.fromfile(f.path, np.uint8, t.num_bytes, offset=t.start), t.type, t.shape[0]
            ).copy()
            for f, t in ((f, f.tensors[name]) for f in (file, merged))
        )
        change = delta(m, adapter.scale_of(name))
        along, whole = along + np.vdot(change, new - old), whole + np.vdot(change, change)
    assert kept == pytest.approx(along / whole, rel=1e-3, abs=1e-3)
    assert kept < 0.5 if strength < 0.1 else kept > 0.9


@pytest.mark.parametrize("weights", ["Q4_0", "Q4_K", "Q8_0", "F16"])
def test_a_matrix_gets_the_bits_that_keep_the_change(weights: str, tmp_path: Path) -> None:
    """A small change: what else is in the file stays as it is, also where it moved."""
    tiny = TinyModel("llama", weights=weights, width=256, head_size=64, feed_forward_width=512)
    file = model(tmp_path, tiny)
    adapter = random_adapter(file.path, strength=0.002, targets=lambda n: "ffn_up" in n)
    lost = merge(file, [(adapter, 1.0)], tmp_path / "same.gguf", type_="same")
    assert lost.num_retyped == 0
    merged = merge(file, [(adapter, 1.0)], tmp_path / "merged.gguf")
    assert merged.kept > 0.95 and merged.num_adapted == len(adapter.matrices)
    assert (merged.num_retyped > 0) == (lost.kept < 0.95) == (weights != "F16")
    found = GGUFFile.open(tmp_path / "merged.gguf")
    for name, info in file.tensors.items():
        moved = found.tensors[name]
        old, new = (
            np.fromfile(f.path, np.uint8, t.num_bytes, offset=t.start)
            for f, t in ((file, info), (found, moved))
        )
        if name not in adapter.matrices:
            assert moved.type == info.type
            np.testing.assert_array_equal(old, new)
            continue
        change = delta(adapter.matrices[name], adapter.scale_of(name))
        came = dequantize(new, moved.type, info.shape[0]) - dequantize(
            old, info.type, info.shape[0]
        )
        assert np.vdot(change, came) > 0.95 * np.vdot(change, change)
    assert found.num_bytes == (tmp_path / "merged.gguf").stat().st_size


@pytest.mark.parametrize("type_", ["q8_0", "f16", "bf16", "f32"])
def test_adapted_matrices_get_the_type_that_is_asked_for(type_: MergeType, tmp_path: Path) -> None:
    tiny = TinyModel("llama", weights="Q4_0", width=256, head_size=64, feed_forward_width=512)
    file = model(tmp_path, tiny)
    adapter = random_adapter(file.path, strength=0.1, targets=lambda n: "attn" in n)
    merged = merge(file, [(adapter, 1.0)], tmp_path / "merged.gguf", type_=type_)
    assert merged.num_retyped == merged.num_adapted == 8 and merged.kept > 0.95
    found = GGUFFile.open(tmp_path / "merged.gguf")
    assert {found.tensors[n].type_name for n in adapter.matrices} == {type_}
    narrow = GGUFFile.open(write(TinyModel("llama", width=48, head_size=12), tmp_path / "n.gguf"))
    adapter = random_adapter(narrow.path, targets=lambda n: "attn_q" in n)
    if type_ == "q8_0":
        with pytest.raises(UsageError) as caught:
            merge(narrow, [(adapter, 1.0)], tmp_path / "narrow.gguf", type_=type_)
        assert caught.value.code == "merge.type" and caught.value.hint


def test_merging_keeps_the_type_of_each_tensor(tmp_path: Path) -> None:
    """Q4_0 stays Q4_0, in the same order and size; the line of metadata moves all tensors alike."""
    tiny = TinyModel("llama", weights="Q4_0", width=256, head_size=64, feed_forward_width=512)
    file = model(tmp_path, tiny)
    nothing = random_adapter(file.path, strength=0.0)
    assert merge(file, [(nothing, 1.0)], tmp_path / "same.gguf").kept == 1
    merged = GGUFFile.open(tmp_path / "same.gguf")
    offset = merged.data_offsets[0] - file.data_offsets[0]
    assert {n: (t.type, t.start) for n, t in merged.tensors.items()} == {
        n: (t.type, t.start + offset) for n, t in file.tensors.items()
    }
    assert (tmp_path / "same.gguf").stat().st_size == file.path.stat().st_size + offset


def test_rank_one_is_a_matrix(tmp_path: Path) -> None:
    """For ggml a factor of one row is a vector; it is none here."""
    file = model(tmp_path, TinyModel("llama"))
    adapter = random_adapter(file.path, rank=1)
    back = read_gguf_lora(write_adapter(adapter, tmp_path / "a.gguf"), name=adapter.name)
    assert isinstance(back, Adapter) and back.digest == adapter.digest and back.rank == 1


def test_what_left_the_store_leaves_memory(home: Path) -> None:
    """An adapter that is replaced or removed is unloaded once nobody uses it, without a restart."""
    node = Node(ModelOptions(context=256, num_threads=1))
    loaded = node.load(Opening(find_model(None)))
    stage = loaded.route.stages[0]
    span = loaded._spans[0]
    shelf = AdapterShelf()

    def add(name: str, seed: int) -> StoredAdapter:
        made = random_adapter(loaded.path, seed=seed, targets=lambda n: "blk.0.attn_q" in n)
        return store.add(replace(made, name=name))

    def use(name: str) -> None:
        adapters = shelf.adapt(loaded, [AdapterChoice(name)]).adapters
        place = asyncio.run(stage.open_adapted([1, 2, 3], 16, adapters))
        stage.release(place, keep=True)

    first = add("one", 1)
    add("two", 2)
    use("one")
    use("two")
    use("one")
    assert len(span.adapters.keys) == 2
    store.remove(first)
    with pytest.raises(UsageError):
        use("one")
    assert len(span.adapters.keys) == 1
    add("one", 3)
    use("one")
    assert len(span.adapters.keys) == 2
    node.close()


# numbers of every type


@pytest.mark.parametrize("type_", range(43))
def test_every_type_is_converted_or_refused(type_: int) -> None:
    """Never does the library end the process over a type; what is quantized comes back nearly so."""
    if not (can_dequantize(type_) and can_quantize(type_)):
        return
    values = np.random.default_rng(type_).standard_normal((4, 512)).astype(np.float32)
    back = dequantize(quantize(values, type_), type_, 512)
    assert back.shape == values.shape and np.isfinite(back).all()
    assert np.sqrt(np.mean((back - values) ** 2)) < 0.9  # ternary ones keep the largest alone


def test_the_common_types_can_be_merged() -> None:
    """F32, F16, BF16, and what llama.cpp makes without statistics; not what needs them."""
    named = {type_name(i) for i in range(43) if can_dequantize(i) and can_quantize(i)}
    common = {"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}
    assert common | {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"} <= named
    assert not named & {"iq2_xxs", "iq2_xs", "iq1_s", "q8_1", "q8_k", "i32", "f64"}


def test_plain_inference_loads_nothing_for_adapters() -> None:
    """Neither safetensors nor hashing: the first token does not wait for what nobody asked for."""
    program = (
        "import sys; import baremetalrt.node.node, baremetalrt.cli.run; "
        "print(*(m for m in ('safetensors', 'torch', 'baremetalrt.weights.adapters.peft', "
        "'baremetalrt.node.adapter_shelf') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == []
