"""Many strengths in one batch: the same pictures as merged weights give, whatever lies beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
import torch  # noqa: E402
from rendering import render  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, RenderSettings, content_key  # noqa: E402
from generation.loras import deltas  # noqa: E402
from generation.pictures.pixels import read_image  # noqa: E402
from generation.pictures.store import Store  # noqa: E402
from generation.renderers.diffusers import render as renderer  # noqa: E402
from generation.renderers.diffusers.batches import stretches  # noqa: E402
from generation.renderers.diffusers.engine import Engine, find_model  # noqa: E402
from generation.renderers.diffusers.models import FAMILIES, BaseModel  # noqa: E402

CASES = [
    Case("a cat on green grass, pstr style", 3, name="p00_s3"),
    Case("a dog", 4, name="p01_s4"),
]
STRENGTHS = [Decimal(text) for text in ("-0.5", "0.3", "1", "1.4")]
PSTR = Checkpoint(
    sample_data.PATH / "lora" / "pstr-000006.safetensors", "pstr", epoch=6, tensor_hash="6" * 64
)
SETTINGS = RenderSettings("demo", "0", 64, 64, 2, 4.0, "euler_a", batch_size=3, mixed=True)
Tiny = Callable[[str], Path]


def open_engine(model: BaseModel, **options: Any) -> Engine:
    few = {"steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64, "batch_size": 3}
    return Engine(model, **{**few, **options})


def demo(**options: Any) -> Engine:
    return open_engine(find_model(str(sample_data.PATH / "model")), sampler="euler_a", **options)


def cells(checkpoint: Checkpoint = PSTR) -> list[Cell]:
    return [*map(Cell, CASES), *(Cell(c, checkpoint, s) for s in STRENGTHS for c in CASES)]


def latents(engine: Engine, some: list[Cell]) -> torch.Tensor:
    strengths = [cell.strength for cell in some] if engine.mixed else []
    return engine.denoise([cell.case for cell in some], strengths)


def lora_on_everything(engine: Engine, family: str, path: Path) -> Checkpoint:
    """Rank 2 on every matrix and kernel that LoRAs are trained on; Flux with the fused names of
    Black Forest Labs, whose outputs are split over several of diffusers' layers."""
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, torch.Tensor] = {}

    def add(stem: str, shape: tuple[int, ...]) -> None:
        out, inner, *kernel = shape
        ones = [1] * len(kernel)
        tensors[f"{stem}.lora_down.weight"] = 0.2 * torch.randn(
            2, inner, *kernel, generator=generator
        )
        tensors[f"{stem}.lora_up.weight"] = 0.2 * torch.randn(out, 2, *ones, generator=generator)
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)

    denoiser = engine.denoiser
    if family == "flux":
        width = denoiser.transformer_blocks[0].attn.to_q.weight.shape[0]
        add("lora_unet_double_blocks_0_img_attn_qkv", (3 * width, width))
        mlp = denoiser.single_transformer_blocks[0].proj_mlp.weight.shape[0]
        add("lora_unet_single_blocks_0_linear1", (3 * width + mlp, width))
    else:
        prefix = "lora_transformer_" if family == "sd3" else "lora_unet_"
        for name, layer in denoiser.named_modules():
            kinds = (torch.nn.Linear, torch.nn.Conv2d)
            inside = name.startswith("layers.") or "blocks" in name or "mid_block" in name
            if isinstance(layer, kinds) and inside:
                add(prefix + name.replace(".", "_"), tuple(layer.weight.shape))
    save_file(tensors, path)
    return Checkpoint(path, path.stem, tensor_hash=path.stem)


def test_a_family_that_lays_pictures_end_to_end_takes_one_strength(tiny_model: Tiny) -> None:
    """Z-Image's first layers, and HiDream's experts, see all tokens of the batch as rows of one
    matrix."""
    assert {name for name, traits in FAMILIES.items() if not traits.rows} == {"zimage", "hidream"}
    for family in ("zimage", "hidream"):
        with pytest.raises(ValueError, match="strength of its own"):
            open_engine(find_model(str(tiny_model(family))), mixed=True)


@pytest.mark.parametrize("family", sorted(f for f, traits in FAMILIES.items() if traits.rows))
def test_rows_equal_merged_weights(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Every kind of layer, in float32 and to its rounding; the LoRA itself moves far more."""
    model = find_model(str(tiny_model(family)))
    merged, mixed = open_engine(model), open_engine(model, mixed=True)
    lora = lora_on_everything(merged, family, tmp_path / f"{family}.safetensors")
    some = [Cell(CASES[0], lora, s) for s in STRENGTHS[:3]]
    mixed.prepare(some)
    assert mixed.modules_merged == 0
    together = latents(mixed, some)
    base = merged.denoise([CASES[0]])[0]
    for cell, found in zip(some, together, strict=True):
        merged.prepare([cell])
        wanted = latents(merged, [cell])[0]
        moved = (wanted - base).norm()
        assert moved > 0.002 * base.norm()
        assert (found - wanted).norm() < 1e-3 * moved


def test_text_encoders_follow_each_strength() -> None:
    """The sample LoRA changes the text encoder too: its prompts are encoded at every strength."""
    merged, mixed = demo(), demo(mixed=True)
    some = [Cell(CASES[0], PSTR, s) for s in STRENGTHS[1:]]
    mixed.prepare(some)
    together = latents(mixed, some)
    for cell, found in zip(some, together, strict=True):
        merged.prepare([cell])
        wanted = latents(merged, [cell])[0]
        assert (found - wanted).norm() < 1e-3 * wanted.norm()
    halves = demo(mixed=True, part_strengths={"te": Decimal(0), "unet": Decimal("0.5")})
    halves.prepare(some)
    other = demo(part_strengths={"te": Decimal(0), "unet": Decimal("0.5")})
    other.prepare(some[-1:])
    wanted = latents(other, some[-1:])[0]
    assert (latents(halves, some)[-1] - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rows_are_as_near_as_merged_weights(dtype: str) -> None:
    """To the same picture in float32: rounding the weights or the sum makes no great difference."""
    some = [Cell(CASES[0], PSTR, s) for s in STRENGTHS[1:]]
    found = {}
    for name, options in (
        ("exact", {}), ("mixed", {"dtype": dtype, "mixed": True}), ("merged", {"dtype": dtype}),
    ):  # fmt: skip
        engine = demo(**options)
        if engine.mixed:
            engine.prepare(some)
            found[name] = latents(engine, some).float()
            continue
        alone = []
        for cell in some:
            engine.prepare([cell])
            alone.append(latents(engine, [cell])[0].float())
        found[name] = torch.stack(alone)
    mixed, merged = ((found[n] - found["exact"]).norm() for n in ("mixed", "merged"))
    assert 0 < mixed < 2 * merged < 0.4 * found["exact"].norm()


def test_a_row_depends_on_no_other_and_strength_0_is_the_base() -> None:
    engine = demo(mixed=True)
    base = latents(engine, [Cell(CASES[0])])[0]
    some = cells()
    engine.prepare(some)
    alone = latents(engine, [some[4]])[0]
    for batch, place in (([some[4], some[0], some[9]], 0), ([some[7], some[4]], 1)):
        assert torch.equal(latents(engine, batch)[place], alone)
    assert torch.equal(latents(engine, [some[8], some[0]])[1], base)
    engine._rows.detach()
    assert torch.equal(latents(engine, [Cell(CASES[0])])[0], base)


def test_only_prepared_cells_and_mixed_engines_take_strengths() -> None:
    with pytest.raises(ValueError, match="mixed"):
        demo().denoise(CASES[:1], [Decimal(1)])
    engine = demo(mixed=True)
    engine.prepare(cells()[:4])
    with pytest.raises(ValueError, match="not prepared"):
        engine.denoise(CASES[:1], [Decimal("0.9")])


def test_a_mixed_study_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order in one go; and backwards, in two goes, decoded in a thread as on a GPU."""
    some = cells()
    engine = demo(mixed=True)
    one, two = (Store(tmp_path / n, SETTINGS) for n in ("1", "2"))
    assert [r.reason for r in render(some, one, lambda *_: engine)] == [""] * 10
    monkeypatch.setattr(renderer, "_beside", lambda _engine: True)
    backwards = some[:1:-1]
    list(render(backwards[:3], two, lambda *_: engine))
    assert len(two.missing(some)) == 7
    done = list(render([*some[:2], *backwards], two, lambda *_: engine))
    assert sum(r.fresh for r in done) == 7 and all(r.path for r in done)
    for cell in some:
        assert np.array_equal(read_image(one.path(cell)), read_image(two.path(cell)))
    unmixed = replace(SETTINGS, mixed=False)
    assert content_key(some[5], SETTINGS) != content_key(some[5], unmixed)


def test_memory_running_out_while_decoding_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done again with nothing beside it, and denoising waits for what is being decoded."""
    some = cells()[:2]
    engine = demo(batch_size=1)
    store = Store(tmp_path, replace(SETTINGS, mixed=False, batch_size=1))
    calls = {"decode": 0, "denoise": 0}
    decode, denoise = engine._picture, engine.pipe.unet.forward

    def sometimes(z: torch.Tensor) -> Any:
        calls["decode"] += 1
        if calls["decode"] == 1:
            raise torch.OutOfMemoryError
        return decode(z)

    def once(*args: Any, **kwargs: Any) -> Any:
        calls["denoise"] += 1
        if calls["denoise"] == 4:  # in the second picture
            raise torch.OutOfMemoryError
        return denoise(*args, **kwargs)

    monkeypatch.setattr(engine, "_picture", sometimes)
    monkeypatch.setattr(engine.pipe.unet, "forward", once)
    monkeypatch.setattr(renderer, "_beside", lambda _engine: True)
    done = list(render(some, store, lambda *_: engine))
    assert [r.reason for r in done] == ["", ""] and engine.batch_size == 1
    assert calls == {"decode": 3, "denoise": 6}


def test_stretches_of_mixed_studies_end_with_the_checkpoint() -> None:
    other = replace(PSTR, path=Path("other.safetensors"), tensor_hash="7" * 64)
    both = [*cells(), *(Cell(c, other, s) for s in STRENGTHS for c in CASES)]
    assert [len(s) for s in stretches(both, mixed=True)] == [10, 8]
    assert [len(s) for s in stretches(both[:2], mixed=True)] == [2]
    first = stretches(both, mixed=True)[0]
    assert [cell.case for cell in first] == sorted((c.case for c in first), key=lambda c: c.name)
    assert [cell.is_control for cell in first] == ([True] + 4 * [False]) * 2, "case by case"
    assert [len(s) for s in stretches(both)] == [2] * 9


def test_a_checkpoint_that_does_not_fit_takes_no_control_along(tmp_path: Path) -> None:
    tensors = load_file(PSTR.path)
    key = next(key for key in tensors if key.endswith("lora_down.weight"))
    tensors[key] = tensors[key][:, :-1].contiguous()
    save_file(tensors, tmp_path / "odd.safetensors")
    odd = Checkpoint(tmp_path / "odd.safetensors", "odd", tensor_hash="odd")
    some = [*map(Cell, CASES), *(Cell(c, each, Decimal(1)) for each in (odd, PSTR) for c in CASES)]
    for mixed in (False, True):
        settings = replace(SETTINGS, mixed=mixed)
        store = Store(tmp_path / str(mixed), settings)
        done = {r.cell: r.reason for r in render(some, store, lambda *_: demo(mixed=mixed))}  # noqa: B023
        assert [bool(done[cell]) for cell in some] == [False, False, True, True, False, False]
        assert "odd.safetensors" in done[some[2]]


def test_only_plain_products_can_be_rows(tmp_path: Path) -> None:
    assert deltas.is_low_rank(PSTR.path)
    plain = load_file(PSTR.path)
    stem = next(key for key in plain if key.startswith("lora_unet")).partition(".")[0]
    text = next(key for key in plain if key.startswith("lora_te")).partition(".")[0]
    for where, usable in ((stem, False), (text, True)):
        out = len(plain[f"{where}.lora_up.weight"])
        dora = {**plain, f"{where}.dora_scale": torch.ones(out, 1)}
        save_file(dora, tmp_path / "dora.safetensors")
        assert deltas.is_low_rank(tmp_path / "dora.safetensors") is usable
