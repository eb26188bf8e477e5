"""Tiny random-weight pipelines of every family, and the same as single checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sample_data
from generation.families import FAMILIES


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """family -> a diffusers folder of that family, 64 x 64 pixels, a second to render; with
    `edits` of its pipeline that edits pictures."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, edits: str = "") -> Path:
        if (family, edits) not in made:
            import diffusers
            import torch

            folder = tmp_path_factory.mktemp(edits or family)
            torch.manual_seed(7)
            parts = _flow_parts(family) if FAMILIES[family].flow else _unet_parts(family)
            if edits and family == "qwen":
                parts["processor"] = _qwen_processor(parts["tokenizer"])
            pipe = getattr(diffusers, edits or FAMILIES[family].pipeline)(**parts)
            # As initialised, T5 and the transformers barely react to their input.
            for name in ("unet", "transformer", "text_encoder", "text_encoder_2", "vae"):
                if (module := getattr(pipe, name, None)) is not None:
                    for weight in module.parameters():
                        if weight.dim() > 1:
                            weight.data.mul_(1.5)
            pipe.save_pretrained(folder, safe_serialization=True)
            made[family, edits] = folder
        return made[family, edits]

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """family -> (a single checkpoint of the same weights, a folder of its configurations)."""

    def make(family: str) -> tuple[Path, Path]:
        import shutil

        from safetensors.torch import save_file

        folder = tiny_model(family)
        scratch = tmp_path_factory.mktemp(f"{family}-single")
        flow = FAMILIES[family].flow
        file = scratch / f"{family}.safetensors"
        save_file(to_checkpoint(folder, family), file)

        def weights(_folder: str, names: list[str]) -> list[str]:
            return [] if flow else [name for name in names if name.endswith(".safetensors")]

        config = Path(shutil.copytree(folder, scratch / "config", ignore=weights))
        if flow:
            for path in (config / "transformer").glob("*.safetensors"):
                path.unlink()
        return file, config

    return make


def _clip(kind: str, width: int, positions: int = 24, **more: Any) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=711, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=positions, projection_dim=width,
        bos_token_id=709, eos_token_id=710, pad_token_id=710, **more,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(sample_data.PATH / "model" / "tokenizer")


def _t5_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *letters]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=32,
    )  # fmt: skip


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=40, d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def qwen_tokenizer(begins: bool = False) -> Any:
    """One token a byte, Qwen's special tokens, and a chat's form; texts of which one `begins`
    with a token of its own, as Gemma's and Llama's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if begins:
        inner.add_special_tokens(["<|endoftext|>"])
        token = ("<|endoftext|>", inner.token_to_id("<|endoftext|>"))
        inner.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[token]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=_SPECIAL, model_max_length=2048, padding_side="right",
    )  # fmt: skip
    tokenizer.chat_template = _CHAT
    return tokenizer


def _qwen3(kind: str, width: int, layers: int) -> Any:
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=272, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=width // 2,
        max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def _gemma2(width: int) -> Any:
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=272, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=width // 2,
        max_position_embeddings=512, attn_implementation="eager",
    )  # fmt: skip
    return transformers.Gemma2Model(config).eval()


def _llama(width: int) -> Any:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=272, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        bos_token_id=256, eos_token_id=258,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _qwen25_vl(width: int) -> Any:
    import transformers

    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 272, "hidden_size": width, "intermediate_size": 2 * width,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3],
                                "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": width,
        },
        image_token_id=261, video_token_id=262, vision_start_token_id=259, vision_end_token_id=260,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def _qwen_processor(tokenizer: Any) -> Any:
    """Of pictures of at most 8 x 8 patches, and texts."""
    import transformers

    most = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    return transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=most), tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(size=most),
    )  # fmt: skip


def _mistral3(width: int, layers: int) -> Any:
    import transformers

    config = transformers.Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": 272, "hidden_size": width,
            "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": width // 2, "max_position_embeddings": 2048,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        },
        image_token_index=259,
    )  # fmt: skip
    return transformers.Mistral3ForConditionalGeneration(config).eval()


def _pixtral() -> Any:
    """A processor of pictures and texts, of which FLUX.2 uses the texts' part."""
    import transformers

    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}<|im_start|>{% for part in message.content %}"
        "{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    )
    tokenizer.add_special_tokens({
        "bos_token": "<|endoftext|>",
        "additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
    })  # fmt: skip
    return transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(), tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def _vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 16, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=8,
        sample_size=64, **more,
    )  # fmt: skip


def _unet_parts(family: str) -> dict[str, Any]:
    from diffusers import DDIMScheduler, UNet2DConditionModel

    # The width of the text features tells SD 2.x from 1.x.
    width = {"sd1": 32, "sd2": 1024, "sdxl": 80}[family]
    more: dict[str, Any] = {}
    blocks = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    if family == "sdxl":
        blocks = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 48,
            "transformer_layers_per_block": (1, 2),
        }
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=(4, 8), cross_attention_dim=width, down_block_types=blocks[0],
        up_block_types=blocks[1], use_linear_projection=family != "sd1", **more,
    )  # fmt: skip
    schedule: dict[str, Any] = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
        "prediction_type": "v_prediction" if family == "sd2" else "epsilon",
    }  # fmt: skip
    parts: dict[str, Any] = {
        "unet": unet.eval(), "vae": _vae(latent_channels=4), "tokenizer": _tokenizer(),
        "scheduler": DDIMScheduler(**schedule),
        "text_encoder": _clip("CLIPTextModel", 32 if family == "sdxl" else width),
    }  # fmt: skip
    if family == "sdxl":
        # diffusers tells a checkpoint's two text encoders apart by their widths.
        parts["text_encoder_2"] = _clip("CLIPTextModelWithProjection", 48, hidden_act="gelu")
        parts["tokenizer_2"] = _tokenizer()
        return {**parts, "add_watermarker": False}
    return {**parts, "safety_checker": None, "feature_extractor": None,
            "requires_safety_checker": False}  # fmt: skip


def _flow_parts(family: str) -> dict[str, Any]:
    import diffusers

    vae = _vae(
        latent_channels=16, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False
    )
    parts: dict[str, Any] = {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "vae": vae}
    if family == "chroma":
        return {
            **parts,
            "transformer": diffusers.ChromaTransformer2DModel(
                patch_size=1, in_channels=64, num_layers=2, num_single_layers=2,
                attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
                axes_dims_rope=(4, 6, 6), approximator_num_channels=16,
                approximator_hidden_dim=32, approximator_layers=2,
            ).eval(),
            "text_encoder": _t5(32), "tokenizer": _t5_tokenizer(),
        }  # fmt: skip
    if family == "zimage":
        return {
            **parts,
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
            "transformer": diffusers.ZImageTransformer2DModel(
                dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=32,
                axes_dims=[4, 6, 6], axes_lens=[256, 32, 32],
            ).eval(),
            "text_encoder": _qwen3("Qwen3Model", 32, 2), "tokenizer": qwen_tokenizer(),
        }  # fmt: skip
    if family == "lumina2":
        return {
            **parts,
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
            "transformer": diffusers.Lumina2Transformer2DModel(
                sample_size=8, hidden_size=48, num_layers=2, num_refiner_layers=1,
                num_attention_heads=3, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6),
                axes_lens=(300, 32, 32), cap_feat_dim=32,
            ).eval(),
            "text_encoder": _gemma2(32), "tokenizer": qwen_tokenizer(begins=True),
        }  # fmt: skip
    if family == "hidream":
        clip = {"kind": "CLIPTextModelWithProjection", "width": 32, "positions": 128}
        return {
            **parts,
            "scheduler": diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            "transformer": diffusers.HiDreamImageTransformer2DModel(
                patch_size=2, in_channels=16, num_layers=1, num_single_layers=1,
                attention_head_dim=16, num_attention_heads=2, caption_channels=[32, 16],
                text_emb_dim=64, axes_dims_rope=(8, 4, 4), max_resolution=(16, 16),
                llama_layers=[0, 1],
            ).eval(),
            "text_encoder": _clip(**clip), "tokenizer": _tokenizer(),
            "text_encoder_2": _clip(**clip, hidden_act="gelu"), "tokenizer_2": _tokenizer(),
            "text_encoder_3": _t5(32), "tokenizer_3": _t5_tokenizer(),
            "text_encoder_4": _llama(16), "tokenizer_4": qwen_tokenizer(begins=True),
        }  # fmt: skip
    if family in {"klein", "flux2"}:
        klein = family == "klein"
        return {
            **parts,
            "vae": diffusers.AutoencoderKLFlux2(
                block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8,
                sample_size=64, latent_channels=8,
            ).eval(),
            "transformer": diffusers.Flux2Transformer2DModel(
                in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=48, axes_dims_rope=(4, 4, 4, 4),
                timestep_guidance_channels=16, guidance_embeds=not klein,
            ).eval(),
            "text_encoder": _qwen3("Qwen3ForCausalLM", 16, 28) if klein else _mistral3(16, 31),
            "tokenizer": qwen_tokenizer() if klein else _pixtral(),
        }  # fmt: skip
    if family == "qwen":
        return {
            **parts,
            "vae": diffusers.AutoencoderKLQwenImage(
                base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
            ).eval(),
            "transformer": diffusers.QwenImageTransformer2DModel(
                in_channels=64, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
            ).eval(),
            "text_encoder": _qwen25_vl(32), "tokenizer": qwen_tokenizer(),
        }  # fmt: skip
    if family == "flux":
        return {
            **parts,
            "transformer": diffusers.FluxTransformer2DModel(
                patch_size=1, in_channels=64, num_layers=1, num_single_layers=1,
                attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
                pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
            ).eval(),
            "text_encoder": _clip("CLIPTextModel", 32), "tokenizer": _tokenizer(),
            "text_encoder_2": _t5(32), "tokenizer_2": _t5_tokenizer(),
        }  # fmt: skip
    return {
        **parts,
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32,
            pooled_projection_dim=64, out_channels=16, pos_embed_max_size=8,
        ).eval(),
        "text_encoder": _clip("CLIPTextModelWithProjection", 32), "tokenizer": _tokenizer(),
        "text_encoder_2": _clip("CLIPTextModelWithProjection", 32, hidden_act="gelu"),
        "tokenizer_2": _tokenizer(), "text_encoder_3": _t5(64), "tokenizer_3": _t5_tokenizer(),
    }  # fmt: skip


# --- diffusers' names -> the names of single checkpoints -----------------------------------------


def to_checkpoint(folder: Path, family: str) -> dict[str, Any]:
    """The folder's weights under the names that Stability's checkpoints use.

    FLUX.1's and Chroma's transformers keep diffusers' names: diffusers converts Black Forest Labs'
    names at the real width (3072) only. Qwen-Image's and HiDream's own names are diffusers'.
    """
    from safetensors.torch import load_file

    def load(part: str) -> dict[str, Any]:
        return load_file(next((folder / part).glob("*.safetensors")))

    if family in {"flux", "qwen", "chroma", "hidream"}:
        return load("transformer")
    if family in {"klein", "flux2"}:
        return _flux2_names(load("transformer"))
    if family in {"zimage", "lumina2"}:
        return _comfyui_names(load("transformer"), family)
    if family == "sd3":
        return _sd3_names(load("transformer"))
    found = {"model.diffusion_model." + k: v for k, v in _unet_names(load("unet")).items()}
    found |= {"first_stage_model." + k: v for k, v in _vae_names(load("vae")).items()}
    plain = {
        "text_model." + k.removeprefix("text_model."): v for k, v in load("text_encoder").items()
    }
    if family == "sd1":
        return found | {"cond_stage_model.transformer." + k: v for k, v in plain.items()}
    if family == "sd2":
        return found | {"cond_stage_model.model." + k: v for k, v in _open_clip(plain).items()}
    found |= {"conditioner.embedders.0.transformer." + k: v for k, v in plain.items()}
    second = _open_clip(load("text_encoder_2"))
    return found | {"conditioner.embedders.1.model." + k: v for k, v in second.items()}


def _unet_names(weights: dict[str, Any]) -> dict[str, Any]:
    from generation.families.unet import stability_names

    modules = sorted({name.rpartition(".")[0] for name in weights})
    renamed = {ours[0]: theirs for theirs, ours, _ in stability_names(modules)}
    return {
        f"{renamed[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in weights.items()
    }


def _vae_names(weights: dict[str, Any]) -> dict[str, Any]:
    import re

    found = {}
    for name, value in weights.items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name
        )
        name = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in (
                ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):  # fmt: skip
                name = name.replace(ours, theirs)
            value = value[:, :, None, None] if value.dim() == 2 else value
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        found[name] = value.contiguous()
    return found


def _open_clip(weights: dict[str, Any]) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {}
    fused: dict[str, dict[str, Any]] = {}
    for name, value in weights.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
            continue
        for ours, theirs in (
            ("embeddings.position_embedding.weight", "positional_embedding"),
            ("embeddings.token_embedding", "token_embedding"),
            ("final_layer_norm", "ln_final"), ("encoder.layers", "transformer.resblocks"),
            ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"), ("self_attn", "attn"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        stem, _, leaf = name.rpartition(".")
        if stem.endswith(("q_proj", "k_proj", "v_proj")):
            key = f"{stem[:-7]}.in_proj_{leaf}".replace("..", ".")
            fused.setdefault(key, {})[stem[-6]] = value
        else:
            found[name] = value
    return found | {key: torch.cat([v["q"], v["k"], v["v"]]) for key, v in fused.items()}


def _flux2_names(weights: dict[str, Any]) -> dict[str, Any]:
    """Black Forest Labs'."""
    import re

    import torch

    from generation.families.flux2 import names

    modules = sorted({name.rpartition(".")[0] for name in weights})
    found = {}
    for theirs, ours, swap in names(modules):
        if any(f"{name}.weight" not in weights for name in ours):
            continue  # under a name that has been used
        value = torch.cat([weights.pop(f"{name}.weight") for name in ours])
        found[f"{theirs}.weight"] = torch.cat(value.chunk(2)[::-1]) if swap else value
    kinds = {"q": "query_norm", "k": "key_norm"}
    for name, value in weights.items():
        stack, block, added, kind = re.fullmatch(
            r"(single_)?transformer_blocks\.(\d+)\.attn\.norm_(added_)?([qk])\.weight", name
        ).groups()  # type: ignore[union-attr]
        stem = f"{'txt' if added else 'img'}_attn.norm"
        within = f"single_blocks.{block}.norm" if stack else f"double_blocks.{block}.{stem}"
        found[f"{within}.{kinds[kind]}.scale"] = value
    return found


def _comfyui_names(weights: dict[str, Any], family: str) -> dict[str, Any]:
    """ComfyUI's, with q, k and v in one matrix."""
    import torch

    from generation.families import ALL

    modules = sorted({name.rpartition(".")[0] for name in weights})
    found = dict(weights)
    for theirs, ours, _ in ALL[family].aliases(modules):
        for leaf in ("weight", "bias"):
            parts = [found.pop(f"{name}.{leaf}", None) for name in ours]
            if parts[0] is not None:
                found[f"{theirs}.{leaf}"] = torch.cat(parts)
    return {"model.diffusion_model." + name: value for name, value in found.items()}


def _sd3_names(weights: dict[str, Any]) -> dict[str, Any]:
    import re

    import torch

    from generation.families.sd3 import stability_names

    modules = sorted({name.rpartition(".")[0] for name in weights})
    found = {
        "pos_embed": weights["pos_embed.pos_embed"],
        **{f"context_embedder.{x}": weights[f"context_embedder.{x}"] for x in ("weight", "bias")},
    }
    for theirs, ours, swap in stability_names(modules):
        if re.search(r"qkv\.\d$", theirs):
            continue
        for leaf in ("weight", "bias"):
            value = torch.cat([weights[f"{name}.{leaf}"] for name in ours])
            if swap:
                value = torch.cat(value.chunk(2)[::-1])
            found[f"{theirs}.{leaf}"] = value
    return {"model.diffusion_model." + name: value for name, value in found.items()}
