"""What speaks against a LoRA under a base model: said before anything is loaded."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from analysers.runs.plan import plan_study  # noqa: E402
from analysers.runs.request import StudyRequest  # noqa: E402
from analysers.study import Kind  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.families import FAMILIES  # noqa: E402
from generation.loras import deltas  # noqa: E402
from generation.loras.inspection import inspect  # noqa: E402
from generation.loras.suitability import findings, fit, judged  # noqa: E402
from generation.loras.training import prediction_type  # noqa: E402
from generation.renderers.diffusers.engine import Engine  # noqa: E402
from generation.renderers.diffusers.models import (  # noqa: E402
    PARTS,
    BaseModel,
    find_model,
    structure,
)

Tiny = Callable[[str], Path]
Single = Callable[[str], tuple[Path, Path]]

SDXL = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
FLUX = "lora_unet_double_blocks_{}_img_attn_proj"


def pair(stem: str, out: int, inside: int) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.lora_down.weight": torch.zeros(1, inside),
        f"{stem}.lora_up.weight": torch.zeros(out, 1),
        f"{stem}.alpha": torch.tensor(1.0),
    }


def open_engine(model: BaseModel) -> Engine:
    return Engine(model, steps=2, width=64, height=64, batch_size=1)


def random_lora(model: BaseModel, part: str, path: Path) -> Path:
    """A LoRA on some attention matrices of one part, in diffusers' layout."""
    wanted = ("attn1.to_q", "attn.to_q", "attention.to_q", "self_attn.v_proj", "SelfAttention.v")
    tensors = {}
    for name, shape in structure(model)[part].items():
        stem = name.removesuffix(".weight")
        if name.endswith(".weight") and stem.endswith(wanted):
            tensors[f"{PARTS[part]}.{stem}.lora_A.weight"] = torch.ones(2, shape[1])
            tensors[f"{PARTS[part]}.{stem}.lora_B.weight"] = torch.ones(shape[0], 2)
    assert tensors
    save_file(tensors, path)
    return path


FILES: dict[str, dict[str, torch.Tensor]] = {
    "sdxl": pair(SDXL, 640, 2048),
    "sd2": pair(SDXL, 640, 1024),
    "flux or chroma": {
        k: v for n in range(19) for k, v in pair(FLUX.format(n), 3072, 3072).items()
    },
    "wan": {
        k: v for n in range(40)
        for k, v in pair(f"lora_unet_blocks_{n}_self_attn_q", 5120, 5120).items()
    },
    "unknown": pair("lora_unet_conv_in_strange", 8, 8),
}  # fmt: skip
CASES: list[tuple[str, dict[str, str], str, str | None, str, str, bool]] = [
    # file, metadata, model's family, it predicts -> check ("" for none), words, refuses
    ("sdxl", {}, "sdxl", "epsilon", "", "", False),
    ("sdxl", {}, "sd1", "epsilon", "family", "made for Stable Diffusion XL, and", True),
    ("wan", {}, "sdxl", "epsilon", "family", "Wan (video), which is not rendered here", True),
    ("wan", {"ss_base_model_version": "sdxl"}, "sdxl", "epsilon", "family", "Wan", True),
    ("flux or chroma", {}, "flux", None, "", "", False),
    ("flux or chroma", {}, "sdxl", "epsilon", "family", "FLUX.1, Chroma or HunyuanVideo, and",
     True),
    ("flux or chroma", {"ss_base_model_version": "chroma"}, "flux", None, "base", "Chroma", True),
    ("flux or chroma", {"modelspec.architecture": "flux2-klein"}, "flux", None, "base",
     "FLUX.2 Klein", True),
    ("flux or chroma", {"ss_base_model_version": "newthing"}, "flux", None, "base",
     "'newthing', a base that is not known", False),
    ("sdxl", {"ss_base_model_version": "kolors"}, "sdxl", "epsilon", "base", "Kolors", True),
    ("sdxl", {"modelspec.prediction_type": "v"}, "sdxl", "epsilon", "prediction", "v-pred", True),
    ("sdxl", {"modelspec.prediction_type": "v"}, "sdxl", "v_prediction", "", "", False),
    ("sdxl", {"modelspec.prediction_type": "epsilon"}, "sdxl", "v_prediction", "prediction",
     "noise prediction", False),
    ("sdxl", {"ss_sd_model_name": "noobaiXL_vPred10.safetensors"}, "sdxl", "epsilon", "prediction",
     "if both are true", False),
    ("sd2", {"ss_base_model_version": "sd_v2_768_v"}, "sd2", "epsilon", "prediction", "v-pred",
     True),
    ("sd2", {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2", "epsilon",
     "prediction", "v-pred", True),
    ("sdxl", {"ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}, "sdxl", "epsilon",
     "descendant", "Pony", False),
    ("unknown", {"ss_base_model_version": "sd3"}, "sdxl", "epsilon", "base", "Diffusion 3, and",
     True),
    ("unknown", {}, "sdxl", "epsilon", "", "", False),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stated_and_shown_bases_are_held_against_the_model(case: Any, tmp_path: Path) -> None:
    kind, metadata, family, prediction, check, said, refuses = case
    path = tmp_path / "mine.safetensors"
    save_file({key: value.clone() for key, value in FILES[kind].items()}, path, metadata)
    found = findings(inspect(path), family, "base", prediction)
    if not check:
        assert found == []
        return
    first = found[0]
    assert (first.check, first.refuses) == (check, refuses)
    assert said in first.sentence and "mine.safetensors" in first.sentence
    if not refuses:
        assert judged(found)[0] == first.sentence
        return
    with pytest.raises(UserError) as caught:
        judged(found)
    assert ("allow base" in str(caught.value)) == (check == "base")
    if check == "family":
        with pytest.raises(UserError):
            judged(found, ["base", "prediction"])
    else:
        assert first.sentence in judged(found, [check])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_structure_is_the_loaded_models(
    family: str, tiny_model: Tiny, tiny_checkpoint: Single
) -> None:
    engine = open_engine(find_model(str(tiny_model(family))))
    loaded = {key: tuple(weight.shape) for key, weight in engine._weights.items()}
    file, config = tiny_checkpoint(family)
    options = {"prediction_type": "epsilon"} if family == "sd2" else {}
    for model in (
        find_model(str(tiny_model(family))),
        find_model(str(file), config=config, **options),
    ):
        found = structure(model)
        assert {(p, n): s for p, names in found.items() for n, s in names.items()} == loaded


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_keys_that_fit_are_found_without_reading_a_weight(
    family: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    model = find_model(str(tiny_model(family)))
    for part in structure(model):
        path = random_lora(model, part, tmp_path / f"{part}.safetensors")
        head = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
        hollow = tmp_path / f"hollow_{part}.safetensors"
        size = path.stat().st_size
        hollow.write_bytes(path.read_bytes()[:head] + b"\xff" * (size - head))  # all NaN
        fit(inspect(hollow), structure(model))
        with pytest.raises(UserError):
            deltas.modules(hollow)


def plan(lora: list[Path], model: Path, out: Path, **options: Any) -> Any:
    kind: Kind = "epochs" if len(lora) > 1 else "strength"
    return plan_study(StudyRequest.of(
        kind, loras=lora, model=str(model), out=out, strengths="1", prompts=["a cat"],
        size="64x64", **options,
    ))  # fmt: skip


def test_a_lora_that_finds_no_place_is_refused_in_the_plan(
    tiny_model: Tiny, tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    for tensors, said in (
        (FILES["wan"], "Wan (video)"),
        (FILES["unknown"], "no module of its name"),
        (pair("lora_unet_conv_in", 8, 999), "conv_in"),
        ({f"lora_unet_{n}_x.diff": torch.zeros(2, 2) for n in "ab"}, "no module of its name"),
    ):
        save_file({key: value.clone() for key, value in tensors.items()}, path)
        with pytest.raises(UserError, match="odd.safetensors") as caught:
            plan([path], tiny_model("sd1"), tmp_path / "out")
        assert said in str(caught.value)
        with pytest.raises(UserError):
            plan([path], tiny_model("sd1"), tmp_path / "out", allow=["base", "prediction"])
    assert not (tmp_path / "out").exists()


def test_metadata_can_be_overruled_and_then_warn(tiny_model: Tiny, tmp_path: Path) -> None:
    base = find_model(str(tiny_model("sdxl")))
    good = random_lora(base, "unet", tmp_path / "good.safetensors")
    kolors = tmp_path / "kolors.safetensors"
    save_file(load_file(good), kolors, {"ss_base_model_version": "kolors"})
    with pytest.raises(UserError, match="Kolors.*allow base applies it"):
        plan([kolors], tiny_model("sdxl"), tmp_path / "out")
    allowed = plan([kolors], tiny_model("sdxl"), tmp_path / "out", allow=["base"])
    assert any("Kolors" in warning for warning in allowed.warnings)
    with pytest.raises(UserError, match="allow: kin is no check"):
        plan([kolors], tiny_model("sdxl"), tmp_path / "out", allow=["kin"])
    with pytest.raises(UserError, match="Kolors"):
        plan([good], tiny_model("sdxl"), tmp_path / "out", fixed=[(kolors, 1)])


def test_a_checkpoint_that_does_not_fit_is_refused_and_the_others_stay(
    tiny_model: Tiny, tmp_path: Path
) -> None:
    base = find_model(str(tiny_model("sd1")))
    good = random_lora(base, "unet", tmp_path / "run-000001.safetensors")
    odd = tmp_path / "run-000002.safetensors"
    save_file(pair("lora_unet_conv_in", 8, 999), odd)
    found = plan([good, odd], tiny_model("sd1"), tmp_path / "out")
    assert len(found.loras) == 1 and len(found.refused) == 1
    assert "conv_in" in next(iter(found.refused.values()))


@pytest.mark.parametrize(("weights", "said"), [
    (",".join(["1"] * 20), "does not fit this model"),
    ("IN08=0", "IN08"),
])  # fmt: skip
def test_block_weights_that_do_not_fit_are_refused_in_the_plan(
    weights: str, said: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    base = find_model(str(tiny_model("sdxl")))
    good = random_lora(base, "unet", tmp_path / "good.safetensors")
    with pytest.raises(UserError, match="block_weights") as caught:
        plan([good], tiny_model("sdxl"), tmp_path / "out", block_weights=weights)
    assert said in str(caught.value)


def test_a_dora_per_output_is_told(tmp_path: Path) -> None:
    path = tmp_path / "dora.safetensors"
    for shape, told in (((640, 1), True), ((1, 2048), False)):
        save_file({**FILES["sdxl"], f"{SDXL}.dora_scale": torch.ones(*shape)}, path)
        found = findings(inspect(path), "sdxl", "base", "epsilon")
        assert [one.check for one in found] == ["dora"] * told
        assert not any(one.refuses for one in found)


# --- XLabs, Control ------------------------------------------------------------------------------


def flux_transformer(width: int = 32) -> Any:
    import diffusers

    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=width // 16, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip


def test_xlabs_files_are_merged_as_diffusers_converts_them(tmp_path: Path) -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    generator = torch.Generator().manual_seed(2)
    width, rank = 32, 4
    tensors: dict[str, torch.Tensor] = {}

    def add(stem: str, out: int, inside: int) -> None:
        tensors[f"{stem}.down.weight"] = torch.randn(rank, inside, generator=generator)
        tensors[f"{stem}.up.weight"] = torch.randn(out, rank, generator=generator)

    for block in range(2):
        for stream in "12":
            add(f"double_blocks.{block}.processor.qkv_lora{stream}", 3 * width, width)
            add(f"double_blocks.{block}.processor.proj_lora{stream}", width, width)
        add(f"single_blocks.{block}.processor.qkv_lora", 3 * width, width)
        add(f"single_blocks.{block}.processor.proj_lora", width, 5 * width)
    path = tmp_path / "xlabs.safetensors"
    save_file(tensors, path)
    model = flux_transformer(width)
    base = {name: value.detach() for name, value in model.named_parameters()}
    targets = {"transformer": {name: tuple(value.shape) for name, value in base.items()}}
    found = deltas.resolve(deltas.modules(path), targets)
    theirs = _convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    stems = {key.split(".lora_")[0] for key in theirs}
    assert {f"transformer.{name.removesuffix('.weight')}" for _, name in found} == stems
    for (_, name), delta in found.items():
        stem = f"transformer.{name.removesuffix('.weight')}"
        want = theirs[f"{stem}.lora_B.weight"] @ theirs[f"{stem}.lora_A.weight"]
        got = delta.merge(base[name], 1.0) - base[name]
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    info = inspect(path)
    assert info.touches == ("transformer",) and not info.unsupported


def test_xlabs_files_of_the_real_size_are_recognised(tmp_path: Path) -> None:
    tensors = {}
    for block in range(19):
        for stream in "12":
            stem = f"double_blocks.{block}.processor.qkv_lora{stream}"
            tensors[f"{stem}.down.weight"] = torch.zeros(1, 3072)
            tensors[f"{stem}.up.weight"] = torch.zeros(9216, 1)
    save_file(tensors, tmp_path / "x.safetensors")
    assert inspect(tmp_path / "x.safetensors").family == "flux"


def test_flux_control_loras_are_named(tmp_path: Path) -> None:
    tensors = {}
    for stem, out, inside in (
        ("img_in", 3072, 128),
        ("double_blocks.0.img_attn.qkv", 9216, 3072),
        ("single_blocks.0.linear1", 21504, 3072),
    ):
        tensors[f"{stem}.lora_A.weight"] = torch.zeros(1, inside)
        tensors[f"{stem}.lora_B.weight"] = torch.zeros(out, 1)
        tensors[f"{stem}.lora_B.bias"] = torch.zeros(out)
    tensors["double_blocks.0.img_attn.norm.key_norm.scale"] = torch.zeros(128)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"a FLUX\.1 Control LoRA"):
        deltas.modules(tmp_path / "x.safetensors")


def test_a_stored_alpha_of_nothing_is_warned_of(tmp_path: Path) -> None:
    """kohya and LyCORIS take it for the rank, ComfyUI and A1111 multiply by it."""
    for alpha, warned in ((0.0, True), (1.0, False)):
        tensors = pair(SDXL, 640, 2048) | {f"{SDXL}.alpha": torch.tensor(alpha)}
        save_file(tensors, tmp_path / "a.safetensors")
        info = inspect(tmp_path / "a.safetensors")
        assert info.scales == (1.0,) and info.alpha_zero is warned
        told = [one.sentence for one in findings(info, "sdxl", "model", "epsilon")]
        assert any("an alpha of 0" in sentence for sentence in told) is warned
        (tmp_path / "a.safetensors").unlink()


@pytest.mark.parametrize(("family", "metadata", "zero_snr", "clip_skip", "said"), [
    ("sd1", {"ss_clip_skip": "2"}, None, 0, " 1, which leaves out"),
    ("sd1", {"ss_clip_skip": "2"}, None, 1, ""),
    ("sd1", {"ss_clip_skip": "1"}, None, 1, " 0, which leaves out"),
    ("sd1", {"ss_clip_skip": "None"}, None, 1, ""),
    ("sd1", {"ss_clip_skip": "99999"}, None, 1, ""),
    ("sd1", {"ss_clip_skip": " 2.0 "}, None, 0, " 1, which leaves out"),
    ("sd1", {"ss_clip_skip": "-2"}, None, 1, ""),
    ("sd1", {"ss_clip_skip": "0"}, None, 1, ""),
    ("sd1", {"ss_clip_skip": "12"}, None, 2, " 11, which leaves out"),
    ("sd1", {"ss_clip_skip": "two"}, None, 1, ""),
    ("sdxl", {"ss_clip_skip": "2"}, False, 0, ""),
    ("sdxl", {}, False, 1, "clip skip 2 means for Pony"),
    ("sdxl", {"ss_zero_terminal_snr": "True"}, False, 0, "zero terminal SNR"),
    ("sdxl", {"ss_zero_terminal_snr": "True"}, True, 0, ""),
    ("sdxl", {"ss_zero_terminal_snr": "False"}, False, 0, ""),
    ("sdxl", {"ss_zero_terminal_snr": "true"}, False, 0, "v_prediction_zsnr"),
    ("sdxl", {"ss_zero_terminal_snr": "1"}, False, 0, "zero terminal SNR"),
    ("sdxl", {"ss_zero_terminal_snr": "None"}, False, 0, ""),
])  # fmt: skip
def test_what_training_says_of_clip_and_of_the_schedule(
    family: str, metadata: dict[str, str], zero_snr: bool | None, clip_skip: int, said: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    width = {"sd1": 768, "sdxl": 2048}[family]
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{stem}.lora_down.weight": torch.zeros(1, width),
        f"{stem}.lora_up.weight": torch.zeros(640, 1),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    info = inspect(tmp_path / "x.safetensors")
    found = findings(info, family, "base", "epsilon", zero_snr=zero_snr, clip_skip=clip_skip)
    assert not any(one.refuses for one in found)
    assert " ".join(one.sentence for one in found if one.check in {"clip_skip", "zero_snr"}) == (
        "" if not said else next(one.sentence for one in found if said in one.sentence)
    )


@pytest.mark.parametrize(("metadata", "predicts"), [
    ({"modelspec.prediction_type": "v"}, "v_prediction"),
    ({"modelspec.prediction_type": "V-Prediction "}, "v_prediction"),
    ({"modelspec.prediction_type": "vpred"}, "v_prediction"),
    ({"modelspec.prediction_type": "velocity"}, "v_prediction"),
    ({"modelspec.prediction_type": "EPS"}, "epsilon"),
    ({"modelspec.prediction_type": "Epsilon"}, "epsilon"),
    ({"modelspec.prediction_type": "vae"}, None),
    ({"modelspec.prediction_type": "None", "ss_v_parameterization": "true"}, "v_prediction"),
    ({"ss_v_parameterization": "True"}, "v_prediction"),
    ({"ss_v_parameterization": "False"}, None),
    ({"modelspec.prediction_type": "epsilon", "ss_v_parameterization": "True"}, "epsilon"),
])  # fmt: skip
def test_what_metadata_say_of_the_prediction(
    metadata: dict[str, str], predicts: str | None
) -> None:
    assert prediction_type(metadata) == predicts


@pytest.mark.parametrize(("model", "prediction", "warned"), [
    ("noobaiXL_vPred10.safetensors", "epsilon", True), ("a/merge-v-pred-2", "epsilon", True),
    ("x_v_pred.safetensors", "v_prediction", False), ("v-pred/plain.safetensors", "epsilon", False),
    ("preview_predator.safetensors", "epsilon", False), ("noob_eps.safetensors", "epsilon", False),
])  # fmt: skip
def test_a_base_called_v_prediction_that_does_not_say_so_is_warned_of(
    model: str, prediction: str, warned: bool, tmp_path: Path
) -> None:
    """Merges lose the keys by which such checkpoints say it."""
    save_file(pair(SDXL, 640, 2048), tmp_path / "a.safetensors")
    found = findings(inspect(tmp_path / "a.safetensors"), "sdxl", model, prediction)
    told = [one.sentence for one in found if one.check == "prediction"]
    assert [("is called a v-prediction model" in one) for one in told] == [True] * warned


@pytest.mark.parametrize(("stated", "said"), [
    ("Qwen/Qwen-Image-Edit-2509", True), ("qwen_image_edit", True), ("flux-1-kontext-dev", True),
    ("qwen_image", False), ("edited_flux1-dev", False), ("", False),
])  # fmt: skip
def test_a_lora_for_editing_pictures_is_warned_of(stated: str, said: bool, tmp_path: Path) -> None:
    stem = "transformer_blocks.0.attn.to_q"
    tensors = {
        f"{stem}.lora_A.weight": torch.zeros(1, 3072),
        f"{stem}.lora_B.weight": torch.zeros(3072, 1),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"ss_base_model_version": stated})
    for family in ("qwen", "flux"):
        found = findings(inspect(tmp_path / "x.safetensors"), family, "base", None)
        assert any(one.check == "edit" and not one.refuses for one in found) == said
        under = findings(inspect(tmp_path / "x.safetensors"), family, "base", None, edits=True)
        assert not any(one.check == "edit" for one in under)
