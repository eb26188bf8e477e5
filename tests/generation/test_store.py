from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from generation.cells import Case, Cell, Checkpoint, RenderSettings, content_key
from generation.errors import UserError
from generation.files import write_text
from generation.folder import open_run_folder
from generation.pictures.pixels import read_image, read_text
from generation.pictures.store import Store, place, stored_key
from generation.renderers.diffusers.render import picture

SETTINGS = RenderSettings("demo", "ab" * 32, 64, 64, 4, 4.0, "dpmpp_2m_karras")
LORA = Checkpoint(Path("x/my-000007.safetensors"), "my", epoch=7, tensor_hash="c" * 64)


def study(root: Path) -> Store:
    return Store(root, SETTINGS)


def paint(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def sweep(*prompts: str) -> list[Cell]:
    cases = [Case(prompt, 1, name=f"p{i:02d}_s1") for i, prompt in enumerate(prompts)]
    strengths = [Decimal("0.5"), Decimal("1.0")]
    return [*(Cell(c) for c in cases), *(Cell(c, LORA, s) for s in strengths for c in cases)]


def test_pictures_lie_where_people_look_for_them() -> None:
    case = Case("a cat", 1, name="p00_s1")
    assert place(Cell(case)) == Path("images/control/p00_s1.png")
    cell = Cell(case, LORA, Decimal("0.6"))
    assert place(cell) == Path("images/my-000007_cccccccc/strength_0.60/p00_s1.png")
    fine = replace(cell, strength=Decimal("-0.125"))
    assert place(fine).parent.name == "strength_-0.125"
    # files that share a name are told apart whichever of them is in the study
    twin = replace(LORA, path=Path("y/my-000007.safetensors"), tensor_hash="d" * 64)
    assert place(replace(cell, checkpoint=twin)).parts[1] == "my-000007_dddddddd"
    odd = replace(LORA, path=Path("x/..?*.safetensors"), tensor_hash="")
    assert place(replace(cell, checkpoint=odd)).parts[1] not in ("", ".", "..")


def test_a_picture_carries_its_cell_and_infotext(tmp_path: Path) -> None:
    cell = Cell(Case("a cat", 5, "blurry", "p00_s5"), LORA, Decimal("0.60"))
    store = study(tmp_path)
    path = store.save(picture(cell, paint(1), SETTINGS))
    assert np.array_equal(read_image(path), paint(1))
    assert stored_key(path) == content_key(cell, SETTINGS)
    text = read_text(path)["parameters"]
    assert text.startswith("a cat") and "<lora:my-000007:0.6>" in text and "Seed: 5" in text
    assert not list(tmp_path.rglob("*.tmp*"))


def test_the_key_holds_what_changes_pixels_and_nothing_else() -> None:
    cell = Cell(Case("a cat", 5), LORA, Decimal("0.6"))
    key = content_key(cell, SETTINGS)
    assert key == content_key(replace(cell, strength=Decimal("0.60")), SETTINGS)
    renamed = replace(LORA, path=Path("elsewhere.safetensors"), name="n", epoch=3)
    assert key == content_key(replace(cell, checkpoint=renamed), SETTINGS)
    assert key == content_key(replace(cell, case=Case("a cat", 5, name="p09_s5")), SETTINGS)
    for change in (
        replace(cell, strength=Decimal("0.61")),
        replace(cell, case=Case("a dog", 5)),
        replace(cell, case=Case("a cat", 6)),
        replace(cell, case=Case("a cat", 5, "x")),
        replace(cell, checkpoint=replace(LORA, tensor_hash="d" * 64)),
    ):
        assert content_key(change, SETTINGS) != key
    for name, value in (("steps", 5), ("dtype", "float16"), ("model_hash", "00"), ("width", 72)):
        assert content_key(cell, replace(SETTINGS, **{name: value})) != key


def test_only_what_is_new_is_missing_after_prompts_are_reordered(tmp_path: Path) -> None:
    first = sweep("a cat", "a dog")
    store = study(tmp_path)
    assert store.settle(first) == first
    for number, cell in enumerate(first):
        store.save(picture(cell, paint(number), SETTINGS))
    assert store.settle(first) == []
    second = sweep("a fox", "a dog", "a cat")
    store = study(tmp_path)
    assert {cell.case.prompt for cell in store.missing(second)} == {"a fox"}
    missing = store.settle(second)
    assert {cell.case.prompt for cell in missing} == {"a fox"} and len(missing) == 3
    for number, cell in enumerate(first):
        moved = next(c for c in second if content_key(c, SETTINGS) == content_key(cell, SETTINGS))
        assert np.array_equal(read_image(store.path(moved)), paint(number))


def test_what_gives_way_is_kept_aside(tmp_path: Path) -> None:
    cells = sweep("a cat")
    store = study(tmp_path)
    for cell in cells:
        store.save(picture(cell, paint(1), SETTINGS))
    changed = replace(SETTINGS, steps=9)
    other = Store(tmp_path, changed)
    assert other.settle(cells) == cells
    assert len(list((tmp_path / "images" / "previous").glob("*.png"))) == len(cells)
    for cell in cells:
        other.save(picture(cell, paint(2), SETTINGS))
    assert store.settle(cells) == [], "going back to the first settings renders nothing"


def test_a_stranger_in_the_place_of_a_picture_is_not_overwritten(tmp_path: Path) -> None:
    cells = sweep("a cat")
    store = study(tmp_path)
    place = store.path(cells[0])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not a picture of ours")
    assert store.settle(cells) == cells
    kept = list((tmp_path / "images" / "previous").glob("*.png"))
    assert [path.read_bytes() for path in kept] == [b"not a picture of ours"]


def test_rendering_anew_keeps_the_old_pictures(tmp_path: Path) -> None:
    cells = sweep("a cat")
    store = study(tmp_path)
    for cell in cells:
        store.save(picture(cell, paint(1), SETTINGS))
    assert store.set_aside(cells) == cells
    for cell in cells:
        store.save(picture(cell, paint(2), SETTINGS))
    assert store.settle(cells) == []
    assert np.array_equal(read_image(store.path(cells[0])), paint(2))


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "é\n")
    assert (tmp_path / "a.json").read_bytes() == "é\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="out"), open_run_folder(tmp_path / "file" / "run"):
        pass


def test_half_a_picture_left_by_a_kill_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    cells = sweep("a cat")
    store = study(tmp_path)
    whole = store.save(picture(cells[0], paint(1), SETTINGS))
    half = whole.with_name(f".{whole.stem}.1.2.tmp.png")
    half.write_bytes(whole.read_bytes()[:-400])
    whole.unlink()
    assert stored_key(half) is not None, "the text comes before the pixels"
    assert store.missing(cells) == cells
    assert store.settle(cells) == cells and half.exists(), "not provably ours"


def test_pictures_that_cannot_fit_are_refused_before_they_are_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    cells = sweep("a cat")
    store = study(tmp_path)
    store.check_space(cells, 64 * 64)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="MB are free"):
        store.check_space(cells, 64 * 64)
    for cell in cells:
        store.save(picture(cell, paint(1), SETTINGS))
    store.check_space(cells, 64 * 64)


def test_content_keys_are_those_of_the_first_release() -> None:
    """Two pictures of a run of 0.1.0, under the settings of its run.json."""
    scheduler = {
        "class": "DPMSolverMultistepScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "solver_order": 2,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "use_karras_sigmas": True,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": "-inf",
        "timestep_spacing": "linspace",
        "steps_offset": 1,
        "rescale_betas_zero_snr": False,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
    }
    settings = RenderSettings(
        model="demo",
        model_hash='6752582b58e76e246599728ecffda12a9ecd516a647687b2ee508f4855f926a4',
        width=128, height=128, steps=12, guidance_scale=4.0, sampler="dpmpp_2m_karras",
        batch_size=4, scheduler=scheduler,
        versions={'torch': '2.14.1+cu130', 'diffusers': '0.42.1', 'transformers': '5.24.0'},
    )  # fmt: skip
    lora = Checkpoint(
        Path("pstr-000006.safetensors"), "pstr-000006",
        tensor_hash="e4f382d94fe3c7b318b7d8ecdb256cd99f814375a1ba15d289ad898c96c2f157",
    )  # fmt: skip
    case = Case("a picture of a red apple on green grass, pstr style", 1, "", "p00_s1")
    assert content_key(Cell(case), settings) == (
        "0bc80545dd0646d38278c139caf048ac306747594d594e7c33dde2aa1ebf6d70"
    )
    assert content_key(Cell(case, lora, Decimal("0.4")), settings) == (
        "ec4ff94d3f1290fea503074a4fbfd65372cf663525449f5b326ba5937d0eac5a"
    )
