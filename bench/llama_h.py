"""The part of `llama.h` that runs a model, for benchmarks and tests: a handle and types of their own."""

import ctypes as c
from typing import Any

from baremetalrt.native.declarations import (
    Batch,
    ContextParams,
    ModelParams,
    OlderContextParams,
    SamplerChainParams,
)
from baremetalrt.native.library import load_library

I32, F32, BOOL = c.c_int32, c.c_float, c.c_bool
P, SIZE, STR = c.c_void_p, c.c_size_t, c.c_char_p
FLASH_ATTENTION_ON = 1
_CONTEXT = ContextParams if load_library().ggml_version >= "0.26" else OlderContextParams

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (_CONTEXT,),
    "llama_model_load_from_file": (P, STR, ModelParams),
    "llama_model_free": (None, P),
    "llama_model_get_vocab": (P, P),
    "llama_vocab_n_tokens": (I32, P),
    "llama_tokenize": (I32, P, STR, I32, c.POINTER(I32), I32, BOOL, BOOL),
    "llama_token_to_piece": (I32, P, I32, P, I32, I32, BOOL),
    "llama_init_from_model": (P, P, _CONTEXT),
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
