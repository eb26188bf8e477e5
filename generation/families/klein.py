"""FLUX.2 Klein (4B, 9B; base and distilled), whose text encoder is Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generation.families.family import BlockLists, Family, blocks, flow_rendering
from generation.families.flux2 import layers, names


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: three layers of Qwen3 on 512 tokens in its chat's form."""
    found = {"prompt_embeds": pipe.encode_prompt(prompt=prompt, device=device)[0]}
    if guided:
        found["negative_prompt_embeds"] = pipe.encode_prompt(prompt=negative, device=device)[0]
    return found


def pack(pipe: Any, z: Any) -> Any:
    """2 x 2 patches as channels (N x 4 C x H/2 x W/2), by the VAE's running mean and deviation."""
    patches = pipe._patchify_latents(z)
    norm = pipe.vae.bn
    mean, variance = (
        v.view(1, -1, 1, 1).to(patches) for v in (norm.running_mean, norm.running_var)
    )
    return (patches - mean) / (variance + pipe.vae.config.batch_norm_eps) ** 0.5


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity of packed latents."""
    embeds = texts["prompt_embeds"]
    told = pipe.transformer.forward(
        pipe._pack_latents(latents),
        encoder_hidden_states=embeds,
        timestep=(times / 1000).to(latents.dtype),
        img_ids=pipe._prepare_latent_ids(latents).to(latents.device),
        txt_ids=pipe._prepare_text_ids(embeds).to(latents.device),
        guidance=None,
        return_dict=False,
    )[0]
    return told.transpose(1, 2).reshape(latents.shape)


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
        pack=pack,
        predict=predict,
        few={"steps": 4, "guidance_scale": 1.0, "negative": False},
        distilled=lambda index, _, __: bool(index.get("is_distilled")),
    ),
)
