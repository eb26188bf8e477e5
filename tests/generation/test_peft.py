"""Adapters as peft saves them, merged by peft and by us: every algorithm, every alpha setting."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from safetensors.torch import load_file, save_file  # noqa: E402

from generation.errors import UserError  # noqa: E402
from generation.loras import deltas  # noqa: E402
from generation.loras.inspection import inspect  # noqa: E402

TOLERANCE = 1e-5


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = torch.nn.Linear(24, 24)
        self.to_k = torch.nn.Linear(16, 24)
        self.conv = torch.nn.Conv2d(8, 12, 3)


class Model(torch.nn.Module):
    """Names like a UNet's, so that what is merged is found."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down_blocks = torch.nn.ModuleList([Block(), Block()])
        self.mid_block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


TARGETS = ["to_q", "to_k", "conv"]
ALGORITHMS: dict[str, tuple[type, dict[str, Any], str]] = {
    "LoRA": (peft.LoraConfig, {}, "lora_alpha"),
    "rsLoRA": (peft.LoraConfig, {"use_rslora": True}, "lora_alpha"),
    "DoRA": (peft.LoraConfig, {"use_dora": True}, "lora_alpha"),
    "LoRA with bias": (peft.LoraConfig, {"lora_bias": True}, "lora_alpha"),
    "LoHa": (peft.LoHaConfig, {}, "alpha"),
    "LoHa, effective conv": (peft.LoHaConfig, {"use_effective_conv2d": True}, "alpha"),
    "LoKr": (peft.LoKrConfig, {}, "alpha"),
    "LoKr, effective conv": (peft.LoKrConfig, {"use_effective_conv2d": True}, "alpha"),
    "LoKr, both decomposed": (peft.LoKrConfig, {"decompose_both": True}, "alpha"),
    "LoKr, factor 4": (peft.LoKrConfig, {"decompose_factor": 4}, "alpha"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "rank 4": {"r": 4},
    "rank 32": {"r": 32},  # so large that LoKr keeps both factors full
    "alpha 3": {"alpha": 3},
    "alpha 2.5 at rank 32": {"alpha": 2.5, "r": 32},
    "alpha 0": {"alpha": 0},
    "alpha by name": {"alpha_pattern": {"to_q": 5}},
    "alpha by path": {"alpha_pattern": {"down_blocks.1.to_k": 2, "^mid_block.to_q": 7}},
    "alpha by regex": {"alpha_pattern": {r"down_blocks\.[01]\.to_(q|k)": 3, r".*conv": 11}},
    "first regex wins": {"alpha_pattern": {r"to_.": 3, "to_q": 9, r"(mid|down)_.*": 2}},
    "alpha and rank by regex": {
        "r": 4, "alpha_pattern": {r"mid.+": 3}, "rank_pattern": {r"\w+_block.to_[qk]": 32},
    },
}  # fmt: skip


def saved(folder: Path, algorithm: str, setting: str) -> tuple[Path, Any, dict[str, Any]]:
    """(peft's file, the model that peft merged it into, the weights before)."""
    kind, options, alpha = ALGORITHMS[algorithm]
    given = {alpha if name == "alpha" else name: v for name, v in SETTINGS[setting].items()}
    config = kind(target_modules=TARGETS, **{"r": 8, **given}, **options)
    model = peft.get_peft_model(Model(), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if re.search("lora_[AB]|hada|lokr", name):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        elif "magnitude" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data * (1 + 0.1 * noise)
    model.save_pretrained(str(folder))
    # peft saves patterns in alphabetical order, so the file is what peft makes of it.
    model = peft.PeftModel.from_pretrained(Model(), str(folder))
    return (
        folder / "adapter_model.safetensors",
        model.merge_and_unload(),
        dict(Model().named_parameters()),
    )


def largest_error(path: Path, merged: Any, base: dict[str, Any]) -> float:
    """Of all merged weights, relative to the largest change (absolute where nothing changes)."""
    targets = {"unet": {name: tuple(value.shape) for name, value in base.items()}}
    found = deltas.resolve(deltas.modules(path), targets)
    assert deltas.resolve(deltas.outlines(path), targets).keys() == found.keys()
    theirs = dict(merged.named_parameters())
    change = max(float((theirs[n] - base[n]).detach().abs().max()) for n in base)
    worst = 0.0
    for name, value in base.items():
        delta = found.get(("unet", name))
        ours = value if delta is None else delta.merge(value.detach(), 1.0)
        worst = max(worst, float((ours - theirs[name]).detach().abs().max()))
    return worst / (change or 1.0)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_alpha_setting_merges_as_peft_does(
    algorithm: str, setting: str, tmp_path: Path
) -> None:
    path, merged, base = saved(tmp_path, algorithm, setting)
    theirs = dict(merged.named_parameters())
    moved = any(not torch.equal(theirs[name], value) for name, value in base.items())
    assert moved or setting == "alpha 0"
    error = largest_error(path, merged, base)
    print(f"\n  {algorithm}, {setting}: {error:.1e} of the largest change", end="")
    assert error <= TOLERANCE
    assert not inspect(path).alpha_assumed


def test_a_renamed_file_keeps_its_configuration(tmp_path: Path) -> None:
    path, merged, base = saved(tmp_path, "LoHa", "alpha 3")
    assert largest_error(path.rename(tmp_path / "mine.safetensors"), merged, base) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ["LoRA", "DoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("adapter", ["default", "my_style", "default_0"])
def test_an_adapters_name_inside_the_keys(algorithm: str, adapter: str, tmp_path: Path) -> None:
    path, merged, base = saved(tmp_path, algorithm, "alpha 3")
    tensors = {
        f"{key.removesuffix('.weight')}.{adapter}{'.weight' * key.endswith('.weight')}": value
        for key, value in load_file(path).items()
    }
    save_file(tensors, path)
    assert largest_error(path, merged, base) <= TOLERANCE


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path, "LoRA", "default")
    tensors = load_file(path)
    both = {
        key.replace(".weight", f".{name}.weight"): value.clone()
        for key, value in tensors.items()
        for name in ("cat", "dog")
    }
    save_file(both, path)
    with pytest.raises(UserError, match=r"several adapters \(cat, dog\)"):
        deltas.modules(path)


REFUSED = {
    "pissa": ({"init_lora_weights": "pissa"}, "pissa, which changes the base"),
    "pissa by few steps": ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
    "olora": ({"init_lora_weights": "olora"}, "olora"),
    "loftq": ({"init_lora_weights": "loftq"}, "loftq"),
    "corda": ({"init_lora_weights": "corda"}, "corda"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "lora_ga"),
    "modules": ({"modules_to_save": ["conv"]}, "modules_to_save"),
    "parameters": ({"target_parameters": ["x"]}, "target_parameters"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "vera": ({"peft_type": "VERA"}, "a peft adapter of the kind VERA"),
    "boft": ({"peft_type": "BOFT"}, "BOFT"),
    "dora without magnitudes": ({"use_dora": True}, "without its magnitudes"),
    "hanging": ({"alpha_pattern": {r"(.*.*)*x": 3}}, "longer than"),
    "no regex": ({"alpha_pattern": {"(": 3}}, "no regular expression"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_does_otherwise_is_refused_by_name(case: str, tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path, "LoRA", "default")
    beside = tmp_path / "adapter_config.json"
    changes, words = REFUSED[case]
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **changes}))
    with pytest.raises(UserError) as caught:
        deltas.modules(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_beginnings_that_leave_the_base_alone_are_applied(start: object, tmp_path: Path) -> None:
    path, merged, base = saved(tmp_path, "LoRA", "alpha 3")
    beside = tmp_path / "adapter_config.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "init_lora_weights": start}))
    assert largest_error(path, merged, base) <= TOLERANCE


def test_without_its_configuration_an_adapters_alpha_is_a_guess_that_is_told(
    tmp_path: Path,
) -> None:
    path, _, _ = saved(tmp_path, "LoRA", "alpha 3")
    (tmp_path / "adapter_config.json").unlink()
    info = inspect(path)
    assert info.alpha_assumed and info.scales == (1.0,) and "not stored" in info.summary()
