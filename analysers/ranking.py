"""The decision: which candidate, on what evidence, how far it is safe to go.

Parts of the rule (docs/statistics.md argues them):

1. Best: lowest mean of the ranked metric; within the tie tolerance the lower strength or earlier
   epoch wins. With one case there is nothing else to the choice.
2. Evidence: paired differences over the shared cases, from the best and from the control.
3. Safe range: a candidate is *clean* when the upper end of its interval is not above the control by
   more than the margin, *broken* when its mean is and it is surely worse than the control. Whatever
   lies beyond a broken candidate is not safe, even if the metric recovers there.
4. Effect, 1 - SSIM: the plateau along training and the zone between plateau and breakdown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysers import wording
from analysers.metrics.metric import declared
from analysers.scores import Tables, preference, tabulate
from analysers.statistics import (
    RESAMPLES,
    Bounds,
    clusters,
    differences_from_best,
    fill_missing,
    intervals,
    probability_of_best,
    row_means,
)
from analysers.study import Candidate, Interval, Kind, Score, State, Summary, Verdict

Array = NDArray[np.float64]

PLATEAU = 0.9
"""Share of the effect at which an epoch is said to have reached it."""

LIKENESS = "likeness"


def margin_of(metric: str, given: float | None = None) -> float:
    """The margin given, or the metric's own; NaN where it has none."""
    return declared(metric).margin if given is None else given


def decide(
    scores: Sequence[Score],
    *,
    kind: Kind,
    rank_by: str = "brisque",
    better: Literal["lower", "higher"] = "lower",
    tie_tolerance: float = 0.01,
    margin: float | None = None,
    noise_floor: Mapping[str, float] | None = None,
    likeness: Mapping[Candidate | None, float] | None = None,
    warnings: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[tuple[Summary, ...], Verdict]:
    """Rank the candidates of the score rows and say why.

    `margin` and `tie_tolerance` are in units of the ranked metric; without a margin that of the
    metric is taken, and by a metric that has none nothing is called clean or broken. `noise_floor`
    maps metric names to the difference below which none is called one
    (`analysers.checks.noise_floor`). `likeness` says how alike the pictures of different prompts
    are, per candidate and, under None, for the controls. `warnings` found elsewhere (trust,
    checks) lead those of the verdict.

    Returns the summaries in rank order, candidates that could not be ranked last, and the verdict.
    The result does not depend on the order of the rows.
    """
    tables = tabulate(scores, kind)
    everyone = tables.candidates
    sign = 1.0 if better == "lower" else -1.0
    empty = np.full(tables.rendered.shape, math.nan)
    loss = sign * tables.values.get(rank_by, empty)
    control = sign * tables.control.get(rank_by, empty)
    floor = float((noise_floor or {}).get(rank_by, 0.0))
    margin = margin_of(rank_by, margin)
    sampling = _Sampling(tables.prompts, resamples, seed)

    broken_pictures = _broken_pictures(tables, rank_by)
    filled = fill_missing(loss)
    level = row_means(filled)
    place = _choose(level, broken_pictures, tie_tolerance)
    metrics = _metric_intervals(tables, sampling, likeness or {})
    from_control = sampling.intervals(loss - control)
    states = _states(everyone, from_control, broken_pictures, margin, floor)
    beyond = _beyond(everyone, kind, states)

    nothing = Bounds(*(np.full(len(everyone), math.nan) for _ in range(3)))
    from_best, share = nothing, nothing.mean
    if place.best is not None:
        from_best = differences_from_best(
            loss, tables.prompts, place.best, resamples=resamples, seed=seed
        )
        fair = filled.copy()
        fair[[i for i in range(len(everyone)) if i not in place.eligible]] = math.nan
        share = probability_of_best(
            fair, tables.prompts, tolerance=tie_tolerance, resamples=resamples, seed=seed
        )
    summaries = []
    for i, candidate in enumerate(everyone):
        ranked = i in place.order
        missing = int((~np.isfinite(loss[i])).sum())
        summaries.append(
            Summary(
                candidate=candidate,
                rank=place.order.index(i) + 1 if ranked else None,
                n=int(np.isfinite(loss[i]).sum()),
                metrics=metrics[i],
                diff_best=_signed(from_best, i, sign) if ranked else Interval(math.nan),
                diff_control=_signed(from_control, i, sign),
                p_best=float(share[i]),
                tied=i in place.tied,
                best=i == place.best,
                contender=i in place.eligible
                and (i == place.best or not from_best.low[i] > max(floor, 0.0)),
                safe=None if not states[i] else states[i] == "clean" and not beyond[i],
                reason=_reason(
                    tables, i, missing, broken_pictures[i], sign * level[i] if ranked else None
                ),
                state=states[i],
            )
        )
    order = [*place.order, *(i for i in range(len(everyone)) if i not in place.order)]
    verdict = _verdict(everyone, kind, place, summaries, beyond, noise_floor or {})
    ranked_summaries = tuple(summaries[i] for i in order)
    units = len(np.unique(clusters(tables.prompts))) if len(tables.cases) else 0
    answer, sentences, own_warnings = wording.explain(
        ranked_summaries,
        verdict,
        wording.Setting(
            kind=kind,
            rank_by=rank_by,
            better=better,
            tie_tolerance=tie_tolerance,
            margin=margin,
            noise_floor=dict(noise_floor or {}),
            cases=len(tables.cases),
            prompts=len(np.unique(tables.prompts)),
            units=units,
            likeness=(likeness or {}).get(None, math.nan),
        ),
    )
    return ranked_summaries, replace(
        verdict, answer=answer, sentences=sentences, warnings=(*warnings, *own_warnings)
    )


@dataclass(frozen=True, eq=False)
class _Sampling:
    prompts: NDArray[np.intp]
    resamples: int
    seed: int

    def intervals(self, table: Array) -> Bounds:
        return intervals(table, self.prompts, resamples=self.resamples, seed=self.seed)


@dataclass(frozen=True)
class _Order:
    """Row numbers: all ranked, in rank order; those that may win; those tied; the winner."""

    order: tuple[int, ...]
    eligible: tuple[int, ...]
    tied: tuple[int, ...]
    best: int | None


def _choose(level: Array, broken_pictures: NDArray[np.intp], tolerance: float) -> _Order:
    """Rows are in order of preference, so the first of the tied wins.

    Candidates with pictures that have no score at all (black, solid) come after those without:
    leaving such pictures out of the mean would reward a LoRA for them.
    """
    ranked = [i for i in range(len(level)) if math.isfinite(level[i])]
    if not ranked:
        return _Order((), (), (), None)
    fewest = min(int(broken_pictures[i]) for i in ranked)
    eligible = [i for i in ranked if broken_pictures[i] == fewest]
    lowest = min(level[i] for i in eligible)
    tied = [i for i in eligible if level[i] <= lowest + tolerance + 1e-9]
    rest = sorted(
        (i for i in ranked if i not in tied), key=lambda i: (int(broken_pictures[i]), level[i], i)
    )
    return _Order((*tied, *rest), tuple(eligible), tuple(tied) if len(tied) > 1 else (), tied[0])


def _broken_pictures(tables: Tables, rank_by: str) -> NDArray[np.intp]:
    """Pictures per candidate in which the metric is undefined; cases that defeat everybody do not
    count."""
    undefined = tables.undefined.get(rank_by)
    if undefined is None or not len(undefined):
        return np.zeros(len(tables.candidates), dtype=np.intp)
    for_all = (undefined | ~tables.rendered).all(axis=0)
    return np.asarray((undefined & ~for_all).sum(axis=1), dtype=np.intp)


def _metric_intervals(
    tables: Tables, sampling: _Sampling, likeness: Mapping[Candidate | None, float]
) -> list[dict[str, Interval]]:
    found: list[dict[str, Interval]] = [{} for _ in tables.candidates]
    for name, table in tables.values.items():
        control = tables.control[name]
        declaration = declared(name)
        if declaration.aggregate == "ratio":
            known = (table > 0) & (control > 0)
            logs = np.full(table.shape, math.nan)
            logs[known] = np.log(table[known] / control[known])
            bounds = Bounds(*(np.exp(part) for part in sampling.intervals(logs)))
        elif declaration.aggregate == "change":
            bounds = sampling.intervals(table - control)
        else:
            # a similarity cannot leave its range, however few the cases
            bounds = sampling.intervals(table)
            bounds = Bounds(*(np.clip(part, *declaration.bounds) for part in bounds))
        for i, metrics in enumerate(found):
            metrics[declaration.summary] = Interval(*(float(part[i]) for part in bounds))
    for candidate, metrics in zip(tables.candidates, found, strict=True):
        if candidate in likeness:
            metrics[LIKENESS] = Interval(float(likeness[candidate]))
    return found


def _states(
    candidates: Sequence[Candidate],
    from_control: Bounds,
    broken_pictures: NDArray[np.intp],
    margin: float,
    floor: float,
) -> list[State]:
    """Clean, unsure or broken; by the mean alone where there is no interval."""
    limit = max(margin, floor)
    states: list[State] = []
    for i, candidate in enumerate(candidates):
        mean, low, high = (float(part[i]) for part in from_control)
        if broken_pictures[i]:
            states.append("broken")
        elif math.isnan(mean) or math.isnan(margin):
            states.append("")
        elif candidate.strength == 0:
            states.append("clean")
        elif math.isnan(high):
            states.append("clean" if mean <= limit else "broken")
        elif high <= limit:
            states.append("clean")
        else:
            states.append("broken" if mean > limit and low > floor else "unsure")
    return states


def _before(a: Candidate, b: Candidate, kind: Kind) -> bool:
    """Whether `a` applies no more of the LoRA than `b`: no stronger, no later in training."""
    if a == b:
        return False
    weaker = True
    if kind != "epochs" and a.strength is not None and b.strength is not None:
        weaker = abs(a.strength) <= abs(b.strength) and a.strength * b.strength >= 0
    return weaker and (kind == "strength" or a.place <= b.place)


def _beyond(candidates: Sequence[Candidate], kind: Kind, states: Sequence[State]) -> list[bool]:
    """Whether each candidate is broken or applies more of the LoRA than one that is."""
    broken = [c for c, state in zip(candidates, states, strict=True) if state == "broken"]
    return [c in broken or any(_before(b, c, kind) for b in broken) for c in candidates]


def _verdict(
    candidates: Sequence[Candidate],
    kind: Kind,
    place: _Order,
    summaries: Sequence[Summary],
    beyond: Sequence[bool],
    noise_floor: Mapping[str, float],
) -> Verdict:
    if place.best is None:
        return Verdict("")
    best = candidates[place.best]
    effect = _effects(summaries)
    plateau, zone = _zone(candidates, kind, best, effect, beyond, noise_floor)
    safe = [
        i
        for i, s in enumerate(summaries)
        if s.safe and s.candidate.strength != 0 and _same_side(s.candidate, best)
    ]
    strongest = max(safe, key=lambda i: _amount(candidates[i], kind, effect[i]), default=None)
    return Verdict(
        "",
        best=best,
        contenders=tuple(s.candidate for s in summaries if s.contender),
        strongest_clean=None if strongest is None else candidates[strongest],
        breakdown=_breakdown(best, kind, summaries),
        plateau=plateau,
        zone=zone,
    )


def _effects(summaries: Sequence[Summary]) -> list[float]:
    """1 - SSIM per candidate; NaN where SSIM was not measured."""
    return [1.0 - s.metrics.get("ssim", Interval(math.nan)).mean for s in summaries]


def _amount(candidate: Candidate, kind: Kind, effect: float) -> tuple[float, float, int]:
    """How much of the LoRA a candidate applies; on the plane the picture itself is the measure."""
    strength = 0.0 if candidate.strength is None else float(abs(candidate.strength))
    if kind == "strength":
        return (strength, 0.0, candidate.place)
    if kind == "epochs":
        return (float(candidate.place), strength, 0)
    return (effect if math.isfinite(effect) else -1.0, strength, candidate.place)


def _same_side(candidate: Candidate, best: Candidate) -> bool:
    """Whether both strengths are positive or both negative; beside 0 the positive side counts."""
    if candidate.strength is None or best.strength is None:
        return True
    return (candidate.strength < 0) == (best.strength < 0)


def _breakdown(best: Candidate, kind: Kind, summaries: Sequence[Summary]) -> Candidate | None:
    """The first broken candidate: up the strengths, along training, or on the plane through the
    best, first up in strength, then along training."""
    broken = [
        s.candidate
        for s in summaries
        if s.state == "broken" and s.candidate.strength != 0 and _same_side(s.candidate, best)
    ]
    if kind == "plane":
        column = [c for c in broken if c.place == best.place]
        row = [c for c in broken if c.strength == best.strength]
        broken, kind = (column, "strength") if column else (row, "epochs")
    return min(broken, key=lambda c: preference(c, kind), default=None)


def _zone(
    candidates: Sequence[Candidate],
    kind: Kind,
    best: Candidate,
    effect: Sequence[float],
    beyond: Sequence[bool],
    noise_floor: Mapping[str, float],
) -> tuple[Candidate | None, tuple[Candidate, ...]]:
    """Along training, at the best's strength: the first epoch that reaches 90 % of the largest
    effect before the breakdown, and the epochs from there to the breakdown.

    Beyond the breakdown the picture moves because it breaks, so that effect is nobody's aim.
    """
    if kind == "strength":
        return None, ()
    line = [
        i
        for i, c in enumerate(candidates)
        if (kind == "epochs" or c.strength == best.strength)
        and not beyond[i]
        and math.isfinite(effect[i])
    ]
    line.sort(key=lambda i: preference(candidates[i], "epochs"))
    reach = max((effect[i] for i in line), default=0.0)
    if len(line) < 2 or reach <= noise_floor.get("ssim", 0.0):
        return None, ()
    first = next(k for k, i in enumerate(line) if effect[i] >= PLATEAU * reach)
    return candidates[line[first]], tuple(candidates[i] for i in line[first:])


def _signed(bounds: Bounds, i: int, sign: float) -> Interval:
    mean, low, high = (float(part[i]) for part in bounds)
    return Interval(mean, low, high) if sign > 0 else Interval(-mean, -high, -low)


def _reason(tables: Tables, i: int, missing: int, broken_pictures: int, level: float | None) -> str:
    known = tables.reasons.get(tables.candidates[i], "")
    total = len(tables.cases)
    if level is None:
        if missing < total:
            return "shares no case with the others, so it cannot be compared"
        return known or "no picture could be scored"
    if not missing:
        return known
    if broken_pictures:
        text = f"{broken_pictures} of {total} pictures have no score"
    else:
        text = f"{missing} of {total} cases missing, ranked as {level:.4g} on all cases"
    return f"{text}: {known}" if known else text
