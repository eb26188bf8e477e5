"""From cells to pictures in the run folder: fixed LoRAs, parts, processes, Ctrl-C, kills."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
import torch  # noqa: E402
from rendering import render  # noqa: E402

import sample_data  # noqa: E402
from generation.cells import Case, Cell, Checkpoint, RenderSettings, content_key  # noqa: E402
from generation.pictures.pixels import read_image  # noqa: E402
from generation.pictures.store import Store  # noqa: E402
from generation.renderers.diffusers import batches  # noqa: E402
from generation.renderers.diffusers.batches import stretches  # noqa: E402
from generation.renderers.diffusers.engine import Engine, find_model  # noqa: E402
from generation.renderers.diffusers.render import NOT_FINITE  # noqa: E402

ONE, HALF, ZERO = Decimal(1), Decimal("0.5"), Decimal(0)
CASES = [Case(f"a picture of a {s} on green grass, pstr style", i, name=f"p{i:02d}_s{i}")
         for i, s in enumerate(("cat", "dog", "fox"))]  # fmt: skip
SETTINGS = RenderSettings("demo", "0", 64, 64, 2, 4.0, "euler_a", batch_size=2)
EARLY, LATE = (
    Checkpoint(sample_data.PATH / "lora" / f"pstr-00000{n}.safetensors", f"pstr-{n}", epoch=n,
               tensor_hash=str(n) * 64)
    for n in (2, 8)
)  # fmt: skip


def open_engine(_settings: object = None, device: str = "cpu", **options: object) -> Engine:
    few = {"steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64, "batch_size": 2}
    model = find_model(str(sample_data.PATH / "model"))
    return Engine(model, device=device, sampler="euler_a", **{**few, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    torch.set_num_threads(1)
    yield open_engine()


def study(*strengths: Decimal) -> list[Cell]:
    return [*(Cell(c) for c in CASES), *(Cell(c, EARLY, s) for s in strengths for c in CASES)]


def test_fixed_loras_lie_under_everything(engine: Engine) -> None:
    both = open_engine(fixed=[(LATE, HALF)])
    engine.apply(LATE, HALF)
    assert np.array_equal(engine.render(CASES[:1]), both.render(CASES[:1]))
    control = both.render(CASES[:1])
    both.apply(EARLY, ONE)
    together = both.render(CASES[:1])
    engine.apply(EARLY, ONE)
    assert not np.array_equal(together, engine.render(CASES[:1]))
    assert not np.array_equal(together, control)
    # The merged weights are W0 + 0.5 dW_late + 1.0 dW_early, to rounding.
    key = ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    parts = []
    for checkpoint, strength in ((None, ZERO), (LATE, HALF), (EARLY, ONE)):
        engine.apply(checkpoint, strength)
        parts.append(engine._weights[key].double().clone())
    expected = parts[1] + parts[2] - parts[0]
    error = (both._weights[key].double() - expected).abs().max() / expected.abs().max()
    assert error < 1e-6
    both.apply(EARLY, ZERO)
    assert np.array_equal(control, both.render(CASES[:1]))


def test_parts_have_their_own_strengths(engine: Engine) -> None:
    nothing = open_engine(part_strengths={"unet": ZERO, "text": ZERO})
    engine.apply(None, ZERO)
    base = engine.render(CASES[:1])
    nothing.apply(EARLY, ONE)
    assert nothing.modules_merged == 0 and np.array_equal(base, nothing.render(CASES[:1]))
    only_unet = open_engine(part_strengths={"te": ZERO})
    only_unet.apply(EARLY, ONE)
    assert {part for part, _ in only_unet._recipes} == {"unet"}
    engine.apply(EARLY, ONE)
    assert {part for part, _ in engine._recipes} == {"unet", "te"}
    halved = open_engine(part_strengths={"unet": HALF, "te": HALF})
    halved.apply(EARLY, ONE)
    engine.apply(EARLY, HALF)
    assert np.array_equal(halved.render(CASES[:1]), engine.render(CASES[:1]))


def test_what_changes_pixels_changes_the_key() -> None:
    control, cell = Cell(CASES[0]), Cell(CASES[0], EARLY, HALF)
    with_fixed = replace(SETTINGS, fixed_loras=((LATE.tensor_hash, "0.5"),))
    parts = replace(SETTINGS, part_strengths=(("te", "0"),))
    assert content_key(control, with_fixed) != content_key(control, SETTINGS)
    assert content_key(cell, parts) != content_key(cell, SETTINGS)
    assert content_key(control, parts) == content_key(control, SETTINGS)
    other = replace(SETTINGS, scheduler={"class": "DDIMScheduler"})
    assert content_key(control, other) != content_key(control, SETTINGS)


def test_low_vram_paints_the_same_bits(engine: Engine) -> None:
    careful = open_engine(low_vram=True)
    for checkpoint, strength in ((None, ZERO), (EARLY, ONE), (None, ZERO)):
        for each in (engine, careful):
            each.apply(checkpoint, strength)
            each.encode(CASES)
        assert np.array_equal(engine.render(CASES[:2]), careful.render(CASES[:2]))


def test_two_processes_paint_the_same_bits_as_one(engine: Engine, tmp_path: Path) -> None:
    cells = study(HALF, ONE)
    alone, shared = Store(tmp_path / "1", SETTINGS), Store(tmp_path / "2", SETTINGS)
    assert all(r.path for r in render(cells, alone, lambda *_: engine))
    done = list(render(cells, shared, partial(open_engine, batch_size=2), devices=["cpu", "cpu"]))
    assert {r.cell for r in done} == set(cells) and all(r.fresh and r.path for r in done)
    for cell in cells:
        assert np.array_equal(read_image(alone.path(cell)), read_image(shared.path(cell)))


def test_a_stop_finishes_the_pictures_in_flight_and_the_rest_follows(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = study(ONE)
    undisturbed = Store(tmp_path / "1", SETTINGS)
    list(render(cells, undisturbed, lambda *_: engine))
    store = Store(tmp_path / "2", SETTINGS)
    begun, denoise = [], engine.denoise

    def counted(*arguments: object) -> object:
        begun.append(arguments)
        return denoise(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "denoise", counted)
    done = list(render(cells, store, lambda *_: engine, stopped=lambda: len(begun) == 2))
    assert [r.cell for r in done] == cells[:3], "two pictures and one: both batches' own"
    assert [store.path(c).is_file() for c in cells] == [True] * 3 + [False] * 3
    assert sum(r.fresh for r in render(cells, store, lambda *_: engine)) == 3
    for cell in cells:
        assert np.array_equal(read_image(undisturbed.path(cell)), read_image(store.path(cell)))


def test_rendering_works_outside_of_the_main_thread(engine: Engine, tmp_path: Path) -> None:
    cells = study()
    found: list[int] = []
    store = Store(tmp_path, SETTINGS)
    thread = threading.Thread(
        target=lambda: found.append(len(list(render(cells, store, lambda *_: engine))))
    )
    thread.start()
    thread.join()
    assert found == [3]


def test_a_picture_that_is_not_finite_fails_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(batch_size=3)
    inner = engine.pipe.unet.forward

    def overflow(sample: torch.Tensor, *args: object, **kwargs: object) -> object:
        out = inner(sample, *args, **kwargs)
        out[0][1::3] = float("inf")  # the second picture, guided and unguided
        return out

    monkeypatch.setattr(engine.pipe.unet, "forward", overflow)
    cells = study()
    done = list(render(cells, Store(tmp_path, SETTINGS), lambda *_: engine))
    assert {r.cell.case.name: r.reason for r in done} == {
        "p00_s0": "", "p01_s1": NOT_FINITE, "p02_s2": ""
    }  # fmt: skip


def test_weights_change_once_per_stretch() -> None:
    cells = study(HALF, ONE)
    assert [len(stretch) for stretch in stretches(cells)] == [3, 3, 3]


@pytest.mark.parametrize(
    ("cases", "most", "size"), [(6, 4, 3), (8, 4, 4), (1, 16, 1), (17, 16, 9), (0, 4, 1), (5, 1, 1)]
)
def test_batches_leave_as_little_empty_as_they_can(cases: int, most: int, size: int) -> None:
    assert batches.balanced(cases, most) == size


def test_the_largest_batch_follows_from_one_and_two_pictures() -> None:
    def peak(count: int) -> float:
        if count > 1 and count * 3e9 + 4e9 > limit:
            raise MemoryError
        return 4e9 + count * 3e9

    for limit, most in ((24e9, 5), (80e9, 16), (9e9, 1)):
        assert batches.largest(peak, limit) == most


def test_a_run_folder_keeps_its_batch_size(tmp_path: Path) -> None:
    assert batches.kept(tmp_path, "model a") is None
    one, other = batches.Batching(3), batches.Batching(8, mixed=True)
    batches.keep(tmp_path, "model a", one)
    batches.keep(tmp_path, "model b", other)
    assert batches.kept(tmp_path, "model a") == one
    assert batches.kept(tmp_path, "model b") == other
    for damaged in ("{", '{"model a": 3}', '{"model a": {"size": 0, "mixed": false}}'):
        (tmp_path / "batch.json").write_text(damaged)
        assert batches.kept(tmp_path, "model a") is None
