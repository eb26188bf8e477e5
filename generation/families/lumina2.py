"""Lumina-Image 2.0 (Lumina 2) and its descendants, whose text encoder is Gemma 2 (2B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generation.families.family import (
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
from generation.families.names import Names
from generation.families.text import GEMMA2_2B

STACKS = {"layers": "L", "noise_refiner": "NR", "context_refiner": "CR"}
"""Stacks of blocks, and what their blocks are called in lists of weights."""


def block_lists(layers: int) -> BlockLists:
    """The weights by block of a Lumina 2 or Z-Image with so many layers behind its refiners."""
    order = ("BASE", *blocks("NR", 0, 1), *blocks("CR", 0, 1), *blocks("L", *range(layers)))
    kinds = {"NR": "NR", "CR": "CR", "L": "L", "LAYER": "L"}
    return BlockLists(lists=(order,), kinds=kinds, stacks=STACKS)


def _layers(width: int, few: int, wide: int) -> Layers:
    """Blocks whose keys and values have `few` channels."""
    block = {
        **linear("attn.to_q attn.to_out.0", width, width),
        **linear("attn.to_k attn.to_v", few, width),
        **linear("feed_forward.linear_1 feed_forward.linear_3", wide, width),
        **linear("feed_forward.linear_2", width, wide),
    }
    modulated = {**block, **linear("norm1.linear", 4 * width, 1024)}
    return {
        **stack("layers", 26, modulated),
        **stack("noise_refiner", 2, modulated),
        **stack("context_refiner", 2, block),
        **linear("x_embedder", width, 64),
        **linear("time_caption_embed.caption_embedder.1", width, 2304),
        **linear("time_caption_embed.timestep_embedder.linear_1", 1024, 256),
        **linear("time_caption_embed.timestep_embedder.linear_2", 1024, 1024),
        **linear("norm_out.linear_1", width, 1024),
        **linear("norm_out.linear_2", 64, width),
    }


_BLOCK = {
    "attention.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attention.out": ("attn.to_out.0",),
    "attention.q_norm": ("attn.norm_q",),
    "attention.k_norm": ("attn.norm_k",),
    "feed_forward.w1": ("feed_forward.linear_1",),
    "feed_forward.w2": ("feed_forward.linear_2",),
    "feed_forward.w3": ("feed_forward.linear_3",),
    "adaLN_modulation.1": ("norm1.linear",),
    "attention_norm2": ("norm2",),
}
_SINGLES = {
    "cap_embedder.0": "time_caption_embed.caption_embedder.0",
    "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear_1",
    "final_layer.linear": "norm_out.linear_2",
}


def names(modules: Sequence[str]) -> Aliases:
    """The original code's names (https://github.com/Alpha-VLLM/Lumina-Image-2.0), in which q, k and
    v are one matrix, of diffusers' modules."""
    for blocks_of in STACKS:
        yield from renamed(modules, blocks_of, blocks_of, _BLOCK)
        norm = "norm1" if blocks_of == "context_refiner" else "norm1.norm"
        yield from renamed(modules, blocks_of, blocks_of, {"attention_norm1": (norm,)})
    yield from singles(modules, _SINGLES)


def convert(checkpoint: Mapping[str, Any], parameters: Layers) -> Mapping[str, Any]:
    """The denoiser's weights of a checkpoint in the original names, as diffusers calls them.

    diffusers 0.42.1 stops at the prefix of ComfyUI's checkpoints, and knows one width only.
    """
    known = Names.of(parameters, [names])
    found = {}
    for key, weight in checkpoint.items():
        module, _, leaf = key.removeprefix("model.diffusion_model.").rpartition(".")
        for parameter, _, rows in known.find(module, leaf):
            found[parameter] = weight if rows is None else weight[rows[0][0] : rows[0][1]]
    return found


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, _clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes: Gemma's last layer but one on at most 256 tokens, the prompt after the
    pipeline's instruction; without the padding, which the denoiser masks out."""
    embeds, mask, others, other_mask = pipe.encode_prompt(
        prompt,
        do_classifier_free_guidance=guided,
        negative_prompt=negative,
        device=device,
    )
    found = {"prompt_embeds": embeds[:, : int(mask.sum())]}
    if guided:
        found["negative_prompt_embeds"] = others[:, : int(other_mask.sum())]
    return found


def call(texts: Mapping[str, Any], guidance_scale: float) -> Mapping[str, Any]:
    """The pipeline wants both texts equally long, and to be told what is padding."""
    from torch.nn.functional import pad

    longest = max(embeds.shape[1] for embeds in texts.values())
    found: dict[str, Any] = {"guidance_scale": guidance_scale}
    for name, embeds in texts.items():
        rest = longest - embeds.shape[1]
        found[name] = pad(embeds, (0, 0, 0, rest))
        mask = name.replace("_embeds", "_attention_mask")
        found[mask] = pad(_whole(embeds), (0, rest))
    return found


def _whole(embeds: Any) -> Any:
    """The mask of texts without padding."""
    import torch

    return torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity, which the model itself tells with the other sign, of time running the other
    way."""
    embeds = texts["prompt_embeds"]
    return -pipe.transformer.forward(
        latents,
        timestep=(1 - times / 1000).expand(len(latents)),
        encoder_hidden_states=embeds,
        encoder_attention_mask=_whole(embeds),
        return_dict=False,
    )[0]


LUMINA2 = Family(
    id="lumina2",
    words="Lumina 2",
    models=(_layers(2304, 768, 9216),),
    stated=r"lumina",
    aliases=names,
    encoders={"te": GEMMA2_2B},
    rendering=flow_rendering(
        "Lumina2Pipeline",
        "transformer",
        16,
        4.0,  # steps and guidance of its model card
        block_lists(26),
        model="Lumina2Transformer2DModel",
        # Z-Image has tokens that pad, OmniGen 2 a refiner of pictures.
        marks=(
            r"noise_refiner\.0\.att(ention\.qkv|n\.to_q)\.weight",
            r"\A(?![\s\S]*(?:cap_pad_token|ref_image))",
        ),
        steps=50,
        convert=convert,
        encode=encode,
        reads=(("tokenizer", 223),),  # 256 with the instruction
        call=call,
        predict=predict,
    ),
)
