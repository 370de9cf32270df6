"""From examples to a LoRA adapter, on the quantized weights of a GGUF: the only room with PyTorch."""
