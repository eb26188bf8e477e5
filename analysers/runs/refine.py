"""The chooser that begins coarsely and refines where the answer lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from analysers.racing import Asked
from analysers.runs.chooser import ChoiceRecord, Chooser, with_lora
from analysers.scores import preference
from analysers.study import Candidate, Score, Summary, Verdict

C = TypeVar("C")

FIRST = 5
"""About how many candidates are looked at first, evenly spaced, the last among them."""


@dataclass
class Refine(Chooser[C]):
    """Some candidates along one axis, then those between which the answer may move.

    Three gaps are halved until nothing lies in them: below the breakdown, above what is
    recommended, and below the plateau of a training. A gap is halved where the effect (1 - SSIM,
    interpolated, never falling) is: there a picture tells most. Every candidate that is looked at
    gets all cases. `rows` says of every cell of the fine grid which row of the scores it is.
    """

    rows: Mapping[C, Score]
    asked: Asked
    _between: dict[frozenset[Candidate], tuple[Candidate, ...]] = field(
        default_factory=dict, init=False
    )
    _chosen: set[Candidate] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._line = sorted(
            with_lora(self.rows.values()),
            key=lambda candidate: preference(candidate, self.asked.kind),
        )

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """The cells of the next candidates; none when no gap is left."""
        self._chosen = set(coarse(self._line))
        while True:
            cells = [c for c, row in self.rows.items() if self._wanted(row.candidate)]
            missing = [cell for cell in cells if cell not in scores]
            if missing:
                return missing
            known = frozenset(self._chosen)
            if known not in self._between:
                self._between[known] = self._gaps([scores[cell] for cell in cells])
            if not self._between[known]:
                return []
            self._chosen.update(self._between[known])

    def record(self) -> ChoiceRecord:
        """How many cells of the fine grid were asked for."""
        asked = sum(self._wanted(row.candidate) for row in self.rows.values())
        return ChoiceRecord(len(self.rows), asked, (), {})

    def _wanted(self, candidate: Candidate | None) -> bool:
        return candidate is None or candidate.strength == 0 or candidate in self._chosen

    def _gaps(self, seen: Sequence[Score]) -> tuple[Candidate, ...]:
        summaries, verdict = self.asked.decide(seen)
        return between(self._line, summaries, verdict)


def coarse(line: Sequence[Candidate]) -> list[Candidate]:
    """About `FIRST` of the candidates, evenly spaced, the last among them."""
    step = max(1, len(line) // FIRST)
    return [c for i, c in enumerate(line) if (len(line) - 1 - i) % step == 0]


def between(
    line: Sequence[Candidate], summaries: Sequence[Summary], verdict: Verdict
) -> tuple[Candidate, ...]:
    """The candidates of the line that are to be looked at next; none when no gap is left."""
    place = {candidate: i for i, candidate in enumerate(line)}
    known = sorted(place[s.candidate] for s in summaries if s.candidate in place)
    effect = {place[s.candidate]: s.effect for s in summaries if s.candidate in place}
    gaps = []
    for upper in (verdict.breakdown, verdict.plateau):
        if upper in place:
            below = [i for i in known if i < place[upper]]
            gaps.append((below[-1] if below else -1, place[upper]))
    if verdict.pick in place:
        above = [i for i in known if i > place[verdict.pick]]
        if above:
            gaps.append((place[verdict.pick], above[0]))
    found = {halfway(low, high, effect) for low, high in gaps if high - low > 1}
    return tuple(line[i] for i in sorted(found))


def halfway(low: int, high: int, effect: Mapping[int, float]) -> int:
    """The place between two where the effect, interpolated, is halfway between theirs.

    `effect` holds places with finite effects; `low` may be -1, where there is none.
    """
    from scipy.interpolate import PchipInterpolator

    points = {-1: 0.0, **{i: e for i, e in effect.items() if np.isfinite(e)}}
    x = np.array(sorted(points))
    y = np.maximum.accumulate([round(points[i], 6) for i in x])
    if low not in points or high not in points or y[-1] == y[0]:
        return (low + high) // 2
    curve = PchipInterpolator(x, y)
    inside = np.arange(low + 1, high)
    middle = (curve(low) + curve(high)) / 2
    return int(inside[np.abs(curve(inside) - middle).argmin()])
