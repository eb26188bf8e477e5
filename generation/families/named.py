"""Families that are recognised and refused in words; nothing here renders them yet.

Their layers are those of diffusers' classes at the published sizes, under diffusers' names and,
where trainers use others, under the original code's. Each of them becomes a file of its own when it
can be rendered.
"""

from __future__ import annotations

from generation.families.family import PICTURE, TEXT, Family, Layers, linear, stack
from generation.families.flux import bfl_names, layers, modulations
from generation.families.unet import stability_names, unet

# --- kin of FLUX.1 -------------------------------------------------------------------------------


def _hunyuan(width: int, double: int, single: int) -> Layers:
    own = {
        **linear("img_mlp.fc1 txt_mlp.fc1", 4 * width, width),
        **linear("img_mlp.fc2 txt_mlp.fc2", width, 4 * width),
        **linear("img_mod.linear txt_mod.linear", 6 * width, width),
    }
    return {
        **layers(width, double, single),
        **modulations(width, double, single),
        **stack("double_blocks", double, own),
        **stack("single_blocks", single, linear("modulation.linear", 3 * width, width)),
    }


def _ovis(width: int, double: int, single: int) -> Layers:
    """FLUX.1's blocks with gates in their feed-forward layers, which are twice as wide."""
    wide = 8 * width
    return {
        **layers(width, double, single),
        **modulations(width, double, single),
        **stack(
            "transformer_blocks",
            double,
            linear("ff.net.0.proj ff_context.net.0.proj", wide, width),
        ),
        **stack("single_transformer_blocks", single, linear("proj_mlp", wide, width)),
    }


def _timed(context: int, added: Layers | None = None) -> Layers:
    """FLUX.1's blocks under other embedders."""
    width = 3072
    return {
        **layers(width, 19, 38),
        **modulations(width, 19, 38),
        **linear("x_embedder", width, 64),
        **linear("context_embedder", width, context),
        **linear("time_embed.timestep_embedder.linear_1", width, 256),
        **linear("time_embed.timestep_embedder.linear_2", width, width),
        **(added or {}),
    }


def _hunyuan15(width: int, count: int) -> Layers:
    return stack(
        "transformer_blocks",
        count,
        {
            **linear("norm1.linear norm1_context.linear", 6 * width, width),
            **linear(f"{PICTURE} {TEXT}", width, width),
            **linear("ff.net.0.proj ff_context.net.0.proj", 4 * width, width),
            **linear("ff.net.2 ff_context.net.2", width, 4 * width),
        },
    )


def _krea2(width: int, count: int) -> Layers:
    few, wide = width // 4, 16384
    return {
        **linear("img_in first", width, 64),
        **stack(
            "transformer_blocks",
            count,
            {
                **linear("attn.to_q attn.to_gate attn.to_out.0", width, width),
                **linear("attn.to_k attn.to_v", few, width),
                **linear("ff.gate ff.up", wide, width),
                **linear("ff.down", width, wide),
            },
        ),
        **stack(
            "blocks",
            count,
            {
                **linear("attn.wq attn.gate attn.wo", width, width),
                **linear("attn.wk attn.wv", few, width),
                **linear("mlp.gate mlp.up", wide, width),
                **linear("mlp.down", width, wide),
            },
        ),
    }


# --- transformers of other kinds -----------------------------------------------------------------


def _hunyuan_dit(width: int = 1408) -> Layers:
    return stack(
        "blocks",
        40,
        {
            **linear("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", width, width),
            **linear("attn2.to_q attn2.to_out.0 attn1.out_proj attn2.out_proj", width, width),
            **linear("attn2.to_k attn2.to_v", width, 1024),
            **linear("attn1.Wqkv", 3 * width, width),
            **linear("attn2.q_proj", width, width),
            **linear("attn2.kv_proj", 2 * width, 1024),
            **linear("ff.net.0.proj mlp.fc1", 6144, width),
            **linear("ff.net.2 mlp.fc2", width, 6144),
        },
    )


def _wan(width: int, count: int, wide: int) -> Layers:
    names = (
        "attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_k attn2.to_v "
        "attn2.to_out.0 attn2.add_k_proj attn2.add_v_proj self_attn.q self_attn.k self_attn.v "
        "self_attn.o cross_attn.q cross_attn.k cross_attn.v cross_attn.o cross_attn.k_img "
        "cross_attn.v_img"
    )
    return stack(
        "blocks",
        count,
        {
            **linear(names, width, width),
            **linear("ffn.net.0.proj ffn.0", wide, width),
            **linear("ffn.net.2 ffn.2", width, wide),
        },
    )


def _crossing(width: int, count: int, context: int, added: Layers | None = None) -> Layers:
    """Blocks of self-attention, attention to `context`, and four times wider layers."""
    return stack(
        "transformer_blocks",
        count,
        {
            **linear("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", width, width),
            **linear("attn2.to_q attn2.to_out.0", width, width),
            **linear("attn2.to_k attn2.to_v", width, context),
            **linear("ff.net.0.proj", 4 * width, width),
            **linear("ff.net.2", width, 4 * width),
            **(added or {}),
        },
    )


_LTX2_AUDIO = {
    **linear("audio_attn1.to_q audio_attn1.to_k audio_attn1.to_v audio_attn1.to_out.0", 2048, 2048),
    **linear("audio_attn2.to_q audio_attn2.to_k audio_attn2.to_v audio_attn2.to_out.0", 2048, 2048),
    **linear("audio_to_video_attn.to_k audio_to_video_attn.to_v", 2048, 2048),
    **linear("audio_to_video_attn.to_q video_to_audio_attn.to_k", 2048, 4096),
    **linear("video_to_audio_attn.to_v", 2048, 4096),
    **linear("video_to_audio_attn.to_q video_to_audio_attn.to_out.0", 2048, 2048),
    **linear("audio_to_video_attn.to_out.0", 4096, 2048),
    **linear("audio_ff.net.0.proj", 8192, 2048),
    **linear("audio_ff.net.2", 2048, 8192),
}


def _pixart(width: int = 1152) -> Layers:
    own = {
        **linear("attn.qkv", 3 * width, width),
        **linear("attn.proj cross_attn.q_linear cross_attn.proj", width, width),
        **linear("cross_attn.kv_linear", 2 * width, width),
        **linear("mlp.fc1", 4 * width, width),
        **linear("mlp.fc2", width, 4 * width),
    }
    return {**_crossing(width, 28, width), **stack("blocks", 28, own)}


def _aura(width: int = 3072, wide: int = 8192) -> Layers:
    ff = {
        **linear("ff.linear_1 ff.linear_2", wide, width),
        **linear("ff.out_projection", width, wide),
        **linear("norm1.linear", 6 * width, width),
    }
    context = {
        **linear("ff_context.linear_1 ff_context.linear_2", wide, width),
        **linear("ff_context.out_projection", width, wide),
        **linear("norm1_context.linear", 6 * width, width),
    }
    first = "attn.w1q attn.w1k attn.w1v attn.w1o"
    second = "attn.w2q attn.w2k attn.w2v attn.w2o"
    native = {
        **linear("mlp.c_fc1 mlp.c_fc2", wide, width),
        **linear("mlp.c_proj", width, wide),
    }
    return {
        **stack(
            "joint_transformer_blocks",
            4,
            {**linear(f"{PICTURE} {TEXT}", width, width), **ff, **context},
        ),
        **stack("single_transformer_blocks", 32, {**linear(PICTURE, width, width), **ff}),
        **stack("double_layers", 4, linear(f"{first} {second}", width, width)),
        **stack("single_layers", 32, {**linear(first, width, width), **native}),
    }


def _cascade(width: int = 2048) -> Layers:
    """Stage C: residual, timestep and attention blocks in turn, 8 and 24 of each going down."""
    found: dict[str, tuple[int, ...]] = {}
    for side, counts in (("down_blocks", (8, 24)), ("up_blocks", (24, 8))):
        for level, count in enumerate(counts):
            for at in range(2, 3 * count, 3):
                block = f"{side}.{level}.{at}"
                names = (
                    f"{block}.attention.to_q {block}.attention.to_k {block}.attention.to_v "
                    f"{block}.attention.to_out.0 {block}.attention.attn.to_q "
                    f"{block}.attention.attn.to_k {block}.attention.attn.to_v "
                    f"{block}.attention.attn.out_proj {block}.kv_mapper.1"
                )
                found |= linear(names, width, width)
                found |= linear(f"{side}.{level}.{at - 2}.channelwise.0", 4 * width, width)
                found |= linear(f"{side}.{level}.{at - 2}.channelwise.4", width, 4 * width)
    return found


def _cosmos(width: int, count: int) -> Layers:
    small = "norm1.linear_1 norm2.linear_1 norm3.linear_1"
    large = "norm1.linear_2 norm2.linear_2 norm3.linear_2"
    own = {
        **linear("self_attn.q_proj self_attn.k_proj self_attn.v_proj", width, width),
        **linear("self_attn.output_proj cross_attn.q_proj cross_attn.output_proj", width, width),
        **linear("cross_attn.k_proj cross_attn.v_proj", width, 1024),
        **linear("mlp.layer1", 4 * width, width),
        **linear("mlp.layer2", width, 4 * width),
        **linear("adaln_modulation_self_attn.1 adaln_modulation_cross_attn.1", 256, width),
        **linear("adaln_modulation_self_attn.2 adaln_modulation_cross_attn.2", 3 * width, 256),
        **linear("adaln_modulation_mlp.1", 256, width),
        **linear("adaln_modulation_mlp.2", 3 * width, 256),
    }
    norms = {**linear(small, 256, width), **linear(large, 3 * width, 256)}
    return {**_crossing(width, count, 1024, norms), **stack("blocks", count, own)}


_ANIMA_ADAPTER = {
    f"{name}.{layer}": shape
    for name in ("llm_adapter", "text_conditioner")
    for layer, shape in stack(
        "blocks",
        6,
        {
            **linear("self_attn.q_proj self_attn.k_proj self_attn.v_proj", 1024, 1024),
            **linear("self_attn.o_proj cross_attn.q_proj cross_attn.k_proj", 1024, 1024),
            **linear("cross_attn.v_proj cross_attn.o_proj", 1024, 1024),
            **linear("mlp.0", 4096, 1024),
            **linear("mlp.2", 1024, 4096),
        },
    ).items()
}


def _mochi() -> Layers:
    video, text = 3072, 1536
    both = {
        **linear("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", video, video),
        **linear("attn1.add_q_proj attn1.add_k_proj attn1.add_v_proj", video, text),
        **linear("norm1.linear", 4 * video, video),
        **linear("ff.net.0.proj", 16384, video),
        **linear("ff.net.2", video, 8192),
    }
    context = {
        **linear("attn1.to_add_out", text, video),
        **linear("ff_context.net.0.proj", 8192, text),
        **linear("ff_context.net.2", text, 4096),
        **linear("norm1_context.linear", 4 * text, video),
    }
    return {**stack("transformer_blocks", 48, both), **stack("transformer_blocks", 47, context)}


def _alone(width: int, count: int, time: int) -> Layers:
    """Blocks of one attention over picture and text together, and four times wider layers."""
    return {
        **stack(
            "transformer_blocks",
            count,
            {
                **linear("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", width, width),
                **linear("ff.net.0.proj", 4 * width, width),
                **linear("ff.net.2", width, 4 * width),
            },
        ),
        **(_expert_norms(width, count, time) if time else {}),
    }


def _expert_norms(width: int, count: int, time: int) -> Layers:
    """CogVideoX's norms of picture and text, and what lies outside of its blocks."""
    return {
        **stack("transformer_blocks", count, linear("norm1.linear norm2.linear", 6 * width, time)),
        **linear("patch_embed.text_proj", width, 4096),
        **linear("time_embedding.linear_1", time, width),
        **linear("time_embedding.linear_2", time, time),
    }


def _kandinsky(width: int, wide: int, time: int, count: int, of_text: int) -> Layers:
    """Kandinsky 5 (https://github.com/kandinskylab/kandinsky-5), in diffusers' and its own names,
    which are the same."""
    own = linear(
        "self_attention.to_query self_attention.to_key self_attention.to_value "
        "self_attention.out_layer",
        width,
        width,
    )
    ff = {
        **linear("feed_forward.in_layer", wide, width),
        **linear("feed_forward.out_layer", width, wide),
    }
    cross = linear(
        "cross_attention.to_query cross_attention.to_key cross_attention.to_value "
        "cross_attention.out_layer",
        width,
        width,
    )
    return {
        **stack(
            "text_transformer_blocks",
            of_text,
            {**own, **ff, **linear("text_modulation.out_layer", 6 * width, time)},
        ),
        **stack(
            "visual_transformer_blocks",
            count,
            {**own, **cross, **ff, **linear("visual_modulation.out_layer", 9 * width, time)},
        ),
    }


_OMNIGEN = stack(
    "layers",
    32,
    {
        **linear("self_attn.qkv_proj", 9216, 3072),
        **linear("self_attn.to_q self_attn.to_k self_attn.to_v self_attn.to_out.0", 3072, 3072),
        **linear("self_attn.o_proj", 3072, 3072),
        **linear("mlp.gate_up_proj", 16384, 3072),
        **linear("mlp.down_proj", 3072, 8192),
    },
)


def _sana(width: int, count: int) -> Layers:
    return stack(
        "transformer_blocks",
        count,
        {
            **linear("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0", width, width),
            **linear("attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0", width, width),
            "ff.conv_inverted": (5 * width, width, 1, 1),
            "ff.conv_point": (width, 5 * width // 2, 1, 1),
        },
    )


NAMED = (
    # What metadata call a base is looked up in this order: narrower names come first.
    Family("krea2", "Krea 2", (_krea2(6144, 28),), r"krea[._ -]?2"),
    Family("longcat", "LongCat-Image", (_timed(3584),), r"longcat(?![._ -]?video)", like="flux"),
    Family(
        "bria",
        "Bria",
        (
            _timed(4096),
            _timed(4096, stack("caption_projection", 57, linear("linear", 1536, 2048))),
        ),
        r"\bbria|\bfibo",
        like="flux",
    ),
    Family("ovis", "Ovis-Image", (_ovis(3072, 6, 27),), r"\bovis"),
    Family(
        "hunyuanvideo",
        "HunyuanVideo",
        (_hunyuan(3072, 20, 40), _hunyuan15(2048, 54)),
        r"hunyuan[._ -]?video|framepack",
        bfl_names,
    ),
    Family(
        "hunyuanimage",
        "HunyuanImage",
        (_hunyuan(3584, 20, 40),),
        r"hunyuan[._ -]?image",
        bfl_names,
    ),
    Family("hunyuandit", "HunyuanDiT", (_hunyuan_dit(),), r"hunyuan"),
    Family(
        "wan",
        "Wan (video)",
        (_wan(5120, 40, 13824), _wan(1536, 30, 8960), _wan(3072, 30, 14336)),
        r"\bwan(?![a-z])|\bwan[._ -]?video",
    ),
    Family(
        "ltx",
        "LTX-Video",
        (
            _crossing(2048, 28, 2048),
            _crossing(4096, 48, 4096),
            _crossing(4096, 48, 4096, _LTX2_AUDIO),
        ),
        r"\bltx",
    ),
    Family("pixart", "PixArt", (_pixart(),), r"pixart"),
    Family(
        "auraflow",
        "AuraFlow",
        (_aura(),),
        r"aura[._ -]?flow|pony[._ -]?(?:diffusion)?[._ -]?v?7",  # Pony 7 is one
    ),
    Family(
        "kolors",
        "Kolors",
        # Its blocks are SDXL's; only what reads the text differs.
        (
            {
                **linear("encoder_hid_proj", 2048, 4096),
                **linear("add_embedding.linear_1", 1280, 5632),
            },
        ),
        r"kolors",
        like="sdxl",
    ),
    Family("cascade", "Stable Cascade", (_cascade(),), r"cascade|wuerstchen|würstchen"),
    Family(
        "anima",
        "Anima",
        ({**_cosmos(2048, 28), **_ANIMA_ADAPTER},),
        r"\banima(?![a-z])",
    ),
    Family("cosmos", "Cosmos-Predict2", (_cosmos(2048, 28), _cosmos(5120, 36)), r"cosmos"),
    Family(
        "kandinsky",
        "Kandinsky 5",
        (_kandinsky(1792, 7168, 512, 32, 2), _kandinsky(4096, 16384, 1024, 60, 4)),
        r"kandinsky",
    ),
    Family("allegro", "Allegro (video)", (_crossing(2304, 32, 2304),), r"\ballegro"),
    Family("mochi", "Mochi", (_mochi(),), r"mochi"),
    Family("cogvideox", "CogVideoX", (_alone(1920, 30, 512), _alone(3072, 42, 512)), r"cogvideo"),
    Family("cogview4", "CogView4", (_alone(4096, 28, 0),), r"cogview"),
    Family("omnigen", "OmniGen", (_OMNIGEN,), r"omnigen"),
    Family("sana", "Sana", (_sana(2240, 20), _sana(1152, 28)), r"\bsana"),
    Family(
        "refiner",
        "the SDXL refiner",
        (
            unet(
                (384, 768, 1536, 1536), (0, 4, 4, 0), 1280,
                linear_projection=True, added=2560, middle=4,
            ),
        ),
        r"refiner",
        stability_names,
    ),
)  # fmt: skip
"""Families that a LoRA may be for, but that are not rendered here."""
