"""The text that A1111 and its kin keep inside a picture, from which they reproduce it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal

from generation.cells import strength_text
from generation.samplers import a1111_sampler


def parameters_text(
    prompt: str,
    negative: str,
    steps: int,
    sampler: str,
    guidance: float,
    seed: int,
    width: int,
    height: int,
    model: str,
    model_hash: str = "",
    lora_name: str = "",
    lora_hash: str = "",
    strength: Decimal | float = Decimal(0),
    clip_skip: int = 0,
    version: str = "",
    fixed: Sequence[tuple[str, str, Decimal]] = (),
) -> str:
    """The text A1111 and its kin store under `parameters`: prompt, negative prompt, settings.

    `lora_name` is the file's stem; it becomes the tag `<lora:name:strength>`, and `lora_hash` (hex
    SHA-256 of the tensor bytes) its first 12 digits under "Lora hashes". `fixed` are further LoRAs
    (name, hash, strength), which stand before it. `clip_skip` counts skipped layers as diffusers
    does, A1111 counts from 1. "RNG: CPU" says that the noise is drawn there.
    """
    words = prompt.strip()
    settings = {"Steps": str(steps)}
    settings["Sampler"], settings["Schedule type"] = a1111_sampler(sampler)
    settings |= {
        "CFG scale": f"{guidance:g}",
        "Seed": str(seed),
        "Size": f"{width}x{height}",
        "Model hash": model_hash,
        "Model": model,
        "Clip skip": str(clip_skip + 1) if clip_skip else "",
        "RNG": "CPU",
    }
    hashes = []
    for name, digest, weight in (*fixed, (lora_name, lora_hash, strength)):
        if name:
            name = re.sub(r"[:<>,\"\n]", "_", name)
            words += f" <lora:{name}:{strength_text(Decimal(str(weight)))}>"
            hashes += [f"{name}: {digest[:12]}"] if digest else []
    settings["Lora hashes"] = ", ".join(hashes)
    settings["Version"] = version
    lines = [words.strip()]
    if negative.strip():
        lines.append("Negative prompt: " + negative.strip())
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items() if value))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """A1111 writes a value as a JSON string where a comma, colon or newline would end it."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n\"]", value) else value
