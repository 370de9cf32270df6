"""The weights of a GGUF file in half precision, offloaded to disk by `accelerate`; commands are JSON.

They are written beside the model once, each tensor a file, as `accelerate` has them.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import torch
from accelerate import disk_offload, init_empty_weights
from accelerate.utils import offload_weight, save_offload_index
from transformers import LlamaConfig, LlamaForCausalLM

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def _name(tensor: str) -> str:
    if tensor in _OUTER:
        return _OUTER[tensor]
    _, block, name, _ = tensor.split(".")
    return f"model.layers.{block}.{_NAMES[name]}.weight"


def offloaded(path: Path) -> Path:
    """The folder with all tensors of a model, which takes minutes to write."""
    folder = path.with_suffix(".offload")
    if (folder / "index.json").exists():
        return folder
    folder.mkdir(exist_ok=True)
    index: dict[str, Any] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).copy()
        values = torch.from_numpy(numbers).to(torch.bfloat16)
        offload_weight(values, _name(tensor.name), str(folder), index)
    if "lm_head.weight" not in index:
        # The same numbers by another name.
        index["lm_head.weight"] = index["model.embed_tokens.weight"]
        (folder / "lm_head.weight.dat").symlink_to("model.embed_tokens.weight.dat")
    save_offload_index(index, str(folder))
    return folder


def config_of(path: Path) -> LlamaConfig:
    fields = gguf.GGUFReader(path).fields
    number = {
        n.partition(".")[2]: f.contents() for n, f in fields.items() if n.startswith("llama.")
    }
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"].data),
        hidden_size=number["embedding_length"],
        intermediate_size=number["feed_forward_length"],
        num_hidden_layers=number["block_count"],
        num_attention_heads=number["attention.head_count"],
        num_key_value_heads=number["attention.head_count_kv"],
        head_dim=number["attention.key_length"],
        tie_word_embeddings=False,
    )


@torch.inference_mode()
def generate(model: LlamaForCausalLM, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
    ids = torch.tensor(prompts)
    started = time.perf_counter()
    out = model(input_ids=ids, use_cache=True)
    prefilled = time.perf_counter()
    for _ in range(num_tokens - 1):
        token = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return {"prefill_s": prefilled - started, "decode_s": time.perf_counter() - prefilled}


def main() -> None:
    arguments = json.loads(sys.argv[1])
    path = Path(arguments["model"])
    torch.set_num_threads(arguments["threads"])
    with init_empty_weights():
        model = LlamaForCausalLM(config_of(path)).to(torch.bfloat16)
    folder = path.with_suffix(".offload")
    disk_offload(model.eval(), str(folder), execution_device=torch.device("cpu"))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(model, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
