"""The embedded model, its LoRA epochs, prompts and pictures; `PATH` is the folder."""

from pathlib import Path

PATH = Path(__file__).parent

DEMOS = {
    "strength": {
        "loras": "lora/pstr-000006.safetensors",
        "strengths": "0.2:1.6:0.2",
        "seeds": "1",
    },
    "epochs": {"loras": "lora", "strengths": "1.0", "seeds": "1"},
}
"""What `--demo` renders for each command, with the prompts of prompts.txt."""
