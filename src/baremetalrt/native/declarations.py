"""The C functions we call, and nothing else.

Source: `ggml.h`, `ggml-alloc.h`, `ggml-backend.h`, `gguf.h` and `llama.h` as of ggml 0.25 and 0.26,
which agree on every line declared here but one: see `ContextParams`.
"""

import ctypes as c
from typing import Any, Final

# Handles are plain addresses: a wrapper class per handle type would cost more than a graph node does.
P: Final = c.c_void_p
I32: Final = c.c_int32
I64: Final = c.c_int64
U32: Final = c.c_uint32
F32: Final = c.c_float
F64: Final = c.c_double
SIZE: Final = c.c_size_t
BOOL: Final = c.c_bool
STR: Final = c.c_char_p


class InitParams(c.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (("mem_size", SIZE), ("mem_buffer", P), ("no_alloc", BOOL))


class GGUFInitParams(c.Structure):
    """`struct gguf_init_params`."""

    _fields_ = (("no_alloc", BOOL), ("ctx", P))


class ModelParams(c.Structure):
    """`struct llama_model_params`; `library.py` checks the layout."""

    _fields_ = (
        ("devices", P),
        ("tensor_buft_overrides", P),
        ("n_gpu_layers", I32),
        ("split_mode", I32),
        ("load_mode", I32),
        ("lazy_mode", I32),
        ("main_gpu", I32),
        ("tensor_split", P),
        ("progress_callback", P),
        ("progress_callback_user_data", P),
        ("kv_overrides", P),
        ("vocab_only", BOOL),
        ("check_tensors", BOOL),
        ("use_extra_bufts", BOOL),
        ("no_host", BOOL),
        ("no_alloc", BOOL),
        ("load_mtp", BOOL),
    )


def _context_fields(*more: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Of `struct llama_context_params`, with what a release has before the callback that aborts."""
    return (
        *((n, U32) for n in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((n, U32) for n in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((n, I32) for n in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((n, I32) for n in ("pooling_type", "attention_type", "flash_attn_type")),
        *((n, F32) for n in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")),
        *((n, F32) for n in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", U32),
        ("defrag_thold", F32),
        *((n, P) for n in ("cb_eval", "cb_eval_user_data")),
        *((n, I32) for n in ("type_k", "type_v")),
        *more,
        *((n, P) for n in ("abort_callback", "abort_callback_data")),
        *((n, BOOL) for n in ("embeddings", "offload_kqv", "no_perf", "op_offload")),
        *((n, BOOL) for n in ("swa_full", "kv_unified")),
        ("samplers", P),
        ("n_samplers", SIZE),
        ("ctx_other", P),
    )


class ContextParams(c.Structure):
    """`struct llama_context_params` of ggml 0.26; `library.py` checks the layout."""

    _fields_ = _context_fields(("moe_cache_size", SIZE))


class OlderContextParams(c.Structure):
    """The same of ggml 0.25."""

    _fields_ = _context_fields()


class Batch(c.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", I32),
        ("token", c.POINTER(I32)),
        ("embd", P),
        ("pos", c.POINTER(I32)),
        ("n_seq_id", c.POINTER(I32)),
        ("seq_id", c.POINTER(c.POINTER(I32))),
        ("logits", c.POINTER(c.c_int8)),
    )


class TokenData(c.Structure):
    """`llama_token_data`."""

    _fields_ = (("id", I32), ("logit", F32), ("p", F32))


class TokenDataArray(c.Structure):
    """`llama_token_data_array`."""

    _fields_ = (("data", P), ("size", SIZE), ("selected", I64), ("sorted", BOOL))


class SamplerChainParams(c.Structure):
    """`llama_sampler_chain_params`."""

    _fields_ = (("no_perf", BOOL),)


class Feature(c.Structure):
    """`struct ggml_backend_feature`."""

    _fields_ = (("name", STR), ("value", STR))


class TypeTraits(c.Structure):
    """`struct ggml_type_traits`; `tensor_types.py` checks the layout."""

    _fields_ = (
        ("type_name", STR),
        ("blck_size", I64),
        ("blck_size_interleave", I64),
        ("type_size", SIZE),
        ("is_quantized", BOOL),
        ("to_float", P),
        ("from_float_ref", P),
    )


TO_FLOAT: Final = c.CFUNCTYPE(None, P, P, I64)
LOG_CALLBACK: Final = c.CFUNCTYPE(None, I32, STR, P)
EXTRA_BUFFER_TYPES: Final = c.CFUNCTYPE(c.POINTER(P), P)
GET_FEATURES: Final = c.CFUNCTYPE(c.POINTER(Feature), P)
SET_N_THREADS: Final = c.CFUNCTYPE(None, P, I32)

_OP1: Final = (P, P, P)
_OP2: Final = (P, P, P, P)

# name -> result type, then argument types
FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    # library
    "ggml_version": (STR,),
    "llama_version": (STR,),
    "ggml_log_set": (None, LOG_CALLBACK, P),
    "llama_log_set": (None, LOG_CALLBACK, P),
    "ggml_time_us": (I64,),
    # contexts and tensors
    "ggml_init": (P, InitParams),
    "ggml_free": (None, P),
    "ggml_tensor_overhead": (SIZE,),
    "ggml_graph_overhead_custom": (SIZE, SIZE, BOOL),
    "ggml_new_tensor": (P, P, I32, I32, c.POINTER(I64)),
    "ggml_nbytes": (SIZE, P),
    "ggml_nrows": (I64, P),
    "ggml_row_size": (SIZE, I32, I64),
    "ggml_type_name": (STR, I32),
    "ggml_is_quantized": (BOOL, I32),
    "ggml_get_type_traits": (c.POINTER(TypeTraits), I32),
    "ggml_quantize_chunk": (SIZE, I32, P, P, I64, I64, I64, P),
    "ggml_quantize_requires_imatrix": (BOOL, I32),
    "ggml_set_input": (None, P),
    "ggml_set_output": (None, P),
    # graphs
    "ggml_new_graph_custom": (P, P, SIZE, BOOL),
    "ggml_build_forward_expand": (None, P, P),
    "ggml_graph_n_nodes": (I32, P),
    "ggml_graph_node": (P, P, I32),
    "ggml_graph_add_node": (None, P, P),
    "ggml_op_desc": (STR, P),
    # operations
    "ggml_add": _OP2,
    "ggml_mul": _OP2,
    "ggml_div": _OP2,
    "ggml_scale": (*_OP1, F32),
    "ggml_clamp": (*_OP1, F32, F32),
    "ggml_tanh": _OP1,
    "ggml_rms_norm": (*_OP1, F32),
    "ggml_mul_mat": _OP2,
    "ggml_mul_mat_id": (*_OP2, P),
    "ggml_out_prod": _OP2,
    "ggml_transpose": _OP1,
    "ggml_get_rows": _OP2,
    "ggml_set_rows": (*_OP2, P),
    "ggml_swiglu": _OP1,
    "ggml_geglu": _OP1,
    "ggml_swiglu_split": _OP2,
    "ggml_geglu_split": _OP2,
    "ggml_soft_max": _OP1,
    "ggml_sum_rows": _OP1,
    "ggml_argsort_top_k": (*_OP1, I32),
    "ggml_concat": (*_OP2, I32),
    "ggml_cont": _OP1,
    "ggml_cast": (P, P, P, I32),
    "ggml_permute": (*_OP1, I32, I32, I32, I32),
    "ggml_reshape_2d": (*_OP1, I64, I64),
    "ggml_reshape_3d": (*_OP1, I64, I64, I64),
    "ggml_view_1d": (*_OP1, I64, SIZE),
    "ggml_view_2d": (*_OP1, I64, I64, SIZE, SIZE),
    "ggml_view_3d": (*_OP1, I64, I64, I64, SIZE, SIZE, SIZE),
    "ggml_view_4d": (*_OP1, I64, I64, I64, I64, SIZE, SIZE, SIZE, SIZE),
    "ggml_rope_ext": (*_OP2, P, I32, I32, I32, F32, F32, F32, F32, F32, F32),
    "ggml_flash_attn_ext": (P, P, P, P, P, P, F32, F32, F32),
    "ggml_prec_set_acc": (BOOL, P, I32),
    # devices and backends
    "ggml_backend_load_all_from_path": (None, STR),
    "ggml_backend_dev_count": (SIZE,),
    "ggml_backend_dev_get": (P, SIZE),
    "ggml_backend_dev_by_type": (P, I32),
    "ggml_backend_dev_name": (STR, P),
    "ggml_backend_dev_description": (STR, P),
    "ggml_backend_dev_memory": (None, P, c.POINTER(SIZE), c.POINTER(SIZE)),
    "ggml_backend_dev_type": (I32, P),
    "ggml_backend_dev_init": (P, P, STR),
    "ggml_backend_dev_buffer_type": (P, P),
    "ggml_backend_dev_buffer_from_host_ptr": (P, P, P, SIZE, SIZE),
    "ggml_backend_dev_supports_op": (BOOL, P, P),
    "ggml_backend_dev_backend_reg": (P, P),
    "ggml_backend_reg_get_proc_address": (P, P, STR),
    "ggml_backend_free": (None, P),
    "ggml_backend_graph_compute": (I32, P, P),
    # buffers
    "ggml_backend_buft_name": (STR, P),
    "ggml_backend_buft_alloc_buffer": (P, P, SIZE),
    "ggml_backend_buft_get_alignment": (SIZE, P),
    "ggml_backend_buft_get_alloc_size": (SIZE, P, P),
    "ggml_backend_buffer_free": (None, P),
    "ggml_backend_buffer_get_base": (P, P),
    "ggml_backend_buffer_clear": (None, P, c.c_uint8),
    "ggml_backend_tensor_alloc": (I32, P, P, P),
    "ggml_backend_view_init": (I32, P),
    "ggml_backend_tensor_set": (None, P, P, SIZE, SIZE),
    "ggml_backend_tensor_get": (None, P, P, SIZE, SIZE),
    "ggml_backend_tensor_memset": (None, P, c.c_uint8, SIZE, SIZE),
    "ggml_backend_tensor_copy": (None, P, P),
    "ggml_gallocr_new": (P, P),
    "ggml_gallocr_free": (None, P),
    "ggml_gallocr_alloc_graph": (BOOL, P, P),
    "ggml_gallocr_get_buffer_size": (SIZE, P, I32),
    # GGUF
    "gguf_init_from_buffer": (P, P, SIZE, GGUFInitParams),
    "gguf_free": (None, P),
    "gguf_get_version": (U32, P),
    "gguf_get_alignment": (SIZE, P),
    "gguf_get_data_offset": (SIZE, P),
    "gguf_get_n_kv": (I64, P),
    "gguf_get_key": (STR, P, I64),
    "gguf_get_kv_type": (I32, P, I64),
    "gguf_get_arr_type": (I32, P, I64),
    "gguf_get_arr_n": (SIZE, P, I64),
    "gguf_get_arr_data": (P, P, I64),
    "gguf_get_arr_str": (STR, P, I64, SIZE),
    "gguf_get_val_data": (P, P, I64),
    "gguf_get_val_str": (STR, P, I64),
    "gguf_get_n_tensors": (I64, P),
    "gguf_get_tensor_name": (STR, P, I64),
    "gguf_get_tensor_type": (I32, P, I64),
    "gguf_get_tensor_ne": (c.POINTER(I64), P, I64),
    "gguf_get_tensor_offset": (SIZE, P, I64),
    "gguf_get_tensor_size": (SIZE, P, I64),
    "gguf_set_val_str": (None, P, STR, STR),
    "gguf_set_tensor_type": (None, P, STR, I32),
    "gguf_get_meta_size": (SIZE, P),
    "gguf_get_meta_data": (None, P, P),
    # vocabulary
    "llama_model_default_params": (ModelParams,),
    "llama_model_load_from_file": (P, STR, ModelParams),
    "llama_model_free": (None, P),
    "llama_model_get_vocab": (P, P),
    "llama_vocab_n_tokens": (I32, P),
    "llama_vocab_bos": (I32, P),
    "llama_vocab_eos": (I32, P),
    "llama_vocab_fim_pre": (I32, P),
    "llama_vocab_fim_suf": (I32, P),
    "llama_vocab_fim_mid": (I32, P),
    "llama_vocab_fim_rep": (I32, P),
    "llama_vocab_fim_sep": (I32, P),
    "llama_vocab_get_add_bos": (BOOL, P),
    "llama_vocab_get_add_eos": (BOOL, P),
    "llama_vocab_is_eog": (BOOL, P, I32),
    "llama_vocab_is_control": (BOOL, P, I32),
    "llama_vocab_get_attr": (I32, P, I32),
    "llama_tokenize": (I32, P, STR, I32, c.POINTER(I32), I32, BOOL, BOOL),
    "llama_token_to_piece": (I32, P, I32, P, I32, I32, BOOL),
    # whole models
    "llama_context_default_params": (ContextParams,),
    "llama_init_from_model": (P, P, ContextParams),
    "llama_free": (None, P),
    "llama_model_has_encoder": (BOOL, P),
    "llama_get_memory": (P, P),
    "llama_memory_clear": (None, P, BOOL),
    "llama_memory_seq_rm": (BOOL, P, I32, I32, I32),
    "llama_memory_seq_cp": (None, P, I32, I32, I32, I32),
    "llama_batch_init": (Batch, I32, I32, I32),
    "llama_batch_free": (None, Batch),
    "llama_decode": (I32, P, Batch),
    "llama_get_logits_ith": (P, P, I32),
    # sampling
    "llama_sampler_chain_default_params": (SamplerChainParams,),
    "llama_sampler_chain_init": (P, SamplerChainParams),
    "llama_sampler_chain_add": (None, P, P),
    "llama_sampler_init_penalties": (P, I32, I32, F32, F32, F32),
    "llama_sampler_init_top_k": (P, I32),
    "llama_sampler_init_top_p": (P, F32, SIZE),
    "llama_sampler_init_typical": (P, F32, SIZE),
    "llama_sampler_init_min_p": (P, F32, SIZE),
    "llama_sampler_init_temp": (P, F32),
    "llama_sampler_init_dist": (P, U32),
    "llama_sampler_accept": (None, P, I32),
    "llama_sampler_apply": (None, P, c.POINTER(TokenDataArray)),
    "llama_sampler_free": (None, P),
}


# What ggml 0.25 has otherwise.
_OLDER_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "llama_context_default_params": (OlderContextParams,),
    "llama_init_from_model": (P, P, OlderContextParams),
}


def declare(library: c.CDLL, ggml_version: tuple[int, ...]) -> list[str]:
    """Gives every function its types; returns the names that the library lacks."""
    missing = []
    functions = FUNCTIONS | (_OLDER_FUNCTIONS if ggml_version < (0, 26) else {})
    for name, (result, *arguments) in functions.items():
        function = getattr(library, name, None)
        if function is None:
            missing.append(name)
            continue
        function.restype = result
        function.argtypes = arguments
    return missing
