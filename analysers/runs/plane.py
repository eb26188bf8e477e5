"""Which settings of the plane, checkpoints by strengths, are looked at: by lines of equal effect.

The effect, 1 - SSIM to the control, is the ruler. Along each checkpoint's strengths it rises, so
that few pictures tell, interpolated, at which strength a checkpoint has the effect that another has
at 0.8. At equal effect the checkpoints can be compared, and quality is interpolated between them.
What has more effect than the recommended setting and may be clean can yet take its place, what has
less cannot. What is left is judged by the effect that it may be expected to gain (expected
improvement: Jones, Schonlau and Welch 1998).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from analysers.racing import Asked
from analysers.ranking import PLATEAU, margin_of
from analysers.scores import before
from analysers.statistics import Array
from analysers.study import Candidate, Summary, Verdict

PLACES, STRENGTHS = 4, 3
"""About how many checkpoints, and strengths of each, are looked at first."""

LEAST = 0.01
"""Effect (1 - SSIM) that a setting has to promise to be looked at."""

AT_ONCE = 3


class Plane:
    """The candidates of one side of strength 0, as a grid: checkpoints in order of training by
    strengths away from 0. All are there at all strengths."""

    def __init__(self, candidates: Collection[Candidate]) -> None:
        self.places = sorted({c.place for c in candidates})
        self.strengths = sorted({_size(c) for c in candidates})
        self._rows = {place: i for i, place in enumerate(self.places)}
        self._columns = {strength: k for k, strength in enumerate(self.strengths)}
        self.at = {self.where(c): c for c in candidates}

    def where(self, candidate: Candidate) -> tuple[int, int]:
        """The candidate's row (checkpoint) and column (strength)."""
        return self._rows[candidate.place], self._columns[_size(candidate)]

    def line(self, row: int) -> list[Candidate]:
        """One checkpoint's candidates, the weakest first."""
        columns = range(len(self.strengths))
        return [self.at[row, k] for k in columns if (row, k) in self.at]

    def training(self, column: int) -> list[Candidate]:
        """The candidates of one strength, in order of training."""
        rows = range(len(self.places))
        return [self.at[i, column] for i in rows if (i, column) in self.at]


def sides(candidates: Collection[Candidate]) -> list[Plane]:
    """The plane on each side of strength 0 that has candidates."""
    weaker = [c for c in candidates if (c.strength or 0) < 0]
    return [Plane(part) for part in (set(candidates) - set(weaker), weaker) if part]


def spread(count: int, about: int) -> list[int]:
    """About so many of the numbers below `count`, evenly spaced, the last among them."""
    step = max(1, -(-count // about))
    return [i for i in range(count) if (count - 1 - i) % step == 0]


def coarse_plane(candidates: Collection[Candidate]) -> list[Candidate]:
    """The candidates to look at first."""
    return [
        plane.at[i, k]
        for plane in sides(candidates)
        for i in spread(len(plane.places), PLACES)
        for k in spread(len(plane.strengths), STRENGTHS)
        if (i, k) in plane.at
    ]


def next_on_plane(
    candidates: Collection[Candidate],
    summaries: Sequence[Summary],
    verdict: Verdict,
    asked: Asked,
) -> tuple[Candidate, ...]:
    """The candidates to look at next; none when no better one can be expected.

    In turn: the breakdown above the recommended setting; of each checkpoint that was looked at, the
    strengths with more effect than that setting's, halved until one is found that is no choice; the
    checkpoints before and after it at equal effect; those between others, where not both are known
    to fail at more; what promises more nevertheless, as one that was no choice by chance has
    neighbours that are; at last where its training reaches the plateau.
    """
    pick = verdict.pick
    if pick is None or not pick.strength:
        return ()
    plane = next(one for one in sides(candidates) if pick in one.at.values())
    known = {s.candidate: s for s in summaries}
    step = _Step(plane, known, pick, "most_likeness" in verdict.why)
    if known[pick].beyond:
        found = {*step.weaker()}
    else:
        found = {*step.own(verdict.breakdown), *step.others(), *step.beside()}
        found = found or {*step.between()} or {*step.promising(asked)} or {*step.plateau()}
    return tuple(sorted(found, key=plane.where))


class _Step:
    """What is known of the plane now, and where `pick` is what would be recommended."""

    def __init__(
        self, plane: Plane, known: Mapping[Candidate, Summary], pick: Candidate, alike: bool
    ) -> None:
        self.plane, self.known, self.pick, self.alike = plane, known, pick, alike
        self.row, self.column = plane.where(pick)
        self.effect = effects(plane, known)
        self.aim = self._effect(pick)
        broken = [c for c, s in known.items() if s.state == "broken"]
        self.beyond = {c for c in plane.at.values() if any(before(b, c, "plane") for b in broken)}
        self.inside = {*plane.at.values()}
        here = self.inside & known.keys()
        self.looked = {plane.where(c)[0] for c in here}
        self.usable = {plane.where(c)[0] for c in here if known[c].rank is not None}

    def weaker(self) -> list[Candidate]:
        """Where all that was looked at is broken: less of each checkpoint, at last the least of the
        first one."""
        found = []
        for row in self.usable:
            line = self.plane.line(row)
            beyond = [i for i, c in enumerate(line) if c in self.known and self.known[c].beyond]
            if beyond:
                below = self._known_below(line, beyond[0])
                found += self._halved(line, below, beyond[0])
        least = self.plane.at[0, 0]
        return found or [c for c in [least] if c not in self.known]

    def own(self, breakdown: Candidate | None) -> list[Candidate]:
        """Of the recommended one's checkpoint: between it and the next known ones, and below the
        breakdown, along training where this checkpoint has none."""
        line = self.plane.line(self.row)
        at = line.index(self.pick)
        found = self._halved(line, at, self._known_above(line, at))
        if self.alike:
            found += self._halved(line, self._known_below(line, at), at)
        broken = [i for i, c in enumerate(line) if i > at and self._is(c, "broken")]
        if broken:
            return found + self._halved(line, self._known_below(line, broken[0]), broken[0])
        if line[-1] not in self.known:
            return [*found, next((c for c in line[at + 1 :] if c in self.beyond), line[-1])]
        training = self.plane.training(self.column)
        if breakdown in training:
            end = training.index(breakdown)
            return found + self._halved(training, self._known_below(training, end), end)
        return [*found, *(training[-1:] if training[-1] not in self.known else [])]

    def others(self) -> list[Candidate]:
        """Of each other checkpoint that was looked at, the middle of those that may be better:
        with more effect, and less than one that is known to be no choice."""
        found = []
        for row in self.usable - {self.row}:
            if self.alike:
                continue
            line = self.plane.line(row)
            more = [c for c in line if self._effect(c) > self.aim]
            worse = next((k for k, c in enumerate(more) if c in self.known), len(more))
            open_ = [c for c in more[:worse] if c not in self.beyond]
            if open_:
                ends = self.aim, self._effect(more[worse] if worse < len(more) else open_[-1])
                found.append(self._nearest(open_, sum(ends) / 2))
        return found

    def promising(self, asked: Asked) -> list[Candidate]:
        """Of at most `AT_ONCE` checkpoints the setting that may be expected to gain most effect
        over the recommended one: by how much it has more, times the chance that it is clean.

        Its quality is interpolated, and its interval taken to be as wide as the usual one.
        """
        margin = margin_of(asked.rank_by, asked.margin)
        sure = [s.diff_control for s in self.known.values() if s.state in ("clean", "unsure")]
        if self.alike or not sure or not math.isfinite(margin):
            return []
        sign = 1.0 if asked.better == "lower" else -1.0
        arm = float(np.median([(i.high - i.low) / 2 for i in sure]))
        worse = self._expected_change(sign)
        chance = ndtr((margin - worse - arm) / max(arm / 2, 1e-9))
        gain = np.clip(self.effect - self.aim, 0.0, None) * chance
        for candidate in self.known.keys() | self.beyond:
            if candidate in self.inside:
                gain[self.plane.where(candidate)] = 0.0
        rows = sorted(range(len(gain)), key=lambda row: -gain[row].max())[:AT_ONCE]
        best = [(row, int(gain[row].argmax())) for row in rows]
        return [self.plane.at[at] for at in best if gain[at] >= LEAST and at in self.plane.at]

    def _expected_change(self, sign: float) -> Array:
        """By how much the ranked metric is worse than the control's, of every setting: measured, or
        linear in the effect from 0 where there is none, and along training at equal effect."""
        rows = sorted(self.usable)
        along = np.zeros((len(rows), *self.effect.shape))
        for n, row in enumerate(rows):
            here = [c for c in self.plane.line(row) if c in self.known
                    and math.isfinite(self.known[c].diff_control.mean)]  # fmt: skip
            points = sorted((self._effect(c), sign * self.known[c].diff_control.mean) for c in here)
            x, y = np.array([(0.0, 0.0), *points]).T
            along[n] = np.interp(self.effect, x, y)
        found = np.empty(self.effect.shape)
        for i, k in np.ndindex(found.shape):
            found[i, k] = np.interp(i, rows, along[:, i, k])
        return found

    def beside(self) -> list[Candidate]:
        """Halfway to the checkpoints looked at before and after: the setting of equal effect."""
        found = []
        looked = sorted({-1, *self.looked, len(self.plane.places)})
        at = looked.index(self.row)
        for low, high in ((looked[at - 1], self.row), (self.row, looked[at + 1])):
            if high - low > 1:
                line = self.plane.line((low + high) // 2)
                allowed = [c for c in line if c not in self.beyond] or line[:1]
                found.append(self._nearest(allowed, self.aim))
        return found

    def between(self) -> list[Candidate]:
        """Halfway between two checkpoints that were looked at, not both of which are known to be no
        choice at more effect: the next setting with more than the recommended one's."""
        found = []
        for low, high in pairwise(sorted(self.looked)):
            if self.alike or high - low < 2 or self._fails(low) and self._fails(high):
                continue
            line = self.plane.line((low + high) // 2)
            more = [c for c in line if self._effect(c) > self.aim and c not in self.beyond]
            found += more[:1]
        return found

    def plateau(self) -> list[Candidate]:
        """Along training at the recommended strength: where the effect is largest, and where it
        is expected to reach `PLATEAU` of that, with the one before."""
        training = [c for c in self.plane.training(self.column) if c not in self.beyond]
        most = max(training, key=self._effect, default=None)
        if most is None:
            return []
        reached = [self._effect(c) >= PLATEAU * self._effect(most) for c in training]
        first = reached.index(True)
        return [c for c in (most, *training[max(0, first - 1) : first + 1]) if c not in self.known]

    def _fails(self, row: int) -> bool:
        return any(c in self.known and self._effect(c) > self.aim for c in self.plane.line(row))

    def _effect(self, candidate: Candidate) -> float:
        return float(self.effect[self.plane.where(candidate)])

    def _is(self, candidate: Candidate, state: str) -> bool:
        return candidate in self.known and self.known[candidate].state == state

    def _known_above(self, line: Sequence[Candidate], at: int) -> int:
        return next((i for i in range(at + 1, len(line)) if line[i] in self.known), at)

    def _known_below(self, line: Sequence[Candidate], at: int) -> int:
        return next((i for i in range(at - 1, -1, -1) if line[i] in self.known), -1)

    def _halved(self, line: Sequence[Candidate], low: int, high: int) -> list[Candidate]:
        """The one between two places of a line that is halfway in effect; none between next ones"""
        inside = line[low + 1 : high]
        if not inside:
            return []
        ends = self._effect(line[low]) if low >= 0 else 0.0, self._effect(line[high])
        return [self._nearest(inside, sum(ends) / 2)]

    def _nearest(self, some: Sequence[Candidate], effect: float) -> Candidate:
        """The middle one of those whose effect is nearest."""
        apart = [round(abs(self._effect(c) - effect), 6) for c in some]
        nearest = [c for c, off in zip(some, apart, strict=True) if off == min(apart)]
        return nearest[len(nearest) // 2]


def expected(
    candidates: Collection[Candidate],
    known: Mapping[Candidate, Summary],
    pick: Candidate | None,
) -> set[Candidate]:
    """Those whose effect is expected to be no larger than the pick's."""
    found: set[Candidate] = set()
    if pick is None:
        return found
    for plane in sides(candidates):
        effect = effects(plane, known)
        found |= {c for at, c in plane.at.items() if effect[at] <= known[pick].effect}
    return found


def effects(plane: Plane, known: Mapping[Candidate, Summary]) -> Array:
    """The effect of every setting, measured or expected: shape (checkpoints, strengths).

    Along the strengths a monotone cubic (Fritsch and Carlson 1980) from 0 at strength 0, for
    checkpoints that were looked at up to the strongest; between these, linear along training. A
    checkpoint with fewer settings known has its neighbours' curve, multiplied to fit them.
    """
    table = np.full((len(plane.places), len(plane.strengths)), np.nan)
    for candidate, summary in known.items():
        if plane.at.get(_where(plane, candidate)) == candidate and np.isfinite(summary.effect):
            table[plane.where(candidate)] = round(summary.effect, 6)
    strengths = np.array([float(s) for s in plane.strengths])
    have = np.isfinite(table)
    whole = [i for i in range(len(table)) if have[i, -1]]
    whole = whole or [i for i in range(len(table)) if have[i].any()]
    curves = {i: _curve(strengths, table[i]) for i in whole}
    found = np.zeros(table.shape)
    for i in range(len(table)):
        if i in curves:
            found[i] = curves[i]
            continue
        if curves:
            found[i] = [
                np.interp(i, whole, [curves[j][k] for j in whole]) for k in range(len(strengths))
            ]
        own = have[i] & (found[i] > 0)
        if own.any():
            found[i] *= np.interp(strengths, strengths[own], table[i, own] / found[i, own])
        found[i] = np.maximum.accumulate(found[i])
    return np.where(have, table, found)


def _size(candidate: Candidate) -> Decimal:
    return Decimal(0) if candidate.strength is None else abs(candidate.strength)


def _where(plane: Plane, candidate: Candidate) -> tuple[int, int]:
    try:
        return plane.where(candidate)
    except KeyError:
        return (-1, -1)


def _curve(strengths: Array, row: Array) -> Array:
    """The effect at all strengths from those known in one row, flat beyond the last."""
    from scipy.interpolate import PchipInterpolator

    have = np.isfinite(row)
    x = np.r_[0.0, strengths[have]]
    y = np.maximum.accumulate(np.r_[0.0, row[have]])
    return np.asarray(PchipInterpolator(x, y)(np.minimum(strengths, x[-1])))
