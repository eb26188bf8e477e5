"""What only a GPU can show; skipped without one. The rest of the suite runs on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from rendering import render  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, RenderSettings  # noqa: E402
from generation.pictures.pixels import read_image  # noqa: E402
from generation.pictures.store import Store  # noqa: E402
from generation.renderers.diffusers import batches  # noqa: E402
from generation.renderers.diffusers.engine import Engine, find_model  # noqa: E402

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")

ONE, HALF, ZERO = Decimal(1), Decimal("0.5"), Decimal(0)
CASES = [Case(f"a picture of a {s} on green grass, pstr style", i, name=f"p{i:02d}_s{i}")
         for i, s in enumerate(("cat", "dog", "fox", "owl"))]  # fmt: skip
PSTR = Checkpoint(
    sample_data.PATH / "lora" / "pstr-000006.safetensors", "pstr", epoch=6, tensor_hash="6" * 64
)
CELLS = [*map(Cell, CASES), *(Cell(c, PSTR, s) for s in (HALF, ONE) for c in CASES)]
SETTINGS = RenderSettings("demo", "0", 128, 128, 6, 4.0, "dpmpp_2m_karras", batch_size=2)


def open_engine(device: str = DEVICE, **options: Any) -> Engine:
    model = find_model(str(sample_data.PATH / "model"))
    few = {"steps": 6, "guidance_scale": 4.0, "width": 128, "height": 128, "batch_size": 2}
    return Engine(model, device=device, sampler="dpmpp_2m_karras", **{**few, **options})


def pictures(engine: Engine, folder: Path, cells: list[Cell], **settings: Any) -> list[Any]:
    store = Store(folder, replace(SETTINGS, **settings))
    done = {r.cell: r for r in render(cells, store, lambda *_: engine)}
    assert all(done[cell].path for cell in CELLS)
    return [read_image(store.path(cell)).astype(int) for cell in CELLS]


@pytest.mark.parametrize(("dtype", "grey"), [("float32", 0.5), ("float16", 1.0), ("bfloat16", 4.0)])
def test_pictures_are_those_of_the_cpu(dtype: str, grey: float, tmp_path: Path) -> None:
    here = pictures(open_engine("cpu"), tmp_path / "cpu", CELLS)
    there = pictures(open_engine(dtype=dtype), tmp_path / "gpu", CELLS)
    assert all(np.abs(one - two).mean() < grey for one, two in zip(here, there, strict=True))


@pytest.mark.parametrize("mixed", [False, True])
def test_order_and_resume_change_no_bit(mixed: bool, tmp_path: Path) -> None:
    """With decoding in a stream and a thread of its own."""
    engine = open_engine(dtype="float16", mixed=mixed)
    forward = pictures(engine, tmp_path / "1", CELLS, mixed=mixed)
    store = Store(tmp_path / "2", replace(SETTINGS, mixed=mixed))
    backwards = CELLS[::-1]
    list(render(backwards[:5], store, lambda *_: engine))
    backward = pictures(engine, tmp_path / "2", backwards, mixed=mixed)
    assert all(np.array_equal(one, two) for one, two in zip(forward, backward, strict=True))


def test_strength_0_is_the_base_bit_for_bit() -> None:
    engine = open_engine(dtype="float16")
    base = engine.render(CASES[:2])
    for strength in (Decimal("0.7"), Decimal("1.3")):
        engine.apply(PSTR, strength)
        assert not np.array_equal(engine.render(CASES[:2]), base)
    engine.apply(PSTR, ZERO)
    assert np.array_equal(engine.render(CASES[:2]), base)


def test_the_probe_finds_a_batch_and_leaves_the_engine_as_it_was() -> None:
    engine = open_engine(dtype="float16")
    base = engine.render(CASES[:2])
    assert 1 <= engine.most_pictures() <= batches.MOST
    assert (engine.batch_size, engine.steps) == (2, 6)
    assert np.array_equal(engine.render(CASES[:2]), base)


def test_a_study_decides_its_batches_and_keeps_to_them(tmp_path: Path) -> None:
    from rendering import planned

    from analysers.runs.loop import run_study
    from analysers.runs.plan import Plan
    from generation.prompts import PromptLine

    def plan() -> Plan:
        return planned(
            "strength", loras=[PSTR.path], model="demo", out=tmp_path, device=DEVICE,
            strengths=[Decimal(i) / 4 for i in range(1, 9)], seeds=(1,),
            prompts=[PromptLine("a cat, pstr style")], width=128, height=128, steps=6,
        )  # fmt: skip

    study = run_study(plan())
    assert [s.status for s in study.scores].count("failed") == 0
    kept = next(iter(json.loads((tmp_path / "batch.json").read_text()).values()))
    used = study.run.settings
    assert (kept["size"], kept["mixed"]) == (used["batch_size"], used["mixed"])
    again = run_study(plan())
    assert again.run.rendered.pictures == 0
