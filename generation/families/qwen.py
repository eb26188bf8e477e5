"""Qwen-Image, whose text encoder is Qwen2.5-VL and whose VAE is a video's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generation.families.family import (
    PICTURE,
    TEXT,
    BlockLists,
    Family,
    Layers,
    blocks,
    flow_rendering,
    linear,
    stack,
)


def _layers(width: int, count: int) -> Layers:
    return {
        **linear("img_in", width, 64),
        **linear("txt_in", width, 3584),
        **stack(
            "transformer_blocks",
            count,
            {
                **linear(f"{PICTURE} {TEXT}", width, width),
                **linear("img_mod.1 txt_mod.1", 6 * width, width),
                **linear("img_mlp.net.0.proj txt_mlp.net.0.proj", 4 * width, width),
                **linear("img_mlp.net.2 txt_mlp.net.2", width, 4 * width),
            },
        ),
        **linear("norm_out.linear", 2 * width, width),
        **linear("proj_out", 64, width),
    }


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: 1024 tokens after the pipeline's instruction.

    Encoded alone, a prompt has no padding, and needs no mask. An empty negative prompt is a blank,
    as in Qwen's examples.
    """
    found = {"prompt_embeds": pipe.encode_prompt(prompt=prompt, device=device)[0]}
    if guided:
        other = pipe.encode_prompt(prompt=negative or " ", device=device)[0]
        found["negative_prompt_embeds"] = other
    return found


def edit(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, picture: Any
) -> Mapping[str, Any]:
    """As diffusers encodes: Qwen2.5-VL sees the picture, scaled to the area of its pipeline."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

    area = _SEEN[type(pipe).__name__]
    width, height, _ = calculate_dimensions(area, picture.width / picture.height)
    seen = pipe.image_processor.resize(picture, height, width)
    found = {"prompt_embeds": pipe.encode_prompt(prompt=prompt, image=seen, device=device)[0]}
    if guided:
        other = pipe.encode_prompt(prompt=negative or " ", image=seen, device=device)[0]
        found["negative_prompt_embeds"] = other
    return found


def call(texts: Mapping[str, Any], guidance_scale: float) -> Mapping[str, Any]:
    """The pipeline's `guidance_scale` is for distilled models, of which there are none."""
    return {**texts, "true_cfg_scale": guidance_scale}


def unpack(pipe: Any, latents: Any, height: int, width: int) -> Any:
    """Latents in patches -> as the VAE takes them, N x C x 1 x H x W."""
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity."""
    count, channels, high, wide = latents.shape
    told = pipe.transformer.forward(
        pipe._pack_latents(latents, count, channels, high, wide),
        encoder_hidden_states=texts["prompt_embeds"],
        timestep=(times / 1000).to(latents.dtype),
        img_shapes=[[(1, high // 2, wide // 2)]] * count,
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    return unpack(pipe, told, high * scale, wide * scale).squeeze(2)


_SEEN = {"QwenImageEditPipeline": 1024**2, "QwenImageEditPlusPipeline": 384**2}
"""The area in pixels (width times height) at which the text encoder sees the picture."""

_BLOCKS = 60
QWEN = Family(
    id="qwen",
    words="Qwen-Image",
    models=(_layers(3072, _BLOCKS),),
    stated=r"qwen",
    rendering=flow_rendering(
        "QwenImagePipeline",
        "transformer",
        16,
        4.0,  # steps, guidance and size of its model card
        BlockLists(
            lists=(("BASE", *blocks("B", *range(_BLOCKS))),),
            kinds={"B": "B", "BLOCK": "B"},
            stacks={"transformer_blocks": "B"},
        ),
        model="QwenImageTransformer2DModel",
        marks=(r"transformer_blocks\.0\.img_mod\.1\.", r"txt_norm\."),
        side=1328,
        steps=50,
        encode=encode,
        reads=(("tokenizer", 1024),),
        call=call,
        unpack=unpack,
        frames=True,
        predict=predict,
        # Their cards' steps and size; Plus is Qwen-Image-Edit-2509 and what came after it.
        edits={
            "QwenImageEditPipeline": {"edit": edit, "side": 1024},
            "QwenImageEditPlusPipeline": {
                "edit": edit,
                "side": 1024,
                "steps": 40,
                "alone": True,
                "rows": False,
            },
        },
    ),
)
