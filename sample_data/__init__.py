"""The embedded model, its LoRA epochs, prompts and pictures; `PATH` is the folder."""

from pathlib import Path

PATH = Path(__file__).parent
