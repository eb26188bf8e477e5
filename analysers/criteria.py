"""A recommendation by several criteria, none of which is weighed against another.

Each criterion says of every candidate whether it is still as good as it has to be, by an interval
of paired differences. What is inside all ranges can be recommended; where nothing is, the trade-off
is shown: the candidates that no other surpasses in everything (the Pareto front).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from analysers.likeness import COPYING, HELD_OUT, LIKENESS, nearer
from analysers.metrics.metric import Declaration, declared
from analysers.scores import Tables, amount
from analysers.statistics import Array, Bounds, row_means
from analysers.study import Candidate, Criterion, Kind, Summary, Verdict

Intervals = Callable[[Array], Bounds]

BY_HEART = 0.05
"""SSIM by which training pictures may be nearer than held-out ones: no more than 0.03 were found of
a LoRA that never saw them, 0.08 where the first two pictures were repeated (docs/metrics.md)."""


def criteria(
    tables: Tables,
    summaries: Sequence[Summary],
    marked: Sequence[bool],
    rank_by: str,
    intervals: Intervals,
) -> tuple[Criterion, ...]:
    """The ranked metric's range and those of the other metrics that have one; none where the
    ranked metric is the only one. `summaries` are in the tables' order; `marked` ones show signs of
    over-cooking, and are out of range in quality unless all clean ones do.

    A metric with a direction and a margin has one: surely no worse than the control by more than
    the margin; none where no picture can be compared. Of likeness to references it is the plateau:
    not surely less than the most alike of the candidates whose quality is in range and that do not
    know training pictures by heart. That is out of range too, where held-out pictures tell: what is
    surely nearer to training pictures, and by more than `BY_HEART` (`likeness.nearer`).
    """
    using = [i for i, s in enumerate(summaries) if s.candidate.strength != 0]
    safe = [i for i in using if summaries[i].safe]
    good = [i for i in safe if not marked[i]] or safe
    found = []
    alike = good
    if {COPYING, HELD_OUT} <= tables.values.keys():
        known = intervals(nearer(tables))
        inside = [i for i in using if not (known.low[i] > 0 and known.mean[i] > BY_HEART)]
        found.append(Criterion(COPYING, tuple(summaries[i].candidate for i in inside)))
        alike = [i for i in good if i in inside]
    for name in sorted(tables.values):
        declaration = declared(name)
        if name == rank_by or declaration.better is None or not _judges(declaration):
            continue
        if _tells_likeness(name):
            if not alike:
                continue
            worth = _worth(declaration, tables.values[name])
            level = row_means(worth)
            first = max(alike, key=lambda i: level[i] if math.isfinite(level[i]) else -math.inf)
            behind = intervals(worth - worth[first])
            inside = [i for i in using if i == first or not behind.high[i] < 0]
        else:
            gain = gained(tables, declaration)
            if not np.isfinite(gain).any():
                continue
            change = intervals(gain)
            inside = [i for i in using if change.low[i] >= -declaration.margin]
        found.append(Criterion(name, tuple(summaries[i].candidate for i in inside)))
    if not found:
        return ()
    return (Criterion(rank_by, tuple(summaries[i].candidate for i in good)), *found)


def from_control(tables: Tables, rank_by: str) -> list[Declaration]:
    """The metrics beside the ranked one whose range is a margin from the control."""
    return [
        declaration
        for declaration in map(declared, sorted(tables.values))
        if declaration.name != rank_by
        and declaration.better is not None
        and math.isfinite(declaration.margin)
        and not _tells_likeness(declaration.name)
        and np.isfinite(gained(tables, declaration)).any()
    ]


def gained(tables: Tables, declaration: Declaration) -> Array:
    """How much better than the control's each value is, of shape (candidates, cases)."""
    values, control = tables.values[declaration.name], tables.control[declaration.name]
    return _worth(declaration, values) - _worth(declaration, control)


def by_references(tables: Tables) -> bool:
    """Whether reference pictures tell what is recommended: the most alike, not the most effect."""
    return any(_tells_likeness(name) or name == COPYING for name in tables.values)


def choose(
    verdict: Verdict,
    found: Sequence[Criterion],
    tables: Tables,
    summaries: Sequence[Summary],
    kind: Kind,
) -> Verdict:
    """The verdict with the candidate that is inside all ranges and has the most likeness, or else
    the most effect; without one where the ranges do not meet."""
    if not found or verdict.recommended is None:
        return replace(verdict, criteria=tuple(found))
    at = {s.candidate: i for i, s in enumerate(summaries)}
    everywhere = set.intersection(*(set(one.inside) for one in found))
    if not everywhere:
        return replace(
            verdict, recommended=None, why=("ranges_apart",), confidence="none",
            criteria=tuple(found), front=_front(found, tables, summaries),
        )  # fmt: skip
    likeness = next((one.name for one in found if one.name.partition(":")[0] == LIKENESS), "")

    def most(candidate: Candidate) -> tuple[float, ...]:
        summary = summaries[at[candidate]]
        like = summary.metrics[likeness].mean if likeness else 0.0
        return (like, *amount(candidate, kind, summary.effect))

    pick = max((c for c in at if c in everywhere), key=most)
    if pick == verdict.recommended:
        return replace(verdict, criteria=tuple(found))
    why = ("most_likeness" if likeness else "most_effect", "criteria")
    sure = verdict.confidence if verdict.confidence in ("none", "low") else "moderate"
    return replace(
        verdict, recommended=pick, why=why, confidence=sure, criteria=tuple(found)
    )  # fmt: skip


def _judges(declaration: Declaration) -> bool:
    return _tells_likeness(declaration.name) or math.isfinite(declaration.margin)


def _tells_likeness(name: str) -> bool:
    return name.partition(":")[0] == LIKENESS


def _worth(declaration: Declaration, values: Array) -> Array:
    return values if declaration.better == "higher" else -values


def _front(
    found: Sequence[Criterion], tables: Tables, summaries: Sequence[Summary]
) -> tuple[Candidate, ...]:
    """The candidates that no other surpasses in one mean and equals in all; strength 0 aside."""
    names = [one.name for one in found]
    using = [i for i, s in enumerate(summaries) if s.candidate.strength != 0 and s.rank is not None]
    means: Mapping[str, Array] = {
        name: row_means(_worth(declared(name), tables.values[name])) for name in names
    }
    points = np.array([[means[name][i] for name in names] for i in using])
    return tuple(
        summaries[i].candidate
        for i, point in zip(using, points, strict=True)
        if not any((other >= point).all() and (other > point).any() for other in points)
    )
