"""Diffusers folders whose networks bitsandbytes, quanto or torchao stored in fewer bits: what their
numbers are, and LoRAs on them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from generation.cells import Case, Checkpoint  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.renderers.diffusers import quantised  # noqa: E402
from generation.renderers.diffusers.engine import Engine  # noqa: E402
from generation.renderers.diffusers.models import find_model, structure  # noqa: E402

# What diffusers, quanto and torchao say of each other's futures.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Tiny = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]
CASES = [Case("a cat", 1)]


def engine(folder: Path) -> Engine:
    few = {"steps": 1, "guidance_scale": 1.0, "width": 64, "height": 64, "batch_size": 1}
    return Engine(find_model(str(folder)), **few)  # type: ignore[arg-type]


def part_file(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def told(folder: Path, part: str, **config: Any) -> None:
    path = folder / part / "config.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "quantization_config": config}))


def linear_weights(module: torch.nn.Module) -> list[tuple[str, torch.nn.Linear]]:
    return [(n, m) for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]


def with_bitsandbytes(folder: Path, part: str, kind: str) -> None:
    """As the library's own layers save themselves; diffusers and transformers write what they give.
    diffusers would want a GPU to make them."""
    bnb = pytest.importorskip("bitsandbytes")
    path = part_file(folder, part)
    found = {}
    for name, tensor in load_file(path).items():
        found[name] = tensor
        if tensor.dim() != 2 or re.search("embed|shared|attention_bias", name):
            continue
        out, inner = tensor.shape
        if kind == "int8":
            layer = bnb.nn.Linear8bitLt(inner, out, bias=False, has_fp16_weights=False)
        else:
            layer = bnb.nn.Linear4bit(
                inner, out, bias=False, compute_dtype=torch.float32,
                quant_type=kind[:3], compress_statistics="nested" in kind,
            )  # fmt: skip
        layer.load_state_dict({"weight": tensor})
        stem = name.removesuffix("weight")
        found |= {stem + leaf: value for leaf, value in layer.to("cpu").state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
    told(
        folder, part, quant_method="bitsandbytes", load_in_8bit=kind == "int8",
        load_in_4bit=kind != "int8", bnb_4bit_quant_type=kind[:3],
    )  # fmt: skip


def with_library(folder: Path, part: str, config: Any) -> None:
    """As diffusers or transformers quantise with quanto and torchao, and save."""
    library, kind = json.loads((folder / "model_index.json").read_text())[part]
    of = getattr(diffusers if library == "diffusers" else transformers, kind)
    module = of.from_pretrained(folder / part, quantization_config=config, dtype=torch.float32)
    shutil.rmtree(folder / part)
    module.save_pretrained(folder / part)


def quanto(weights: str) -> Any:
    pytest.importorskip("optimum.quanto")
    return diffusers.QuantoConfig(weights_dtype=weights)


def torchao(kind: str, of: Any = diffusers) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return of.TorchAoConfig(getattr(quantization, f"{kind}Config")())


def by_hand(stored: Tensors) -> Tensors:
    """What the formats say: codes times a scale a row."""
    found = {}
    for name, tensor in stored.items():
        if name.endswith("SCB"):  # bitsandbytes' largest of a row
            weight = name.removesuffix("SCB") + "weight"
            found[weight] = stored[weight].double() * tensor.double()[:, None] / 127
        elif name.endswith("weight._data"):  # quanto
            scale = stored[name.replace("._data", "._scale")]
            found[name.removesuffix("._data")] = tensor.double() * scale.double()
        elif name.endswith("_weight_qdata"):  # torchao
            scale = stored[name.replace("_qdata", "_scale")]
            weight = name.replace("_weight_qdata", "weight")
            found[weight] = tensor.double() * scale.double()
    return found


QUANTISED: dict[str, tuple[str, Callable[[Path], None], float]] = {
    # of which family, how, and how far its weights are at most
    "bitsandbytes NF4": ("qwen", lambda f: with_bitsandbytes(f, "transformer", "nf4 nested"), 0.2),
    "bitsandbytes FP4": ("klein", lambda f: with_bitsandbytes(f, "transformer", "fp4"), 0.3),
    "bitsandbytes int8": ("sd1", lambda f: with_bitsandbytes(f, "unet", "int8"), 0.02),
    "quanto int8": ("lumina2", lambda f: with_library(f, "transformer", quanto("int8")), 0.02),
    "quanto int4": ("qwen", lambda f: with_library(f, "transformer", quanto("int4")), 0.3),
    "torchao Int8WeightOnly": (
        "zimage", lambda f: with_library(f, "transformer", torchao("Int8WeightOnly")), 0.02,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", QUANTISED)
def test_a_folder_is_read_as_what_it_stands_for(how: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """By the format's formula or the library's own; LoRAs are added to the numbers without
    quantising again, and strength 0 is the base."""
    family, quantise, most = QUANTISED[how]
    full = tiny_model(family)
    folder = Path(shutil.copytree(full, tmp_path / "quantised"))
    quantise(folder)
    part = "unet" if family == "sd1" else "transformer"
    model = find_model(str(folder))
    assert model.stored == f"{how} ({part})" and model.digest != find_model(str(full)).digest
    assert structure(model) == structure(find_model(str(full)))
    few, whole = engine(folder), engine(full)
    base = {n: w.detach().clone() for n, w in few.denoiser.named_parameters()}
    exact = dict(whole.denoiser.named_parameters())
    apart = {
        n: float((base[n] - w).norm() / w.norm())
        for n, w in exact.items()
        if n.endswith("q.weight")
    }
    assert base.keys() == exact.keys() and 0 < max(apart.values()) < most
    meant = by_hand(load_file(part_file(folder, part)))
    assert meant or how in {"bitsandbytes NF4", "bitsandbytes FP4", "quanto int4"}
    for name, numbers in meant.items():
        assert float((base[name].double() - numbers).abs().max() / numbers.abs().max()) <= 1e-6
    pictures = few.render(CASES)[0]
    assert not np.array_equal(pictures, whole.render(CASES)[0])  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    tensors, updates = {}, {}
    for name, weight in base.items():
        if name.endswith(("to_q.weight", "to_v.weight")):
            down = torch.randn(2, weight.shape[1], generator=generator)
            up = torch.randn(weight.shape[0], 2, generator=generator)
            stem = f"{part}.{name.removesuffix('.weight')}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
            updates[name] = up.double() @ down.double()
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = Checkpoint(tmp_path / "lora.safetensors", "lora", tensor_hash="1")
    few.apply(lora, Decimal("0.5"))
    peak = max(float(update.abs().max()) for update in updates.values()) / 2
    for name, weight in few.denoiser.named_parameters():
        wanted = base[name].double() + updates.get(name, torch.zeros(())) / 2
        assert float((weight.double() - wanted).abs().max()) <= 1e-6 * peak
    few.apply(lora, Decimal(0))
    assert all(torch.equal(w, base[n]) for n, w in few.denoiser.named_parameters())
    assert np.array_equal(pictures, few.render(CASES)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["nf4", "int8", "torchao"])
def test_text_encoders_of_fewer_bits_are_read_too(
    how: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    """Also those beside a single checkpoint, which brings a transformer of its own."""
    full = tiny_model("flux")
    folder = Path(shutil.copytree(full, tmp_path / "quantised"))
    if how == "torchao":
        with_library(folder, "text_encoder_2", torchao("Int8WeightOnly", transformers))
    else:
        with_bitsandbytes(folder, "text_encoder_2", how)
    words = {"torchao": "torchao Int8WeightOnly", "nf4": "bitsandbytes NF4"}
    one, whole = engine(folder), engine(full)
    assert one.model.stored == f"{words.get(how, 'bitsandbytes int8')} (text_encoder_2)"
    found = dict(one.pipe.text_encoder_2.named_parameters())
    for name, weight in whole.pipe.text_encoder_2.named_parameters():
        error = float((found[name] - weight).norm() / weight.norm())
        assert error < 0.3 and (error > 0) == bool(re.search(r"\.(?:[qkvo]|w\w+)\.weight", name))
    single = tmp_path / "single.safetensors"
    shutil.copy(part_file(full, "transformer"), single)
    told(folder, "transformer", quant_method="quanto", weights_dtype="int8")  # which is not read
    beside = find_model(str(single), config=folder)
    assert beside.stored == one.model.stored
    few = {"steps": 1, "guidance_scale": 1.0, "width": 64, "height": 64, "batch_size": 1}
    pictures = Engine(beside, **few).render(CASES)[0]  # type: ignore[arg-type]
    assert np.array_equal(pictures, one.render(CASES)[0])  # type: ignore[arg-type]


def test_weights_of_several_files_belong_together(tiny_model: Tiny, tmp_path: Path) -> None:
    """Where a matrix' scales lie in another file than its codes; and what is not whole."""
    folder = Path(shutil.copytree(tiny_model("qwen"), tmp_path / "quantised"))
    with_bitsandbytes(folder, "transformer", "nf4")
    before = engine(folder).render(CASES)[0]
    path = part_file(folder, "transformer")
    stored = load_file(path)
    codes = {n: t for n, t in stored.items() if f"{n}.absmax" in stored}
    save_file(codes, path.with_name("model-00001-of-00002.safetensors"))
    rest = {n: t for n, t in stored.items() if n not in codes}
    save_file(rest, path.with_name("model-00002-of-00002.safetensors"))
    path.unlink()
    assert np.array_equal(before, engine(folder).render(CASES)[0])  # type: ignore[arg-type]
    name = "transformer_blocks.0.attn.to_q.weight"
    state = f"{name}.quant_state.bitsandbytes__nf4"
    second = path.with_name("model-00002-of-00002.safetensors")
    for changed, said in (
        ({n: t for n, t in rest.items() if n != f"{name}.absmax"}, "not whole"),
        ({n: t for n, t in rest.items() if n != state}, "lacks weights of its transformer"),
        ({**rest, f"{name}.absmax": torch.zeros(3)}, "not whole"),
        ({n: t for n, t in rest.items() if not n.endswith("to_q.bias")}, "lacks weights"),
    ):
        save_file(changed, second)
        with pytest.raises(UserError, match=said):
            engine(folder)


def test_eight_bits_of_another_kind_are_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("qwen"), tmp_path / "quantised"))
    with_bitsandbytes(folder, "transformer", "int8")
    path = part_file(folder, "transformer")
    stored, stem = load_file(path), "transformer_blocks.0.attn.to_q."
    for leaf, tensor in (
        ("SCB", torch.ones(3)), ("weight_format", torch.tensor(2, dtype=torch.uint8)),
        ("weight", stored[f"{stem}weight"].float()),
    ):  # fmt: skip
        save_file({**stored, stem + leaf: tensor}, path)
        with pytest.raises(UserError, match=rf"8 bits of another kind \({stem}weight\)"):
            engine(folder)


@pytest.mark.parametrize(("config", "said"), [
    ({"quant_method": "nunchaku_lite"}, r"quantised by nunchaku_lite \(transformer\), which is"),
    ({"quant_method": "gptq", "bits": 4}, "quantised by gptq"),
    ({}, "quantised by a method that it does not name"),
])  # fmt: skip
def test_other_methods_are_refused_by_name(
    config: dict[str, Any], said: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model("qwen"), tmp_path / "quantised"))
    told(folder, "transformer", **config)
    with pytest.raises(UserError, match=said) as caught:
        find_model(str(folder))
    assert "bfloat16, float16, or quantised by bitsandbytes, quanto or torchao" in str(caught.value)


def test_a_library_that_is_not_there_is_named(
    tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_model("qwen"), tmp_path / "quantised"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for config, said in (
        ({"quant_method": "quanto", "weights_dtype": "int8"},
         r"quanto int8, and reading it needs optimum\.quanto: .*'lora-analysers\[quanto\]'"),
        ({"quant_method": "torchao"}, r"needs torchao: .*'lora-analysers\[torchao\]'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
         r"bitsandbytes NF4, and reading it needs bitsandbytes: pip install"),
    ):  # fmt: skip
        told(folder, "transformer", **config)
        with pytest.raises(UserError, match=said):
            find_model(str(folder))
    told(folder, "transformer", quant_method="bitsandbytes", load_in_8bit=True)
    assert find_model(str(folder)).stored == "bitsandbytes int8 (transformer)"  # arithmetic alone


def test_how_configurations_say_it() -> None:
    for config, said in (
        ({}, ""),
        ({"quantization_config": {"quant_method": "bitsandbytes", "_load_in_8bit": True}},
         "bitsandbytes int8"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "_load_in_4bit": True,
                                  "bnb_4bit_quant_type": "nf4"}}, "bitsandbytes NF4"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
         "bitsandbytes FP4"),  # its default
        ({"quantization_config": {"quant_method": "quanto", "weights": "int4"}}, "quanto int4"),
        ({"quantization_config": None}, ""),
        ({"quantization_config": "x"}, "a method that it does not name"),
    ):  # fmt: skip
        assert quantised.method(config) == said
