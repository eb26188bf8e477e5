"""Strengths of one study in another's: 0.8 on this base has the effect of 1.1 on that one.

    python -m analysers.commands.translate RUN OTHER_RUN

The effect, 1 - SSIM to the control, is the ruler: for each strength of the first run, the strength
of the second that moves the same prompts and seeds as far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysers.scores import Tables, tabulate
from analysers.statistics import Array, clusters, resample_counts, row_means
from analysers.study import Interval, Study
from generation.errors import UserError

FEWEST = 2


@dataclass(frozen=True)
class Translation:
    """A strength of the first run, its mean effect, and what has the same effect in the second:
    NaN beyond the second's strongest.
    """

    strength: float
    effect: float
    other: Interval


def translate(first: Study, second: Study) -> list[Translation]:
    """One for each positive strength of the first study, over the prompts and seeds of both.

    Effects are made to rise with the strength (running maximum) and interpolated linearly, from 0
    at strength 0. Bounds are the 95 % percentiles over resampled prompts, the same in both.
    Raises UserError where the two share fewer than two cases or are not of one checkpoint each.
    """
    ours, theirs = (_effects(study) for study in (first, second))
    cases = [case for case in ours.cases if case in theirs.cases]
    if len(cases) < FEWEST:
        raise UserError(
            "The two runs share fewer than two prompts with a seed; render both with the same."
        )
    a, b = ours.of(cases), theirs.of(cases)
    prompts = clusters(ours.prompts_of(cases))
    counts = resample_counts(prompts)
    total = counts.sum(axis=1, keepdims=True)
    drawn = [counts @ table.T / total for table in (a, b)]
    found = []
    for i, strength in enumerate(ours.strengths):
        effect = float(row_means(a)[i])
        middle = _inverse(effect, theirs.strengths, row_means(b))
        many = [
            _inverse(own[i], theirs.strengths, other) for own, other in zip(*drawn, strict=True)
        ]
        # beyond the strongest there is no number, but it counts as more than all there are
        full = np.where(np.isnan(many), math.inf, many)
        low, high = np.quantile(full, [0.025, 0.975], method="nearest")
        bounds = (float(x) if math.isfinite(x) else math.nan for x in (low, high))
        found.append(Translation(strength, effect, Interval(middle, *bounds)))
    return found


@dataclass(frozen=True, eq=False)
class _Effects:
    strengths: tuple[float, ...]
    cases: tuple[tuple[str, Any], ...]
    prompts: Any
    table: Array

    def of(self, cases: Sequence[tuple[str, Any]]) -> Array:
        return self.table[:, [self.cases.index(case) for case in cases]]

    def prompts_of(self, cases: Sequence[tuple[str, Any]]) -> Any:
        return self.prompts[[self.cases.index(case) for case in cases]]


def _effects(study: Study) -> _Effects:
    """Effects (strengths x cases) of the positive strengths, in order; cases without gaps only."""
    tables: Tables = tabulate(study.scores, "strength")
    if study.kind != "strength" or "ssim" not in tables.values:
        raise UserError(
            f"{study.title or 'A run'} is no strength sweep with controls; name two such runs."
        )
    told = {s.case: (s.prompt, s.seed) for s in study.scores}
    rows = [i for i, c in enumerate(tables.candidates) if c.strength is not None and c.strength > 0]
    table = 1.0 - tables.values["ssim"][rows]
    whole = np.flatnonzero(np.isfinite(table).all(axis=0))
    return _Effects(
        tuple(float(tables.candidates[i].strength or 0) for i in rows),
        tuple(told[tables.cases[k]] for k in whole),
        tables.prompts[whole],
        table[:, whole],
    )


def _inverse(effect: float, strengths: Sequence[float], effects: Array) -> float:
    """The strength that has the effect; NaN beyond the strongest."""
    rising = np.maximum.accumulate(np.r_[0.0, effects])
    if effect > rising[-1]:
        return math.nan
    at = int(np.searchsorted(rising, effect, side="left"))
    if at == 0:
        return 0.0
    below, above = rising[at - 1], rising[at]
    axis = (0.0, *strengths)
    return float(axis[at - 1] + (axis[at] - axis[at - 1]) * (effect - below) / (above - below))


def rows(found: Sequence[Translation]) -> list[list[str]]:
    """The table: strength, effect, strength there, and its bounds."""
    most = "more than tried"

    def text(value: float) -> str:
        return most if math.isnan(value) else f"{value:.2f}"

    return [
        [
            f"{one.strength:g}",
            f"{one.effect:.3f}",
            text(one.other.mean),
            text(one.other.low),
            text(one.other.high),
        ]
        for one in found
    ]


HEAD = ["strength", "effect", "same effect at", "low", "high"]


def svg(found: Sequence[Translation], side: int = 360) -> str:
    """The second's strength over the first's, with bounds and the line of equal strengths."""
    known = [one for one in found if math.isfinite(one.other.mean)]
    most = max(
        [one.strength for one in found]
        + [x for one in known for x in (one.other.mean, one.other.high) if math.isfinite(x)]
    )
    edge = 40

    def at(x: float, y: float) -> str:
        scale = (side - 2 * edge) / most
        return f"{edge + x * scale:.1f},{side - edge - y * scale:.1f}"

    def line(points: Sequence[str], colour: str) -> str:
        return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"/>'

    parts = [line([at(0, most), at(0, 0), at(most, 0)], "#444")]
    parts.append(line([at(0, 0), at(most, most)], "#bbb"))
    parts.append(line([at(0, 0), *(at(one.strength, one.other.mean) for one in known)], "#06c"))
    for one in known:
        high = one.other.high if math.isfinite(one.other.high) else most
        parts.append(line([at(one.strength, one.other.low), at(one.strength, high)], "#06c"))
    words = [(side / 2, side - 10, "strength here"), (4, 20, f"strength there, 0 to {most:g}")]
    parts += [f'<text x="{x:g}" y="{y:g}" font-size="12">{text}</text>' for x, y, text in words]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" '
    return head + f'font-family="sans-serif">{"".join(parts)}</svg>\n'
