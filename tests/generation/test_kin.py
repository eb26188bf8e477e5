"""FLUX.1 and the families after it: every trainer's layout, merged as the writing library merges it
or by the formula; sweeps; settings; what the denoiser tells."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
import diffusers  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from diffusers.loaders import single_file_utils  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from generation.cells import Case, Checkpoint  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.families import ALL, FAMILIES  # noqa: E402
from generation.loras.blocks import block_names  # noqa: E402
from generation.loras.inspection import inspect  # noqa: E402
from generation.renderers.diffusers import judge, prompts  # noqa: E402
from generation.renderers.diffusers.engine import Engine  # noqa: E402
from generation.renderers.diffusers.models import find_model  # noqa: E402

KIN = ("chroma", "flux", "flux2", "hidream", "klein", "lumina2", "qwen", "zimage")
NEWER = [family for family in KIN if family != "flux"]
Tiny = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]
RANK, ALPHA = 4, 2.0


def engine(folder: Path, **options: Any) -> Engine:
    few = {"steps": 2, "guidance_scale": 3.0, "width": 64, "height": 64, "batch_size": 1}
    return Engine(find_model(str(folder)), **{**few, **options})


def weights(module: torch.nn.Module) -> Tensors:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def layers(module: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """The matrices of a denoiser, as its structure has them."""
    return {
        name: tuple(layer.weight.shape)  # type: ignore[misc]
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def aliases_of(family: str, modules: list[str]) -> list[tuple[str, tuple[str, ...], bool]]:
    aliases = ALL[family].aliases
    return list(aliases(modules)) if aliases else []


def native(family: str, module: torch.nn.Module, cut: bool = False) -> dict[str, tuple[int, int]]:
    """The same under the original code's names, in which several may be one matrix; `cut` into
    img_attn.qkv.0 and so on."""
    ours = layers(module)
    found: dict[str, tuple[int, int]] = {}
    left = set(ours)
    for theirs, pieces, _ in aliases_of(family, list(ours)):
        if theirs.partition(".processor")[1] or not left.issuperset(pieces):
            continue  # XLabs' names of the same layers
        if cut and len(pieces) > 1:
            continue
        found[theirs] = (sum(ours[piece][0] for piece in pieces), ours[pieces[0]][1])
        left -= set(pieces)
    return found | {name: ours[name] for name in left}


def factors(stems: Mapping[str, tuple[int, int]], seed: int = 3) -> Iterator[tuple[str, Tensors]]:
    generator = torch.Generator().manual_seed(seed)
    for stem, (out, inner) in stems.items():
        yield (
            stem,
            {
                "down": torch.randn(RANK, inner, generator=generator) / inner**0.5,
                "up": torch.randn(out, RANK, generator=generator),
            },
        )


def flat(name: str) -> str:
    return name.replace(".", "_")


def down_up(stem: Callable[[str], str]) -> Callable[[str, Tensors], Tensors]:
    return lambda name, f: {
        f"{stem(name)}.lora_down.weight": f["down"],
        f"{stem(name)}.lora_up.weight": f["up"],
        f"{stem(name)}.alpha": torch.tensor(ALPHA),
    }


def a_b(stem: Callable[[str], str], adapter: str = "") -> Callable[[str, Tensors], Tensors]:
    return lambda name, f: {
        f"{stem(name)}.lora_A{adapter}.weight": f["down"],
        f"{stem(name)}.lora_B{adapter}.weight": f["up"],
    }


# Who writes so -> (whether under the original code's names, scale or kind, the keys of a layer).
LAYOUTS: dict[str, tuple[bool | str, str, Any]] = {
    "diffusers": (False, "", a_b(lambda n: f"transformer.{n}")),
    "peft": (False, "", a_b(lambda n: f"base_model.model.{n}", ".default")),
    "diffusion-pipe": (False, "", a_b(lambda n: f"diffusion_model.{n}")),
    "ai-toolkit": (True, "", a_b(lambda n: f"diffusion_model.{n}")),
    "kohya": (False, "alpha", down_up(lambda n: f"lora_unet_{flat(n)}")),
    "musubi": (True, "alpha", down_up(lambda n: f"lora_unet_{flat(n)}")),
    "OneTrainer": (False, "alpha", down_up(lambda n: f"lora_transformer_{flat(n)}")),
    "OneTrainer's backups": ("cut", "alpha", down_up(lambda n: f"transformer.{n}")),
    "SimpleTuner": (False, "alpha", down_up(lambda n: f"transformer.{n}")),
    "ComfyUI": (True, "alpha", down_up(lambda n: f"diffusion_model.{n}")),
    "LyCORIS LoKr": (False, "lokr", "lycoris_"),
    "LyCORIS LoHa": (True, "loha", "lora_unet_"),
}


def lokr(f: Tensors) -> Tensors:
    """A Kronecker product of the same size, in LyCORIS' factors."""
    out, inner = len(f["up"]), f["down"].shape[1]
    generator = torch.Generator().manual_seed(out * inner)
    return {
        "lokr_w1": torch.randn(2, 2, generator=generator),
        "lokr_w2": torch.randn(out // 2, inner // 2, generator=generator) / inner**0.5,
    }


def loha(f: Tensors) -> Tensors:
    """A Hadamard product of two low-rank ones, in LyCORIS' factors."""
    one, two = f["up"] / 2, f["up"].flip(0) / 2
    return {
        "hada_w1_a": one,
        "hada_w1_b": f["down"],
        "hada_w2_a": two,
        "hada_w2_b": f["down"].flip(0),
    }


def product(f: Tensors, kind: str) -> torch.Tensor:
    """dW by the formulas of the papers, in float64."""
    g = {name: factor.double() for name, factor in f.items()}
    if kind == "lokr":
        return torch.kron(g["lokr_w1"], g["lokr_w2"])
    if kind == "loha":
        scale = ALPHA / RANK
        one, two = g["hada_w1_a"] @ g["hada_w1_b"], g["hada_w2_a"] @ g["hada_w2_b"]
        return scale * one * two
    return (ALPHA / RANK if kind == "alpha" else 1.0) * g["up"] @ g["down"]


def write(path: Path, stems: Mapping[str, tuple[int, int]], layout: str, seed: int = 3) -> Tensors:
    """A LoRA on all of these layers as the trainer writes it; their dW in float64."""
    _, kind, spell = LAYOUTS[layout]
    tensors, found = {}, {}
    for stem, plain in factors(stems, seed):
        f = {"lokr": lokr, "loha": loha}.get(kind, lambda same: same)(plain)
        if kind in {"lokr", "loha"}:
            tensors |= {f"{spell}{flat(stem)}.{leaf}": factor for leaf, factor in f.items()}
            tensors |= {f"{spell}{flat(stem)}.alpha": torch.tensor(ALPHA)} if kind == "loha" else {}
        else:
            tensors |= spell(stem, f)
        found[stem] = product(f, kind)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return found


def checkpoint_modules(checkpoint: Tensors) -> set[str]:
    return {key.removeprefix("model.diffusion_model.").rpartition(".")[0] for key in checkpoint}


def added(family: str, base: Tensors, updates: Tensors, checkpoint: Tensors | None) -> Tensors:
    """W0 + dW in float64, under diffusers' names.

    Of updates under the original code's names, the sum is taken in a checkpoint in those names,
    which diffusers' own conversion of checkpoints then makes its own. Where that knows the real
    width only, the fused matrices are cut here.
    """
    if checkpoint is None:
        whole = {name: weight.double() for name, weight in base.items()}
        for name, update in updates.items():
            whole[f"{name}.weight"] += update
        return whole
    if family in {"flux2", "klein", "zimage"} and updates.keys() <= checkpoint_modules(checkpoint):
        flux2 = single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers
        convert = {
            "flux2": flux2,
            "klein": flux2,
            "zimage": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
        }[family]
        whole = {
            name.removeprefix("model.diffusion_model."): weight.double()
            for name, weight in checkpoint.items()
        }
        for name, update in updates.items():
            whole[f"{name}.weight"] += update
        return convert(whole)  # type: ignore[no-any-return]
    whole = {name: weight.double() for name, weight in base.items()}
    modules = [name.removesuffix(".weight") for name in base]
    meant = {theirs: (pieces, swap) for theirs, pieces, swap in aliases_of(family, modules)}
    for name, update in updates.items():
        pieces, swap = meant.get(name, ((name,), False))
        if swap:  # (shift, scale) there, (scale, shift) here
            update = torch.cat(update.chunk(2)[::-1])
        sizes = [len(base[f"{piece}.weight"]) for piece in pieces]
        for piece, part in zip(pieces, update.split(sizes), strict=True):
            whole[f"{piece}.weight"] += part
    return whole


def largest(one: Tensors, other: Tensors) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("family", KIN)
def test_every_layout_is_merged_whole(
    family: str,
    tiny_model: Tiny,
    tiny_checkpoint: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    """On every matrix of the model: to a rounding what the formula gives, and strength 0 W0."""
    ours = engine(tiny_model(family))
    base = weights(ours.denoiser)
    checkpoint = load_file(tiny_checkpoint(family)[0])
    every = {f"{name}.weight" for name in layers(ours.denoiser)}
    for layout, (original, _, _) in LAYOUTS.items():
        stems = layers(ours.denoiser)
        if original:
            stems = native(family, ours.denoiser, original == "cut")
        path = tmp_path / f"{layout}.safetensors"
        updates = write(path, stems, layout)
        wanted = added(family, base, updates, checkpoint if original else None)
        ours.apply(Checkpoint(path, "lora", tensor_hash=layout), Decimal(1))
        merged = weights(ours.denoiser)
        assert {name for name in base if not torch.equal(base[name], merged[name])} == every
        error = largest(merged, wanted)
        print(f"{family:8} {layout:16} {error:.1e}")
        assert error <= 1e-5, layout
        ours.apply(None, Decimal(0))
        assert all(torch.equal(base[n], w) for n, w in weights(ours.denoiser).items()), layout


@pytest.mark.parametrize("family", KIN)
def test_diffusers_and_peft_merge_the_same(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Their own loading and merging of files in their own layouts."""
    ours = engine(tiny_model(family))
    for layout in ("diffusers", "peft"):
        path = tmp_path / layout / "adapter_model.safetensors"
        path.parent.mkdir()
        write(path, layers(ours.denoiser), layout)
        pipe = getattr(diffusers, FAMILIES[family].pipeline).from_pretrained(
            tiny_model(family), local_files_only=True
        )
        if layout == "diffusers":
            pipe.load_lora_weights(path)
            pipe.fuse_lora()
            pipe.unload_lora_weights()
            theirs = pipe.transformer
        else:
            config = peft.LoraConfig(
                r=RANK, lora_alpha=RANK, target_modules=list(layers(ours.denoiser))
            )
            wrapped = peft.get_peft_model(pipe.transformer, config)
            state = {
                name.replace(".default.", "."): tensor for name, tensor in load_file(path).items()
            }
            left = peft.set_peft_model_state_dict(wrapped, state).unexpected_keys
            assert not left
            theirs = wrapped.merge_and_unload()
        ours.apply(Checkpoint(path, "lora", tensor_hash=layout), Decimal(1))
        error = largest(weights(ours.denoiser), weights(theirs))
        print(f"{family:8} {layout:16} {error:.1e} of its own merge")
        assert error <= 1e-5


@pytest.mark.parametrize("family", ["klein", "lumina2", "zimage"])
def test_dora_on_layers_that_are_fused(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Each output's magnitude goes with its row: m V / |V| of V = W0 + dW, in float64."""
    ours = engine(tiny_model(family))
    base = weights(ours.denoiser)
    stems = native(family, ours.denoiser)
    path = tmp_path / "dora.safetensors"
    updates = write(path, stems, "kohya")
    generator = torch.Generator().manual_seed(5)
    scales = {stem: torch.rand(out, 1, generator=generator) for stem, (out, _) in stems.items()}
    marks = {f"lora_unet_{flat(stem)}.dora_scale": scale for stem, scale in scales.items()}
    save_file({**load_file(path), **marks}, path)
    moved = added(family, base, updates, {})
    zero = {name: torch.zeros_like(weight) for name, weight in base.items()}
    rows = {stem: scale.double().expand(-1, stems[stem][1]) for stem, scale in scales.items()}
    magnitudes = added(family, zero, rows, {})
    ours.apply(Checkpoint(path, "dora", tensor_hash="dora"), Decimal(1))
    for name in layers(ours.denoiser):
        v = moved[f"{name}.weight"]
        wanted = magnitudes[f"{name}.weight"] * v / v.norm(dim=1, keepdim=True)
        found = ours.denoiser.get_submodule(name).weight
        assert float((found.double() - wanted).abs().max()) <= 1e-5


@pytest.mark.parametrize(("family", "part", "inside", "outside"), [
    ("lumina2", "te", "", "lora_te_"),  # kohya's lora_lumina.py
    ("lumina2", "te", "", "lora_te1_model_"),
    ("klein", "te", "model.", "lora_te_"),
    ("qwen", "te", "model.language_model.", "lora_te_"),
    ("hidream", "te4", "", "lora_te4_"),  # OneTrainer's files and backups
    ("hidream", "te4", "", "llama."),
    ("hidream", "te3", "", "t5."),
])  # fmt: skip
def test_text_encoders_alone_are_found_by_whatever_name(
    family: str, part: str, inside: str, outside: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    """Trainers hold the same layers in one class or another."""
    one = engine(tiny_model(family), guidance_scale=0.0)
    encoder = one._parts[part]
    ends = ("self_attn.q_proj", "self_attn.v_proj", "SelfAttention.v")
    inner = {n: shape for n, shape in layers(encoder).items() if n.endswith(ends)}
    tensors = {}
    for name, f in factors(inner):
        stem = name.removeprefix(inside)
        tensors |= down_up(lambda n: outside + (n if outside.endswith(".") else flat(n)))(stem, f)
    save_file(tensors, tmp_path / "te.safetensors")
    before = one.texts("a cat")
    one.apply(Checkpoint(tmp_path / "te.safetensors", "te", tensor_hash="te"), Decimal(1))
    assert one.modules_merged == len(inner) > 0
    after = one.texts("a cat")
    assert not all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", NEWER)
def test_a_real_structure_finds_all_its_keys(family: str, tmp_path: Path) -> None:
    """The published architecture, without weights: every layout's file fits, key by key."""
    from generation.loras import deltas

    kind, config = {
        "chroma": ("ChromaTransformer2DModel", {}),
        "flux2": ("Flux2Transformer2DModel", {}),
        "klein": (
            "Flux2Transformer2DModel",
            {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32,
             "joint_attention_dim": 12288, "guidance_embeds": False},
        ),
        "qwen": ("QwenImageTransformer2DModel", {}),
        "zimage": ("ZImageTransformer2DModel", {}),
        "lumina2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
        "hidream": (
            "HiDreamImageTransformer2DModel",
            {"patch_size": 2, "in_channels": 16, "caption_channels": [4096, 4096],
             "axes_dims_rope": (64, 32, 32)},
        ),
    }[family]  # fmt: skip
    with torch.device("meta"):
        module = getattr(diffusers, kind)(**config)
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    listed = {*FAMILIES[family].blocks.order}
    assert {*block_names([("transformer", name) for name in shapes], family).values()} == listed
    for original in (False, True):
        stems = native(family, module) if original else layers(module)
        tensors: dict[str, torch.Tensor] = {}
        for stem, (out, inner) in stems.items():
            tensors[f"diffusion_model.{stem}.lora_A.weight"] = torch.zeros(1, inner)
            tensors[f"diffusion_model.{stem}.lora_B.weight"] = torch.zeros(out, 1)
        path = tmp_path / "lora.safetensors"
        save_file({name: tensor.half() for name, tensor in tensors.items()}, path)
        found = deltas.resolve(deltas.outlines(path), {"transformer": shapes})
        assert {name for _, name in found} == {f"{name}.weight" for name in layers(module)}
        assert inspect(path).families == (family,)


@pytest.mark.parametrize("family", NEWER)
def test_the_denoiser_is_asked_as_the_pipeline_asks_it(family: str, tiny_model: Tiny) -> None:
    """What a render's first call to the denoiser gave, and that a picture goes there and back."""
    one = engine(tiny_model(family), steps=1, guidance_scale=FAMILIES[family].unguided)
    traits = one.traits
    calls: list[Any] = []
    hook = one.denoiser.register_forward_hook(lambda _m, _given, told: calls.append(told[0]))
    starts: list[torch.Tensor] = []
    step = one.pipe.scheduler.step

    def spy(told: torch.Tensor, time: Any, latents: torch.Tensor, **more: Any) -> Any:
        starts.extend([told.clone(), torch.as_tensor(float(time)), latents.clone()])
        return step(told, time, latents, **more)

    one.pipe.scheduler.step = spy
    one.render([Case("a cat", 1)])
    hook.remove()
    told, time, latents = starts
    if family in {"flux2", "klein"}:
        side = int(latents.shape[1] ** 0.5)
        told, latents = (x.transpose(1, 2).reshape(1, -1, side, side) for x in (told, latents))
    elif traits.unpack is not None:
        told, latents = (traits.unpack(one.pipe, x, 64, 64) for x in (told, latents))
        told, latents = (x.squeeze(2) if traits.frames else x for x in (told, latents))
    assert traits.predict is not None and calls
    with torch.inference_mode():
        ours = traits.predict(one.pipe, latents, time.reshape(1), dict(one.texts("a cat")))
    torch.testing.assert_close(ours, told, atol=1e-5, rtol=1e-4)
    picture = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    z = judge.latents(one, picture)
    assert z.shape == latents.shape
    assert np.isfinite(judge.errors(one, [z], [["a cat", "a dog"]])).all()


@pytest.mark.parametrize("family", NEWER)
def test_pictures_are_the_pipelines_own(family: str, tiny_model: Tiny) -> None:
    """The same noise, prompt, negative prompt, steps and guidance, called as its page says."""
    ours = engine(tiny_model(family)).render([Case("a cat", 5, "blurry")])[0]
    traits = FAMILIES[family]
    pipe = getattr(diffusers, traits.pipeline).from_pretrained(
        tiny_model(family), local_files_only=True
    )
    if traits.fit is not None:  # its call would paint 1024 x 1024
        traits.fit(pipe, 64, 64)
    arguments: dict[str, Any] = {
        "prompt": "a cat", "negative_prompt": "blurry", "guidance_scale": 3.0,
        "num_inference_steps": 2, "width": 64, "height": 64, "output_type": "pil",
        "generator": [torch.Generator("cpu").manual_seed(5)],
    }  # fmt: skip
    if family == "qwen":
        arguments["true_cfg_scale"] = arguments.pop("guidance_scale")
    if family in {"flux2", "klein"}:  # their calls have no negative prompt's text
        del arguments["negative_prompt"]
    if family == "klein":
        other = pipe.encode_prompt(prompt="blurry")[0]
        arguments["negative_prompt_embeds"] = other
    theirs = np.asarray(pipe(**arguments).images[0])
    assert ours is not None and np.ptp(theirs) > 20
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_distilled_models_say_so_in_their_configurations(
    tiny_model: Tiny, tiny_checkpoint: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    for family, steps, guidance in (
        ("klein", 50, 4.0), ("zimage", 50, 4.0), ("qwen", 50, 4.0), ("chroma", 40, 3.0),
        ("lumina2", 50, 4.0), ("hidream", 50, 5.0),
    ):  # fmt: skip
        traits = find_model(str(tiny_model(family))).traits
        assert (traits.steps, traits.guidance_scale, traits.sampler) == (steps, guidance, "euler")
        assert traits.half == "bfloat16" and traits.negative
    for family, part, name, value, steps, guidance in (
        ("klein", "model_index.json", "is_distilled", True, 4, 1.0),
        ("zimage", "scheduler/scheduler_config.json", "shift", 3.0, 9, 0.0),
        (
            "hidream",
            "scheduler/scheduler_config.json",
            "_class_name",
            "FlowMatchLCMScheduler",
            28,
            0.0,
        ),
    ):
        folder = Path(shutil.copytree(tiny_model(family), tmp_path / family))
        config = json.loads((folder / part).read_text())
        (folder / part).write_text(json.dumps({**config, name: value}))
        single = tiny_checkpoint(family)[0]
        for model in (find_model(str(folder)), find_model(str(single), config=folder)):
            assert (model.traits.steps, model.traits.guidance_scale) == (steps, guidance)
        assert model.traits.negative == (family != "klein")


@pytest.mark.parametrize("family", NEWER)
def test_sweeps_of_strengths_and_of_epochs(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Whole studies with the family's own defaults, but few steps and small pictures."""
    from rendering import planned

    from analysers.runs.loop import run_study
    from analysers.runs.request import Judging
    from generation.prompts import PromptLine

    shapes = layers(engine(tiny_model(family)).denoiser)
    some = {name: shape for name, shape in shapes.items() if re.search(r"to_[qkv]$", name)}
    files = [tmp_path / f"style-{epoch:06d}.safetensors" for epoch in (1, 2)]
    for seed, path in enumerate(files):
        write(path, some, "ComfyUI", seed)
    common: dict[str, Any] = {
        "model": str(tiny_model(family)), "prompts": [PromptLine("a cat")], "seeds": [1],
        "width": 64, "height": 64, "steps": 2, "device": "cpu",
    }  # fmt: skip
    some_strengths = [Decimal("0.5"), Decimal(1)]
    for kind, loras, strengths in (
        ("strength", files[:1], some_strengths), ("epochs", files, some_strengths[1:]),
    ):  # fmt: skip
        plan = planned(kind, loras=loras, out=tmp_path / kind, strengths=strengths, **common)
        assert len(plan.cells) == 3  # with the control
        study = run_study(plan, Judging(metrics=("ssim",), workers=0))
        changed = [score for score in study.scores if score.candidate is not None]
        assert [score.status for score in study.scores] == ["ok"] * 3 and len(changed) == 2
        assert all(score.values["ssim"] < 1 for score in changed)


def test_lumina_is_cut_as_diffusers_cuts_it(tmp_path: Path) -> None:
    """Whose conversions of LoRAs and of checkpoints know the real width only: a block of each."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lumina2_lora_to_diffusers,
    )

    from generation.families.lumina2 import convert
    from generation.loras import deltas

    with torch.device("meta"):
        module = diffusers.Lumina2Transformer2DModel(
            cap_feat_dim=2304, num_layers=1, num_refiner_layers=1
        )
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    stems = {n: s for n, s in native("lumina2", module).items() if re.search(r"\.0\.", n)}
    stems = {n: s for n, s in stems.items() if not n.startswith("cap_embedder")}
    path = tmp_path / "lora.safetensors"
    write(path, stems, "ai-toolkit")
    theirs = _convert_non_diffusers_lumina2_lora_to_diffusers(load_file(path))
    found = deltas.resolve(deltas.modules(path), {"transformer": shapes})
    assert len(found) == len(theirs) // 2 == 3 * 7 + 2
    for (_, name), delta in found.items():
        stem = f"transformer.{name.removesuffix('.weight')}.lora_"
        up = delta.factors["up"]
        rows = np.concatenate([up[begin:end] for begin, end in delta.rows or [(0, len(up))]])
        assert np.array_equal(rows, theirs[f"{stem}B.weight"].numpy())
        assert np.array_equal(delta.factors["down"], theirs[f"{stem}A.weight"].numpy())
    ours = {name.rpartition(".")[0] for name in shapes}
    spelt = aliases_of("lumina2", sorted(ours))
    original = {name: pieces for name, pieces, _ in spelt if not re.search(r"qkv\.\d", name)}
    original |= {name: (name,) for name in ours - {o for p in original.values() for o in p}}
    whole = {}  # one column of each weight, of numbers that no other one has
    for name, pieces in original.items():
        for leaf in ("weight", "bias"):
            rows = sum(shapes.get(f"{piece}.{leaf}", (0,))[0] for piece in pieces)
            if rows:
                whole[f"{name}.{leaf}"] = torch.arange(rows) + 10**6 * len(whole)
    wanted = single_file_utils.convert_lumina2_to_diffusers(dict(whole))
    prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in whole.items()}
    prefixed["model.diffusion_model.norm_final.weight"] = torch.zeros(1)  # which nothing uses
    for checkpoint in (whole, prefixed):
        converted = convert(checkpoint, shapes)
        assert converted.keys() == wanted.keys() == shapes.keys()
        assert all(torch.equal(converted[name], wanted[name]) for name in wanted)


def test_noise_that_a_pipeline_draws_by_itself_is_the_pictures_own(
    tiny_model: Tiny, tmp_path: Path
) -> None:
    """HiDream's Dev and Fast add noise at every step: the same whoever is painted before."""
    folder = Path(shutil.copytree(tiny_model("hidream"), tmp_path / "dev"))
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchLCMScheduler", "shift": 6.0})
    )
    model = find_model(str(folder))
    few: dict[str, Any] = {"steps": 2, "guidance_scale": 0.0, "width": 64, "height": 64}
    one, two = Engine(model, batch_size=1, **few), Engine(model, batch_size=2, **few)
    cat, dog = Case("a cat", 1), Case("a dog", 2)
    alone = [one.render([case])[0] for case in (cat, dog)]
    assert not np.array_equal(*alone)  # type: ignore[call-overload]
    for cases in ([cat, dog], [dog, cat]):
        for case, picture in zip(cases, two.render(cases), strict=True):
            assert np.array_equal(picture, alone[case is dog])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", sorted({*NEWER} - {"chroma"}))
def test_prompts_that_are_read_in_part_only_are_named(family: str, tiny_model: Tiny) -> None:
    model = find_model(str(tiny_model(family)))
    long = "a cat on green grass, " * 50
    assert prompts.cut(["a cat"], model) == []
    (said,) = prompts.cut(["a cat", long], model)
    assert said.startswith(f"This model reads {model.traits.reads[0][1]} tokens of a prompt, and ")
    told = engine(tiny_model(family), guidance_scale=0.0)
    texts, with_more = told.texts(long), told.texts(f"{long} and a dog")
    assert texts["prompt_embeds"].equal(with_more["prompt_embeds"])


def test_a_scheduler_that_diffusers_has_not_is_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    """As the original code of HiDream's Dev names its own."""
    folder = Path(shutil.copytree(tiny_model("hidream"), tmp_path / "dev"))
    name = "FlashFlowMatchEulerDiscreteScheduler"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
    assert find_model(str(folder)).traits.steps == 28
    with pytest.raises(UserError, match=f"is made for {name}, which this diffusers does not have"):
        engine(folder)


def test_a_size_that_hidream_cannot_paint_is_refused(tiny_model: Tiny) -> None:
    """Sides that differ are padded to its largest number of patches, here 64."""
    model = find_model(str(tiny_model("hidream")))
    few: dict[str, Any] = {"steps": 1, "guidance_scale": 0.0, "batch_size": 1}
    picture = Engine(model, width=96, height=160, **few).render([Case("a cat", 1)])[0]
    assert picture is not None and picture.shape == (160, 96, 3)
    with pytest.raises(UserError, match=r"at most 16384 pixels .* 192 x 128 are 24576"):
        Engine(model, width=192, height=128, **few)
    with pytest.raises(UserError, match="flow-matching models have none"):
        find_model(str(tiny_model("hidream")), prediction_type="epsilon")


def test_a_hidream_without_its_llama_is_told_what_to_do(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("hidream"), tmp_path / "published"))
    shutil.rmtree(folder / "text_encoder_4")
    index = json.loads((folder / "model_index.json").read_text())
    for listed in (index, {k: v for k, v in index.items() if not k.endswith("_4")}):
        (folder / "model_index.json").write_text(json.dumps(listed))
        with pytest.raises(UserError, match=r"lacks its text_encoder_4; .*Llama 3\.1 8B Instruct"):
            find_model(str(folder))


def in_fp8(tensors: Tensors, kind: str) -> tuple[Tensors, Tensors]:
    """(a checkpoint whose matrices are in fp8; what its numbers stand for)."""
    stored, meant = {}, {}
    for key, weight in tensors.items():
        if not key.endswith(".weight") or weight.dim() != 2:
            stored[key] = meant[key] = weight
            continue
        by_row = kind == "weight_scale by row"
        peak = weight.abs().amax(1) if by_row else weight.abs().max()
        scale = torch.ones(()) if kind == "plain" else peak / 448
        factor = scale[:, None] if by_row else scale
        stored[key] = (weight / factor).to(torch.float8_e4m3fn)
        meant[key] = stored[key].float() * factor
        if kind != "plain":
            name = "scale_weight" if kind == "scale_weight" else "weight_scale"
            stored[key.removesuffix("weight") + name] = scale
    if kind == "scale_weight":
        stored["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    return stored, meant


@pytest.mark.parametrize(("family", "kind"), [
    ("chroma", "scale_weight"), ("flux", "plain"), ("flux2", "weight_scale"), ("klein", "plain"),
    ("hidream", "weight_scale by row"), ("lumina2", "scale_weight"), ("qwen", "plain"),
    ("sd3", "weight_scale"), ("zimage", "scale_weight"), ("zimage", "weight_scale by row"),
])  # fmt: skip
def test_fp8_is_read_as_what_it_stands_for(
    family: str,
    kind: str,
    tiny_checkpoint: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    """As the dequantised checkpoint, bit for bit; LoRAs are added without rounding to fp8."""
    full, config = tiny_checkpoint(family)
    stored, meant = in_fp8(load_file(full), kind)
    save_file(
        {key: value.contiguous() for key, value in stored.items()}, tmp_path / "8.safetensors"
    )
    save_file({key: value.contiguous() for key, value in meant.items()}, tmp_path / "m.safetensors")
    options: dict[str, Any] = {"steps": 1, "guidance_scale": 1.0, "width": 64, "height": 64}
    eight, same, whole = (
        Engine(find_model(str(path), config=config), batch_size=1, **options)
        for path in (tmp_path / "8.safetensors", tmp_path / "m.safetensors", full)
    )
    cases = [Case("a cat", 1)]
    pictures = [one.render(cases)[0] for one in (eight, same, whole)]
    assert np.array_equal(pictures[0], pictures[1])  # type: ignore[arg-type]
    base, exact = weights(eight.denoiser), weights(whole.denoiser)
    rounding = max(
        float((base[n] - exact[n]).norm() / exact[n].norm())
        for n in (f"{name}.weight" for name in layers(eight.denoiser))
    )
    assert 0.005 < rounding < 0.05  # three bits of mantissa
    path = tmp_path / "lora.safetensors"
    write(path, layers(eight.denoiser), "diffusers")
    checkpoint = Checkpoint(path, "lora", tensor_hash="8")
    moved = []
    for one, start in ((eight, base), (whole, exact)):
        one.apply(checkpoint, Decimal(1))
        moved.append({n: w.double() - start[n].double() for n, w in weights(one.denoiser).items()})
        one.apply(checkpoint, Decimal(0))
        assert all(torch.equal(w, start[n]) for n, w in weights(one.denoiser).items())
    assert largest(*moved) <= 1e-6
    print(f"{family} {kind}: rounding {rounding:.1e}, update {largest(*moved):.1e}")


@pytest.mark.parametrize(("key", "tensor", "said"), [
    ("layers.0.attention.qkv.weight.absmax", torch.zeros(4), "bitsandbytes"),
    ("layers.0.attention.qkv.weight_scale", torch.zeros(144, 3), "F32 beside"),
    ("layers.0.attention.qkv.weight", torch.zeros(144, 48, dtype=torch.int8), "whole numbers"),
    ("layers.0.attention.qkv.qweight", torch.zeros(144, 24, dtype=torch.int8), "SVDQuant's, GPTQ"),
    ("layers.0.attention.qkv._weight_qdata", torch.zeros(9, dtype=torch.int8), "torchao's"),
    ("layers.0.attention.qkv.weight._data", torch.zeros(9, dtype=torch.int8), "quanto's"),
    ("layers.0.attention.qkv.SCB", torch.zeros(144), "bitsandbytes' 8 bits"),
    ("layers.0.attention.qkv.weight_scale_2", torch.zeros(()), "NVFP4"),
])  # fmt: skip
def test_other_quantised_checkpoints_are_refused(
    key: str,
    tensor: torch.Tensor,
    said: str,
    tiny_checkpoint: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    full, config = tiny_checkpoint("zimage")
    save_file(
        {**load_file(full), f"model.diffusion_model.{key}": tensor}, tmp_path / "q.safetensors"
    )
    with pytest.raises(UserError, match=said):
        find_model(str(tmp_path / "q.safetensors"), config=config)
