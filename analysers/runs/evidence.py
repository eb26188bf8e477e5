"""What argues for and against a decision, beside the scores: noise, trust, the LoRAs' weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from analysers import checks
from analysers.measure import Measured
from analysers.metrics.metric import declared
from analysers.ranking import margin_of
from analysers.records import build
from analysers.runs.events import Progress
from analysers.runs.plan import RenderPlan
from analysers.runs.request import Options
from analysers.study import Kind, Score
from generation.cells import Cell
from generation.errors import UserError
from generation.files import read_json
from generation.folder import write_result
from generation.pictures.store import Store

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine

TRUST_CONTROLS = 4
"""How many controls are degraded to see whether the ranked metric can be trusted on them."""

NOISE_CASES = 3
"""How many controls are rendered a second time to measure the noise floor."""


def noise_floor(
    plan: RenderPlan, store: Store, open_engine: Callable[[], Engine], bar: Progress
) -> dict[str, Any]:
    """Controls rendered again in another batch size: what rounding alone does to the scores.

    Measured once and kept beside the pictures. A device that has no memory for it, with all
    pictures rendered, fails no study.
    """
    kept = plan.out / "noise.json"
    keys = [store.key(Cell(case)) for case in plan.cases[:NOISE_CASES]]
    if kept.is_file():
        try:
            record = read_json(kept)
            if record["keys"] == keys:
                floor = build(Mapping[str, float], record["floor"], "floor")
                pairs = build(tuple[tuple[float, ...], ...], record["pairs"], "pairs")
                return {"keys": keys, "pairs": pairs, "floor": floor}
        except (OSError, ValueError, KeyError, TypeError):
            pass
    from analysers.metrics.brisque import brisque
    from analysers.metrics.ssim import ssim
    from generation.pictures.pixels import read_image

    controls = [Cell(case) for case in plan.cases[:NOISE_CASES]]
    controls = [control for control in controls if store.path(control).is_file()]
    if not controls:
        return {}
    pairs = []
    bar.start("Noise floor", len(controls))
    try:
        engine = open_engine()
        engine.prepare(controls)
        # A GPU paints few pictures together as fast as one; a CPU rounds alike from two on.
        size = 1 if plan.settings.device == "cpu" else len(controls)
        engine.batch_size = size + 1 if size == plan.settings.batch_size else size
        while controls:
            batch = engine.batch(controls)
            pictures = engine.render([control.case for control in batch])
            for control, again in zip(batch, pictures, strict=True):
                bar.advance()
                if again is not None:
                    first = read_image(store.path(control))
                    pairs.append((ssim(again, first), abs(brisque(again) - brisque(first))))
            controls = [control for control in controls if control not in batch]
    except (UserError, MemoryError):
        return {}
    finally:
        bar.finish()
    floor = checks.noise_floor(pairs)
    record = {"keys": keys, "pairs": pairs, "floor": floor}
    write_result(kept, json.dumps(record, indent=1) + "\n")
    return record


def trust(results: Sequence[Measured], options: Options) -> dict[str, Any]:
    """Whether the ranked metric noticed that the user's own controls were degraded."""
    from analysers.trust import judge

    scores = {r.pixels: r.ladders for r in results if r.ladders}
    if not scores:
        return {}
    metric = declared(options.rank_by)
    found = judge(list(scores.values()), better=metric.better or "lower", name=metric.label)
    return {"trust": asdict(found)}


def kind_of_picture(scores: Sequence[Score], kind: Kind, options: Options) -> dict[str, Any]:
    """Whether the ranked metric may have taken another kind of picture for damage."""
    from analysers.trust import kinds_of_picture, kinds_sentence

    if not options.ladders:
        return {}
    margin = margin_of(options.rank_by, options.margin)
    found = kinds_of_picture(scores, kind=kind, rank_by=options.rank_by, margin=margin)
    if not found:
        return {}
    sentence = kinds_sentence(found, declared(options.rank_by).label)
    return {"kind_of_picture": {"sentence": sentence, "candidates": [asdict(k) for k in found]}}


def unrelated(controls: Sequence[Measured]) -> float | None:
    """The usual SSIM between controls of different cases, or None with fewer than two of a size."""
    from analysers.metrics.ssim import ssim

    images = _different(controls, 5)
    values = [ssim(a, b) for a, b in pairwise(images) if a.shape == b.shape]
    return median(values) if values else None


def _different(results: Sequence[Measured], at_most: int) -> list[Any]:
    """The first pictures that could be read and differ from each other, as arrays."""
    from generation.pictures.pixels import read_image

    unique = {r.pixels: r.task.image for r in results if r.pixels}
    return [read_image(path) for path in sorted(unique.values())[:at_most]]


def weights(plan: RenderPlan) -> dict[str, Any]:
    from analysers.weights import weight_report

    usable = [c for c in plan.checkpoints if c.name not in plan.refused]
    try:
        frame = weight_report(usable).to_frame()
    except UserError as error:
        return {"rows": [], "reason": str(error)}
    return {"rows": json.loads(frame.to_json(orient="records"))}
