"""X/Y/Z grids, laid out here as A1111 lays them out, cut back into their cells."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysers.intake.pairing import find_pictures
from generation.pictures.pixels import read_image, write_png
from generation.pictures.readers.grids import cut_grid, read_grid

CELL = (24, 16)  # width, height

Pixels = np.ndarray


def cell(column: int, row: int) -> Pixels:
    rng = np.random.default_rng(100 * row + column)
    return rng.integers(0, 256, (CELL[1], CELL[0], 3), dtype=np.uint8)


def lay_out(cols: int, rows: int, *, top: int = 0, left: int = 0, margin: int = 0) -> Pixels:
    """White ground, cells at (left + (width + margin) * column, top + (height + margin) * row)."""
    width, height = CELL
    shape = (top + rows * height + margin * (rows - 1), left + cols * width + margin * (cols - 1))
    grid = np.full((*shape, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(cols):
            y, x = top + (height + margin) * row, left + (width + margin) * column
            grid[y : y + height, x : x + width] = cell(column, row)
    return grid


def text(prompt: str, axes: str, extra: str = "") -> str:
    return (
        f"{prompt}\nNegative prompt: ugly\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, "
        f"Size: {CELL[0]}x{CELL[1]}, Model: dream{extra}, Script: X/Y/Z plot, {axes}, "
        "Version: v1.10.1"
    )


STRENGTHS = 'X Type: Prompt S/R, X Values: "0.2,0.4, 0.8"'
SEEDS = 'Y Type: Seed, Y Values: "-1, -1", Fixed Y Values: "11, 22"'


@pytest.mark.parametrize(
    ("top", "left", "margin"), [(0, 0, 0), (13, 18, 0), (13, 18, 4), (40, 18, 11)]
)
def test_strength_by_seed(tmp_path: Path, top: int, left: int, margin: int) -> None:
    parameters = text("a castle <lora:my:0.2>", f"{STRENGTHS}, {SEEDS}")
    path = tmp_path / "xyz_grid-0000-5.png"
    pixels = lay_out(3, 2, top=top, left=left, margin=margin)
    write_png(path, pixels, {"parameters": parameters})
    found = find_pictures(tmp_path, axis="strength", cells=tmp_path / "out" / "cells")
    assert [(str(p.picture.strength), p.picture.seed) for p in found.pairs] == [
        (strength, seed) for strength in ("0.2", "0.4", "0.8") for seed in (11, 22)
    ]
    assert len({pair.case for pair in found.pairs}) == 2
    for index, pair in enumerate(found.pairs):
        column, row = divmod(index, 2)
        assert np.array_equal(read_image(pair.picture.path), cell(column, row))
        assert pair.picture.prompt == "a castle" and pair.picture.negative == "ugly"
    assert found.warnings[0] == "1 X/Y/Z grids were cut into 6 pictures"
    assert found.rejected == ()


def test_a_column_at_strength_zero_is_the_control(tmp_path: Path) -> None:
    axes = 'X Type: Prompt S/R, X Values: ":0>,:0.5>,:1>"'
    parameters = text("a castle <lora:my:0>", axes)
    write_png(tmp_path / "g.png", lay_out(3, 1, top=20), {"parameters": parameters})
    found = find_pictures(tmp_path, axis="strength", cells=tmp_path / "cells")
    assert [p.picture.strength for p in found.pairs] == [Decimal("0.5"), Decimal(1)]
    for pair in found.pairs:
        assert pair.control is not None
        assert np.array_equal(read_image(pair.control), cell(0, 0))


def test_epochs_by_strength_and_the_first_cells_hash(tmp_path: Path) -> None:
    axes = (
        'X Type: Prompt S/R, X Values: "my-000002,my-000004,my", '
        'Y Type: Prompt S/R, Y Values: "0.5>,1>"'
    )
    extra = ', Lora hashes: "my-000002: 60129e9d06ab"'
    parameters = text("a castle <lora:my-000002:0.5>", axes, extra)
    write_png(tmp_path / "g.png", lay_out(3, 2, top=20, left=18), {"parameters": parameters})
    found = find_pictures(tmp_path, axis="epoch", cells=tmp_path / "cells")
    assert found.axis == "both"
    pictures = [p.picture for p in found.pairs]
    assert [(p.lora, p.epoch, str(p.strength)) for p in pictures] == [
        ("my-000002", 2, "0.5"),
        ("my-000002", 2, "1"),
        ("my-000004", 4, "0.5"),
        ("my-000004", 4, "1"),
        ("my", None, "0.5"),
        ("my", None, "1"),
    ]
    assert [p.lora_hash for p in pictures] == ["60129e9d06ab"] * 2 + [""] * 4


def test_single_pictures_beside_their_grid_are_used_once(tmp_path: Path) -> None:
    parameters = text("a castle <lora:my:0.2>", STRENGTHS)
    write_png(tmp_path / "g.png", lay_out(3, 1, top=20), {"parameters": parameters})
    plain = parameters.replace(f", Script: X/Y/Z plot, {STRENGTHS}", "")
    for column, strength in enumerate(("0.2", "0.4", "0.8")):
        single = plain.replace(":0.2>", f":{strength}>")
        write_png(tmp_path / f"{column}.png", cell(column, 0), {"parameters": single})
    found = find_pictures(tmp_path, axis="strength", cells=tmp_path / "z_cells")
    assert [p.picture.path.name for p in found.pairs] == ["0.png", "1.png", "2.png"]
    assert all(r.reason.startswith("shows the same") for r in found.rejected)
    # A second run finds the cells of the first among the pictures and is not confused.
    again = find_pictures(tmp_path, axis="strength", cells=tmp_path / "z_cells")
    assert [p.picture.path.name for p in again.pairs] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("parameters", "pixels", "reason"),
    [
        (text("a <lora:my:0.2>", STRENGTHS + ", Z Type: Seed"), lay_out(3, 1), "has a Z axis"),
        (text("a <lora:my:0.2>", "X Type: Sampler, X Values: DDIM"), lay_out(1, 1), "'Sampler'"),
        (text("a <lora:my:0.2>", "X Type: CFG Scale, X Values: 1-9 (+2)"), lay_out(5, 1), "CFG"),
        (text("a <lora:my:0.2>", STRENGTHS), lay_out(2, 1), "does not fit its axes"),
        (text("a <lora:my:0.2>", STRENGTHS), lay_out(3, 1)[:, :-1], "does not fit its axes"),
        (text("a <lora:my:0.2>", STRENGTHS).replace("Size", "Sighs"), lay_out(3, 1), "the size"),
        (text("a <lora:my:0.2>", STRENGTHS, ", Hires upscale: 9.9"), lay_out(3, 1), "does not fit"),
    ],
)
def test_grids_that_cannot_be_cut(
    tmp_path: Path, parameters: str, pixels: Pixels, reason: str
) -> None:
    write_png(tmp_path / "g.png", pixels, {"parameters": parameters})
    told = cut_grid(tmp_path / "g.png", tmp_path / "cells")
    assert isinstance(told, str) and told.startswith("is a grid") and reason in told


def test_lossy_and_damaged_grids(tmp_path: Path) -> None:
    Image.fromarray(lay_out(3, 1)).save(tmp_path / "g.jpg")
    assert "lossy" in str(cut_grid(tmp_path / "g.jpg", tmp_path / "cells"))
    write_png(tmp_path / "g.png", lay_out(3, 1), {"parameters": text("a <lora:m:0.2>", STRENGTHS)})
    (tmp_path / "cut.png").write_bytes((tmp_path / "g.png").read_bytes()[:-900])
    assert "could not be cut" in str(cut_grid(tmp_path / "cut.png", tmp_path / "cells"))


def test_a_batch_grid_is_no_picture(tmp_path: Path) -> None:
    plain = text("a castle <lora:my:0.2>", STRENGTHS).replace(
        f", Script: X/Y/Z plot, {STRENGTHS}", ""
    )
    write_png(tmp_path / "grid-0001.png", lay_out(2, 2), {"parameters": plain})
    write_png(tmp_path / "00001-5.png", cell(0, 0), {"parameters": plain})
    found = find_pictures(tmp_path, axis="strength")
    assert [p.picture.path.name for p in found.pairs] == ["00001-5.png"]
    assert found.rejected[0].reason == "is a grid of a batch; give the single pictures"


def test_texts_of_cells_are_those_of_the_single_pictures() -> None:
    grid = read_grid(text("a castle <lora:my:0.2>", f"{STRENGTHS}, {SEEDS}"))
    assert not isinstance(grid, str)
    assert grid.text(2, 1) == (
        "a castle <lora:my:0.8>\nNegative prompt: ugly\nSteps: 20, Sampler: Euler a, CFG scale: 7, "
        f"Seed: 22, Size: {CELL[0]}x{CELL[1]}, Model: dream, Version: v1.10.1"
    )
