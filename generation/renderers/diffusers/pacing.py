"""How many pictures are painted at once, and how long all take; timed on the study itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from generation.cells import Cell, RenderSettings
from generation.errors import UserError
from generation.loras import deltas
from generation.renderers.diffusers import batches
from generation.renderers.diffusers.batches import Batching

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

PACE_STEPS = 4
"""Denoising steps of the short renders that two ways of batching are compared by."""


def decide(
    settings: RenderSettings, cells: Sequence[Cell], out: Path, open_engine: Callable[[], Engine]
) -> tuple[Batching, Engine | None]:
    """How these cells are batched, and the engine where one was loaded to decide it.

    A run folder keeps what it began with. Otherwise a batch has the smallest size that needs no
    more batches than the largest that fits (or that was asked for). A GPU is asked what fits, and,
    where few cases leave it idle, whether batches of many strengths are faster.
    """
    batching = batches.kept(out, batch_key(settings))
    if batching is not None:
        return batching, None
    engine = open_engine() if settings.device.startswith("cuda") else None
    most = settings.batch_size or (engine.most_pictures() if engine else batches.MOST_ON_CPU)
    cases = len({cell.case for cell in cells})
    batching = Batching(batches.balanced(cases, most), shared=settings.device == "cpu")
    if engine is not None:
        mixed = Batching(batches.balanced(len(cells), most), mixed=True)
        mixes = engine.traits.rows and can_mix(settings, cells)
        larger = mixed.size > batching.size and mixes
        if larger and pace(engine, cells, mixed) > pace(engine, cells, batching):
            batching = mixed
        engine.batch_size, engine.mixed = batching.size, batching.mixed
    return batching, engine


def decided(settings: RenderSettings, batching: Batching) -> RenderSettings:
    """The settings with their batches decided."""
    return replace(settings, batch_size=batching.size, mixed=batching.mixed, shared=batching.shared)


def can_mix(settings: RenderSettings, cells: Sequence[Cell]) -> bool:
    """Whether batches of many strengths are possible for these cells."""
    files = {cell.checkpoint.path for cell in cells if cell.checkpoint is not None}
    strengths = {cell.strength for cell in cells if not cell.is_control}
    return (
        len(strengths) > 1
        and not settings.compiled
        and all(deltas.is_low_rank(path) for path in files)
    )


def pace(engine: Engine, cells: Sequence[Cell], batching: Batching) -> float:
    """Pictures a second of the first stretch with a LoRA in these batches, over a few steps."""
    with_lora = [cell for cell in cells if not cell.is_control]
    stretch = batches.stretches(with_lora, batching.mixed)[0]
    usual = engine.steps, engine.batch_size, engine.mixed
    engine.steps, engine.batch_size, engine.mixed = PACE_STEPS, batching.size, batching.mixed
    try:
        count, seconds = _timed(engine, engine.denoise, stretch)
        return count / seconds
    except (MemoryError, UserError):
        return 0.0
    finally:
        engine.apply(None, Decimal(0))
        engine.steps, engine.batch_size, engine.mixed = usual


def seconds(engine: Engine, cells: Sequence[Cell], devices: int) -> float:
    """How long these cells take on as many devices, from two measured batches."""
    todo = batches.stretches(cells, engine.mixed)
    _, each = _timed(engine, engine.render, todo[0])
    count = sum(-(-len(stretch) // engine.batch_size) for stretch in todo)
    return each * -(-count // max(1, devices))


def batch_key(settings: RenderSettings) -> str:
    """What a run folder keeps its batches under: model, size, numbers, device, what was asked."""
    s = settings
    asked = f" at most {s.batch_size}" if s.batch_size else ""
    return f"{s.model_hash[:16]} {s.width}x{s.height} {s.dtype} {s.device}{asked}"


def _timed(engine: Engine, paint: Callable[..., Any], stretch: Sequence[Cell]) -> tuple[int, float]:
    """Pictures in the stretch's first batch, and the seconds that painting it takes once warm."""
    engine.prepare(stretch)
    chunk = engine.batch(stretch)
    strengths = [cell.strength for cell in chunk] if engine.mixed else []
    for _ in range(2):  # the first one warms up
        start = perf_counter()
        paint([cell.case for cell in chunk], strengths)
        spent = perf_counter() - start
    return len(chunk), spent
