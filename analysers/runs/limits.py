"""Within what the fields of a request stay; imports nothing, as `--help` shows it too."""

from __future__ import annotations

from collections.abc import Mapping

WHOLE: Mapping[str, tuple[int, int | None]] = {
    "steps": (1, 500),
    "clip_skip": (0, 11),
    "batch_size": (0, 64),
    "max_prompts": (1, None),
    "budget": (1, None),
    "workers": (0, 256),
}
"""Whole numbers: the least and the largest, None where there is no largest."""

REAL: Mapping[str, tuple[float, float | None]] = {
    "unet_strength": (-10, 10),
    "guidance_scale": (0, 100),
    "guidance_rescale": (0, 1),
    "tie_tolerance": (0, None),
    "margin": (0, None),
}

CHOICES: Mapping[str, tuple[str, ...]] = {
    "prediction_type": ("epsilon", "v_prediction", "v_prediction_zsnr"),
    "renderer": ("diffusers", "comfyui", "a1111", "swarmui"),
    "dtype": ("auto", "float32", "float16", "bfloat16"),
}
