"""How many pictures are painted at once, and how long all of them take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from time import perf_counter
from typing import TYPE_CHECKING, Any

from analysers.runs.plan import RenderPlan, import_engine
from generation.cells import Cell
from generation.errors import UserError
from generation.loras import deltas
from generation.renderers.diffusers import batches
from generation.renderers.diffusers.render import stretches

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

PACE_STEPS = 4
"""Denoising steps of the short renders that two ways of batching are compared by."""


def estimate(plan: RenderPlan) -> tuple[int, float]:
    """Pictures still to render, and seconds for them, from two measured batches; writes nothing."""
    plan, probed = with_batch_size(plan)
    missing = plan.store().missing(plan.cells)
    if not missing:
        return 0, 0.0
    engine = probed or plan.open_engine()
    todo = stretches(missing, engine.mixed)
    _, each = _timed(engine, engine.render, todo[0])
    count = sum(-(-len(stretch) // engine.batch_size) for stretch in todo)
    devices = import_engine().devices(plan.settings.device)
    return len(missing), each * -(-count // len(devices))


def with_batch_size(plan: RenderPlan) -> tuple[RenderPlan, Engine | None]:
    """The plan with its batches decided, and the engine where one was loaded to decide it.

    A run folder keeps what it began with. Otherwise a batch has the smallest size that needs no
    more batches than the largest that fits (or that was asked for). A GPU is asked what fits, and,
    where few cases leave it idle, whether batches of many strengths are faster.
    """
    engine = None
    batching = batches.kept(plan.out, batch_key(plan))
    if batching is None:
        if plan.settings.device.startswith("cuda"):
            engine = plan.open_engine()
        most = plan.settings.batch_size or (
            engine.most_pictures() if engine else batches.MOST_ON_CPU
        )
        batching = batches.Batching(batches.balanced(len(plan.cases), most))
        if engine is not None:
            mixed = batches.Batching(batches.balanced(len(plan.cells), most), mixed=True)
            larger = mixed.size > batching.size and _can_mix(plan)
            if larger and _pace(plan, engine, mixed) > _pace(plan, engine, batching):
                batching = mixed
            engine.batch_size, engine.mixed = batching.size, batching.mixed
    settings = replace(plan.settings, batch_size=batching.size, mixed=batching.mixed)
    return replace(plan, settings=settings), engine


def _can_mix(plan: RenderPlan) -> bool:
    """Whether batches of many strengths are possible for this study."""
    usable = [c.path for c in plan.checkpoints if c.name not in plan.refused]
    return (
        len(plan.strengths) > 1
        and not plan.settings.compiled
        and all(deltas.is_low_rank(path) for path in usable)
    )


def _pace(plan: RenderPlan, engine: Engine, batching: batches.Batching) -> float:
    """Pictures a second of this study's first stretch with these batches, over a few steps."""
    stretch = next(s for s in stretches(plan.cells[len(plan.cases) :], batching.mixed))
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


def _timed(engine: Engine, paint: Callable[..., Any], stretch: Sequence[Cell]) -> tuple[int, float]:
    """Pictures in the stretch's first batch, and the seconds that painting it takes once warm."""
    engine.prepare(stretch)
    chunk = engine.batch(stretch)
    strengths = [cell.strength for cell in chunk] if engine.mixed else []
    for _ in range(2):  # the first one warms up
        start = perf_counter()
        paint([cell.case for cell in chunk], strengths)
        seconds = perf_counter() - start
    return len(chunk), seconds


def batch_key(plan: RenderPlan) -> str:
    s = plan.settings
    asked = f" at most {s.batch_size}" if s.batch_size else ""
    return f"{plan.model.digest[:16]} {s.width}x{s.height} {s.dtype} {s.device}{asked}"
