"""The text encoders that families share, by their layers."""

from __future__ import annotations

from generation.families.family import Layers, linear, stack


def clip(width: int, layers: int) -> Layers:
    """CLIP's text encoder (Radford et al. 2021) in transformers' names."""
    return stack(
        "encoder.layers",
        layers,
        {
            **linear("self_attn.q_proj self_attn.k_proj", width, width),
            **linear("self_attn.v_proj self_attn.out_proj", width, width),
            **linear("mlp.fc1", 4 * width, width),
            **linear("mlp.fc2", width, 4 * width),
        },
    )


CLIP_L = clip(768, 12)
OPEN_CLIP_H = clip(1024, 24)  # diffusers keeps 23, of which SD 2.x reads the last
OPEN_CLIP_G = clip(1280, 32)
T5_XXL = stack(
    "encoder.block",
    24,
    {
        **linear("layer.0.SelfAttention.q layer.0.SelfAttention.k", 4096, 4096),
        **linear("layer.0.SelfAttention.v layer.0.SelfAttention.o", 4096, 4096),
        **linear("layer.1.DenseReluDense.wi_0 layer.1.DenseReluDense.wi_1", 10240, 4096),
        **linear("layer.1.DenseReluDense.wo", 4096, 10240),
    },
)


def llama(width: int, few: int, wide: int, layers: int, *, queries: int = 0) -> Layers:
    """The blocks that Llama, Gemma and Qwen share; keys and values have `few` channels, queries as
    many as the block where nothing else is said."""
    queries = queries or width
    return stack(
        "layers",
        layers,
        {
            **linear("self_attn.q_proj", queries, width),
            **linear("self_attn.k_proj self_attn.v_proj", few, width),
            **linear("self_attn.o_proj", width, queries),
            **linear("mlp.gate_proj mlp.up_proj", wide, width),
            **linear("mlp.down_proj", width, wide),
        },
    )


GEMMA2_2B = llama(2304, 1024, 9216, 26, queries=2048)
LLAMA_8B = {
    **{f"model.{name}": shape for name, shape in llama(4096, 1024, 14336, 32).items()},
    **linear("lm_head", 128256, 4096),
}
