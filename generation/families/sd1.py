"""Stable Diffusion 1.x."""

from __future__ import annotations

from generation.families.family import Family, Rendering
from generation.families.text import CLIP_L
from generation.families.unet import SD_BLOCKS, predict, stability_names, unet

SD1 = Family(
    id="sd1",
    words="Stable Diffusion 1.x",
    models=(unet((320, 640, 1280, 1280), (1, 1, 1, 0), 768, linear_projection=False),),
    stated=r"\bsd_?(?:v?1)|diffusion-v-?1",
    aliases=stability_names,
    encoders={"te": CLIP_L},
    rendering=Rendering("StableDiffusionPipeline", "unet", 8, 7.0, SD_BLOCKS, predict=predict),
)
