"""Base models in GGUF and in bitsandbytes' 4 bits: what their numbers are, and LoRAs on them."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
gguf = pytest.importorskip("gguf")
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from generation.cells import Case, Checkpoint  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.loras import deltas  # noqa: E402
from generation.records import plain  # noqa: E402
from generation.renderers.diffusers import quantised  # noqa: E402
from generation.renderers.diffusers.engine import Engine  # noqa: E402
from generation.renderers.diffusers.models import find_model  # noqa: E402

Single = Callable[[str], tuple[Path, Path]]
Q = gguf.GGMLQuantizationType


def write_gguf(tensors: dict[str, torch.Tensor], path: Path, kind: str) -> Path:
    """As converters do: matrices in `kind`, the rest in float32."""
    writer = gguf.GGUFWriter(path, "flux")
    for name, tensor in tensors.items():
        array = tensor.float().numpy()
        block = gguf.GGML_QUANT_SIZES[Q[kind]][0]
        fits = array.ndim == 2 and array.shape[1] % block == 0
        of = Q[kind] if fits else Q.F32
        writer.add_tensor(name, gguf.quantize(array, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_four_bits(tensors: dict[str, torch.Tensor], path: Path, kind: str) -> Path:
    """As Forge and diffusers save them; "nested" with scales that are quantised too."""
    functional = pytest.importorskip("bitsandbytes.functional")
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.contiguous()
        if tensor.dim() == 2 and name.endswith(".weight"):
            packed, state = functional.quantize_4bit(
                tensor, quant_type=kind[:3], compress_statistics="nested" in kind
            )
            found[name] = packed
            found |= {f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}
    save_file(found, path)
    return path


def read_four_bits(path: Path) -> dict[str, torch.Tensor]:
    """The format read by hand: two codes a byte, the first in the high bits; a scale a block."""
    stored, found = load_file(path), {}
    for name, tensor in stored.items():
        if ".weight." in name:
            continue
        told = [k for k in stored if k.startswith(f"{name}.quant_state.")]
        if not told:
            found[name] = tensor
            continue
        state = json.loads(bytes(stored[told[0]].tolist()))
        scales = stored[f"{name}.absmax"]
        if f"{name}.nested_absmax" in stored:
            of = stored[f"{name}.nested_absmax"].repeat_interleave(state["nested_blocksize"])
            of = of[: scales.numel()] * stored[f"{name}.nested_quant_map"][scales.long()]
            scales = of + state["nested_offset"]
        codes = torch.stack([tensor.flatten() >> 4, tensor.flatten() & 15], 1).flatten().long()
        numbers = stored[f"{name}.quant_map"][codes]
        numbers = numbers * scales.repeat_interleave(state["blocksize"])[: numbers.numel()]
        found[name] = numbers.reshape(state["shape"])
    return found


def engine(path: Path, config: Path) -> Engine:
    few = {"steps": 1, "guidance_scale": 1.0, "width": 64, "height": 64, "batch_size": 1}
    return Engine(find_model(str(path), config=config), **few)  # type: ignore[arg-type]


def matrices(one: Engine) -> dict[str, torch.Tensor]:
    return {n: w.detach().clone() for n, w in one.denoiser.named_parameters() if w.dim() == 2}


@pytest.mark.parametrize(("family", "kind", "low", "high"), [
    ("flux", "Q8_0", 1e-3, 1e-2), ("chroma", "Q8_0", 1e-3, 1e-2), ("sd3", "Q8_0", 1e-3, 1e-2),
    ("flux2", "Q5_1", 1e-2, 4e-2), ("klein", "Q5_1", 1e-2, 4e-2), ("hidream", "Q4_0", 4e-2, 1.5e-1),
    ("qwen", "Q4_0", 4e-2, 1.5e-1), ("lumina2", "BF16", 1e-4, 4e-3), ("zimage", "BF16", 1e-4, 4e-3),
    ("qwen", "nf4", 5e-2, 1.5e-1), ("zimage", "nf4 nested", 5e-2, 1.5e-1),
    ("klein", "fp4", 5e-2, 2e-1), ("lumina2", "nf4", 5e-2, 2e-1),
])  # fmt: skip
def test_it_is_read_as_what_it_stands_for(
    family: str, kind: str, low: float, high: float, tiny_checkpoint: Single, tmp_path: Path
) -> None:
    """LoRAs are added to the numbers, without quantising again; strength 0 is the base."""
    full, config = tiny_checkpoint(family)
    if "p4" in kind or "nf" in kind:
        stored = write_four_bits(load_file(full), tmp_path / "4.safetensors", kind)
        said, meant = f"bitsandbytes {kind[:3].upper()}", read_four_bits(stored)
    else:
        stored = write_gguf(load_file(full), tmp_path / f"{kind}.gguf", kind)
        said = f"GGUF {kind}".removesuffix(" BF16")
        meant = {
            tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in gguf.GGUFReader(stored).tensors
        }
    assert find_model(str(stored), config=config).stored == said
    save_file(meant, tmp_path / "m.safetensors")
    few, same, whole = (engine(path, config) for path in (stored, tmp_path / "m.safetensors", full))
    cases = [Case("a cat", 1)]
    pictures = [one.render(cases)[0] for one in (few, same)]
    assert np.array_equal(pictures[0], pictures[1])  # type: ignore[arg-type]
    base, exact = matrices(few), matrices(whole)
    apart = {
        n: float((base[n] - exact[n]).norm() / exact[n].norm()) for n in base if exact[n].any()
    }
    assert low < max(apart.values()) < high
    path = tmp_path / "lora.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors, updates = {}, {}
    for name, weight in base.items():
        if name.endswith(("to_q.weight", "to_v.weight", "proj_out.weight")):
            down = torch.randn(2, weight.shape[1], generator=generator)
            up = torch.randn(weight.shape[0], 2, generator=generator)
            stem = f"transformer.{name.removesuffix('.weight')}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
            updates[name] = up.double() @ down.double()
    save_file(tensors, path)
    few.apply(Checkpoint(path, "lora", tensor_hash="1"), Decimal("0.5"))
    peak = max(float(update.abs().max()) for update in updates.values()) / 2
    for name, weight in matrices(few).items():
        wanted = base[name].double() + updates.get(name, torch.zeros(())) / 2
        assert float((weight.double() - wanted).abs().max()) <= 1e-6 * peak
    assert not np.array_equal(pictures[0], few.render(cases)[0])  # type: ignore[arg-type]
    few.apply(None, Decimal(0))
    assert all(torch.equal(w, base[n]) for n, w in matrices(few).items())
    assert np.array_equal(pictures[0], few.render(cases)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS",
])  # fmt: skip
def test_numbers_are_those_of_diffusers_own_decoder(kind: str, tmp_path: Path) -> None:
    """Random blocks of each type: ggml's decoder against diffusers', which was written in torch."""
    from diffusers.quantizers.gguf.utils import dequantize_functions

    elements, size = gguf.GGML_QUANT_SIZES[Q[kind]]
    raw = np.random.default_rng(3).integers(0, 256, (6, 4 * size), np.uint8)
    # As half floats the scales would often be NaN; these are all of ordinary size.
    blocks = raw.reshape(-1, size)
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2),
               "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,)):  # fmt: skip
        halves = np.linspace(0.01, 2, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = halves[:, None].view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    writer.add_tensor("a.weight", raw, raw_dtype=Q[kind])
    writer.add_array("comfy.gguf.orig_shape.a.weight", [3, 2, 4 * elements])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = quantised.read(tmp_path / "x.gguf")
    entry = header.tensors["a.weight"]
    assert (entry.dtype, entry.shape) == (kind, (3, 2, 4 * elements))
    found = quantised.dequantised(header, torch.float32)
    assert found is not None and found["a.weight"].shape == entry.shape
    theirs = dequantize_functions[Q[kind]](
        torch.from_numpy(blocks), elements, size, dtype=torch.float32
    ).reshape(entry.shape)
    error = (found["a.weight"] - theirs).abs().max() / theirs.abs().max()
    assert torch.isfinite(theirs).all() and float(error) <= 1e-6


def test_what_cannot_be_read_is_refused(
    tiny_checkpoint: Single, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, config = tiny_checkpoint("qwen")
    whole = write_gguf(load_file(full), tmp_path / "whole.gguf", "Q8_0")
    content = whole.read_bytes()
    for size in (6, 40, 2000, len(content) - 500):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cut\.gguf is no complete GGUF file"):
            find_model(str(tmp_path / "cut.gguf"), config=config)
    random = np.random.default_rng(0)
    for _ in range(30):  # a byte of the header changed: refused in words, or read
        broken = bytearray(content)
        broken[int(random.integers(4, 3000))] = int(random.integers(256))
        (tmp_path / "odd.gguf").write_bytes(broken)
        try:
            find_model(str(tmp_path / "odd.gguf"), config=config)
        except UserError as error:
            assert "\n" not in str(error)
    with pytest.raises(UserError, match="model_config FOLDER"):
        find_model(str(whole))
    sd1, _ = tiny_checkpoint("sd1")
    unet = {k: v for k, v in load_file(sd1).items() if "transformer" in k or "input_blocks.0" in k}
    write_gguf(unet, tmp_path / "sd1.gguf", "Q8_0")
    with pytest.raises(UserError, match=r"sd1\.gguf is Stable Diffusion 1\.x in GGUF Q8_0, which"):
        find_model(str(tmp_path / "sd1.gguf"))
    with pytest.raises(UserError, match="is a GGUF file; safetensors is needed"):
        deltas.modules(whole)
    usual = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "gguf":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return usual(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(content)
    with pytest.raises(
        UserError, match=r"reading it needs gguf: pip install 'lora-analysers\[gguf\]'"
    ):
        find_model(str(copy), config=config)


def test_a_study_says_how_its_base_is_stored(tiny_checkpoint: Single, tmp_path: Path) -> None:
    from rendering import planned

    full, config = tiny_checkpoint("qwen")
    stored = write_gguf(load_file(full), tmp_path / "base.gguf", "Q8_0")
    name = "transformer_blocks.0.attn.to_q"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(1, 32),
        f"{name}.lora_B.weight": torch.ones(32, 1),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    common: dict[str, Any] = {
        "loras": [tmp_path / "lora.safetensors"], "model_config": config, "prompts": ["a cat"],
        "out": tmp_path / "run", "width": 64, "height": 64,
    }  # fmt: skip
    plan = planned("strength", model=str(stored), **common)
    assert plan.told == (f"The base model is GGUF Q8_0: {quantised.MERGED}.",)
    model = plan.renderer.record().model
    assert (model.stored, model.merged) == ("GGUF Q8_0", quantised.MERGED)
    whole = planned("strength", model=str(full), **common)
    assert whole.told == () and plain(whole.renderer.record().model).keys() == {"name", "sha256"}


def test_four_bits_that_do_not_agree_are_refused(tiny_checkpoint: Single, tmp_path: Path) -> None:
    """Sizes that would have the library read beyond a tensor's end, a state that is none."""
    full, config = tiny_checkpoint("qwen")
    whole = load_file(write_four_bits(load_file(full), tmp_path / "4.safetensors", "nf4 nested"))
    name = "transformer_blocks.0.attn.to_q.weight"
    state = f"{name}.quant_state.bitsandbytes__nf4"

    def told(**more: Any) -> torch.Tensor:
        text = json.dumps({**json.loads(bytes(whole[state].tolist())), **more})
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    absmax, nested = f"{name}.absmax", f"{name}.nested_absmax"
    for key, tensor, said in (
        (name, whole[name][:-1], "not whole"), (absmax, whole[absmax][:-1], "not whole"),
        (f"{name}.quant_map", torch.zeros(8), "not whole"), (nested, torch.zeros(9), "not whole"),
        (state, told(blocksize=1), "not whole"), (state, told(blocksize=0), "not whole"),
        (state, told(nested_blocksize=1), "not whole"), (state, told(dtype="nothing"), "not whole"),
        (state, told(shape=[64, 32]), "lacks weights"), (state, told(shape="x"), "its shape"),
        (state, whole[state][:-9].clone(), "without its shape"),
        ("extra.weight.absmax", torch.zeros(3), "in another way than NF4 and FP4"),
    ):  # fmt: skip
        save_file({**whole, key: tensor.contiguous()}, tmp_path / "odd.safetensors")
        with pytest.raises(UserError, match=said):
            engine(tmp_path / "odd.safetensors", config)


def test_plain_fp8_of_stable_diffusion_is_read_as_what_it_stands_for(
    tiny_checkpoint: Single, tmp_path: Path
) -> None:
    full, config = tiny_checkpoint("sd1")
    whole = load_file(full)
    eight = {
        key: weight.to(torch.float8_e4m3fn) if weight.dim() > 1 else weight
        for key, weight in whole.items()
    }
    save_file(eight, tmp_path / "8.safetensors")
    save_file({key: weight.float() for key, weight in eight.items()}, tmp_path / "m.safetensors")
    assert find_model(str(tmp_path / "8.safetensors"), config=config).stored == "fp8"
    few, same = (engine(tmp_path / f"{name}.safetensors", config) for name in "8m")
    cases = [Case("a cat", 1)]
    assert np.array_equal(few.render(cases)[0], same.render(cases)[0])  # type: ignore[arg-type]
    for kind, said in (("scaled", "scaled fp8"), ("nf4", "bitsandbytes NF4")):
        if kind == "nf4":
            write_four_bits(whole, tmp_path / "q.safetensors", kind)
        else:
            key = next(k for k, w in eight.items() if w.dim() == 2 and k.endswith(".weight"))
            scale = key.removesuffix("weight") + "weight_scale"
            save_file({**eight, scale: torch.ones(())}, tmp_path / "q.safetensors")
        with pytest.raises(
            UserError, match=f"is Stable Diffusion 1.x in {said}, which is not read"
        ):
            find_model(str(tmp_path / "q.safetensors"), config=config)
