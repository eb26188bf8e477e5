"""The run folder: pictures found by what they show, written whole or not at all.

Every picture carries its content key (`cells.content_key`) in its PNG text. That text is the only
index: whatever was rendered before is found again wherever it lies in the folder, so a run can be
killed at any moment, prompts can be reordered and axes widened, and only what is new is rendered.
A picture that gives way to another one is kept under `images/previous/`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from generation.cells import Cell, Checkpoint, RenderSettings, content_key, strength_text
from generation.errors import UserError
from generation.folder import make_inside, move_aside
from generation.pictures.infotext import parameters_text
from generation.pictures.pixels import read_text, write_png

CELL_CHUNK = "lora_analysers"
"""Name of the PNG text chunk with the cell as JSON."""


@dataclass(frozen=True)
class Layout:
    """Where each cell of one study lies below `images/`.

    One checkpoint: strength_0.60/p00_s1.png. One strength: epoch_0007/p00_s1.png. Both axes:
    epoch_0007/strength_0.80/p00_s1.png.
    """

    folders: Mapping[Path, str]
    many_strengths: bool

    @staticmethod
    def of(cells: Iterable[Cell]) -> Layout:
        checkpoints: dict[Path, Checkpoint] = {}
        strengths = set()
        for cell in cells:
            if cell.checkpoint is not None:
                checkpoints.setdefault(cell.checkpoint.path, cell.checkpoint)
                strengths.add(cell.strength)
        names: dict[Path, str] = {}
        if len(checkpoints) > 1:
            for path, checkpoint in checkpoints.items():
                name = _folder_name(checkpoint)
                names[path] = name if name not in names.values() else f"{name}_{len(names)}"
        return Layout(names, len(strengths) > 1 or len(checkpoints) < 2)

    def place(self, cell: Cell) -> Path:
        """The cell's path relative to the run folder."""
        parts = ["images"]
        if cell.checkpoint is None:
            parts.append("control")
        else:
            if folder := self.folders.get(cell.checkpoint.path):
                parts.append(folder)
            if self.many_strengths:
                parts.append("strength_" + _two_decimals(strength_text(cell.strength)))
        return Path(*parts, f"{cell.case.name}.png")


@dataclass(frozen=True)
class Store:
    """The pictures of one study under `root`.

    `fixed` are the LoRAs under every picture, for the pictures' infotext; what of them decides
    pixels stands in the settings.
    """

    root: Path
    settings: RenderSettings
    layout: Layout
    fixed: tuple[tuple[Checkpoint, Decimal], ...] = ()

    def path(self, cell: Cell) -> Path:
        return self.root / self.layout.place(cell)

    def key(self, cell: Cell) -> str:
        """The cell's content key under this study's settings."""
        return content_key(cell, self.settings)

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of which no picture lies anywhere in the folder; moves nothing."""
        found, _ = self._index()
        return [cell for cell in cells if self.key(cell) not in found]

    def check_space(self, cells: Sequence[Cell]) -> None:
        """Raise UserError if the cells' pictures can hardly fit on the disk.

        Photographs take 1.5 to 1.9 bytes a pixel at the compression used, drawings from 0.7 on:
        refused is what half the usual size would not let in.
        """
        pictures = len(self.missing(cells))
        need = pictures * (4096 + 1.5 * self.settings.width * self.settings.height)
        try:
            free = shutil.disk_usage(self.root).free
        except OSError:
            return
        if free < need / 2:
            raise UserError(
                f"{pictures} pictures need about {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB "
                f"are free where {self.root} lies; make room, or choose another folder.",
                field="out",
            )

    def settle(self, cells: Sequence[Cell]) -> list[Cell]:
        """Put pictures rendered earlier where this study wants them; return the missing cells.

        Moves are renames, first aside and then into place, so that two pictures can swap places
        and a kill in between loses nothing (the next call finds them aside).
        """
        found, foreign = self._index()
        keys = {cell: self.key(cell) for cell in cells}
        places = {self.path(cell): key for cell, key in keys.items()}
        holders: list[tuple[Path, str | None]] = [(path, key) for key, path in found.items()]
        for path, key in (*holders, *((path, None) for path in foreign)):
            if path in places and places[path] != key:
                aside = self._aside(path)
                if key is not None:
                    found[key] = aside
        for cell, key in keys.items():
            place = self.path(cell)
            if key in found and found[key] != place:
                make_inside(self.root, place.parent)
                os.replace(found[key], place)
        return [cell for cell, key in keys.items() if key not in found]

    def set_aside(self, cells: Sequence[Cell]) -> list[Cell]:
        """Move the cells' pictures out of the way, for all to be rendered again."""
        for cell in cells:
            if os.path.lexists(self.path(cell)):
                self._aside(self.path(cell))
        return list(cells)

    def _aside(self, path: Path) -> Path:
        attic = make_inside(self.root, self.root / "images" / "previous")
        return move_aside(path, attic / f"{path.parent.name}_{path.name}")

    def _index(self) -> tuple[dict[str, Path], list[Path]]:
        """Pictures of ours by content key, and all others (copies of a key included)."""
        found: dict[str, Path] = {}
        others: list[Path] = []
        images = self.root / "images"
        paths = sorted(images.rglob("*.png"), key=lambda p: (p.parent.name == "previous", p))
        for path in paths:
            if path.name.startswith("."):
                continue
            key = None if path.is_symlink() else stored_key(path)
            if key is None or key in found:
                others.append(path)
            else:
                found[key] = path
        return found, others

    def save(self, cell: Cell, pixels: np.ndarray[Any, Any], *, batch_size: int) -> Path:
        """Write the cell's picture (uint8, HxWx3) with its texts; return its path."""
        path = self.path(cell)
        make_inside(self.root, path.parent)
        if os.path.lexists(path):  # it came while this one was rendered
            self._aside(path)
        settings = self.settings
        checkpoint = cell.checkpoint
        height, width = pixels.shape[:2]
        text = {
            "parameters": parameters_text(
                prompt=cell.case.prompt,
                negative=cell.case.negative,
                steps=settings.steps,
                sampler=settings.sampler,
                guidance=settings.guidance_scale,
                seed=cell.case.seed,
                width=width,
                height=height,
                model=Path(settings.model).name,
                model_hash=settings.model_hash[:10],
                lora_name=checkpoint.path.stem if checkpoint else "",
                lora_hash=checkpoint.tensor_hash if checkpoint else "",
                strength=cell.strength,
                clip_skip=settings.clip_skip,
                fixed=[(other.path.stem, other.tensor_hash, w) for other, w in self.fixed],
            ),
            CELL_CHUNK: json.dumps(
                {
                    "key": self.key(cell),
                    "prompt": cell.case.prompt,
                    "negative": cell.case.negative,
                    "seed": cell.case.seed,
                    "lora": checkpoint.name if checkpoint else None,
                    "tensor_hash": checkpoint.tensor_hash if checkpoint else None,
                    "strength": strength_text(cell.strength),
                    "model": settings.model,
                    "batch_size": batch_size,
                },
                sort_keys=True,
            ),
        }
        write_png(path, pixels, text)
        return path


def stored_key(path: Path) -> str | None:
    """The content key inside a picture of ours, else None."""
    try:
        key = json.loads(read_text(path).get(CELL_CHUNK, "null"))["key"]
    except (ValueError, TypeError, KeyError, OSError, UserError):
        return None
    return key if isinstance(key, str) else None


def _folder_name(checkpoint: Checkpoint) -> str:
    if checkpoint.epoch is not None:
        return f"epoch_{checkpoint.epoch:04d}"
    if checkpoint.step is not None:
        return f"step_{checkpoint.step:08d}"
    return re.sub(r"[^\w.-]+", "_", checkpoint.path.stem)[:80] or "lora"


def _two_decimals(text: str) -> str:
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"
