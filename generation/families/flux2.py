"""FLUX.2 dev, whose text encoder is Mistral Small 3.1, and what Klein has of it."""

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
    stack,
)
from generation.families.flux import two_streams


def layers(width: int, double: int, single: int, context: int) -> Layers:
    """Double and single blocks that share their modulations, for texts of width `context`."""
    return {
        **linear("x_embedder", width, 128),
        **linear("context_embedder", width, context),
        **stack(
            "transformer_blocks",
            double,
            {
                **linear(f"{PICTURE} {TEXT}", width, width),
                **linear("ff.linear_in ff_context.linear_in", 6 * width, width),
                **linear("ff.linear_out ff_context.linear_out", width, 3 * width),
            },
        ),
        **stack(
            "single_transformer_blocks",
            single,
            {
                **linear("attn.to_qkv_mlp_proj", 9 * width, width),
                **linear("attn.to_out", width, 4 * width),
            },
        ),
        **linear("double_stream_modulation_img.linear", 6 * width, width),
        **linear("double_stream_modulation_txt.linear", 6 * width, width),
        **linear("single_stream_modulation.linear", 3 * width, width),
        **linear("norm_out.linear", 2 * width, width),
        **linear("proj_out", 128, width),
    }


_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.linear_in",),
    "img_mlp.2": ("ff.linear_out",),
    "txt_mlp.0": ("ff_context.linear_in",),
    "txt_mlp.2": ("ff_context.linear_out",),
}
_SINGLE = {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)}
_SINGLES = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.linear": "proj_out",
}


def names(modules: Sequence[str]) -> Aliases:
    """Black Forest Labs' names of FLUX.2's modules in diffusers."""
    yield from two_streams(modules, _DOUBLE, _SINGLE, _SINGLES)


def encode(
    pipe: Any, prompt: str, _negative: str, device: Any, _guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: three layers of Mistral on 512 tokens, after its system message."""
    return {"prompt_embeds": pipe.encode_prompt(prompt=prompt, device=device)[0]}


def _spread(pipe: Any, like: Any) -> tuple[Any, Any]:
    """The VAE's running mean and deviation of 2 x 2 patches (1 x 4 C x 1 x 1)."""
    norm = pipe.vae.bn
    mean, variance = (v.view(1, -1, 1, 1).to(like) for v in (norm.running_mean, norm.running_var))
    return mean, (variance + pipe.vae.config.batch_norm_eps) ** 0.5


def pack(pipe: Any, z: Any) -> Any:
    """2 x 2 patches as channels (N x 4 C x H/2 x W/2), by the VAE's running mean and deviation."""
    patches = pipe._patchify_latents(z)
    mean, deviation = _spread(pipe, patches)
    return (patches - mean) / deviation


def unpack(pipe: Any, latents: Any, height: int, width: int) -> Any:
    """Patches one after the other (N x HW x 4 C) -> as the VAE takes them."""
    side = 2 * pipe.vae_scale_factor
    shape = len(latents), -1, height // side, width // side
    patches = latents.transpose(1, 2).reshape(shape)
    mean, deviation = _spread(pipe, patches)
    return pipe._unpatchify_latents(patches * deviation + mean)


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity of packed latents; a model that reads a guidance scale is told 1."""
    embeds = texts["prompt_embeds"]
    reads = pipe.transformer.config.guidance_embeds
    told = pipe.transformer.forward(
        pipe._pack_latents(latents),
        encoder_hidden_states=embeds,
        timestep=(times / 1000).to(latents.dtype),
        img_ids=pipe._prepare_latent_ids(latents).to(latents.device),
        txt_ids=pipe._prepare_text_ids(embeds).to(latents.device),
        guidance=latents.new_ones(len(latents)) if reads else None,
        return_dict=False,
    )[0]
    return told.transpose(1, 2).reshape(latents.shape)


_DOUBLES, _SINGLE_BLOCKS = 8, 48
FLUX2 = Family(
    id="flux2",
    words="FLUX.2",
    models=(layers(6144, _DOUBLES, _SINGLE_BLOCKS, 15360),),
    stated=r"flux[._ -]?(?:2|v2)(?!.*klein)",
    aliases=names,
    rendering=flow_rendering(
        "Flux2Pipeline",
        "transformer",
        16,
        4.0,  # steps and guidance of its model card
        BlockLists(
            lists=(("BASE", *blocks("D", *range(_DOUBLES)), *blocks("S", *range(_SINGLE_BLOCKS))),),
            kinds={"D": "D", "DOUBLE": "D", "S": "S", "SINGLE": "S"},
            stacks={"transformer_blocks": "D", "single_transformer_blocks": "S"},
        ),
        model="Flux2Transformer2DModel",
        # It reads a guidance scale, Klein does not.
        marks=(r"double_stream_modulation_img\.", r"guidance_(in|embedder)\."),
        negative=False,
        steps=50,
        encode=encode,
        reads=(("tokenizer", 512),),
        unpack=unpack,
        pack=pack,
        predict=predict,
    ),
)
