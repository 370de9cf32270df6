"""Transformer blocks as ggml graphs: architectures, KV cache, and running a span of them."""
