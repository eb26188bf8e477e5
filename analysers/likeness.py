"""What training pictures say of the candidates: how like them they are, learnt or by heart.

A cosine or an SSIM means little by itself. So likeness is told as a share of the way from the
pictures without the LoRA (0) to the training pictures among each other (1), and a picture is called
a copy where it is nearer to a training picture than these are to each other, and than any picture
without the LoRA is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from analysers.phrases import listed
from analysers.scores import tabulate
from analysers.statistics import Array, intervals, row_means
from analysers.study import Candidate, Interval, Kind, Score

LIKENESS, HELD_OUT, COPYING = "reference_likeness", "held_out_likeness", "copying"

LEAST_COPY = 0.6
"""SSIM of small pictures (`analysers.metrics.copying`) below which nothing is called a copy: what
sixteen unlike posters had among each other at most. Two or three references say too little."""

ENOUGH = 8
"""References and held-out pictures together from which the gap is told."""


@dataclass(frozen=True)
class Resemblance:
    """A candidate's likeness as a share of the way, and how much of it held-out pictures lack."""

    candidate: Candidate
    share: Interval
    gap: Interval = field(default_factory=lambda: Interval(math.nan))


def resemblance(
    scores: Sequence[Score], kind: Kind, among: Sequence[float], *, gap: bool = False
) -> tuple[float, float, list[Resemblance]]:
    """Floor (the controls' mean), ceiling (the references' among each other), and each candidate.

    `among` holds the references' own values. Intervals are of paired differences from the controls.
    With `gap`, that between likeness to references and to held-out pictures, in the same share,
    beyond the controls' own. No candidates where the ceiling is not above the floor.
    """
    tables = tabulate(scores, kind)
    ceiling = float(np.mean(among)) if len(among) else math.nan
    floor = _mean(s.values.get(LIKENESS) for s in scores if s.candidate is None)
    span = ceiling - floor
    if LIKENESS not in tables.values or not span > 0:
        return floor, ceiling, []

    def gained(name: str) -> Array:
        return (tables.values[name] - tables.control[name]) / span

    own = gained(LIKENESS)
    shares = _intervals(own, tables.prompts)
    gaps = [Interval(math.nan)] * len(tables.candidates)
    if gap and HELD_OUT in tables.values:
        gaps = _intervals(own - gained(HELD_OUT), tables.prompts)
    return (
        floor,
        ceiling,
        [Resemblance(*row) for row in zip(tables.candidates, shares, gaps, strict=True)],
    )


def copies(scores: Sequence[Score], among: Sequence[float]) -> tuple[float, list[Score]]:
    """The limit above which a picture is a copy, and the rows that are, the nearest first."""
    bare = [s.values[COPYING] for s in scores if s.candidate is None and COPYING in s.values]
    known = [value for value in (*among, *bare) if math.isfinite(value)]
    limit = max([LEAST_COPY, *known])
    found = [
        s
        for s in scores
        if s.candidate is not None and s.values.get(COPYING, -1.0) > limit and s.status != "failed"
    ]
    return limit, sorted(found, key=lambda s: (-s.values[COPYING], s.image))


def told_copies(rows: Sequence[Mapping[str, Any]], kind: Kind) -> str:
    """ "Epoch 8 repeats 2 training pictures; epoch 9 repeats 3." """
    repeated: dict[Candidate, set[str]] = {}
    for row in rows:
        repeated.setdefault(row["candidate"], set()).add(row["reference"])
    order = sorted(repeated, key=lambda c: (c.place, c.strength or 0))
    said = [
        f"{candidate.heading(kind)} repeats {len(repeated[candidate])} training "
        f"picture{'s' * (len(repeated[candidate]) != 1)}"
        for candidate in order
    ]
    text = listed(said) if said else ""
    return f"{text[:1].upper()}{text[1:]}: look at them side by side." if text else ""


def record(found: tuple[float, float, list[Resemblance]], kind: Kind) -> dict[str, Any]:
    """The likeness section of a study's evidence."""
    floor, ceiling, rows = found
    gaps = any(math.isfinite(row.gap.mean) for row in rows)
    sentence = (
        "Likeness to the training pictures: 0 is as without the LoRA, 1 as the training pictures "
        "are among each other."
    )
    if not rows:
        sentence = (
            "The training pictures are not more alike than the pictures without the LoRA are like "
            "them, so likeness says nothing here."
        )
    if gaps:
        sentence += " The gap is likeness that held-out pictures lack: learnt by heart."
    return {
        "sentence": sentence,
        "floor": floor,
        "ceiling": ceiling,
        "rows": [
            {
                "setting": row.candidate.heading(kind),
                "likeness": row.share.mean,
                "low": row.share.low,
                "high": row.share.high,
                **(
                    {"gap": row.gap.mean, "gap low": row.gap.low, "gap high": row.gap.high}
                    if gaps
                    else {}
                ),
                "candidate": asdict(row.candidate),
            }
            for row in rows
        ],
    }


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _intervals(table: Array, prompts: Any) -> list[Interval]:
    if not table.size:
        return [Interval(float(mean)) for mean in row_means(table)]
    bounds = intervals(table, prompts)
    return [Interval(*(float(part[i]) for part in bounds)) for i in range(len(table))]
