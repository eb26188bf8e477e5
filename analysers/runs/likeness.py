"""References in a run: measured among each other, and what they say of the finished rows."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysers import likeness
from analysers.intake.references import References
from analysers.likeness import COPYING, HASH, HELD_OUT, LIKENESS
from analysers.measure import Measured, Task, measure
from analysers.metrics.copying import Near, compared_to
from analysers.metrics.luma import Pixels
from analysers.metrics.references import Pictures, fitted
from analysers.runs.request import Judging
from analysers.study import Copies, Copy, Kind, Score
from generation.executors import InProcess
from generation.pictures.pixels import read_image

SHOWN = 24
"""Copies that are shown side by side."""

SIDE = 192
"""Pixels of the longer side of each of the two."""


def with_references(judging: Judging, rendering: bool) -> Judging:
    """With the metrics that references allow; those that ask the base model where it is at hand."""
    held = judging.held_out is not None
    more = (COPYING, HASH, *((HELD_OUT,) if held else ()))
    if rendering:
        more += (LIKENESS, "held_out_likeness") if held else (LIKENESS,)
    return replace(judging, metrics=tuple(dict.fromkeys((*judging.metrics, *more))))


@dataclass(frozen=True)
class Known:
    """Values by metric: the references' among each other, and held-out pictures' to them."""

    among: Mapping[str, Sequence[float]] = field(default_factory=dict)
    apart: Mapping[str, Sequence[float]] = field(default_factory=dict)


def known_values(
    references: References,
    held_out: References,
    like: Measured | None,
    judging: Judging,
    cache: Path,
    renderer: Callable[[], Any] | None,
    made: dict[Hashable, Any],
) -> Known:
    """What is known without any candidate: every reference is held against all others, every
    held-out picture against all references, brought to the size of the pictures.
    """
    if like is None:
        return Known()
    high, wide = read_image(like.task.image).shape[:2]
    names = [name for name in judging.all_metrics if name in (COPYING, HASH, LIKENESS)]

    def values(paths: Sequence[Path]) -> dict[str, list[float]]:
        tasks = (
            Task(
                path,
                references=tuple(other for other in references.pictures if other != path),
                fit=(high, wide),
            )
            for path in paths
        )
        found: dict[str, list[float]] = {name: [] for name in names}
        for result in measure(tasks, names, InProcess(), cache, renderer, made):
            for name in names:
                value = result.values.get(name, math.nan)
                if math.isfinite(value):
                    found[name].append(value)
        return found

    return Known(values(references.pictures), values(held_out.pictures))


def likeness_evidence(
    scores: Sequence[Score],
    kind: Kind,
    known: Known,
    references: References,
    out: Path,
) -> dict[str, Any]:
    """The sections "likeness", "by_heart" and "copies"."""
    found: dict[str, Any] = {}
    apart = known.apart.get(LIKENESS, ())
    if ideal := apart or known.among.get(LIKENESS, ()):
        told = likeness.resemblance(scores, kind, ideal)
        found["likeness"] = likeness.record(told, kind, held_out=bool(apart))
    if gaps := likeness.gaps(scores, kind):
        found["by_heart"] = likeness.record_gaps(gaps, kind)
    twice = likeness.told_twice(known.among.get(COPYING, ()), known.apart.get(COPYING, ()))
    uncopied = {
        name: (*known.among.get(name, ()), *known.apart.get(name, ())) for name in (COPYING, HASH)
    }
    limits, rows = likeness.copies(scores, uncopied)
    looks = Pictures(references.pictures)
    pictures = [
        _copy(row, looks, references, out, limits, number < SHOWN)
        for number, row in enumerate(rows)
    ]
    sentence = likeness.told_copies(pictures, kind)
    sentence = (
        sentence or "No picture is nearer to a training picture than these are to each other."
    )
    found["copies"] = Copies(
        f"{sentence} {twice}".strip(), limits[COPYING], tuple(pictures), limits[HASH]
    )
    return found


def _copy(
    row: Score,
    looks: Pictures,
    references: References,
    out: Path,
    limits: Mapping[str, float],
    shown: bool,
) -> Copy:
    picture = read_image(out / row.image)
    near = max(
        compared_to(picture, looks),
        key=lambda one: (one.value > limits[COPYING], one.bits > limits[HASH], one.value),
    )
    path = references.pictures[near.number]
    assert row.candidate is not None
    return Copy(
        row.image,
        path.name,
        references.captions.get(path, ""),
        near.value,
        near.mirrored,
        row.candidate,
        _side_by_side(picture, path, near) if shown else "",
        near.bits,
    )


def _side_by_side(picture: Pixels, path: Path, near: Near) -> str:
    """The picture and its reference, turned as it fits, as one JPEG in a data URI."""
    from PIL import Image

    high, wide = picture.shape[:2]
    reference = fitted(read_image(path), high, wide)
    if near.mirrored:
        reference = reference[:, ::-1]
    both = Image.fromarray(np.ascontiguousarray(np.concatenate([picture, reference], axis=1)))
    both.thumbnail((2 * SIDE, SIDE))
    file = io.BytesIO()
    both.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
