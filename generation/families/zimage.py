"""Z-Image and Z-Image Turbo, whose text encoder is Qwen3 (4B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generation.families.family import (
    Aliases,
    Config,
    Family,
    Layers,
    flow_rendering,
    linear,
    renamed,
    singles,
    stack,
)
from generation.families.lumina2 import STACKS, block_lists


def _layers() -> Layers:
    width, wide = 3840, 10240
    block = {
        **linear("attention.to_q attention.to_k attention.to_v attention.to_out.0", width, width),
        **linear("feed_forward.w1 feed_forward.w3", wide, width),
        **linear("feed_forward.w2", width, wide),
    }
    modulated = {**block, **linear("adaLN_modulation.0", 4 * width, 256)}
    return {
        **stack("layers", 30, modulated),
        **stack("noise_refiner", 2, modulated),
        **stack("context_refiner", 2, block),
        **linear("cap_embedder.1", width, 2560),
        **linear("all_x_embedder.2-1", width, 64),
        **linear("all_final_layer.2-1.linear", 64, width),
    }


_FUSED = {
    "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.out": ("attention.to_out.0",),
    "attention.q_norm": ("attention.norm_q",),
    "attention.k_norm": ("attention.norm_k",),
}
_SINGLES = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}


def names(modules: Sequence[str]) -> Aliases:
    """ComfyUI's names, in which q, k and v are one matrix, of diffusers' modules."""
    for blocks_of in STACKS:
        yield from renamed(modules, blocks_of, blocks_of, _FUSED)
    yield from singles(modules, _SINGLES)


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: Qwen3's last layer but one on at most 512 tokens in its chat's form."""
    embeds, others = pipe.encode_prompt(
        prompt=[prompt],
        negative_prompt=[negative],
        device=device,
        do_classifier_free_guidance=guided,
    )
    found = {"prompt_embeds": embeds[0][None]}
    if guided:
        found["negative_prompt_embeds"] = others[0][None]
    return found


def call(texts: Mapping[str, Any], guidance_scale: float) -> Mapping[str, Any]:
    """The pipeline takes a list of texts, which may be of several lengths."""
    return {
        **{name: list(batch.unbind(0)) for name, batch in texts.items()},
        "guidance_scale": guidance_scale,
    }


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity, which the model itself tells with the other sign, of time running the other
    way."""
    import torch

    told = pipe.transformer.forward(
        list(latents.unsqueeze(2).unbind(0)),
        (1 - times / 1000).to(latents.dtype),
        list(texts["prompt_embeds"].unbind(0)),
        return_dict=False,
    )[0]
    return -torch.stack(list(told)).squeeze(2)


def _is_turbo(_index: Config, _denoiser: Config, scheduler: Config) -> bool:
    """Only the schedules of the published models tell: Turbo's is shifted by 3, the base's by 6."""
    return float(scheduler.get("shift", 1.0)) <= 3.0


ZIMAGE = Family(
    id="zimage",
    words="Z-Image",
    models=(_layers(),),
    stated=r"z[._ -]?image",
    aliases=names,
    rendering=flow_rendering(
        "ZImagePipeline",
        "transformer",
        16,
        4.0,  # steps and guidance within those of the base model's card
        block_lists(30),
        model="ZImageTransformer2DModel",
        marks=(r"cap_pad_token", r"noise_refiner\.0\."),
        steps=50,
        encode=encode,
        reads=(("tokenizer", 512),),
        call=call,
        unguided=0.0,  # its formula adds guidance_scale (with - without) to what it tells with text
        rows=False,  # its first layers see the pictures one behind the other
        predict=predict,
        few={"steps": 9, "guidance_scale": 0.0},  # as Turbo's card has it
        distilled=_is_turbo,
    ),
)
