"""FLUX.2 dev, and what FLUX.2 Klein has of it (`klein`)."""

from __future__ import annotations

from collections.abc import Sequence

from generation.families.family import Aliases, Family, Layers, linear, stack
from generation.families.flux import two_streams


def layers(width: int, double: int, single: int, context: int) -> Layers:
    """Double and single blocks that share their modulations, for texts of width `context`."""
    image = "attn.to_q attn.to_k attn.to_v attn.to_out.0"
    text = "attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out"
    return {
        **linear("x_embedder", width, 128),
        **linear("context_embedder", width, context),
        **stack(
            "transformer_blocks",
            double,
            {
                **linear(f"{image} {text}", width, width),
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


FLUX2 = Family(
    id="flux2",
    words="FLUX.2",
    models=(layers(6144, 8, 48, 15360),),
    stated=r"flux[._ -]?(?:2|v2)(?!.*klein)",
    aliases=names,
)
