"""The run folder: pictures found by what they show, written whole or not at all.

Every picture carries its content key (`cells.content_key`) in its PNG text. That text is the only
index: whatever was rendered before is found again wherever it lies in the folder, so a run can be
killed at any moment, prompts can be reordered and axes widened, and only what is new is rendered.
A picture that gives way to another one is kept under `images/previous/`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from generation.cells import Cell, Checkpoint, Painter, Picture, content_key, strength_text
from generation.errors import UserError
from generation.folder import make_inside, move_aside
from generation.pictures.pixels import read_text, with_text, write_bytes

CELL_CHUNK = "lora_analysers"
"""Name of the PNG text chunk with the cell as JSON."""


@dataclass(frozen=True)
class Store:
    """The pictures of one study under `root`, painted by `painter`."""

    root: Path
    painter: Painter

    def path(self, cell: Cell) -> Path:
        return self.root / place(cell)

    def key(self, cell: Cell) -> str:
        """The cell's content key."""
        return content_key(cell, self.painter)

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of which no picture lies anywhere in the folder; moves nothing."""
        found, _ = self._index()
        return [cell for cell in cells if self.key(cell) not in found]

    def check_space(self, cells: Sequence[Cell], pixels: int) -> None:
        """Raise UserError if the cells' pictures, of so many pixels, can hardly fit on the disk.

        Photographs take 1.5 to 1.9 bytes a pixel at the compression used, drawings from 0.7 on:
        refused is what half the usual size would not let in.
        """
        pictures = len(self.missing(cells))
        need = pictures * (4096 + 1.5 * pixels)
        try:
            free = shutil.disk_usage(self.root).free
        except OSError:
            return
        if free < need / 2:
            raise UserError(
                f"{pictures} pictures need about {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB "
                f"are free where {self.root} lies; make room, or choose another folder.",
                field="out",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root))

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
            here = self.path(cell)
            if key in found and found[key] != here:
                make_inside(self.root, here.parent)
                os.replace(found[key], here)
                with suppress(OSError):  # where other pictures lie
                    found[key].parent.rmdir()
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

    def save(self, picture: Picture) -> Path:
        """Write a painted picture with its cell inside; return its path."""
        cell = picture.cell
        path = self.path(cell)
        make_inside(self.root, path.parent)
        if os.path.lexists(path):  # it came while this one was rendered
            self._aside(path)
        checkpoint = cell.checkpoint
        record = {
            "key": self.key(cell),
            "prompt": cell.case.prompt,
            "negative": cell.case.negative,
            "seed": cell.case.seed,
            "lora": checkpoint.name if checkpoint else None,
            "tensor_hash": checkpoint.tensor_hash if checkpoint else None,
            "strength": strength_text(cell.strength),
            **picture.facts,
        }
        write_bytes(path, with_text(picture.png, CELL_CHUNK, json.dumps(record, sort_keys=True)))
        return path


def stored_key(path: Path) -> str | None:
    """The content key inside a picture of ours, else None."""
    try:
        key = json.loads(read_text(path).get(CELL_CHUNK, "null"))["key"]
    except (ValueError, TypeError, KeyError, OSError, UserError):
        return None
    return key if isinstance(key, str) else None


def place(cell: Cell) -> Path:
    """The cell's path in any run folder: images/control/p00_s1.png for a control, else
    images/my-000007_3fa2c1d0/strength_0.60/p00_s1.png.

    It follows from the cell alone, so that no picture moves when a study grows: the first digits
    of the LoRA's tensor hash tell files apart that share a name.
    """
    if cell.checkpoint is None:
        return Path("images", "control", f"{cell.case.name}.png")
    return Path(
        "images",
        _folder_name(cell.checkpoint),
        "strength_" + _two_decimals(strength_text(cell.strength)),
        f"{cell.case.name}.png",
    )


def _folder_name(checkpoint: Checkpoint) -> str:
    stem = re.sub(r"[^\w.-]+", "_", checkpoint.path.stem)[:80].strip(".") or "lora"
    return "_".join(filter(None, (stem, checkpoint.tensor_hash[:8])))


def _two_decimals(text: str) -> str:
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"
