"""Stable Diffusion 2.x."""

from __future__ import annotations

from generation.families.family import Family, Rendering
from generation.families.text import OPEN_CLIP_H
from generation.families.unet import SD_BLOCKS, predict, stability_names, unet

SD2 = Family(
    id="sd2",
    words="Stable Diffusion 2.x",
    models=(unet((320, 640, 1280, 1280), (1, 1, 1, 0), 1024, linear_projection=True),),
    stated=r"\bsd_?(?:v?2)|diffusion-v?-?2",
    aliases=stability_names,
    encoders={"te": OPEN_CLIP_H},
    rendering=Rendering("StableDiffusionPipeline", "unet", 8, 7.0, SD_BLOCKS, predict=predict),
)
