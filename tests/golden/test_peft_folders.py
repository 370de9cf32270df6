"""Folders as `peft` itself saves them, with what people write into its configuration: the same logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from architecture_cases import CASES, WIDE, tokens_of
from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.node.adapter_files import export_adapter, import_adapter
from baremetalrt.weights.adapters.adapter import Adapter, check_fits
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora, write_gguf_lora
from baremetalrt.weights.adapters.merge import merge
from baremetalrt.weights.adapters.peft import read_peft, write_peft
from baremetalrt.weights.gguf import GGUFFile
from golden.test_adapter_logits import assert_close, differ, run
from golden.test_tuning import HALF_PRECISION
from plain_tuning import plain_model
from tiny_models import TinyModel, write
from tiny_spans import open_span

LENGTH = 40
# Strong adapters enlarge what keys and values in half precision take away.
TOLERANCE = 2 * HALF_PRECISION
WEIGHTS = "adapter_model.safetensors"


def saved_by_peft(path: Path, folder: Path, model: TinyModel, **config: Any) -> Any:
    """The logits of a random adapter in `peft`, which then saves it."""
    network = plain_model(path)
    full = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    adapted = peft.get_peft_model(network, peft.LoraConfig(**full))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=0.08)
    adapted.eval()
    with torch.no_grad():
        ids = torch.from_numpy(tokens_of(model, LENGTH)[None].astype(np.int64))
        logits = adapted(input_ids=ids).logits[0].numpy()
    adapted.save_pretrained(str(folder))
    return logits


def ours(path: Path, adapter: Adapter | None, model: TinyModel) -> Any:
    span = open_span(path, num_cells=4096)
    members = AdapterSet((WeightedAdapter(adapter),)) if adapter else None
    logits = run(span, tokens_of(model, LENGTH), (LENGTH,), members)
    span.close()
    return logits


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "both-and-queries": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "head-by-expression": {"target_modules": r".*(lm_head|v_proj)$"},
    "tied-on-purpose": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "rank-by-expression": {
        "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"],
        "rank_pattern": {r".*\.layers\.0\..*(q_proj|k_proj)$": 6, "layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {r"(?!.*\.0\.).*down_proj": 32, "^model.layers.0.self_attn.v_proj": 3},
    },
    # In the order in which `peft` writes them down.
    "first-of-two-patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {r"layers\.\d\.self_attn\.q_proj": 2, "proj": 5, "q_proj": 6},
        "alpha_pattern": {r"^model\.layers\.0\..*": 16, "v_proj": 2},
        "use_rslora": True,
    },
    "dora-head": {"target_modules": ["lm_head", "o_proj"], "use_dora": True},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_a_folder_computes_what_peft_computes(
    name: str, configuration: str, tmp_path: Path
) -> None:
    """Heads, embeddings and patterns; where embedding and head are one, each has its own factors."""
    model = CASES[name]
    path = write(model, tmp_path / "model.gguf")
    theirs = saved_by_peft(path, tmp_path / "peft", model, **CONFIGURATIONS[configuration])
    base = GGUFFile.open(path)
    adapter = read_peft(tmp_path / "peft", base)
    check_fits(adapter, base)
    assert differ(ours(path, None, model), theirs) > 0.05
    assert_close(ours(path, adapter, model), theirs, TOLERANCE)
    write_gguf_lora(adapter, tmp_path / "a.gguf")
    write_peft(adapter, tmp_path / "again", base)
    for back in (read_gguf_lora(tmp_path / "a.gguf"), read_peft(tmp_path / "again", base)):
        assert_close(ours(path, back, model), theirs, TOLERANCE)


@pytest.mark.filterwarnings("ignore")
def test_embeddings_that_were_saved_beside_are_compared_and_left(tmp_path: Path) -> None:
    """In full precision, beside a base of four bits; one row that was trained is too much."""
    model = replace(CASES["llama"], **WIDE)
    full = write(model, tmp_path / "full.gguf")
    base = GGUFFile.open(write(replace(model, weights="Q4_0"), tmp_path / "base.gguf"))
    folder = tmp_path / "peft"
    saved_by_peft(full, folder, model, target_modules=["embed_tokens", "lm_head", "q_proj"])
    tensors = load_file(folder / WEIGHTS)
    (embedding,) = (n for n in tensors if n.endswith("embed_tokens.base_layer.weight"))
    assert "base_model.model.lm_head.base_layer.weight" in tensors
    assert set(read_peft(folder, base).matrices) >= {"token_embd.weight", "output.weight"}
    plain = {n.replace(".base_layer", ""): t for n, t in tensors.items()}
    save_file(plain, folder / WEIGHTS)
    assert len(read_peft(folder, base).matrices) == 4
    trained = tensors[embedding].copy()
    trained[7] = trained[8]
    wider = np.concatenate([tensors[embedding], trained[:3]])
    for other, said in ((trained, "1 of"), (wider, str(len(wider))), (trained * 3, "rows")):
        save_file(tensors | {embedding: other}, folder / WEIGHTS)
        with pytest.raises(UsageError) as caught:
            read_peft(folder, base)
        assert caught.value.code == "adapter.unsupported" and caught.value.hint
        assert said in caught.value.message


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_in_several_files_is_read(tmp_path: Path) -> None:
    """As an index names them; an index that names others, or does not agree, is refused."""
    model = CASES["llama"]
    path = write(model, tmp_path / "model.gguf")
    folder = tmp_path / "peft"
    theirs = saved_by_peft(path, folder, model, target_modules=["q_proj", "down_proj"])
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {
        n: f"adapter_model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(tensors)
    }
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file)

    def index(named: dict[str, str]) -> None:
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": named})
        (folder / f"{WEIGHTS}.index.json").write_text(text)

    index(files)
    base = GGUFFile.open(path)
    assert_close(ours(path, read_peft(folder, base), model), theirs, TOLERANCE)
    first = next(iter(files))
    outside = str(tmp_path / "outside.safetensors")
    save_file({first: tensors[first]}, outside)
    for wrong in (outside, "../outside.safetensors", "..", "", "a\\b.safetensors", "adapter.bin"):
        index(files | {first: wrong})
        with pytest.raises(IntegrityError) as caught:
            read_peft(folder, base)
        assert caught.value.code == "adapter.invalid"
    index(files | {"base_model.model.more.lora_A.weight": files[first]})
    with pytest.raises(IntegrityError, match="index"):
        read_peft(folder, base)
    index(files | {first: "absent.safetensors"})
    with pytest.raises(UsageError, match="absent"):
        read_peft(folder, base)


@pytest.mark.filterwarnings("ignore")
def test_half_of_a_matrix_that_is_two_is_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file has one matrix where embedding and head are tied, and llama.cpp knows one."""
    model = CASES["llama-tied"]
    path = write(model, tmp_path / "model.gguf")
    saved_by_peft(path, tmp_path / "peft", model, target_modules=["lm_head"])
    base = GGUFFile.open(path)
    with pytest.raises(UsageError) as caught:
        merge(base, [(read_peft(tmp_path / "peft", base), 1.0)], tmp_path / "merged.gguf")
    assert caught.value.code == "merge.tied" and caught.value.hint
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    import_adapter(tmp_path / "peft", "mine", str(path))
    with pytest.raises(UsageError) as caught:
        export_adapter("mine", tmp_path / "mine.gguf", None, str(path))
    assert caught.value.code == "adapter.unsupported" and caught.value.hint
    export_adapter("mine", tmp_path / "mine", None, str(path))
    assert read_peft(tmp_path / "mine", base).matrices.keys() == {"output.weight"}
