"""A renderer without a model: gradients from seed and strength. A whole renderer in 20 lines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from analysers.runs.plan import Plan
from generation.cells import Case, Cell, Checkpoint, Picture, RenderSettings
from generation.executors import never
from generation.pictures.pixels import encode_png
from generation.plan import cells as grid
from generation.renderers.renderer import Renderer


class Toy(Renderer):
    """Paints a soft texture; the LoRA bends it, and beyond strength 1 adds noise."""

    def __init__(self, size: int = 64) -> None:
        self.size = size
        self.painted: list[Cell] = []

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        return {"toy": 1, "size": self.size}

    def render(
        self, cells: Sequence[Cell], stopped: Callable[[], bool] = never
    ) -> Iterator[Picture]:
        for cell in cells:
            if stopped():
                return
            self.painted.append(cell)
            yield Picture(cell, encode_png(self.paint(cell), {"parameters": cell.case.prompt}))

    def otherwise(self) -> Renderer:
        return Toy(self.size)

    def paint(self, cell: Cell) -> np.ndarray[Any, Any]:
        name = f"{cell.case.prompt} {cell.case.seed}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:4], "big"))
        strength = float(cell.strength)
        lora = int((cell.checkpoint.tensor_hash if cell.checkpoint else "0")[:1], 16)
        y, x = np.mgrid[0 : self.size, 0 : self.size] / self.size
        a, b, c = rng.uniform(2, 9, 3)
        bent = x + strength * 0.1 * np.sin((6 + lora) * y)
        waves = np.stack([np.sin(a * bent + b * y), np.cos(b * bent * y), np.sin(c * bent)], axis=2)
        noise = rng.normal(0, 4 + 40 * max(0.0, strength - 1), waves.shape)
        return np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)


LORA = Checkpoint(Path("toy-000003.safetensors"), "toy-000003", epoch=3, label="epoch 3",
                  tensor_hash="3" * 64)  # fmt: skip
LATER = replace(LORA, path=Path("toy-000007.safetensors"), name="toy-000007", epoch=7,
                label="epoch 7", tensor_hash="7" * 64)  # fmt: skip


def cases(count: int) -> list[Case]:
    return [Case(f"a cat, number {i}", i, name=f"p{i:02d}_s{i}") for i in range(count)]


def toy_plan(
    out: Path,
    strengths: Sequence[str] = ("0.4", "0.8", "1.6"),
    *,
    count: int = 3,
    renderer: Renderer | None = None,
    checkpoints: Sequence[Checkpoint] = (LORA,),
    **fields: Any,
) -> Plan:
    """A study that the toy renders."""
    return Plan(
        kind="strength" if len(checkpoints) == 1 else "plane",
        title="toy",
        out=out,
        renderer=renderer or Toy(),
        settings=RenderSettings("toy", "", 64, 64, 1, 1.0, ""),
        cells=grid(cases(count), checkpoints, [Decimal(s) for s in strengths]),
        checkpoints=tuple(checkpoints),
        **fields,
    )
