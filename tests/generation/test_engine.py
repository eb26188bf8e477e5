"""The engine on the embedded model: real weights, real pictures, few steps and small sizes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
import torch  # noqa: E402
from rendering import render  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, RenderSettings  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.pictures.store import Store  # noqa: E402
from generation.renderers.diffusers.engine import SAMPLERS, Engine, choose_device, find_model  # noqa: E402

ONE = Decimal(1)
CASES = [Case(f"a picture of a {s} on green grass, pstr style", i, name=f"p{i:02d}_s{i}")
         for i, s in enumerate(("cat", "dog", "fox"))]  # fmt: skip


def open_engine(folder: Path, **options: object) -> Engine:
    few = {"steps": 3, "guidance_scale": 4.0, "width": 64, "height": 64, "batch_size": 2}
    return Engine(find_model(str(folder)), **{**few, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[Engine]:
    torch.set_num_threads(1)
    yield open_engine(model_folder, sampler="dpmpp_2m_karras")


def test_strength_zero_and_going_back_restore_the_base_bit_for_bit(
    engine: Engine, demo_checkpoint: Checkpoint
) -> None:
    late = replace(
        demo_checkpoint, path=sample_data.PATH / "lora" / "pstr.safetensors", tensor_hash="f" * 64
    )
    engine.apply(None, Decimal(0))
    base = engine.render(CASES[:2])
    engine.apply(demo_checkpoint, Decimal("0.7"))
    with_lora = engine.render(CASES[:2])
    engine.apply(late, ONE)
    engine.render(CASES[:2])
    engine.apply(demo_checkpoint, Decimal("0.7"))
    assert np.array_equal(with_lora, engine.render(CASES[:2]))
    engine.apply(late, Decimal(0))
    assert engine.modules_merged == 0
    assert np.array_equal(base, engine.render(CASES[:2]))
    assert not np.array_equal(base, with_lora)


def test_a_picture_does_not_depend_on_its_batch(engine: Engine) -> None:
    engine.apply(None, Decimal(0))
    together = engine.render(CASES[:2])
    alone = engine.render(CASES[1:2])
    other = engine.render([CASES[1], CASES[2]])
    assert np.array_equal(together[1], alone[0]) and np.array_equal(alone[0], other[0])


def test_pictures_equal_plain_diffusers_with_the_same_generator(
    model_folder: Path, engine: Engine, demo_checkpoint: Checkpoint
) -> None:
    """An independent path: diffusers loads the LoRA through peft and scales it there."""
    pytest.importorskip("peft")
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        str(model_folder), dtype=torch.float32, safety_checker=None
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(demo_checkpoint.path), adapter_name="a")
    pipe.set_adapters(["a"], [0.8])
    case = CASES[0]
    theirs = pipe(
        case.prompt, negative_prompt="", generator=torch.Generator().manual_seed(case.seed),
        width=64, height=64, num_inference_steps=3, guidance_scale=4.0, output_type="np",
    ).images[0]  # fmt: skip
    engine.apply(demo_checkpoint, Decimal("0.8"))
    ours = engine.render([case])[0]
    assert np.abs(ours.astype(float) - theirs * 255).max() <= 1.6


def test_a_lora_that_does_not_fit_changes_nothing(
    engine: Engine, demo_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    tensors = load_file(demo_checkpoint.path)
    key = next(k for k in tensors if k.endswith("lora_down.weight"))
    tensors["lora_unet_no_such_place.lora_down.weight"] = tensors.pop(key)
    save_file(tensors, tmp_path / "odd.safetensors")
    engine.apply(None, Decimal(0))
    base = engine.render(CASES[:1])
    odd = Checkpoint(tmp_path / "odd.safetensors", "odd", tensor_hash="0" * 64)
    with pytest.raises(UserError, match="odd"):
        engine.apply(odd, ONE)
    assert np.array_equal(base, engine.render(CASES[:1]))


def test_prompts_are_encoded_again_only_when_the_text_encoder_changes(
    engine: Engine, demo_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = engine.pipe.text_encoder.forward, []

    def counted(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        return forward(*arguments, **named)

    monkeypatch.setattr(engine.pipe.text_encoder, "forward", counted)
    case = Case("a prompt of its own", 1)
    for strength in ("0", "0", "0.5", "0.5", "1", "0"):
        engine.apply(demo_checkpoint, Decimal(strength))
        engine.render([case])
    assert len(calls) == 6, "prompt and negative, for the base, for 0.5 and for 1"


def test_switching_weights_does_not_grow_memory(
    engine: Engine, demo_checkpoint: Checkpoint
) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    for i in range(20):
        engine.apply(demo_checkpoint, Decimal(i) / 10)
    gc.collect()
    before = process.memory_info().rss
    for i in range(200):
        engine.apply(demo_checkpoint, Decimal(i % 17) / 10)
    gc.collect()
    assert process.memory_info().rss - before < 20e6


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_renders_and_repeats(sampler: str, model_folder: Path) -> None:
    engine = open_engine(model_folder, sampler=sampler, batch_size=1)
    first, again = engine.render(CASES[:1]), engine.render(CASES[:1])
    assert np.array_equal(first, again) and np.ptp(first[0]) > 0


def test_a_study_rendered_in_two_orders_is_the_same(
    engine: Engine, demo_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    cells = [Cell(c, demo_checkpoint, s) for s in (Decimal("0.5"), ONE) for c in CASES]
    cells = [*(Cell(c) for c in CASES), *cells]
    settings = RenderSettings("demo", "0", 64, 64, 3, 4.0, "dpmpp_2m_karras", batch_size=2)
    stores = [Store(tmp_path / name, settings) for name in "ab"]
    forward = list(render(cells, stores[0], lambda *_: engine))
    backward = list(render(cells[::-1], stores[1], lambda *_: engine))
    assert all(r.fresh and r.path for r in (*forward, *backward))
    for cell in cells:
        one, two = (np.asarray(Image.open(store.path(cell))) for store in stores)
        assert np.array_equal(one, two)
    assert not any(r.fresh for r in render(cells, stores[0], lambda *_: pytest.fail("rendered")))


def test_weights_laid_out_as_on_cuda_are_switched_and_restored(
    model_folder: Path, demo_checkpoint: Checkpoint
) -> None:
    """Channels last: the same numbers in another order, before, under and after a LoRA."""
    usual, other = open_engine(model_folder), open_engine(model_folder)
    for module in (other.denoiser, other.pipe.vae):
        module.to(memory_format=torch.channels_last)
    pictures = []
    for strength in (Decimal(0), Decimal("0.7"), Decimal(0)):
        for engine in (usual, other):
            engine.apply(demo_checkpoint, strength)
        one, two = (engine.render(CASES[:1])[0] for engine in (usual, other))
        assert one is not None and two is not None
        assert np.abs(one.astype(int) - two).max() <= 1
        pictures.append(two)
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])
    kernel = next(w for w in other.denoiser.parameters() if w.dim() == 4 and w.shape[2] == 3)
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_running_out_of_memory_halves_the_batch_and_goes_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model_folder, batch_size=4)
    inner = engine.pipe.unet.forward

    def greedy(sample: torch.Tensor, *args: object, **kwargs: object) -> object:
        if len(sample) > 2:  # guidance doubles the batch: only one picture at a time fits
            raise torch.OutOfMemoryError
        return inner(sample, *args, **kwargs)

    monkeypatch.setattr(engine.pipe.unet, "forward", greedy)
    cells = [Cell(c) for c in CASES]
    settings = RenderSettings("demo", "0", 64, 64, 3, 4.0, "", batch_size=4)
    store = Store(tmp_path, settings)
    assert [r.path for r in render(cells, store, lambda *_: engine)] == [
        store.path(c) for c in cells
    ]
    assert engine.batch_size == 1


def test_model_and_device_errors_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_index"):
        find_model(str(tmp_path))
    with pytest.raises(UserError, match="model"):
        find_model("./absent")
    with pytest.raises(UserError, match="does not exist"):
        find_model("absent.safetensors")
    with pytest.raises(UserError, match="model.*hub"):
        find_model("nobody/no-such-model")
    with pytest.raises(UserError, match="device"):
        choose_device("abacus")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="no complete diffusers folder"):
        open_engine(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxFillPipeline"}')
    with pytest.raises(UserError, match="FluxFillPipeline, which cannot be rendered"):
        open_engine(tmp_path)
    with pytest.raises(UserError, match="sampler"):
        open_engine(sample_data.PATH / "model", sampler="abacus")
