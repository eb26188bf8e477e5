"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from generation.families.family import (
    Aliases,
    BlockLists,
    Family,
    Layers,
    Rendering,
    blocks,
    linear,
    pieces_of,
    singles,
    stack,
)
from generation.families.text import CLIP_L, OPEN_CLIP_G, T5_XXL


def _layers(width: int, count: int, dual: int = 0) -> Layers:
    """`SD3Transformer2DModel`; the first `dual` blocks have a second attention (3.5 Medium)."""
    attention = "attn.to_q attn.to_k attn.to_v attn.add_q_proj attn.add_k_proj attn.add_v_proj"
    common = {
        **linear(f"{attention} attn.to_out.0", width, width),
        **linear("ff.net.0.proj", 4 * width, width),
        **linear("ff.net.2", width, 4 * width),
    }
    context = {
        **linear("attn.to_add_out", width, width),
        **linear("ff_context.net.0.proj", 4 * width, width),
        **linear("ff_context.net.2", width, 4 * width),
        **linear("norm1_context.linear", 6 * width, width),
    }
    return {
        "pos_embed.proj": (width, 16, 2, 2),
        **linear("time_text_embed.timestep_embedder.linear_1", width, 256),
        **linear("time_text_embed.timestep_embedder.linear_2", width, width),
        **linear("time_text_embed.text_embedder.linear_1", width, 2048),
        **linear("time_text_embed.text_embedder.linear_2", width, width),
        **linear("context_embedder", width, 4096),
        **stack("transformer_blocks", count, common),
        **stack("transformer_blocks", count - 1, context),
        # The last block does not update its context.
        **linear(f"transformer_blocks.{count - 1}.norm1_context.linear", 2 * width, width),
        **stack(
            "transformer_blocks",
            dual,
            {
                **linear("attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0", width, width),
                **linear("norm1.linear", 9 * width, width),
            },
        ),
        **stack("transformer_blocks", count - dual, linear("norm1.linear", 6 * width, width), dual),
        **linear("norm_out.linear", 2 * width, width),
        **linear("proj_out", 64, width),
    }


_JOINT = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "context_block.attn.proj": ("attn.to_add_out",),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
_SINGLES = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
}


def stability_names(names: Sequence[str]) -> Aliases:
    """Stability's names (joint_blocks.0.x_block...) of diffusers' modules.

    Stability stores (shift, scale) in the closing modulations, diffusers (scale, shift); the last
    block does not update its context, whose modulation is then a closing one.
    """
    have = set(names)
    found = (re.match(r"transformer_blocks\.(\d+)\.", name) for name in names)
    last = max((int(match[1]) for match in found if match), default=-1)
    for block in range(last + 1):
        for key, pieces in _JOINT.items():
            full = tuple(f"transformer_blocks.{block}.{piece}" for piece in pieces)
            if have.issuperset(full):
                closing = block == last and key == "context_block.adaLN_modulation.1"
                yield f"joint_blocks.{block}.{key}", full, closing
                yield from pieces_of(f"joint_blocks.{block}.{key}", full)
    yield from singles(names, _SINGLES)
    if "proj_out" in have:
        yield "final_layer.linear", ("proj_out",), False
    if "norm_out.linear" in have:
        yield "final_layer.adaLN_modulation.1", ("norm_out.linear",), True


def encode(
    pipe: Any, prompt: str, negative: str, device: Any, guided: bool, clip_skip: int
) -> Mapping[str, Any]:
    """As diffusers encodes; T5 sees 256 tokens, the CLIP encoders 77."""
    encoded = pipe.encode_prompt(
        prompt=prompt,
        prompt_2=None,
        prompt_3=None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        negative_prompt=negative,
        clip_skip=clip_skip or None,
    )
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    return {n: tensor for n, tensor in zip(names, encoded, strict=True) if tensor is not None}


def predict(pipe: Any, latents: Any, times: Any, texts: Mapping[str, Any]) -> Any:
    """The velocity."""
    return pipe.transformer.forward(
        latents,
        encoder_hidden_states=texts["prompt_embeds"],
        pooled_projections=texts["pooled_prompt_embeds"],
        timestep=times,
        return_dict=False,
    )[0]


SD3 = Family(
    id="sd3",
    words="Stable Diffusion 3",
    # 3 Medium, 3.5 Medium, 3.5 Large
    models=(_layers(1536, 24), _layers(1536, 24, dual=13), _layers(2432, 38)),
    stated=r"diffusion-3|\bsd_?3",
    aliases=stability_names,
    encoders={"te": CLIP_L, "te2": OPEN_CLIP_G, "te3": T5_XXL},
    rendering=Rendering(
        "StableDiffusion3Pipeline",
        "transformer",
        16,
        5.0,
        BlockLists(
            # SD 3 and 3.5 Medium have 24 joint blocks, 3.5 Large has 38.
            lists=(("BASE", *blocks("J", *range(24))), ("BASE", *blocks("J", *range(38)))),
            kinds={"J": "J", "JOINT": "J"},
            stacks={"transformer_blocks": "J"},
            whole=False,
        ),
        model="SD3Transformer2DModel",
        marks=(r"joint_blocks\.|transformer_blocks\.0\.attn\.add_k_proj\.weight", r"pos_embed"),
        flow=True,
        encoders=("te", "te2", "te3"),
        sampler="euler",
        chunked=False,
        encode=encode,
        reads=(("tokenizer_3", 256), ("tokenizer", 77)),
        predict=predict,
    ),
)
