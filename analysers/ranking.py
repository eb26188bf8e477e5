"""The decision: what to use, on what evidence, how far it is safe to go.

Parts of the rule (docs/statistics.md argues them):

1. Best: lowest mean of the ranked metric; within the tie tolerance the lower strength or earlier
   epoch wins.
2. Evidence: paired differences over the shared cases, from the best and from the control.
3. Safe range: a candidate is *clean* when the upper end of its interval is not above the control by
   more than the margin, *broken* when its mean is and it is surely worse than the control, all
   candidates counted. Whatever lies beyond a broken candidate is not safe, even if the metric
   recovers there. One case decides neither.
4. Effect, 1 - SSIM: the plateau along training and the zone between plateau and breakdown.
5. Recommendation: of the candidates that are not beyond a breakdown, those that cannot be told from
   the first of them; of these, the clean one with the most effect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysers import wording
from analysers.criteria import choose, criteria
from analysers.metrics.metric import declared
from analysers.scores import (
    Tables,
    amount,
    before,
    compared,
    preference,
    same_side,
    tabulate,
)
from analysers.statistics import (
    ERROR,
    MIN_UNITS,
    RESAMPLES,
    Bounds,
    clusters,
    differences_from_best,
    fill_missing,
    freedoms,
    intervals,
    probability_of_best,
    row_means,
    surely_above,
)
from analysers.study import (
    FORMAT,
    Candidate,
    Confidence,
    Interval,
    Kind,
    Score,
    Sentence,
    State,
    Study,
    Summary,
    Verdict,
)

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
    error: float = ERROR,
    stopped: Collection[Candidate] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[tuple[Summary, ...], Verdict]:
    """Rank the candidates of the score rows and say why.

    `margin` and `tie_tolerance` are in units of the ranked metric; without a margin that of the
    metric is taken, and by a metric that has none nothing is called clean or broken. `noise_floor`
    maps metric names to the difference below which none is called one
    (`analysers.checks.noise_floor`). `likeness` says how alike the pictures of different prompts
    are, per candidate and, under None, for the controls. `warnings` found elsewhere (trust,
    checks) lead those of the verdict. `error` is the chance of a false finding that is allowed
    (`analysers.statistics.ERROR`); the intervals that are shown do not depend on it. `stopped`
    are candidates that were given fewer cases on purpose; what they were not given is not missing.

    Returns the summaries in rank order, candidates that could not be ranked last, and the verdict.
    The result does not depend on the order of the rows.
    """
    tables = tabulate(scores, kind)
    given = Counter(row.candidate for row in {(r.candidate, r.case): r for r in scores}.values())
    setting = wording.Setting(
        kind=kind,
        rank_by=rank_by,
        better=better,
        tie_tolerance=tie_tolerance,
        margin=margin_of(rank_by, margin),
        noise_floor=dict(noise_floor or {}),
        cases=len(tables.cases),
        prompts=len(np.unique(tables.prompts)),
        units=len(np.unique(clusters(tables.prompts))) if len(tables.cases) else 0,
        likeness=(likeness or {}).get(None, math.nan),
        stopped={c: given[c] for c in tables.candidates if c in stopped},
    )
    sampling = _Sampling(tables.prompts, error, resamples, seed)
    empty = np.full(tables.rendered.shape, math.nan)
    sign = 1.0 if better == "lower" else -1.0
    loss = sign * tables.values.get(rank_by, empty)
    change = loss - sign * tables.control.get(rank_by, empty)
    broken = _broken_pictures(tables, rank_by)
    place = _choose(row_means(fill_missing(loss)), broken, tie_tolerance)
    metrics = _metric_intervals(tables, sampling, likeness or {})
    summaries = _summaries(tables, loss, change, metrics, broken, place, setting, sampling)
    verdict = _verdict(loss, place, summaries, setting, sampling)
    if setting.units >= 2:
        marked = [bool(wording.signs_seen(s, setting.likeness)) for s in summaries]
        ranges = criteria(tables, summaries, marked, rank_by, sampling.intervals)
        verdict = choose(verdict, ranges, tables, summaries, kind)
    order = [*place.order, *(i for i in range(len(summaries)) if i not in place.order)]
    ranked = tuple(summaries[i] for i in order)
    found = tuple(Sentence("caution", "found", text) for text in warnings)
    return ranked, replace(verdict, sentences=wording.explain(ranked, verdict, setting, found))


def _summaries(
    tables: Tables,
    loss: Array,
    change: Array,
    metrics: Sequence[Mapping[str, Interval]],
    broken: NDArray[np.intp],
    place: _Order,
    setting: wording.Setting,
    sampling: _Sampling,
) -> list[Summary]:
    """A summary of each candidate, in the tables' order. `loss` (lower is better) and its `change`
    from the control have shape (candidates, cases); `broken` counts undefined pictures."""
    everyone, kind, floor = tables.candidates, setting.kind, setting.floor
    sign = 1.0 if setting.better == "lower" else -1.0
    level = row_means(fill_missing(loss))
    from_control = sampling.intervals(change)
    lines = [[i for i in line if not broken[i]] for line in along(everyone, kind)]
    freedom = freedoms(change, tables.prompts)
    worse = surely_above(from_control, freedom, lines, floor, sampling.error)
    margin = max(setting.margin, floor)
    states = _states(everyone, from_control, worse, broken, margin, setting.units)
    beyond = _beyond(everyone, kind, states)
    from_best, share = _against_best(loss, place, setting, sampling)
    summaries = []
    for i, candidate in enumerate(everyone):
        ranked = i in place.order
        n = int(np.isfinite(loss[i]).sum())
        missing = setting.stopped.get(candidate, len(tables.cases)) - n
        leads = i == place.best or not from_best.low[i] > max(floor, 0.0)
        mean = sign * level[i] if ranked else None
        summaries.append(
            Summary(
                candidate=candidate,
                rank=place.order.index(i) + 1 if ranked else None,
                n=n,
                metrics=metrics[i],
                diff_best=_signed(from_best, i, sign) if ranked else Interval(math.nan),
                diff_control=_signed(from_control, i, sign),
                p_best=float(share[i]),
                tied=i in place.tied,
                best=i == place.best,
                contender=i in place.eligible and leads,
                safe=None if not states[i] else states[i] == "clean" and not beyond[i],
                reason=_reason(tables, i, missing, broken[i], mean),
                state=states[i],
                beyond=beyond[i],
                missing=missing,
                unscored=int(broken[i]),
            )
        )
    return summaries


def _against_best(
    loss: Array, place: _Order, setting: wording.Setting, sampling: _Sampling
) -> tuple[Bounds, Array]:
    """Each candidate's difference from the best, and its chance to be first; NaN without one."""
    if place.best is None:
        nothing = Bounds(*(np.full(len(loss), math.nan) for _ in range(3)))
        return nothing, nothing.mean
    fair = fill_missing(loss).copy()
    fair[[i for i in range(len(loss)) if i not in place.eligible]] = math.nan
    share = probability_of_best(
        fair,
        sampling.prompts,
        tolerance=setting.tie_tolerance,
        resamples=sampling.resamples,
        seed=sampling.seed,
    )
    return sampling.from_best(loss, place.best), share


def _verdict(
    loss: Array,
    place: _Order,
    summaries: Sequence[Summary],
    setting: wording.Setting,
    sampling: _Sampling,
) -> Verdict:
    """The verdict as data, without sentences."""
    if place.best is None:
        return Verdict()
    units, floors = setting.units, setting.noise_floor
    marked = [bool(wording.signs_seen(s, setting.likeness)) for s in summaries]
    pool = _pool(loss, sampling, place, summaries, setting.floor) if units >= 2 else ()
    pick, why = _recommend(pool, place, summaries, marked, setting.kind, units, floors)
    verdict = Verdict(
        best=summaries[place.best].candidate,
        recommended=None if pick is None else summaries[pick].candidate,
        level=tuple(summaries[i].candidate for i in pool),
        why=why,
        confidence=_confidence(pick, pool, place, summaries, setting.prompts),
        contenders=tuple(s.candidate for s in summaries if s.contender),
    )
    return _ranges(verdict, setting.kind, summaries, floors) if units >= 2 else verdict


def decide_again(study: Study) -> Study:
    """A study of an earlier format with summaries and verdict decided anew from its scores.

    Its cautions are not carried over, as its sentences do not tell which still hold; the trust
    check's is made anew from its evidence.
    """
    likeness: dict[Candidate | None, float] = {
        s.candidate: s.metrics[LIKENESS].mean for s in study.summaries if LIKENESS in s.metrics
    }
    trust = study.evidence.trust
    summaries, verdict = decide(
        study.scores,
        kind=study.kind,
        rank_by=study.rank_by,
        better=study.better,
        tie_tolerance=study.tie_tolerance,
        margin=study.margin,
        noise_floor=study.evidence.floor,
        likeness=likeness,
        warnings=(
            "This study was made by an earlier version: the answer was found anew in its scores.",
            *([trust.sentence] if trust and not trust.trusted else []),
        ),
    )
    return replace(study, summaries=summaries, verdict=verdict, format=FORMAT)


@dataclass(frozen=True, eq=False)
class _Sampling:
    prompts: NDArray[np.intp]
    error: float
    resamples: int
    seed: int

    def intervals(self, table: Array) -> Bounds:
        return intervals(table, self.prompts, resamples=self.resamples, seed=self.seed)

    def from_best(self, table: Array, best: int) -> Bounds:
        return differences_from_best(
            table,
            self.prompts,
            best,
            error=self.error,
            resamples=self.resamples,
            seed=self.seed,
        )


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
    for name in tables.values:
        declaration = declared(name)
        bounds = sampling.intervals(compared(tables, declaration))
        if declaration.aggregate == "ratio":
            bounds = Bounds(*(np.exp(part) for part in bounds))
        elif declaration.aggregate == "mean":
            # a similarity cannot leave its range, however few the cases
            bounds = Bounds(*(np.clip(part, *declaration.bounds) for part in bounds))
        for i, metrics in enumerate(found):
            metrics[declaration.summary] = Interval(*(float(part[i]) for part in bounds))
    for candidate, metrics in zip(tables.candidates, found, strict=True):
        if candidate in likeness:
            metrics[LIKENESS] = Interval(float(likeness[candidate]))
    return found


def along(candidates: Sequence[Candidate], kind: Kind) -> list[list[int]]:
    """Rows along which damage is expected to grow, the most of the LoRA last.

    Up the strengths from 0, each side for itself, or along training. On the plane there are as many
    lines as the shorter axis has values. Strength 0 is in none.
    """
    rows = [i for i, c in enumerate(candidates) if c.strength != 0]
    side = {i: (candidates[i].strength or 0) < 0 for i in rows}
    strengths = {candidates[i].strength for i in rows}
    by_place = kind == "plane" and len({candidates[i].place for i in rows}) < len(strengths)
    lines: dict[object, list[int]] = {}
    for i in rows:
        c = candidates[i]
        if kind == "plane":
            key: object = (c.place, side[i]) if by_place else c.strength
        else:
            key = side[i] if kind == "strength" else None
        lines.setdefault(key, []).append(i)
    by: Kind = "strength" if kind == "strength" or by_place else "epochs"
    return [sorted(line, key=lambda i: preference(candidates[i], by)) for line in lines.values()]


def _states(
    candidates: Sequence[Candidate],
    from_control: Bounds,
    worse: NDArray[np.bool_],
    broken_pictures: NDArray[np.intp],
    limit: float,
    units: int,
) -> list[State]:
    """Clean, unsure or broken; one case (unit) leaves all unsure but pictures without a score."""
    states: list[State] = []
    for i, candidate in enumerate(candidates):
        mean, high = float(from_control.mean[i]), float(from_control.high[i])
        if broken_pictures[i]:
            states.append("broken")
        elif math.isnan(mean) or math.isnan(limit):
            states.append("")
        elif units < 2:
            states.append("unsure")
        elif candidate.strength == 0 or high <= limit:
            states.append("clean")
        else:
            states.append("broken" if mean > limit and worse[i] else "unsure")
    return states


def _beyond(candidates: Sequence[Candidate], kind: Kind, states: Sequence[State]) -> list[bool]:
    """Whether each candidate is broken or applies more of the LoRA than one that is."""
    broken = [c for c, state in zip(candidates, states, strict=True) if state == "broken"]
    return [c in broken or any(before(b, c, kind) for b in broken) for c in candidates]


def _ranges(
    verdict: Verdict,
    kind: Kind,
    summaries: Sequence[Summary],
    noise_floor: Mapping[str, float],
) -> Verdict:
    """The verdict with clean range, breakdown and zone: on the side, on the plane through the
    setting, of what is recommended, else of the best."""
    pick = verdict.pick
    assert pick is not None
    effect = [s.effect for s in summaries]
    plateau, zone = _zone(summaries, kind, pick, effect, noise_floor)
    safe = [
        i
        for i, s in enumerate(summaries)
        if s.safe and s.candidate.strength != 0 and same_side(s.candidate, pick)
    ]
    strongest = max(
        safe, key=lambda i: amount(summaries[i].candidate, kind, effect[i]), default=None
    )
    return replace(
        verdict,
        strongest_clean=None if strongest is None else summaries[strongest].candidate,
        breakdown=_breakdown(pick, kind, summaries),
        plateau=plateau,
        zone=zone,
    )


def _pool(
    loss: Array,
    sampling: _Sampling,
    place: _Order,
    summaries: Sequence[Summary],
    floor: float,
) -> tuple[int, ...]:
    """Rows that use the LoRA, are not beyond a breakdown, and cannot be told from the first such.

    In rank order, so that the first leads.
    """
    allowed = [
        i for i in place.order if not summaries[i].beyond and summaries[i].candidate.strength != 0
    ]
    if not allowed or allowed[0] == place.best:
        return tuple(i for i in allowed if summaries[i].contender)
    low = sampling.from_best(loss[allowed], 0).low
    return tuple(i for k, i in enumerate(allowed) if k == 0 or not float(low[k]) > max(floor, 0.0))


def _recommend(
    pool: Sequence[int],
    place: _Order,
    summaries: Sequence[Summary],
    marked: Sequence[bool],
    kind: Kind,
    units: int,
    noise_floor: Mapping[str, float],
) -> tuple[int | None, tuple[str, ...]]:
    """The row to use, and why (`Verdict.why`). `marked` rows show signs of over-cooking."""
    if not any(summaries[i].candidate.strength != 0 for i in place.order):
        return None, ("no_lora",)
    if units < 2:
        return None, ("one_case",)
    if not pool:
        return None, ("all_broken",)
    why = []
    effect = [s.effect for s in summaries]
    clean = [i for i in pool if summaries[i].state == "clean"]
    if len(pool) == 1:
        pick = pool[0]
        why.append("alone")
    elif clean:
        calm = [i for i in clean if not marked[i]] or clean
        same = noise_floor.get("ssim", 0.0)

        def lora(i: int) -> tuple[float, ...]:
            return amount(summaries[i].candidate, kind, effect[i])

        if all(math.isfinite(effect[i]) for i in clean):
            most = max(effect[i] for i in calm)
            pick = min(i for i in calm if effect[i] >= most - same)
            if any(effect[i] > most + same for i in clean):
                why.append("signs")
        else:
            pick = max(calm, key=lora)
            if max(clean, key=lora) not in calm:
                why.append("signs")
        why.insert(0, "most_effect")
    else:
        pick = pool[0]
        why.append("lowest")
    if place.best is not None and summaries[place.best].beyond:
        why.append("best_beyond")
    elif place.best is not None and summaries[place.best].candidate.strength == 0:
        why.append("best_without_lora")
    return pick, tuple(why)


def _confidence(
    pick: int | None,
    pool: Sequence[int],
    place: _Order,
    summaries: Sequence[Summary],
    prompts: int,
) -> Confidence:
    """In the recommendation: "high" takes separation from all others and enough prompts."""
    if pick is None:
        return "none"
    few = prompts < MIN_UNITS
    share = summaries[pick].p_best
    if len(pool) == 1 and pick == place.best and share >= 0.75:
        return "moderate" if few else "high" if share >= 0.95 else "good"
    return "low" if few or summaries[pick].state != "clean" else "moderate"


def _breakdown(pick: Candidate, kind: Kind, summaries: Sequence[Summary]) -> Candidate | None:
    """The first broken candidate: up the strengths, along training, or on the plane through the
    pick, first up in strength, then along training."""
    broken = [
        s.candidate
        for s in summaries
        if s.state == "broken" and s.candidate.strength != 0 and same_side(s.candidate, pick)
    ]
    if kind == "plane":
        column = [c for c in broken if c.place == pick.place]
        row = [c for c in broken if c.strength == pick.strength]
        broken, kind = (column, "strength") if column else (row, "epochs")
    return min(broken, key=lambda c: preference(c, kind), default=None)


def _zone(
    summaries: Sequence[Summary],
    kind: Kind,
    pick: Candidate,
    effect: Sequence[float],
    noise_floor: Mapping[str, float],
) -> tuple[Candidate | None, tuple[Candidate, ...]]:
    """Along training, at the pick's strength: the first epoch that reaches 90 % of the largest
    effect before the breakdown, and the epochs from there to the breakdown that are clean (all of
    them where nothing says which are).

    Beyond the breakdown the picture moves because it breaks, so that effect is nobody's aim.
    """
    if kind == "strength":
        return None, ()
    line = [
        i
        for i, s in enumerate(summaries)
        if (kind == "epochs" or s.candidate.strength == pick.strength)
        and not s.beyond
        and math.isfinite(effect[i])
    ]
    line.sort(key=lambda i: preference(summaries[i].candidate, "epochs"))
    reach = max((effect[i] for i in line), default=0.0)
    if len(line) < 2 or reach <= noise_floor.get("ssim", 0.0):
        return None, ()
    first = next(k for k, i in enumerate(line) if effect[i] >= PLATEAU * reach)
    zone = [summaries[i] for i in line[first:] if summaries[i].state in ("", "clean")]
    return summaries[line[first]].candidate, tuple(s.candidate for s in zone)


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
