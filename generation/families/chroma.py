"""Chroma (Chroma1-HD, Base and others): FLUX.1's blocks without modulations of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generation.families.family import (
    Aliases,
    BlockLists,
    Family,
    blocks,
    flow_rendering,
    linear,
    renamed,
    stack,
)
from generation.families.flux import bfl_names, layers, unpack

_GUIDANCE = "distilled_guidance_layer"
_APPROXIMATOR = {"in_layer": ("linear_1",), "out_layer": ("linear_2",)}


def names(modules: Sequence[str]) -> Aliases:
    """The original code's names (https://github.com/lodestone-rock/flow): Black Forest Labs', and
    its own for the layers that give all modulations."""
    yield from bfl_names(modules)
    ours = f"{_GUIDANCE}."
    within = [name.removeprefix(ours) for name in modules if name.startswith(ours)]
    for alias, pieces, _ in renamed(within, "layers", "layers", _APPROXIMATOR):
        yield ours + alias, tuple(ours + piece for piece in pieces), False


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes; T5 sees 512 tokens, and the denoiser one of the padding's."""
    embeds, _, mask, others, _, other_mask = pipe.encode_prompt(
        prompt=prompt,
        negative_prompt=negative,
        device=device,
        do_classifier_free_guidance=guided,
    )
    found = {"prompt_embeds": embeds, "prompt_attention_mask": mask}
    if guided:
        found |= {"negative_prompt_embeds": others, "negative_prompt_attention_mask": other_mask}
    return found


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity."""
    count, channels, high, wide = latents.shape
    embeds = texts["prompt_embeds"]
    packed = pipe._pack_latents(latents, count, channels, high, wide)
    told = pipe.transformer.forward(
        packed,
        encoder_hidden_states=embeds,
        timestep=(times / 1000).to(latents.dtype),
        img_ids=pipe._prepare_latent_image_ids(
            count, high // 2, wide // 2, latents.device, latents.dtype
        ),
        txt_ids=embeds.new_zeros(embeds.shape[1], 3),
        attention_mask=pipe._prepare_attention_mask(
            count, packed.shape[1], latents.dtype, texts["prompt_attention_mask"]
        ),
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    return unpack(pipe, told, high * scale, wide * scale)


CHROMA = Family(
    id="chroma",
    words="Chroma",
    models=(
        {
            **layers(3072, 19, 38),
            **linear("x_embedder", 3072, 64),
            **linear("context_embedder", 3072, 4096),
            **linear(f"{_GUIDANCE}.in_proj", 5120, 64),
            **stack(f"{_GUIDANCE}.layers", 5, linear("linear_1 linear_2", 5120, 5120)),
            **linear(f"{_GUIDANCE}.out_proj", 3072, 5120),
        },
    ),
    stated=r"chroma",
    aliases=names,
    rendering=flow_rendering(
        "ChromaPipeline",
        "transformer",
        16,
        3.0,  # steps and guidance of Chroma1-HD's model card
        BlockLists(
            lists=(("BASE", *blocks("D", *range(19)), *blocks("S", *range(38))),),
            kinds={"D": "D", "DOUBLE": "D", "S": "S", "SINGLE": "S"},
            stacks={"transformer_blocks": "D", "single_transformer_blocks": "S"},
        ),
        model="ChromaTransformer2DModel",
        marks=(r"distilled_guidance_layer\.in_proj\.", r"(txt_in|context_embedder)\.weight"),
        steps=40,
        encode=encode,
        reads=(("tokenizer", 512),),
        unpack=unpack,
        predict=predict,
    ),
)
