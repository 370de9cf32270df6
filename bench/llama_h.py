"""The part of `llama.h` that runs a model: for benchmarks and tests, never for the package itself."""

import ctypes as c
from typing import Any, ClassVar

from baremetalrt.native.declarations import ModelParams, SamplerChainParams
from baremetalrt.native.library import load_library

U32, I32, F32, BOOL = c.c_uint32, c.c_int32, c.c_float, c.c_bool
P, SIZE, STR = c.c_void_p, c.c_size_t, c.c_char_p
FLASH_ATTENTION_ON = 1
# ggml 0.26 has this field, 0.25 the same structure without it.
_MOE_CACHE = [("moe_cache_size", SIZE)] if load_library().ggml_version >= "0.26" else []


class ContextParams(c.Structure):
    """`struct llama_context_params`."""

    _fields_: ClassVar = [
        *((n, U32) for n in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((n, U32) for n in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((n, I32) for n in ("n_threads", "n_threads_batch", "ctx_type")),
        *((n, I32) for n in ("rope_scaling_type", "pooling_type", "attention_type")),
        ("flash_attn_type", I32),
        *((n, F32) for n in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")),
        *((n, F32) for n in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", U32),
        ("defrag_thold", F32),
        *((n, P) for n in ("cb_eval", "cb_eval_user_data")),
        *((n, I32) for n in ("type_k", "type_v")),
        *_MOE_CACHE,
        *((n, P) for n in ("abort_callback", "abort_callback_data")),
        *((n, BOOL) for n in ("embeddings", "offload_kqv", "no_perf", "op_offload")),
        *((n, BOOL) for n in ("swa_full", "kv_unified")),
        ("samplers", P),
        ("n_samplers", SIZE),
        ("ctx_other", P),
    ]


class Batch(c.Structure):
    """`llama_batch`."""

    _fields_: ClassVar = [
        ("n_tokens", I32),
        ("token", c.POINTER(I32)),
        ("embd", P),
        ("pos", c.POINTER(I32)),
        ("n_seq_id", c.POINTER(I32)),
        ("seq_id", c.POINTER(c.POINTER(I32))),
        ("logits", c.POINTER(c.c_int8)),
    ]


_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (P, STR, ModelParams),
    "llama_model_free": (None, P),
    "llama_model_get_vocab": (P, P),
    "llama_vocab_n_tokens": (I32, P),
    "llama_tokenize": (I32, P, STR, I32, c.POINTER(I32), I32, BOOL, BOOL),
    "llama_token_to_piece": (I32, P, I32, P, I32, I32, BOOL),
    "llama_init_from_model": (P, P, ContextParams),
    "llama_free": (None, P),
    "llama_get_memory": (P, P),
    "llama_memory_clear": (None, P, BOOL),
    "llama_batch_init": (Batch, I32, I32, I32),
    "llama_batch_free": (None, Batch),
    "llama_decode": (I32, P, Batch),
    "llama_get_logits_ith": (c.POINTER(F32), P, I32),
    "llama_adapter_lora_init": (P, P, STR),
    "llama_adapter_lora_free": (None, P),
    "llama_set_adapters_lora": (I32, P, c.POINTER(P), SIZE, c.POINTER(F32)),
    "llama_sampler_chain_default_params": (SamplerChainParams,),
    "llama_sampler_init_greedy": (P,),
    "llama_sampler_sample": (I32, P, P, I32),
    "llama_sampler_free": (None, P),
}


def load() -> Any:
    """A handle of its own on the library that the package uses, with these functions typed."""
    library = c.CDLL(str(load_library().path))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
