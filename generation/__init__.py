"""Rendering: cells, LoRA files, the diffusers engine, the run folder. Knows no other package."""
