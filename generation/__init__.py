"""Rendering: cells, LoRA files, the diffusers engine, and the run folder. Knows no other package."""
