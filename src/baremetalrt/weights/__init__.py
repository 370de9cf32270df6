"""One model file: its header, its tensors, the byte ranges of every block, and the mapped bytes."""
