"""FLUX.1 (dev, schnell, Krea, Kontext: one architecture)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generation.families.family import (
    PICTURE,
    TEXT,
    Aliases,
    BlockLists,
    Family,
    Layers,
    blocks,
    flow_rendering,
    linear,
    renamed,
    singles,
    stack,
)
from generation.families.text import CLIP_L, T5_XXL


def layers(width: int, double: int, single: int) -> Layers:
    """Double and single blocks without modulations, which FLUX.1, Chroma and kin have alike."""
    return {
        **stack(
            "transformer_blocks",
            double,
            {
                **linear(f"{PICTURE} {TEXT}", width, width),
                **linear("ff.net.0.proj ff_context.net.0.proj", 4 * width, width),
                **linear("ff.net.2 ff_context.net.2", width, 4 * width),
            },
        ),
        **stack(
            "single_transformer_blocks",
            single,
            {
                **linear("attn.to_q attn.to_k attn.to_v", width, width),
                **linear("proj_mlp", 4 * width, width),
                **linear("proj_out", width, 5 * width),
            },
        ),
        **linear("proj_out", 64, width),
    }


def modulations(width: int, double: int, single: int) -> Layers:
    """The modulations of those blocks."""
    both = linear("norm1.linear norm1_context.linear", 6 * width, width)
    return {
        **stack("transformer_blocks", double, both),
        **stack("single_transformer_blocks", single, linear("norm.linear", 3 * width, width)),
        **linear("norm_out.linear", 2 * width, width),
    }


_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
}
_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
# XLabs' trainer (https://github.com/XLabs-AI/x-flux) names its processors' layers; 1 is the
# picture's stream, 2 the text's.
_XLABS_DOUBLE = {
    "processor.qkv_lora1": _DOUBLE["img_attn.qkv"],
    "processor.qkv_lora2": _DOUBLE["txt_attn.qkv"],
    "processor.proj_lora1": _DOUBLE["img_attn.proj"],
    "processor.proj_lora2": _DOUBLE["txt_attn.proj"],
}
_XLABS_SINGLE = {
    "processor.qkv": _DOUBLE["img_attn.qkv"],
    "processor.proj": ("proj_out",),
}
_SINGLES = {
    "img_in": "x_embedder",
    "img_in.proj": "x_embedder",  # OneTrainer's backups
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}


def bfl_names(names: Sequence[str]) -> Aliases:
    """Black Forest Labs' names of FLUX.1's modules in diffusers."""
    yield from two_streams(names, _DOUBLE, _SINGLE, _SINGLES)


def two_streams(
    names: Sequence[str],
    double: Mapping[str, tuple[str, ...]],
    single: Mapping[str, tuple[str, ...]],
    alone: Mapping[str, str],
) -> Aliases:
    """Black Forest Labs' names (double_blocks, single_blocks) of diffusers' modules.

    Black Forest Labs store (shift, scale) in the closing modulation, diffusers (scale, shift).
    """
    have = set(names)
    yield from renamed(names, "double_blocks", "transformer_blocks", double)
    yield from renamed(names, "single_blocks", "single_transformer_blocks", single)
    yield from singles(names, alone)
    if "norm_out.linear" in have:
        yield "final_layer.adaLN_modulation.1", ("norm_out.linear",), True


def lora_names(names: Sequence[str]) -> Aliases:
    """Black Forest Labs' names and those of XLabs' trainer."""
    yield from bfl_names(names)
    yield from renamed(names, "double_blocks", "transformer_blocks", _XLABS_DOUBLE)
    yield from renamed(names, "single_blocks", "single_transformer_blocks", _XLABS_SINGLE)


def encode(
    pipe: Any, prompt: str, _negative: str, device: Any, _guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes; T5 sees 512 tokens, CLIP 77; there is no negative prompt."""
    embeds, pooled, _ = pipe.encode_prompt(
        prompt=prompt, prompt_2=None, device=device, num_images_per_prompt=1
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def unpack(pipe: Any, latents: Any, height: int, width: int) -> Any:
    """Latents in patches -> as the VAE takes them."""
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity; a model that reads a guidance scale is told 1, as in training LoRAs."""
    count, channels, high, wide = latents.shape
    embeds, pooled = texts["prompt_embeds"], texts["pooled_prompt_embeds"]
    reads = pipe.transformer.config.guidance_embeds
    told = pipe.transformer.forward(
        pipe._pack_latents(latents, count, channels, high, wide),
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        timestep=(times / 1000).to(latents.dtype),
        img_ids=pipe._prepare_latent_image_ids(
            count, high // 2, wide // 2, latents.device, latents.dtype
        ),
        txt_ids=embeds.new_zeros(embeds.shape[1], 3),
        guidance=latents.new_ones(count) if reads else None,
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    return unpack(pipe, told, high * scale, wide * scale)


_WIDTH = 3072
FLUX = Family(
    id="flux",
    words="FLUX.1",
    models=(
        {
            **layers(_WIDTH, 19, 38),
            **modulations(_WIDTH, 19, 38),
            **linear("x_embedder", _WIDTH, 64),
            **linear("context_embedder", _WIDTH, 4096),
            **linear("time_text_embed.timestep_embedder.linear_1", _WIDTH, 256),
            **linear("time_text_embed.timestep_embedder.linear_2", _WIDTH, _WIDTH),
            **linear("time_text_embed.guidance_embedder.linear_1", _WIDTH, 256),
            **linear("time_text_embed.guidance_embedder.linear_2", _WIDTH, _WIDTH),
            **linear("time_text_embed.text_embedder.linear_1", _WIDTH, 768),
            **linear("time_text_embed.text_embedder.linear_2", _WIDTH, _WIDTH),
        },
    ),
    stated=r"flux(?![._ -]?(?:2|3|v2))",
    aliases=lora_names,
    # Flux keeps T5 as its second encoder, and files call it the third.
    encoders={"te": CLIP_L, "te2": T5_XXL, "te3": T5_XXL},
    rendering=flow_rendering(
        "FluxPipeline",
        "transformer",
        16,
        3.5,
        BlockLists(
            lists=(
                ("BASE", *blocks("D", *range(19)), *blocks("S", *range(38))),
                ("CLIP", "T5", "IN", *blocks("D", *range(19)), *blocks("S", *range(38)), "OUT"),
            ),
            kinds={"BASE": "BASE", "D": "D", "DOUBLE": "D", "S": "S", "SINGLE": "S"},
            stacks={
                "transformer_blocks": "D",
                "single_transformer_blocks": "S",
                "norm_out": "OUT",
                "proj_out": "OUT",
            },
            elsewhere="IN",
            encoders={"te": "CLIP", "te2": "T5"},
        ),
        model="FluxTransformer2DModel",
        # CLIP's pooled text marks it among its kin; HunyuanVideo has more than a matrix for text.
        marks=(
            r"single_(transformer_)?blocks\.",
            r"(vector_in|time_text_embed\.text_embedder)\.",
            r"(txt_in|context_embedder)\.weight",
        ),
        negative=False,
        encoders=("te", "te2"),
        encode=encode,
        reads=(("tokenizer_2", 512),),
        unpack=unpack,
        predict=predict,
        few={"steps": 4, "guidance_scale": 0.0},  # FLUX.1 schnell
        # diffusers takes a missing entry for False too.
        distilled=lambda _, denoiser, __: not denoiser.get("guidance_embeds", False),
        guided_by=("guidance_in.", "guidance_embedder."),
        # Kontext's model card; its call would scale the size to an area of its own.
        edits={"FluxKontextPipeline": {"guidance_scale": 2.5, "steps": 28, "sized": ("max_area",)}},
    ),
)
