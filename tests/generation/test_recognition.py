"""Which family a LoRA is for: files made from the real models' structures, whole and in part."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from generation.families import ALL, FAMILIES, words
from generation.families.flux import bfl_names
from generation.families.flux2 import names as flux2_names
from generation.families.recognition import family_stated
from generation.loras.inspection import LoraInfo, inspect

pytest.importorskip("diffusers")
import torch  # noqa: E402

SD35M: dict[str, Any] = {
    "num_layers": 24, "num_attention_heads": 24, "dual_attention_layers": tuple(range(13)),
    "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "in_channels": 16,
    "out_channels": 16, "sample_size": 128,
}  # fmt: skip
SD35L: dict[str, Any] = {
    "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
    "pooled_projection_dim": 2048, "in_channels": 16, "out_channels": 16, "sample_size": 128,
}  # fmt: skip
KLEIN4: dict[str, Any] = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680
}  # fmt: skip
KLEIN9: dict[str, Any] = {
    "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32,
    "joint_attention_dim": 12288,
}  # fmt: skip
COSMOS: dict[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 128, "num_layers": 28, "mlp_ratio": 4.0,
    "text_embed_dim": 1024, "adaln_lora_dim": 256, "in_channels": 16, "out_channels": 16,
}  # fmt: skip
LTX13: dict[str, Any] = {
    "num_layers": 48, "num_attention_heads": 32, "attention_head_dim": 128,
    "cross_attention_dim": 4096, "caption_channels": 4096,
}  # fmt: skip

# The family, diffusers' class, its configuration where the class's own is not the published one.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SD 3.5 Medium": ("sd3", "SD3Transformer2DModel", SD35M),
    "SD 3.5 Large": ("sd3", "SD3Transformer2DModel", SD35L),
    "FLUX.1": ("flux", "FluxTransformer2DModel", {"guidance_embeds": True}),
    "Chroma": ("chroma", "ChromaTransformer2DModel", {}),
    "FLUX.2": ("flux2", "Flux2Transformer2DModel", {}),
    "FLUX.2 Klein 4B": ("klein", "Flux2Transformer2DModel", KLEIN4),
    "FLUX.2 Klein 9B": ("klein", "Flux2Transformer2DModel", KLEIN9),
    "Qwen-Image": ("qwen", "QwenImageTransformer2DModel", {}),
    "Z-Image": ("zimage", "ZImageTransformer2DModel", {}),
    "HunyuanVideo": ("hunyuanvideo", "HunyuanVideoTransformer3DModel", {}),
    "HunyuanImage": ("hunyuanimage", "HunyuanImageTransformer2DModel", {}),
    "Wan 14B": ("wan", "WanTransformer3DModel", {}),
    "Wan 1.3B": (
        "wan", "WanTransformer3DModel",
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    ),
    "LTX-Video": ("ltx", "LTXVideoTransformer3DModel", {}),
    "LTX-Video 13B": ("ltx", "LTXVideoTransformer3DModel", LTX13),
    "LTX-2": ("ltx", "LTX2VideoTransformer3DModel", {}),
    "Lumina 2": ("lumina2", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
    "HiDream": (
        "hidream", "HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 16, "caption_channels": [4096, 4096],
         "axes_dims_rope": (64, 32, 32)},
    ),
    "PixArt": ("pixart", "PixArtTransformer2DModel", {}),
    "AuraFlow": ("auraflow", "AuraFlowTransformer2DModel", {}),
    "Cosmos": ("cosmos", "CosmosTransformer3DModel", COSMOS),
    "Mochi": ("mochi", "MochiTransformer3DModel", {}),
    "CogVideoX": ("cogvideox", "CogVideoXTransformer3DModel", {}),
    "Krea 2": ("krea2", "Krea2Transformer2DModel", {}),
    "Ovis-Image": ("ovis", "OvisImageTransformer2DModel", {}),
    "Sana": ("sana", "SanaTransformer2DModel", {}),
}  # fmt: skip
KIN = {"chroma": {"flux"}, "flux": {"chroma"}, "cosmos": {"anima"}, "pixart": {"sana"}}
"""Families that whole files without modulations (or an adapter) leave open."""

DOUBLE = {"FLUX.1", "Chroma", "HunyuanVideo", "Ovis-Image"}
"""Models whose double blocks may as well be the first of another's."""

Shapes = Mapping[str, tuple[int, ...]]


@cache
def structure(name: str) -> Shapes:
    """The published model's matrices: {module: shape}."""
    import diffusers

    _, kind, config = MODELS[name]
    with torch.device("meta"):
        model = getattr(diffusers, kind)(**config)
    return {
        module: tuple(layer.weight.shape)
        for module, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


@cache
def unet(family: str) -> Shapes:
    import diffusers

    from generation.renderers.diffusers.models import CONFIGS

    config = json.loads((CONFIGS / family / "unet" / "config.json").read_text())
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel.from_config(config)
    return {
        module: tuple(layer.weight.shape)
        for module, layer in model.named_modules()
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    }


def lora_file(
    path: Path, layers: Shapes, spell: Callable[[str], tuple[str, str, str]], rank: int = 1,
    metadata: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """A LoRA of these layers with a header as a trainer writes it, and a sparse body of zeros."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    at = 0
    for name, (out, inside, *kernel) in layers.items():
        stem, down, up = spell(name)
        ones = [1] * len(kernel)
        for key, shape in ((stem + down, [rank, inside, *kernel]), (stem + up, [out, rank, *ones])):
            size = 2 * int(torch.Size(shape).numel())
            header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def kohya(name: str) -> tuple[str, str, str]:
    return "lora_unet_" + name.replace(".", "_"), ".lora_down.weight", ".lora_up.weight"


def dotted(prefix: str) -> Callable[[str], tuple[str, str, str]]:
    return lambda name: (prefix + name, ".lora_A.weight", ".lora_B.weight")


SPELLINGS = {
    "kohya": kohya,
    "diffusers": dotted("transformer."),
    "comfyui": dotted("diffusion_model."),
    "peft": dotted("base_model.model."),
}
STACK = r"(transformer_blocks|layers|blocks)\."
SUBSETS: dict[str, Callable[[str], bool]] = {
    "all blocks": lambda n: bool(re.match(r"[a-z_]+\.\d+\.", n)),
    "attention": lambda n: bool(re.match(r"[a-z_]+\.\d+\..*att", n)),
    "feed-forward": lambda n: bool(re.match(r"[a-z_]+\.\d+\..*(ff|mlp|feed_forward)", n)),
    "first stack": lambda n: bool(re.match(STACK + r"\d+\.", n)),
    "one block": lambda n: bool(re.match(STACK + r"3\.", n)),
    "one layer": lambda n: bool(re.match(STACK + r"3\.att\w*\.to_q$", n)),
}


PARTS = {"feed-forward", "one block", "one layer"}


def check(info: LoraInfo, family: str, certain: bool) -> None:
    """Recognised right, or named among those that fit; never another."""
    assert info.family in {family, None}, (info.family, info.families)
    assert not info.families or family in info.families
    if certain:
        assert info.family == family or set(info.families) == {family} | KIN.get(family, set())
        assert words(family) in info.family_words


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("model", MODELS)
def test_real_structures_are_recognised_or_left_open(
    model: str, subset: str, tmp_path: Path
) -> None:
    family = MODELS[model][0]
    layers = {n: s for n, s in structure(model).items() if SUBSETS[subset](n)}
    if not layers:
        pytest.skip("no such layers")
    for spelling, spell in SPELLINGS.items():
        info = inspect(lora_file(tmp_path / f"{spelling}.safetensors", layers, spell))
        # The double blocks of FLUX.1 and its kin may be the first of a larger model's.
        wide = {"all blocks", "attention"} if model in DOUBLE else {*SUBSETS} - PARTS
        check(info, family, certain=subset in wide)


@pytest.mark.parametrize(("model", "names"), [
    ("FLUX.1", bfl_names), ("Chroma", bfl_names), ("HunyuanVideo", bfl_names),
    ("FLUX.2", flux2_names), ("FLUX.2 Klein 4B", flux2_names), ("FLUX.2 Klein 9B", flux2_names),
])  # fmt: skip
def test_original_names_are_recognised(model: str, names: Any, tmp_path: Path) -> None:
    """Black Forest Labs' names: kohya's and musubi's flat ones, and ComfyUI's."""
    own = structure(model)
    layers = {
        alias: (sum(own[piece][0] for piece in pieces), *own[pieces[0]][1:])
        for alias, pieces, _ in names(list(own))
        if re.match(r"\w+_blocks\.", alias)
    }
    if model == "HunyuanVideo":  # its own names for what bfl_names calls otherwise
        renamed = {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2", ".lin": ".linear"}
        for old, new in renamed.items():
            layers = {re.sub(re.escape(old) + r"\Z", new, a): s for a, s in layers.items()}
    for spelling in ("kohya", "comfyui"):
        path = tmp_path / f"{spelling}.safetensors"
        info = inspect(lora_file(path, layers, SPELLINGS[spelling]))
        check(info, MODELS[model][0], certain=True)
        double = {n: s for n, s in layers.items() if n.startswith("double")}
        info = inspect(lora_file(path, double, SPELLINGS[spelling]))
        check(info, MODELS[model][0], certain=model not in DOUBLE)


NATIVE = {
    "zimage": ("layers", 30, {"attention.qkv": (11520, 3840), "attention.out": (3840, 3840)}),
    "wan": ("blocks", 40, {"self_attn.q": (5120, 5120), "cross_attn.k": (5120, 5120),
                           "ffn.0": (13824, 5120)}),
    "lumina2": ("layers", 26, {"attention.qkv": (3840, 2304), "feed_forward.w1": (9216, 2304)}),
    "auraflow": ("double_layers", 4, {"attn.w1q": (3072, 3072), "attn.w2q": (3072, 3072)}),
    "hidream": ("double_stream_blocks", 16, {"block.attn1.to_q": (2560, 2560),
                                             "block.attn1.to_q_t": (2560, 2560)}),
    "hunyuandit": ("blocks", 40, {"attn1.Wqkv": (4224, 1408), "attn2.kv_proj": (2816, 1024)}),
    "krea2": ("blocks", 28, {"attn.wq": (6144, 6144), "attn.wk": (1536, 6144)}),
    "omnigen": ("layers", 32, {"self_attn.qkv_proj": (9216, 3072)}),
    "pixart": ("blocks", 28, {"attn.qkv": (3456, 1152), "cross_attn.kv_linear": (2304, 1152)}),
}  # fmt: skip


@pytest.mark.parametrize("family", NATIVE)
def test_other_codes_names_are_recognised(family: str, tmp_path: Path) -> None:
    stack, count, block = NATIVE[family]
    layers = {f"{stack}.{n}.{layer}": s for n in range(count) for layer, s in block.items()}
    for spelling in ("kohya", "comfyui"):
        info = inspect(lora_file(tmp_path / f"{spelling}.safetensors", layers, SPELLINGS[spelling]))
        assert info.family == family, info.families


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_unets_are_recognised(family: str, tmp_path: Path) -> None:
    layers = unet(family)
    assert ALL[family].models[0] == layers
    subsets: dict[str, Callable[[str], bool]] = {
        "all": lambda n: True,
        "attention": lambda n: "attn" in n,
        "cross-attention": lambda n: "attn2" in n,
        "middle": lambda n: n.startswith("mid_block"),
        "self-attention": lambda n: "attn1" in n,
        "convolutions": lambda n: "conv" in n,
    }
    for subset, keep in subsets.items():
        part = {name: shape for name, shape in layers.items() if keep(name)}
        for spell in (kohya, dotted("unet."), dotted("base_model.model.")):
            info = inspect(lora_file(tmp_path / "a.safetensors", part, spell))
            assert info.family in {family, None} and family in info.families
            if subset in {"all", "attention", "cross-attention", "middle"}:
                assert info.family == family, (subset, info.families)


@pytest.mark.parametrize(("stem", "width", "families"), [
    ("lora_te_text_model_encoder_layers_3_self_attn_q_proj", 768, ("sd1",)),
    ("lora_te_text_model_encoder_layers_3_self_attn_q_proj", 1024, ("sd2",)),
    ("lora_te1_text_model_encoder_layers_3_self_attn_q_proj", 768,
     ("sd1", "sdxl", "sd3", "flux", "hidream")),
    ("lora_te2_text_model_encoder_layers_3_self_attn_q_proj", 1280, ("sdxl", "sd3", "hidream")),
    ("text_encoder_3.encoder.block.0.layer.0.SelfAttention.q", 4096, ("sd3", "flux", "hidream")),
    ("lora_te_layers_3_self_attn_q_proj", 2304, ()),
    ("lora_te_layers_3_mlp_down_proj", 2304, ()),
    ("lora_te4_model_layers_3_self_attn_q_proj", 4096, ("hidream",)),
    ("lora_te1_text_model_encoder_layers_3_self_attn_q_proj", 999, ()),
])  # fmt: skip
def test_text_encoders_alone_leave_open_what_they_share(
    stem: str, width: int, families: tuple[str, ...], tmp_path: Path
) -> None:
    spell = lambda _: (stem, ".lora_down.weight", ".lora_up.weight")  # noqa: E731
    info = inspect(lora_file(tmp_path / "a.safetensors", {"": (width, width)}, spell))
    assert info.families == families
    assert info.family == (families[0] if len(families) == 1 else None)


def test_blocks_that_several_models_begin_with_are_left_open(tmp_path: Path) -> None:
    """Of the first blocks' attention; a block that a model has not rules it out."""
    own = {n: s for n, s in structure("Qwen-Image").items() if ".attn." in n}

    def first(count: int) -> LoraInfo:
        layers = {n: s for n, s in own.items() if int(n.split(".")[1]) < count}
        return inspect(lora_file(tmp_path / "a.safetensors", layers, kohya))

    assert set(first(19).families) == {"flux", "chroma", "hunyuanvideo", "qwen"}
    assert set(first(6).families) >= {"flux", "chroma", "qwen", "ovis"}
    for count in (19, 6):
        assert first(count).family is None
    assert set(first(20).families) == {"hunyuanvideo", "qwen"}
    for count in (21, 59, 60):
        assert first(count).family == "qwen"


@pytest.mark.parametrize("kind", [
    "NucleusMoEImageTransformer2DModel", "Flux3Transformer2DModel"
])  # fmt: skip
def test_kin_that_are_not_known_are_no_other_family(kind: str, tmp_path: Path) -> None:
    """Models with some layers of a known one: with their embedders, or their blocks, left open."""
    import diffusers

    if not hasattr(diffusers, kind):
        pytest.skip("this diffusers does not have it")
    with torch.device("meta"):
        model = getattr(diffusers, kind)()
    layers = {
        module: tuple(layer.weight.shape)
        for module, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    for spell in SPELLINGS.values():
        assert inspect(lora_file(tmp_path / "a.safetensors", layers, spell)).families == ()


KANDINSKY_LITE = {"model_dim": 1792, "ff_dim": 7168, "time_dim": 512, "num_visual_blocks": 32}
KANDINSKY_PRO = {
    "model_dim": 4096, "ff_dim": 16384, "time_dim": 1024, "num_visual_blocks": 60,
    "num_text_blocks": 4,
}  # fmt: skip
VIDEO: list[tuple[str, str, dict[str, Any]]] = [
    ("hunyuanvideo", "HunyuanVideo15Transformer3DModel", {}),
    ("hunyuanvideo", "HunyuanVideoFramepackTransformer3DModel", {}),
    ("cogvideox", "CogVideoXTransformer3DModel", {"num_layers": 42, "num_attention_heads": 48}),
    ("cogvideox", "ConsisIDTransformer3DModel", {}),
    ("kandinsky", "Kandinsky5Transformer3DModel", KANDINSKY_LITE),
    ("kandinsky", "Kandinsky5Transformer3DModel", KANDINSKY_PRO),
    ("allegro", "AllegroTransformer3DModel", {}),
    ("wan", "ChronoEditTransformer3DModel", {}),
]


def linears(kind: str, config: Mapping[str, Any]) -> Shapes:
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, kind)(**config)
    return {
        module: tuple(layer.weight.shape)
        for module, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


@pytest.mark.parametrize(("family", "kind", "config"), VIDEO)
def test_further_models_of_videos_are_refused_by_name(
    family: str, kind: str, config: dict[str, Any], tmp_path: Path
) -> None:
    from generation.loras.suitability import findings

    layers = linears(kind, config)
    for keep in (r"", r"[a-z_]+\.\d+\.", r"[a-z_]+\.\d+\..*att"):
        part = {name: shape for name, shape in layers.items() if re.match(keep, name)}
        info = inspect(lora_file(tmp_path / "a.safetensors", part, kohya))
        assert info.families == (family,)
        (said,) = [one.sentence for one in findings(info, "flux", "m", None) if one.refuses]
        assert f"is made for {words(family)}, which is not rendered here" in said


@pytest.mark.parametrize(("family", "kind"), [
    ("longcat", "LongCatImageTransformer2DModel"), ("bria", "BriaTransformer2DModel"),
    ("bria", "BriaFiboTransformer2DModel"),
])  # fmt: skip
def test_models_of_flux_blocks_are_told_apart_by_their_embedders_or_metadata(
    family: str, kind: str, tmp_path: Path
) -> None:
    """Their blocks are FLUX.1's, shape by shape, and without a word they are taken for that."""
    from generation.loras.suitability import findings

    layers = linears(kind, {})
    blocks = {name: shape for name, shape in layers.items() if "transformer_blocks" in name}
    told = {"modelspec.architecture": words(family).lower()}
    path = tmp_path / "a.safetensors"
    for spell in (kohya, dotted("transformer.")):
        assert inspect(lora_file(path, layers, spell)).families == (family,)
        silent = inspect(lora_file(path, blocks, spell))
        assert silent.families == ("flux",) and silent.stated_family is None
        stated = inspect(lora_file(path, blocks, spell, metadata=told))
        assert stated.stated_family == family
        refused = [one for one in findings(stated, "flux", "m", None) if one.refuses]
        assert [one.check for one in refused] == ["base"]
        assert f"says that it was made for {words(family)}" in refused[0].sentence


def test_layers_of_no_known_family_are_left_open(tmp_path: Path) -> None:
    for layers in (
        {"transformer_blocks.0.attn.to_q": (777, 777)},
        {f"strange.{n}.thing": (64, 64) for n in range(9)},
        {"single_transformer_blocks.0.attn.to_q": (1024, 1024)},
    ):
        for spell in SPELLINGS.values():
            info = inspect(lora_file(tmp_path / "a.safetensors", layers, spell))
            assert info.family is None and info.families == ()


def test_metadata_decide_where_shapes_do_not(tmp_path: Path) -> None:
    own = structure("FLUX.1")
    attention = {n: s for n, s in own.items() if ".attn." in n}
    whole = {n: s for n, s in own.items() if "_blocks." in n}
    for layers, stated, family, wordsof in (
        (attention, "flux1-dev", "flux", "FLUX.1"),
        (attention, "chroma", "chroma", "Chroma"),
        (attention, "", None, "FLUX.1 or Chroma"),
        (whole, "chroma", "flux", "FLUX.1"),  # Chroma has no modulations
    ):
        path = lora_file(
            tmp_path / "a.safetensors", layers, kohya, metadata={"ss_base_model_version": stated}
        )
        info = inspect(path)
        assert (info.family, info.family_words) == (family, wordsof)


STATED = {
    "sd_v1": "sd1", "stable-diffusion-v1/lora": "sd1", "sd_1.5": "sd1", "sd15": "sd1",
    "sd_v2_768_v": "sd2", "stable-diffusion-v2-768-v/lora": "sd2",
    "sdxl_base_v1-0": "sdxl", "stable-diffusion-xl-v1-base/lora": "sdxl", "sdxl_1.0": "sdxl",
    "stable-diffusion-xl-v1-refiner": "refiner", "ponyDiffusionV6XL": "sdxl", "pony_v7": "auraflow",
    "stable-diffusion-3-medium": "sd3", "sd3": "sd3", "sd_3.5": "sd3",
    "flux-1-dev/lora": "flux", "Flux.1-schnell": "flux", "flux1-krea-dev": "flux",
    "black-forest-labs/FLUX.1-Kontext-dev": "flux", "flux2": "flux2", "FLUX.2-dev": "flux2",
    "flux2_klein_4b": "klein", "black-forest-labs/FLUX.2-klein-9B": "klein", "chroma": "chroma",
    "qwen_image": "qwen", "Qwen/Qwen-Image-Edit": "qwen", "zimage": "zimage", "Z-Image-Turbo":
    "zimage", "krea2": "krea2", "hidream": "hidream", "HiDream-O1-Image": None,
    "hunyuan-video": "hunyuanvideo",
    "hunyuan-image-2.1": "hunyuanimage", "hunyuan-dit-g2-v1": "hunyuandit", "wan2.1": "wan",
    "wan22_14b": "wan", "Wan-AI/Wan2.2-T2V-A14B": "wan", "ltx2": "ltx", "lumina-2": "lumina2",
    "pixart-sigma": "pixart", "auraflow": "auraflow", "kolors": "kolors",
    "stable-cascade-v1-prior": "cascade", "anima_preview": "anima", "animagine-xl": None,
    "cosmos-predict2": "cosmos", "longcat-image": "longcat", "longcat-video": None,
    "briaai/FIBO": "bria", "kandinsky5-t2v": "kandinsky", "Neta-Lumina": "lumina2", "": None,
}  # fmt: skip


@pytest.mark.parametrize("text", STATED)
def test_what_metadata_call_the_base(text: str) -> None:
    assert family_stated(text) == STATED[text]


def test_every_family_has_words_and_layers() -> None:
    assert len({family.words for family in ALL.values()}) == len(ALL)
    assert all(family.models and all(family.models) for family in ALL.values())
    rendered = [
        "sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "flux2", "klein", "qwen", "zimage",
        "lumina2", "hidream",
    ]  # fmt: skip
    assert list(FAMILIES) == rendered
