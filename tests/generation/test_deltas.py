"""Merged weights against float64 by hand, peft, LyCORIS and diffusers; names against diffusers'."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from generation.errors import UserError  # noqa: E402
from generation.families.flux import bfl_names  # noqa: E402
from generation.families.sd3 import stability_names  # noqa: E402
from generation.families.unet import stability_names as unet_names  # noqa: E402
from generation.loras import deltas  # noqa: E402
from generation.loras import inspection as lora  # noqa: E402

TOLERANCE = 1e-5
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LYCORIS_BACKEND"] = "torch"


def unet_of(family: str) -> torch.nn.Module:
    """A UNet of the family's real block structure, a few channels wide."""
    torch.manual_seed(0)
    common = {"in_channels": 4, "out_channels": 4, "norm_num_groups": 4, "sample_size": 8}
    if family == "sdxl":
        config = dict(
            block_out_channels=(8, 16, 24),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            layers_per_block=2,
            attention_head_dim=(1, 2, 3),
            cross_attention_dim=20,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=36,
        )
    else:
        config = dict(
            block_out_channels=(8, 16, 24, 24),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            layers_per_block=2,
            attention_head_dim=2,
            cross_attention_dim=12,
        )
    return diffusers.UNet2DConditionModel(**common, **config)


def text_encoder(width: int, projected: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(width)
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=40,
        max_position_embeddings=8,
        projection_dim=16,
        bos_token_id=1,
        eos_token_id=2,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def pipeline(family: str):
    """A pipeline of tiny random models with everything that LoRA loading touches."""
    scheduler = diffusers.EulerDiscreteScheduler(steps_offset=1)
    common = {"vae": None, "tokenizer": None, "scheduler": scheduler}
    if family == "sdxl":
        return diffusers.StableDiffusionXLPipeline(
            unet=unet_of("sdxl"),
            text_encoder=text_encoder(12),
            text_encoder_2=text_encoder(16, projected=True),
            tokenizer_2=None,
            **common,
        )
    return diffusers.StableDiffusionPipeline(
        unet=unet_of("sd1"),
        text_encoder=text_encoder(12),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **common,
    )


def parts_of(pipe) -> dict[str, torch.nn.Module]:
    names = {
        "unet": "unet",
        "transformer": "transformer",
        "te": "text_encoder",
        "te2": "text_encoder_2",
    }
    found = {part: getattr(pipe, name, None) for part, name in names.items()}
    return {part: model for part, model in found.items() if model is not None}


def parameters(models) -> dict[str, dict[str, torch.Tensor]]:
    return {
        part: {name: p.detach().clone() for name, p in model.named_parameters()}
        for part, model in models.items()
    }


def targets(models):
    return {
        part: {name: tuple(p.shape) for name, p in model.named_parameters()}
        for part, model in models.items()
    }


def matrices(model, kinds=(torch.nn.Linear, torch.nn.Conv2d)):
    """Module names and weights that LoRA files adapt: everything that multiplies."""
    return {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, kinds)}


def kohya_stem(part: str, name: str, two_encoders: bool) -> str:
    if part == "unet":
        return "lora_unet_" + name.replace(".", "_")
    prefix = {"te": "lora_te1_" if two_encoders else "lora_te_", "te2": "lora_te2_"}[part]
    name = name if name.startswith("text_model.") else "text_model." + name
    return prefix + name.replace(".", "_")


def normal(generator, *shape):
    return torch.from_numpy(generator.standard_normal(shape)).float() * 0.3


def save(path, tensors, metadata=None):
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path), metadata)
    return path


def merged(path, models, strength=1.0):
    """{(part, parameter): W} by the code under test, and the bases they came from."""
    base = parameters(models)
    found = deltas.resolve(deltas.modules(path), targets(models))
    return {
        (part, name): delta.merge(base[part][name].float(), strength)
        for (part, name), delta in found.items()
    }, base


def error(ours: torch.Tensor, reference: torch.Tensor, base: torch.Tensor) -> float:
    """Largest error relative to the largest change: stricter than relative to the weight."""
    change = float((reference.double() - base.double()).abs().max())
    wrong = float((ours.double() - reference.double()).abs().max())
    assert change > 0 and wrong == wrong  # max() would drop a NaN in silence
    return wrong / change


def report(name: str, worst: float) -> None:
    print(f"\n  {name}: largest error {worst:.1e} of the largest change", end="")
    assert worst < TOLERANCE, name


# --- kohya against float64 by hand ---------------------------------------------------------------


def kohya_file(path, models, *, tucker=False, mixed=True, only=None, alpha=None):
    """A kohya LoRA/LoCon of every module, and its dense float64 updates written out by hand."""
    generator = np.random.default_rng(3)
    tensors, dense = {}, {}
    for part, model in models.items():
        for name, weight in matrices(model).items():
            if only and not re.search(only, name):
                continue
            stem = kohya_stem(part, name, "te2" in models)
            rank = int(generator.integers(1, 5)) if mixed else 4
            scale_alpha = alpha or (float(generator.integers(1, 9)) if mixed else 4.0)
            out, inside, *kernel = weight.shape
            up = normal(generator, out, rank, *[1] * len(kernel))
            if tucker and kernel and kernel != [1, 1]:
                down = normal(generator, rank, inside, 1, 1)
                mid = normal(generator, rank, rank, *kernel)
                tensors[stem + ".lora_mid.weight"] = mid
                full = np.zeros(weight.shape)
                u, d, m = up.double().numpy()[..., 0, 0], down.double().numpy()[..., 0, 0], mid
                for y in range(kernel[0]):
                    for x in range(kernel[1]):
                        full[:, :, y, x] = u @ m.double().numpy()[:, :, y, x] @ d
            else:
                down = normal(generator, rank, inside, *kernel)
                flat = up.double().numpy().reshape(out, rank) @ down.double().numpy().reshape(
                    rank, -1
                )
                full = flat.reshape(weight.shape)
            tensors[stem + ".lora_up.weight"] = up
            tensors[stem + ".lora_down.weight"] = down
            tensors[stem + ".alpha"] = torch.tensor(scale_alpha)
            dense[part, name + ".weight"] = torch.from_numpy(full) * (scale_alpha / rank)
    return save(path, tensors), dense


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("tucker", [False, True])
def test_kohya_mixed_ranks_and_alphas_match_dense_float64(tmp_path, family, tucker):
    models = parts_of(pipeline(family))
    path, dense = kohya_file(tmp_path / "a.safetensors", models, tucker=tucker)
    for strength in (1.0, -0.7):
        ours, base = merged(path, models, strength)
        assert ours.keys() == dense.keys()
        worst = max(
            error(
                ours[key],
                base[key[0]][key[1]].double() + strength * dense[key],
                base[key[0]][key[1]],
            )
            for key in dense
        )
        report(f"kohya LoCon{' Tucker' if tucker else ''}, {family}, strength {strength}", worst)


def test_a_parameter_is_untouched_at_strength_zero(tmp_path):
    models = parts_of(pipeline("sd1"))
    path, _ = kohya_file(tmp_path / "a.safetensors", models, only="attn1")
    ours, base = merged(path, models, 0.0)
    assert ours and all(torch.equal(w, base[part][name]) for (part, name), w in ours.items())


def test_several_updates_add_up(tmp_path):
    models = {"unet": unet_of("sd1")}
    path, dense = kohya_file(tmp_path / "a.safetensors", models, only="attn2.to_k")
    found = deltas.resolve(deltas.modules(path), targets(models))
    for (part, name), delta in found.items():
        base = parameters(models)[part][name]
        both = deltas.merge(base, [(delta, 0.5), (delta, 0.25), (delta, 0.0)])
        assert error(both, base.double() + 0.75 * dense[part, name], base) < TOLERANCE


def test_missing_or_zero_alpha_means_rank(tmp_path):
    models = {"unet": unet_of("sd1")}
    path, dense = kohya_file(
        tmp_path / "a.safetensors", models, only="attn2.to_k", alpha=4, mixed=False
    )
    tensors = dict(lora.read_tensors(path))
    for value in (None, 0.0):
        changed = {}
        for key, array in tensors.items():
            if not key.endswith(".alpha"):
                changed[key] = torch.from_numpy(array.copy())
            elif value is not None:
                changed[key] = torch.tensor(value)
        ours, base = merged(save(tmp_path / "b.safetensors", changed), models)
        for key in dense:
            assert (
                error(ours[key], base[key[0]][key[1]].double() + dense[key], base[key[0]][key[1]])
                < TOLERANCE
            )


# --- diffusers ------------------------------------------------------------------------------------


def fused_by_diffusers(pipe, path, **kwargs):
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="a", **kwargs)
    names = [n for n in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, n, None)]
    pipe.fuse_lora(components=names)
    pipe.unload_lora_weights()
    return parameters(parts_of(pipe))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_kohya_with_one_alpha_equals_diffusers(tmp_path, family):
    pipe = pipeline(family)
    path, _ = kohya_file(
        tmp_path / "a.safetensors",
        parts_of(pipe),
        mixed=False,
        alpha=2,
        only="attn|ff|fc|proj_in|proj_out|resnets.*conv",
    )
    ours, base = merged(path, parts_of(pipe))
    theirs = fused_by_diffusers(pipe, path)
    worst = max(error(w, theirs[p][n], base[p][n]) for (p, n), w in ours.items())
    report(f"kohya LoCon against diffusers, {family}", worst)


@pytest.mark.filterwarnings("ignore")
def test_mixed_alphas_are_right_here_and_wrong_in_diffusers(tmp_path):
    pipe = pipeline("sd1")
    path, dense = kohya_file(tmp_path / "a.safetensors", parts_of(pipe), only="attn")
    ours, base = merged(path, parts_of(pipe))
    theirs = fused_by_diffusers(pipe, path)
    truth = {key: base[key[0]][key[1]].double() + dense[key] for key in dense}
    mine = max(error(ours[key], truth[key], base[key[0]][key[1]]) for key in dense)
    report("kohya with mixed alphas", mine)
    wrong = max(error(theirs[p][n], truth[p, n], base[p][n]) for p, n in dense)
    print(f"  (diffusers {diffusers.__version__}: {wrong:.2f})", end="")


# --- peft -----------------------------------------------------------------------------------------

PEFT_VARIANTS = {
    "plain": {},
    "patterns": {
        "alpha_pattern": {
            "attn1.to_q": 7,
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": 5,
        },
        "rank_pattern": {"attn2.to_v": 3},
    },
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}


def randomise(model, seed=5):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name or "lora_embedding" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            elif "lora_magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))


@pytest.mark.parametrize("variant", list(PEFT_VARIANTS))
def test_files_saved_by_diffusers_from_peft_models_match_peft_merging(tmp_path, variant):
    peft = pytest.importorskip("peft")
    from peft.utils import get_peft_model_state_dict

    pipe = pipeline("sd1")
    models = parts_of(pipe)
    base = parameters(models)
    settings = {"r": 4, "lora_alpha": 6, "init_lora_weights": False, **PEFT_VARIANTS[variant]}
    config = peft.LoraConfig(
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in", "ff.net.2"],
        **settings,
    )
    text = {key: value for key, value in settings.items() if not key.endswith("pattern")}
    text_config = peft.LoraConfig(target_modules=["q_proj", "v_proj", "fc1"], **text)
    pipe.unet.add_adapter(config)
    pipe.text_encoder.add_adapter(text_config)
    randomise(pipe.unet)
    randomise(pipe.text_encoder)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder),
        unet_lora_adapter_metadata=config.to_dict(),
        text_encoder_lora_adapter_metadata=text_config.to_dict(),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    info = lora.inspect(path)
    assert info.format == ("dora" if variant == "dora" else "diffusers")
    assert info.touches == ("unet", "te") and not info.alpha_assumed
    found = deltas.resolve(
        deltas.modules(path), {part: {n: p.shape for n, p in base[part].items()} for part in base}
    )
    worst, count = 0.0, 0
    for part, model in models.items():
        for name, module in model.named_modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.merge()
                ours = found.pop((part, name + ".weight")).merge(base[part][name + ".weight"], 1.0)
                worst = max(
                    worst, error(ours, module.base_layer.weight, base[part][name + ".weight"])
                )
                count += 1
    assert not found and count > 50
    report(f"diffusers' file of a peft model, {variant}", worst)


def test_native_peft_folder_reads_its_alpha_from_the_config_beside(tmp_path):
    peft = pytest.importorskip("peft")
    unet = unet_of("sd1")
    base = {"unet": {n: p.detach().clone() for n, p in unet.named_parameters()}}
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["to_q", "to_v"], init_lora_weights=False, lora_bias=False
    )
    model = peft.get_peft_model(unet, config)
    model.save_pretrained(tmp_path)
    found = deltas.resolve(
        deltas.modules(tmp_path / "adapter_model.safetensors"),
        {"unet": {n: p.shape for n, p in base["unet"].items()}},
    )
    assert {delta.scale for delta in found.values()} == {2.5}
    reference = dict(model.merge_and_unload().named_parameters())
    worst = max(
        error(delta.merge(base["unet"][name], 1.0), reference[name], base["unet"][name])
        for (_, name), delta in found.items()
    )
    report("peft's own folder", worst)


def test_peft_bias_is_applied(tmp_path):
    peft = pytest.importorskip("peft")
    unet = unet_of("sd1")
    base = {n: p.detach().clone() for n, p in unet.named_parameters()}
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["proj_in"], lora_bias=True, init_lora_weights=False
    )
    model = peft.get_peft_model(unet, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(tmp_path)
    shapes = {"unet": {n: p.shape for n, p in base.items()}}
    found = deltas.resolve(deltas.modules(tmp_path / "adapter_model.safetensors"), shapes)
    assert any(name.endswith("proj_in.bias") for _, name in found)
    reference = dict(model.merge_and_unload().named_parameters())
    for (_, name), delta in found.items():
        assert error(delta.merge(base[name], 1.0), reference[name], base[name]) < TOLERANCE


# --- LyCORIS --------------------------------------------------------------------------------------

LYCORIS = {
    "locon": {"algo": "locon"},
    "locon tucker": {"algo": "locon", "use_tucker": True},
    "dora per output": {"algo": "locon", "dora_wd": True, "wd_on_output": True},
    "dora per input": {"algo": "locon", "dora_wd": True, "wd_on_output": False},
    "loha": {"algo": "loha"},
    "loha tucker": {"algo": "loha", "use_tucker": True},
    "loha dora": {"algo": "loha", "dora_wd": True},
    "lokr": {"algo": "lokr"},
    "lokr factor 4": {"algo": "lokr", "factor": 4, "linear_dim": 1},
    "lokr both": {"algo": "lokr", "decompose_both": True, "linear_dim": 1},
    "lokr tucker": {"algo": "lokr", "use_tucker": True, "linear_dim": 1, "factor": 2},
    "lokr full": {"algo": "lokr", "full_matrix": True},
    "full": {"algo": "full"},
    "norms": {"algo": "locon", "train_norm": True},
}


@pytest.mark.parametrize("variant", list(LYCORIS))
def test_files_saved_by_lycoris_match_its_forward(tmp_path, variant):
    """LyCORIS' own forward is the reference: its get_diff_weight scales LoHa and LoKr twice."""
    lycoris = pytest.importorskip("lycoris")
    import torch.nn.functional as F

    unet = unet_of("sd1")
    base = {n: p.detach().clone() for n, p in unet.named_parameters()}
    lycoris.LycorisNetwork.apply_preset(
        {"target_module": ["ResnetBlock2D", "Transformer2DModel"], "lora_prefix": "lora_unet"}
    )
    settings = {
        "linear_dim": 2,
        "linear_alpha": 1.5,
        "conv_dim": 2,
        "conv_alpha": 0.5,
        **LYCORIS[variant],
    }
    preset = tmp_path / "preset.toml"
    preset.write_text(
        'target_module = ["ResnetBlock2D", "Transformer2DModel"]\nlora_prefix = "lora_unet"\n'
    )
    net = lycoris.create_lycoris(unet, 1.0, preset=str(preset), **settings)
    generator = torch.Generator().manual_seed(1)
    net.apply_to()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "dora_scale" in name:
                parameter.mul_(1 + 0.2 * noise)
            elif variant == "full":  # holds the whole weight until it is saved
                parameter.add_(noise * 0.4)
            else:
                parameter.copy_(noise * 0.4)
    path = tmp_path / "lyco.safetensors"
    net.save_weights(str(path), torch.float32, {})
    unet.double()
    net.double()  # the reference forward in float64
    found = deltas.resolve(deltas.modules(path), {"unet": {n: p.shape for n, p in base.items()}})
    modules = dict(unet.named_modules())
    by_module = {}
    for (_, name), delta in found.items():
        by_module.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = delta
    assert len(by_module) == len(net.loras) > 50
    worst = 0.0
    for name, pair in by_module.items():
        module = modules[name]
        weight = base[name + ".weight"]
        bias = base.get(name + ".bias")
        new = pair["weight"].merge(weight, 1.0)
        new_bias = pair["bias"].merge(bias, 1.0) if "bias" in pair else bias
        if isinstance(module, torch.nn.Conv2d):
            x = torch.randn(2, weight.shape[1], 7, 7, generator=generator)

            def call(x, w, b, m=module):
                return F.conv2d(x, w, b, m.stride, m.padding)
        elif isinstance(module, torch.nn.GroupNorm):
            x = torch.randn(2, weight.shape[0], 5, generator=generator)

            def call(x, w, b, m=module):
                return F.group_norm(x, m.num_groups, w, b, m.eps)
        elif isinstance(module, torch.nn.LayerNorm):
            x = torch.randn(3, weight.shape[0], generator=generator)

            def call(x, w, b, m=module):
                return F.layer_norm(x, w.shape, w, b, m.eps)
        else:
            x, call = torch.randn(3, weight.shape[1], generator=generator), F.linear
        x = x.double()
        with torch.no_grad():
            theirs = module(x)

        def wide(value):
            return None if value is None else value.double()

        ours = call(x, new.double(), wide(new_bias))
        before = call(x, weight.double(), wide(bias))
        err = float((ours - theirs).abs().max() / (theirs - before).abs().max())
        if err > TOLERANCE:
            print(
                name,
                err,
                (ours - before).abs().max() / (theirs - before).abs().max(),
                pair["weight"].scale,
            )
        worst = max(worst, err)
    report(f"LyCORIS {variant}", worst)
    expected = {"dora": "dora", "full": "full", "norms": "kohya-locon"}.get(variant.split()[0])
    expected = expected or {"locon": "kohya-locon"}.get(variant.split()[0], variant.split()[0])
    assert lora.inspect(path).format == expected


def test_dora_strength_interpolates_between_base_and_trained_weight(tmp_path):
    generator = np.random.default_rng(0)
    base = normal(generator, 6, 5)
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        stem + ".lora_down.weight": normal(generator, 2, 5),
        stem + ".lora_up.weight": normal(generator, 6, 2),
        stem + ".alpha": torch.tensor(1.0),
        stem + ".dora_scale": normal(generator, 6, 1).abs() + 1,
    }
    path = save(tmp_path / "d.safetensors", tensors)
    (delta,) = deltas.resolve(
        deltas.modules(path), {"unet": {"mid_block.attentions.0.proj_in.weight": (6, 5)}}
    ).values()
    moved = (
        base.double()
        + 0.5
        * tensors[stem + ".lora_up.weight"].double()
        @ tensors[stem + ".lora_down.weight"].double()
    )
    trained = moved / moved.norm(dim=1, keepdim=True) * tensors[stem + ".dora_scale"].double()
    assert torch.equal(delta.merge(base, 0.0), base)
    assert error(delta.merge(base, 1.0), trained, base) < TOLERANCE
    assert error(delta.merge(base, 0.4), base.double() * 0.6 + trained * 0.4, base) < TOLERANCE


def test_kohya_dora_is_right_here_and_loses_its_magnitudes_in_diffusers(tmp_path):
    pipe = pipeline("sd1")
    path, _ = kohya_file(tmp_path / "a.safetensors", parts_of(pipe), only="attn", mixed=False)
    tensors = {
        key: torch.from_numpy(value.copy()) for key, value in lora.read_tensors(path).items()
    }
    base = parameters(parts_of(pipe))
    found = deltas.resolve(deltas.modules(path), targets(parts_of(pipe)))
    truth = {}
    for (part, name), delta in found.items():
        weight = base[part][name].double()
        magnitude = weight.flatten(1).norm(dim=1) * 1.3
        tensors[delta.stem + ".dora_scale"] = magnitude.float().reshape(
            -1, *[1] * (weight.dim() - 1)
        )
        moved = weight + delta.matrix(weight.shape, "cpu", torch.float64)
        norm = moved.flatten(1).norm(dim=1)
        truth[part, name] = moved * (magnitude / norm).reshape(-1, *[1] * (weight.dim() - 1))
    path = save(tmp_path / "dora.safetensors", tensors)
    assert lora.inspect(path).format == "dora"
    ours, _ = merged(path, parts_of(pipe))
    report("kohya DoRA", max(error(ours[k], truth[k], base[k[0]][k[1]]) for k in truth))
    theirs = fused_by_diffusers(pipe, path)
    wrong = max(error(theirs[p][n], truth[p, n], base[p][n]) for p, n in truth)
    print(f"  (diffusers {diffusers.__version__}: {wrong:.2f})", end="")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_stability_names_agree_with_diffusers_conversion(family):
    """Every parameter under its Stability name, converted by diffusers, must land on itself."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = unet_of(family)
    own = {name: p.detach() for name, p in unet.named_parameters()}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    aliases = {pieces[0]: alias for alias, pieces, _ in unet_names(modules)}
    assert set(aliases) == set(modules)
    stored = {
        "model.diffusion_model."
        + aliases[name.rpartition(".")[0]]
        + "."
        + name.rpartition(".")[2]: value
        for name, value in own.items()
    }
    config = dict(unet.config)
    config["num_class_embeds"] = None
    converted = convert_ldm_unet_checkpoint(dict(stored), config)
    assert converted.keys() == own.keys()
    assert all(
        converted[name] is own[name] or torch.equal(converted[name], own[name]) for name in own
    )
    # and the flattened and dotted spellings find the same parameter
    names = deltas._names("unet", {name: tuple(p.shape) for name, p in own.items()})
    for module, alias in aliases.items():
        for spelling in (module, module.replace(".", "_"), alias, alias.replace(".", "_")):
            assert names.find(spelling, "weight")[0][0] == module + ".weight"


def flux() -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=6,
        pooled_projection_dim=5,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 0),
    )


def sd3() -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=8,
        pooled_projection_dim=5,
        out_channels=4,
        pos_embed_max_size=4,
        dual_attention_layers=(0,),
    )


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_fused_transformer_names_agree_with_diffusers_conversion(tmp_path, family):
    """LoRA on every original module, as a dense checkpoint through diffusers' converter."""
    from diffusers.loaders import single_file_utils

    model = flux() if family == "flux" else sd3()
    own = {name: p.detach() for name, p in model.named_parameters()}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    generator = np.random.default_rng(1)
    tensors, dense = {}, {}
    for alias, pieces, _ in (bfl_names if family == "flux" else stability_names)(modules):
        weights = [own[piece + ".weight"] for piece in pieces]
        out, shape = sum(w.shape[0] for w in weights), weights[0].shape
        if len(shape) == 1 or re.search(r"(qkv|linear1|img_in)\.\w+$", alias):  # OneTrainer's
            continue
        up, down = normal(generator, out, 2), normal(generator, 2, int(np.prod(shape[1:])))
        stem = "lora_unet_" + alias.replace(".", "_")
        tensors[stem + ".lora_up.weight"], tensors[stem + ".lora_down.weight"] = up, down
        dense[alias + ".weight"] = (up.double() @ down.double()).reshape(out, *shape[1:])
        dense[alias + ".bias"] = torch.zeros(out)
    path = save(tmp_path / "k.safetensors", tensors)
    if family == "flux":
        for block in range(2):
            for name in (
                "img_attn.norm.query_norm",
                "img_attn.norm.key_norm",
                "txt_attn.norm.query_norm",
                "txt_attn.norm.key_norm",
            ):
                dense[f"double_blocks.{block}.{name}.scale"] = torch.zeros(4)
            for name in ("query_norm", "key_norm"):
                dense[f"single_blocks.{block}.norm.{name}.scale"] = torch.zeros(4)
        source = (
            __import__("inspect")
            .getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
            .replace("inner_dim = 3072", "inner_dim = 8")
        )
        scope = dict(vars(single_file_utils))
        exec(source, scope)  # the only change: this model's width instead of Flux's
        reference = scope["convert_flux_transformer_checkpoint_to_diffusers"](dense)
    else:
        dense["pos_embed"] = torch.zeros(1)
        dense["context_embedder.weight"] = torch.zeros(8, 6)
        dense["context_embedder.bias"] = torch.zeros(8)
        reference = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(dense)
    found = deltas.resolve(
        deltas.modules(path), {"transformer": {n: p.shape for n, p in own.items()}}
    )
    worst, count = 0.0, 0
    for (_, name), delta in found.items():
        ours = delta.matrix(own[name].shape, "cpu", torch.float64)
        theirs = reference.pop(name)
        worst = max(worst, error(ours, theirs, torch.zeros(1)))
        count += 1
    left = [n for n, value in reference.items() if n.endswith(".weight") and value.abs().max() > 0]
    assert not left and count > 20
    report(f"fused {family} names", worst)


BLOCK = "attentions.0.transformer_blocks.0.attn1"
LAYER = "encoder.layers.1.self_attn"
A_B = ("lora_A.weight", "lora_B.weight")
DOWN_UP = ("lora_down.weight", "lora_up.weight")
OLD = ("lora.down.weight", "lora.up.weight")
SPELLINGS = [
    (f"lora_unet_down_blocks_0_{BLOCK}.to_out.0".replace(".", "_"), *DOWN_UP),
    (f"lora_unet_input_blocks.1.1.{BLOCK[13:]}.to_out.0".replace(".", "_"), *DOWN_UP),
    (f"lycoris_down_blocks_0_{BLOCK}.to_out.0".replace(".", "_"), *DOWN_UP),
    (f"unet.down_blocks.0.{BLOCK}.to_out.0", *A_B),
    (f"unet.down_blocks.0.{BLOCK}.to_out.0", "lora_A.default.weight", "lora_B.default.weight"),
    (f"unet.down_blocks.0.{BLOCK}.to_out.0", *OLD),
    (f"unet.down_blocks.0.{BLOCK}.processor.to_out_", *OLD),
    (f"down_blocks.0.{BLOCK}.processor.to_out_", *OLD),
    (f"base_model.model.down_blocks.0.{BLOCK}.to_out.0", *A_B),
    (f"down_blocks.0.{BLOCK}.to_out.0", *A_B),
    (f"diffusion_model.input_blocks.1.1.{BLOCK[13:]}.to_out.0", *A_B),
    (f"diffusion_model.down_blocks.0.{BLOCK}.to_out.0", *A_B),
]
TEXT_SPELLINGS = [
    (f"lora_te_text_model_{LAYER}.out_proj".replace(".", "_"), *DOWN_UP),
    (f"lora_te1_text_model_{LAYER}.out_proj".replace(".", "_"), *DOWN_UP),
    (f"text_encoder.text_model.{LAYER}.out_proj", *A_B),
    (f"text_encoder.{LAYER}.out_proj", *A_B),
    (f"text_encoder.text_model.{LAYER}.out_proj.lora_linear_layer", "down.weight", "up.weight"),
    (f"text_encoder.text_model.{LAYER}.to_out_", *OLD),
    (f"text_encoders.clip_l.transformer.text_model.{LAYER}.out_proj", *A_B),
    (f"clip_l.transformer.text_model.{LAYER}.out_proj", *A_B),
    (f"base_model.model.text_model.{LAYER}.out_proj", *A_B),
]


def check_spelling(path, stem, down, up, models, expected):
    joint = "" if stem.endswith("_") else "."
    path = save(
        path, {f"{stem}{joint}{down}": torch.ones(2, 8), f"{stem}{joint}{up}": torch.ones(8, 2)}
    )
    found = deltas.resolve(deltas.modules(path), models)
    assert list(found) == [expected]
    assert torch.equal(found[expected].matrix((8, 8), "cpu"), torch.full((8, 8), 2.0))


@pytest.fixture(scope="module")
def shapes():
    unet = targets({"unet": unet_of("sd1")})["unet"]
    encoder = targets({"te": text_encoder(8)})["te"]
    return unet, {name.removeprefix("text_model."): shape for name, shape in encoder.items()}


@pytest.mark.parametrize("spelling", SPELLINGS, ids="".join)
def test_every_spelling_of_the_unet_finds_its_module(tmp_path, shapes, spelling):
    models = {"unet": shapes[0], "te": shapes[1]}
    expected = ("unet", f"down_blocks.0.{BLOCK}.to_out.0.weight")
    check_spelling(tmp_path / "s.safetensors", *spelling, models, expected)


@pytest.mark.parametrize("spelling", TEXT_SPELLINGS, ids="".join)
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_every_spelling_of_the_text_encoder_finds_its_module(tmp_path, shapes, spelling, prefix):
    """CLIPTextModelWithProjection, and any CLIPTextModel before transformers 5, has the prefix."""
    encoder = {prefix + name: shape for name, shape in shapes[1].items()}
    expected = ("te", f"{prefix}{LAYER}.out_proj.weight")
    models = {"unet": shapes[0], "te": encoder}
    check_spelling(tmp_path / "s.safetensors", *spelling, models, expected)


# --- refusals -------------------------------------------------------------------------------------

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def pair(stem, out=8, inside=12, rank=2):
    return {
        stem + ".lora_down.weight": torch.ones(rank, inside),
        stem + ".lora_up.weight": torch.ones(out, rank),
    }


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (pair(STEM, 320, 768), ["attn2_to_k", "768", "Stable Diffusion 1.x"]),
        (pair(STEM.replace("blocks_0_att", "blocks_1_att"), 640, 2048), ["Stable Diffusion XL"]),
        (pair("lora_unet_down_blocks_7_attentions_0_proj_in"), ["down_blocks_7", "no module"]),
        (pair("lora_te2_text_model_encoder_layers_0_mlp_fc1"), ["no second text encoder"]),
        (pair("lora_unet_double_blocks_0_img_attn_qkv", 9216, 3072), ["double_blocks_0", "FLUX.1"]),
        ({**pair(STEM), "extra.thing": torch.ones(1)}, ["extra.thing"]),
        ({**pair(STEM), "bundle_emb.x.string_to_param.*": torch.ones(1)}, ["bundled embeddings"]),
        ({STEM + ".lora_down.weight": torch.ones(2, 12)}, ["attn2_to_k", "no lora_up"]),
        ({**pair(STEM), STEM + ".lora_mid.weight": torch.ones(3, 3, 3, 3)}, ["ranks"]),
        ({**pair(STEM), STEM + ".hada_w1_a": torch.ones(3, 3)}, ["attn2_to_k"]),
        ({**pair(STEM), STEM + ".dora_scale": torch.ones(5, 1)}, ["magnitudes"]),
        ({STEM + ".oft_blocks": torch.ones(2, 4, 4)}, ["OFT"]),
        ({STEM + ".a1.weight": torch.ones(2, 4), STEM + ".a2.weight": torch.ones(2, 4)}, ["GLoRA"]),
        ({STEM + ".weight": torch.ones(8), STEM + ".on_input": torch.ones(())}, ["IA3"]),
        ({**pair(STEM), STEM + ".lora_A.weight": torch.ones(2, 12)}, ["unknown key"]),
        ({**pair(STEM), **pair("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")},
         ["twice"]),
        ({**pair(STEM), STEM + ".alpha": torch.tensor(float("nan"))}, ["NaN", "alpha"]),
        ({**pair(STEM), STEM + ".lora_up.weight": torch.full((8, 2), float("inf"))}, ["lora_up"]),
        ({STEM + ".diff": torch.ones(8, 11)}, ["[8, 11]"]),
        ({STEM + ".lokr_w1": torch.ones(2, 3), STEM + ".lokr_w2_a": torch.ones(4, 2)}, ["lokr_w2"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(tmp_path, shapes, tensors, words):
    path = save(tmp_path / "odd.safetensors", tensors)
    with pytest.raises(UserError) as caught:
        deltas.resolve(deltas.modules(path), {"unet": shapes[0], "te": shapes[1]})
    text = str(caught.value)
    assert "odd.safetensors" in text and "\n" not in text
    for word in words:
        assert word in text, text


def test_adapter_metadata_of_another_part_does_not_leak(tmp_path):
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {
        stem + ".lora_A.weight": torch.ones(2, 12),
        stem + ".lora_B.weight": torch.ones(8, 2),
    }
    said = json.dumps({"text_encoder.r": 2, "text_encoder.lora_alpha": 64})
    path = save(tmp_path / "m.safetensors", tensors, {"lora_adapter_metadata": said})
    (delta,) = deltas.modules(path).values()
    assert delta.scale == 1.0 and delta.alpha is None
    assert lora.inspect(path).alpha_assumed
