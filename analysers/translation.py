"""Strengths of one study in another's: 0.8 on this base has the effect of 1.1 on that one.

    python -m analysers.commands.translate RUN OTHER_RUN

The effect, 1 - SSIM to the control, is the ruler: for each strength of the first run, the strength
of the second that moves the same prompts and seeds as far.
"""

from __future__ import annotations

import math
from collections import Counter
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
    shared = _Shared.of(first, second)
    found = []
    for i, strength in enumerate(shared.strengths):
        middle, many = shared.there(i)
        low, high = np.quantile(many, [0.025, 0.975], method="nearest")
        bounds = (float(x) if math.isfinite(x) else math.nan for x in (low, high))
        effect = float(row_means(shared.first)[i])
        found.append(Translation(strength, effect, Interval(middle, *bounds)))
    return found


def factor(first: Study, second: Study) -> Interval:
    """How much of the strength that is asked for the first run applies, by what the second does:
    0.5 where 1.0 there has the effect of 0.5 here.

    The slope through 0, by least squares, over those of the first's strengths that move pictures
    further than all below, and no further than the second's strongest; NaN where none does. Bounds
    as in `translate`, whose errors it raises.
    """
    shared = _Shared.of(first, second)
    effects = np.r_[0.0, row_means(shared.first)]
    asked, told, drawn = [], [], []
    for i, strength in enumerate(shared.strengths):
        middle, many = shared.there(i)
        if effects[i + 1] >= effects[: i + 1].max() and math.isfinite(middle):
            asked.append(strength)
            told.append(middle)
            drawn.append(many)
    if not told:
        return Interval(math.nan, math.nan, math.nan)
    weights = np.array(asked) / np.dot(asked, asked)
    low, high = np.quantile(weights @ np.array(drawn), [0.025, 0.975], method="nearest")
    return Interval(float(weights @ np.array(told)), float(low), float(high))


@dataclass(frozen=True, eq=False)
class _Shared:
    """Effects of both runs (strengths x cases) in the cases of both; `drawn` are their means over
    resampled prompts (resamples x strengths), the same prompts in both."""

    strengths: tuple[float, ...]
    others: tuple[float, ...]
    first: Array
    second: Array
    drawn: tuple[Array, Array]

    @staticmethod
    def of(first: Study, second: Study) -> _Shared:
        ours, theirs = (_effects(study) for study in (first, second))
        cases = [case for case in ours.cases if case in theirs.cases]
        if len(cases) < FEWEST:
            raise UserError(
                "The two runs share fewer than two prompts with a seed; render both with the same."
            )
        a, b = ours.of(cases), theirs.of(cases)
        counts = resample_counts(clusters(ours.prompts_of(cases)))
        total = counts.sum(axis=1, keepdims=True)
        drawn = counts @ a.T / total, counts @ b.T / total
        return _Shared(ours.strengths, theirs.strengths, a, b, drawn)

    def there(self, i: int) -> tuple[float, Array]:
        """The second's strength for the first's i-th (NaN beyond its strongest), and for each
        resample, where beyond the strongest counts as more than all there are."""
        effect = float(row_means(self.first)[i])
        middle = _inverse(effect, self.others, row_means(self.second))
        many = [
            _inverse(own[i], self.others, other) for own, other in zip(*self.drawn, strict=True)
        ]
        full = np.array(many)
        return middle, np.where(np.isnan(full), math.inf, full)


_Case = tuple[str, "int | None", int]
"""Prompt and seed, and of several such cases (with other pictures to edit) which one it is."""


@dataclass(frozen=True, eq=False)
class _Effects:
    """Effects (strengths x cases) with what the rows and columns are."""

    strengths: tuple[float, ...]
    cases: tuple[_Case, ...]
    prompts: Any
    table: Array

    def of(self, cases: Sequence[_Case]) -> Array:
        return self.table[:, [self.cases.index(case) for case in cases]]

    def prompts_of(self, cases: Sequence[_Case]) -> Any:
        return self.prompts[[self.cases.index(case) for case in cases]]


def _effects(study: Study) -> _Effects:
    """Effects (strengths x cases) of the positive strengths, in order; cases without gaps only."""
    tables: Tables = tabulate(study.scores, "strength")
    if study.kind != "strength" or "ssim" not in tables.values:
        raise UserError(
            f"{study.title or 'A run'} is no strength sweep with controls; name two such runs."
        )
    # Pictures that do not tell their prompt are known by their case's name.
    told = {s.case: (s.prompt or s.case, s.seed) for s in study.scores}
    seen: Counter[tuple[str, int | None]] = Counter()
    known = []
    for case in tables.cases:
        known.append((*told[case], seen[told[case]]))
        seen[told[case]] += 1
    rows = [i for i, c in enumerate(tables.candidates) if c.strength is not None and c.strength > 0]
    table = 1.0 - tables.values["ssim"][rows]
    whole = np.flatnonzero(np.isfinite(table).all(axis=0))
    return _Effects(
        tuple(float(tables.candidates[i].strength or 0) for i in rows),
        tuple(known[k] for k in whole),
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
