"""Axes that one extreme value does not flatten: it is left out, an arrow at the edge tells it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from analysers.phrases import listed
from analysers.study import Interval
from reports.drawing import ACCENT

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FLATTENED = 5.0
"""So many times the range of the others is too much for an axis."""


def reach(values: Iterable[float], most: int) -> tuple[float, float] | None:
    """The range of the values without the fewest, at most `most`, that make it more than
    `FLATTENED` times as large; None where it takes more, or none."""
    known = sorted(value for value in values if math.isfinite(value))
    for count in range(1, min(most, len(known) - 2) + 1):
        rest, low = min(
            (known[low + len(known) - count - 1] - known[low], low) for low in range(count + 1)
        )
        if 0 < FLATTENED * rest < known[-1] - known[0]:
            return known[low], known[low + len(known) - count - 1]
    return None


def shown(intervals: Sequence[Interval], also: Sequence[float] = ()) -> tuple[float, float] | None:
    """The range that an axis shows of these and `also`, None for all: at most a quarter of the
    means is left out, and ends of intervals that are as far."""
    means = [one.mean for one in intervals if math.isfinite(one.mean)]
    most = len(means) // 4
    inner = reach([*means, *also], most)
    kept = [one for one in intervals if inner is None or _inside(one.mean, inner)]
    ends = [end for one in kept for end in (one.low, one.mean, one.high) if math.isfinite(end)]
    outer = reach(ends, 2 * most)
    if inner is None and outer is None:
        return None
    seen = [one.mean for one in kept if math.isfinite(one.mean)]
    ends = [*(outer or ends), *seen, *(inner or ()), *also]
    return min(ends), max(ends)


def beyond(intervals: Sequence[Interval], also: Sequence[float] = ()) -> list[int]:
    """Which of the means `shown` leaves out."""
    room = shown(intervals, also)
    return [i for i, one in enumerate(intervals) if room and not _inside(one.mean, room)]


def cut(
    axis: Axes, xs: Sequence[float], intervals: Sequence[Interval], also: Sequence[float] = ()
) -> list[Artist]:
    """Let the axis show what is `shown`; returns the arrows at its edge and their values."""
    room = shown(intervals, also)
    if room is None:
        return []
    low, high = room
    axis.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
    drawn: list[Artist] = []
    for i in beyond(intervals, also):
        value = intervals[i].mean
        up = value > high
        drawn += axis.plot(
            xs[i], 1 if up else 0, transform=axis.get_xaxis_transform(), color=ACCENT, ls="none",
            marker="^" if up else "v", ms=7, clip_on=False, zorder=5,
        )  # fmt: skip
        drawn.append(
            axis.annotate(
                f"{value:.3g}",
                (xs[i], 1 if up else 0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -18 if up else 18),
                textcoords="offset points",
                color=ACCENT,
                ha="right",
                va="top" if up else "bottom",
                fontweight="bold",
                zorder=5,
            )  # fmt: skip
        )
    return drawn


def words(lines: Iterable[tuple[Sequence[str], Sequence[Interval], Sequence[float]]]) -> str:
    """What a caption says of what axes of (names, intervals, also) leave out; "" for nothing."""
    told: list[str] = []
    cut_off = False
    for names, intervals, also in lines:
        out, room = beyond(intervals, also), shown(intervals, also)
        told += [names[i] for i in out if names[i] not in told]
        inside = [one for i, one in enumerate(intervals) if i not in out]
        ends = [end for one in inside for end in (one.low, one.high)]
        cut_off |= room is not None and not all(_inside(end, room) for end in ends)
    bands = " Intervals that reach the edge go on beyond it." * cut_off
    if not told:
        return bands
    which = listed(told) if len(told) <= 3 else f"{len(told)} settings"
    stands = "An arrow at the edge stands" if len(told) == 1 else "Arrows at the edge stand"
    return f" {stands} for {which}, so far off that the axis would show little else.{bands}"


def _inside(value: float, room: tuple[float, float]) -> bool:
    return math.isnan(value) or room[0] <= value <= room[1]
