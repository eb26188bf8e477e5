"""The chooser that begins coarsely and refines where the answer lies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np

from analysers.racing import EARLY, STAGE_DOUBT, Asked, unseen_that_tell
from analysers.ranking import margin_of
from analysers.runs.chooser import Chooser, FullGrid, with_lora
from analysers.runs.plane import coarse_plane, expected, next_on_plane
from analysers.runs.race import Race, numbered_cases
from analysers.scores import before, preference, same_side
from analysers.statistics import ERROR
from analysers.study import Candidate, Kind, Left, Score, Summary, Verdict

C = TypeVar("C")

Unseen = Literal["beyond", "less", "more", "beside"]

FIRST = 5
"""About how many candidates are looked at first, evenly spaced, the last among them."""


@dataclass
class Refine(Chooser[C]):
    """Some candidates, then those between which the answer may move.

    Along one axis three gaps are halved until nothing lies in them: below the breakdown, above what
    is recommended, and below the plateau of a training. A gap is halved where the effect (1 - SSIM,
    interpolated, never falling) is: there a picture tells most. On the plane lines of equal effect
    say what comes next (`analysers.runs.plane`). Those that are looked at get all cases; with
    `races`, only as many as a race among them asks for, and at most `budget` pictures in all. Then
    the others are drawn too, and along one axis looked at where the answer turns on them.
    `rows` says of every cell of the fine grid which row of the scores it is.
    """

    rows: Mapping[C, Score]
    asked: Asked
    races: bool = False
    budget: int | None = None
    _between: dict[frozenset[Candidate], tuple[Candidate, ...]] = field(
        default_factory=dict, init=False
    )
    _chosen: set[Candidate] = field(default_factory=set, init=False)
    _stages: dict[frozenset[Candidate], Chooser[C]] = field(default_factory=dict, init=False)
    _unseen: Mapping[str, int] = field(default_factory=dict, init=False)
    _sure: float = field(default=math.nan, init=False)

    def __post_init__(self) -> None:
        self._line = sorted(
            with_lora(self.rows.values()),
            key=lambda candidate: preference(candidate, self.asked.kind),
        )

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """The cells of the next candidates; none when no gap is left."""
        plane = self.asked.kind == "plane"
        self._chosen = set(coarse_plane(self._line) if plane else coarse(self._line))
        before: Chooser[C] | None = None
        while True:
            known = frozenset(self._chosen)
            stage = self._stages.get(known) or self._stage(before)
            before = self._stages[known] = stage
            missing = stage.ask(scores)
            if missing or self._spent(stage):
                return missing
            if known not in self._between:
                seen = [scores[cell] for cell in self._cells() if cell in scores]
                self._between[known] = self._gaps(seen)
            if not self._between[known]:
                return []
            self._sure = math.nan
            self._chosen.update(self._between[known])

    def record(self) -> Left:
        """How many cells of the fine grid were asked for, what the last race left out, and why the
        other candidates were not looked at."""
        last = self._stages.get(frozenset(self._chosen))
        raced = last.record() if last else None
        if raced is None:
            return Left(len(self.rows), len(self._cells()), unseen=dict(self._unseen))
        unseen = {} if raced.over_budget else dict(self._unseen)
        sure = raced.sure if math.isnan(self._sure) else round(self._sure, 3)
        return replace(raced, cells=len(self.rows), unseen=unseen, sure=sure)

    def _stage(self, before: Chooser[C] | None) -> Chooser[C]:
        """Who asks for the cells of those that are looked at now; a race goes on where the one
        `before` ended."""
        cells = self._cells()
        if not self.races:
            return FullGrid(list(cells))
        given = before.given if isinstance(before, Race) else {}
        return Race(cells, self.asked, self.budget, given, STAGE_DOUBT)

    def _spent(self, stage: Chooser[C]) -> bool:
        record = stage.record()
        return record is not None and record.over_budget

    def _cells(self) -> dict[C, Score]:
        return {cell: row for cell, row in self.rows.items() if self._wanted(row.candidate)}

    def _wanted(self, candidate: Candidate | None) -> bool:
        return candidate is None or candidate.strength == 0 or candidate in self._chosen

    def _gaps(self, seen: Sequence[Score]) -> tuple[Candidate, ...]:
        summaries, verdict = self.asked.decide(seen, ERROR - EARLY if self.races else ERROR)
        self._unseen = Counter(passed_over(self._line, summaries, verdict, self.asked.kind))
        if self.asked.kind == "plane":
            return next_on_plane(self._line, summaries, verdict, self.asked)
        found = between(self._line, summaries, verdict)
        found = found or tuple(stronger(self._line, summaries, verdict, self.asked)[:1])
        return found or (self._wider(seen, summaries, verdict) if self.races else ())

    def _wider(
        self, seen: Sequence[Score], summaries: Sequence[Summary], verdict: Verdict
    ) -> tuple[Candidate, ...]:
        """A quarter of the others, of those on which the answer turns: none where it is settled."""
        unseen = [one for one in self._line if one not in self._chosen]
        cases = numbered_cases(self.rows.values())
        self._sure, more = unseen_that_tell(seen, summaries, verdict, self.asked, cases, unseen)
        return more[: max(FIRST, len(unseen) // 4)]


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
        below = [i for i in known if i < place[verdict.pick]]
        if below and "most_effect" not in verdict.why:
            gaps.append((below[-1], place[verdict.pick]))
    found = {halfway(low, high, effect) for low, high in gaps if high - low > 1}
    return tuple(line[i] for i in sorted(found))


def stronger(
    line: Sequence[Candidate], summaries: Sequence[Summary], verdict: Verdict, asked: Asked
) -> list[Candidate]:
    """Those that nobody looked at and that apply more of the LoRA than what is recommended, the
    most first: of many that are level the strongest is asked for, and one that was no choice by
    chance has neighbours that are.

    Left out is what lies beyond one that breaks, and where the ranked metric, interpolated, is
    worse than the control by more than the margin. Where references tell there are none.
    """
    pick, margin = verdict.pick, margin_of(asked.rank_by, asked.margin)
    if pick is None:
        return []
    known = {s.candidate: s for s in summaries if s.rank is not None}
    if pick not in line or "most_likeness" in verdict.why or not math.isfinite(margin):
        return []
    sign = 1.0 if asked.better == "lower" else -1.0
    side = [one for one in line if same_side(one, pick)]
    places = [i for i, one in enumerate(side) if one in known]
    worse = [sign * known[side[i]].diff_control.mean for i in places]
    broken = [s.candidate for s in summaries if s.state == "broken"]
    return [
        side[i]
        for i in range(len(side) - 1, side.index(pick), -1)
        if side[i] not in known
        and not any(before(b, side[i], asked.kind) for b in broken)
        and not np.interp(i, places, worse) > margin
    ]


def passed_over(
    candidates: Sequence[Candidate], summaries: Sequence[Summary], verdict: Verdict, kind: Kind
) -> Iterator[Unseen]:
    """Why each candidate that was not looked at was not: it lies beyond what breaks, has less
    effect than what is recommended, or more but will hardly be clean; where references tell, it
    lies beside one that is less like them."""
    known = {s.candidate: s for s in summaries}
    broken = [c for c, s in known.items() if s.state == "broken"]
    weaker = expected(candidates, known, verdict.pick) if kind == "plane" else None
    for one in candidates:
        if one in known:
            continue
        if any(before(b, one, kind) for b in broken):
            yield "beyond"
        elif verdict.pick is None or "most_likeness" in verdict.why:
            yield "beside"
        elif one in weaker if weaker is not None else before(one, verdict.pick, kind):
            yield "less"
        else:
            yield "more"


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
