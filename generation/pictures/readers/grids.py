"""A1111's X/Y/Z grids cut back into the pictures they were made of.

Facts from AUTOMATIC1111/stable-diffusion-webui, scripts/xyz_grid.py and modules/images.py: a grid
carries the text of its first cell and, behind it, the axes ("X Type", "X Values", and "Fixed X
Values" for seeds). Cells stand row by row, X across and Y down. A legend adds room on top, and on
the left three quarters of a cell's width if there is a Y axis; only then may there be margins
between cells. So the geometry follows from the picture's size, and the cells are cut to the pixel.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from generation.errors import UserError
from generation.pictures.pixels import parts_of, read_text, write_png
from generation.pictures.readers.a1111 import PARAMETER, settings_line, unquoted

MOST_CELLS = 10_000

_REPLACED = {"Steps": "Steps", "CFG Scale": "CFG scale", "Seed": "Seed", "Clip skip": "Clip skip"}
"""Axes that set one number -> the key under which the text holds it."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid: its kind ("" if there is none) and the value of each column or row."""

    kind: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """What the text of a grid tells: the first cell's text and size in pixels, and the axes."""

    prompt: str
    settings: tuple[tuple[str, str], ...]
    cell: tuple[int, int]
    x: Axis
    y: Axis

    def text(self, column: int, row: int) -> str:
        """The `parameters` text of one cell, as A1111 writes it for the single picture."""
        prompt, settings = self.prompt, dict(self.settings)
        for axis, index in ((self.x, column), (self.y, row)):
            value = axis.values[index]
            if axis.kind == "Prompt S/R":
                prompt = prompt.replace(axis.values[0], value)
            elif axis.kind:
                settings[_REPLACED[axis.kind]] = value
        if prompt != self.prompt and re.findall(_LORA, prompt) != re.findall(_LORA, self.prompt):
            settings.pop("Lora hashes", None)  # they are the first cell's
        line = ", ".join(f"{key}: {value}" for key, value in settings.items())
        return f"{prompt}\n{line}"


_LORA = r"<lora:([^:>]{1,255})"


def read_grid(text: str) -> Grid | str:
    """The grid that a `parameters` text describes, or why it cannot be cut."""
    lines = text[:1_000_000].replace("\r\n", "\n").strip().split("\n")
    at = settings_line(lines)
    head, last = "\n".join(lines[:at]), lines[-1 if at is None else at]
    found = dict(PARAMETER.findall(last[:262_144])[:500])
    settings = {key.strip(): value.strip() for key, value in found.items()}
    if "Z Type" in settings:
        return "has a Z axis; give its sub-grids or the single pictures"
    axes = []
    for letter in "XY":
        kind = unquoted(settings.get(f"{letter} Type", ""))
        values = _values(kind, settings, letter)
        if values is None:
            return (
                f"varies {kind[:60]!r} in a way that cannot be followed; give the single pictures"
            )
        axes.append(Axis(kind, values))
    if len(axes[0].values) * len(axes[1].values) > MOST_CELLS:
        return "has too many cells"
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", settings.get("Size", ""))
    scale = settings.get("Hires upscale", "1")
    if size is None or not re.fullmatch(r"\d(?:\.\d{1,3})?", scale) or "Hires resize" in settings:
        return "does not tell the size of its cells; give the single pictures"
    width, height = (int(int(side) * float(scale)) for side in size.groups())
    if not width or not height:
        return "does not tell the size of its cells; give the single pictures"
    kept = tuple(
        (key, value)
        for key, value in settings.items()
        if not re.fullmatch(r"Script|(?:Fixed )?[XYZ] (?:Type|Values)", key)
    )
    return Grid(head, kept, (width, height), *axes)


def _values(kind: str, settings: dict[str, str], letter: str) -> tuple[str, ...] | None:
    if not kind or kind == "Nothing":
        return ("",)
    text = settings.get(f"Fixed {letter} Values") or settings.get(f"{letter} Values", "")
    text = unquoted(text)
    if kind == "Prompt S/R":
        if "\n" in text:  # A1111's raw mode
            return tuple(text.strip().split("\n"))
        try:
            rows = list(csv.reader([text]))
        except csv.Error:
            return None
        values = tuple(entry.strip() for row in rows for entry in row)
        return values if values and values[0] else None
    numbers = tuple(entry.strip() for entry in text.split(","))
    if kind not in _REPLACED or not all(re.fullmatch(r"\d{1,20}(?:\.\d+)?", n) for n in numbers):
        return None
    return numbers


def corners(grid: Grid, width: int, height: int) -> list[list[tuple[int, int]]] | None:
    """(left, top) of every cell, by row, in a grid of this size; None if it does not fit."""
    cols, rows = len(grid.x.values), len(grid.y.values)
    cell_w, cell_h = grid.cell
    left, top, margin = width - cols * cell_w, height - rows * cell_h, 0
    if left < 0 or top < 0:
        return None
    if top:  # a legend
        pad = cell_w * 3 // 4 if grid.y.kind and left >= cell_w * 3 // 4 else 0
        margin = (left - pad) // (cols - 1) if cols > 1 else 0
        left -= margin * (cols - 1)
        top -= margin * (rows - 1)
        if left != pad or top < 0:
            return None
    elif left:
        return None
    return [
        [(left + (cell_w + margin) * col, top + (cell_h + margin) * row) for col in range(cols)]
        for row in range(rows)
    ]


def cut_grid(path: Path, folder: Path) -> list[Path] | str:
    """Write the cells of a grid into `folder` as PNG with their texts; return them row by row.

    Returns a reason, in words that end a sentence, where the file is no lossless grid whose cells
    can be told. Cells that were cut before are left as they are.
    """
    if path.suffix.lower() != ".png":
        return "is a grid that lossy compression has changed; give the single pictures"
    try:
        texts = read_text(path)
        grid = read_grid(texts.get("parameters", ""))
        if isinstance(grid, str):
            return f"is a grid that {grid}"
        with parts_of(path) as (width, height, part):
            places = corners(grid, width, height)
            if places is None:
                return "is a grid whose size does not fit its axes; give the single pictures"
            cells = []
            folder.mkdir(parents=True, exist_ok=True)
            for row, line in enumerate(places):
                for column, (left, top) in enumerate(line):
                    cell = folder / f"{path.stem}_r{row:02d}_c{column:02d}.png"
                    text = grid.text(column, row)
                    if not cell.exists() or read_text(cell).get("parameters") != text:
                        box = (left, top, left + grid.cell[0], top + grid.cell[1])
                        about = {"parameters": text, "cut_from": json.dumps(path.name)}
                        write_png(cell, part(box), about)
                    cells.append(cell)
            return cells
    except (UserError, OSError) as error:
        return f"is a grid that could not be cut ({error})"
