"""FLUX.2 Klein (4B, 9B; base and distilled), whose text encoder is Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generation.families.family import BlockLists, Family, blocks, flow_rendering
from generation.families.flux2 import layers, names, pack, predict


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: three layers of Qwen3 on 512 tokens in its chat's form."""
    found = {"prompt_embeds": pipe.encode_prompt(prompt=prompt, device=device)[0]}
    if guided:
        found["negative_prompt_embeds"] = pipe.encode_prompt(prompt=negative, device=device)[0]
    return found


_SIZES = {(5, 20): (3072, 7680), (8, 24): (4096, 12288)}
"""(double blocks, single blocks) -> (width, width of the text) of the 4B and the 9B model."""

KLEIN = Family(
    id="klein",
    words="FLUX.2 Klein",
    models=tuple(
        layers(width, double, single, context)
        for (double, single), (width, context) in _SIZES.items()
    ),
    stated=r"klein",
    aliases=names,
    rendering=flow_rendering(
        "Flux2KleinPipeline",
        "transformer",
        16,
        4.0,  # steps and guidance of the base models' cards
        BlockLists(
            lists=tuple(
                ("BASE", *blocks("D", *range(double)), *blocks("S", *range(single)))
                for double, single in _SIZES
            ),
            kinds={"D": "D", "DOUBLE": "D", "S": "S", "SINGLE": "S"},
            stacks={"transformer_blocks": "D", "single_transformer_blocks": "S"},
            whole=False,
        ),
        model="Flux2Transformer2DModel",
        # FLUX.2 dev reads a guidance scale, Klein does not.
        marks=(r"double_stream_modulation_img\.", r"\A(?![\s\S]*guidance_(?:in|embedder)\.)"),
        steps=50,
        encode=encode,
        reads=(("tokenizer", 512),),
        pack=pack,
        predict=predict,
        few={"steps": 4, "guidance_scale": 1.0, "negative": False},
        distilled=lambda index, _, __: bool(index.get("is_distilled")),
    ),
)
