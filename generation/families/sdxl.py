"""Stable Diffusion XL and its descendants (Pony, Illustrious, NoobAI and others)."""

from __future__ import annotations

from generation.families.family import BlockLists, Family, Rendering, blocks
from generation.families.text import CLIP_L, OPEN_CLIP_G
from generation.families.unet import SD_BLOCKS, predict, stability_names, unet

SDXL = Family(
    id="sdxl",
    words="Stable Diffusion XL",
    models=(unet((320, 640, 1280), (0, 2, 10), 2048, linear_projection=True, added=2816),),
    stated=r"sdxl|diffusion-xl|stable-diffusion-xl|pony|illustrious|noob",
    aliases=stability_names,
    encoders={"te": CLIP_L, "te2": OPEN_CLIP_G},
    rendering=Rendering(
        "StableDiffusionXLPipeline",
        "unet",
        8,
        7.0,
        BlockLists(
            lists=(
                ("BASE", *blocks("IN", 4, 5, 7, 8), "M00", *blocks("OUT", *range(6))),
                ("BASE", *blocks("IN", *range(9)), "M00", *blocks("OUT", *range(9))),
            ),
            kinds=SD_BLOCKS.kinds,
            presets={  # "SDXL-..." of the Inspire pack; lbw has none of 12 numbers
                "INALL": "1,1,1,1,1,0,0,0,0,0,0,0",
                "MIDALL": "1,0,0,0,0,1,0,0,0,0,0,0",
                "OUTALL": "1,0,0,0,0,0,1,1,1,1,1,1",
            },
        ),
        encoders=("te", "te2"),
        vae_overflows=True,
        penultimate=True,
        predict=predict,
    ),
)
