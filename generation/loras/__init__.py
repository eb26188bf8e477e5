"""LoRA files: container, keys, training facts, checkpoints, weight updates, blocks."""
