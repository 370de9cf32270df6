"""LoRA adapters: reading and writing GGUF and PEFT, the card that names their base, the local store."""
