"""The report's figures: their numbers, and how they are drawn.

Series differ by shape and label as well as by colour, for readers with a colour-vision deficiency.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from analysers.metrics.metric import declared, declared_by_summary
from analysers.metrics.signs import COOKING
from analysers.scores import same_side
from analysers.study import Candidate, Interval, Rows, Study, Summary
from generation.cells import strength_text
from reports import drawing
from reports.axes import cut, reach, shown, words
from reports.drawing import (
    ACCENT,
    BESIDE,
    BREAKS,
    CLEAN,
    HALF,
    INK,
    MUTED,
    PAPER,
    SECOND,
    WIDE,
)
from reports.tables import label, one_line

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNS = (*(declared(name).summary for name in COOKING), "likeness")

_MOST_LINES = 200


@dataclass(frozen=True)
class Plot:
    """A figure and the numbers in it. Drawings are trusted markup, everything else plain text.

    `narrow` is the same drawn for a phone; `with_cases` has a line per case and an axis that fits
    them.
    """

    name: str
    title: str
    caption: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: bool = True
    narrow: str = ""
    with_cases: str = ""


def ordered(study: Study) -> list[Summary]:
    """The summaries along training, then by strength: the order of the curves and of the grid."""
    return sorted(study.summaries, key=lambda s: natural_order(s.candidate))


def natural_order(candidate: Candidate) -> tuple[int, float, str]:
    strength = math.nan if candidate.strength is None else float(candidate.strength)
    return (candidate.place, strength if strength == strength else 0.0, candidate.label)


def effect(interval: Interval | None) -> Interval:
    """1 - SSIM with its bounds (they change sides)."""
    if interval is None:
        return Interval(math.nan)
    return Interval(1 - interval.mean, 1 - interval.high, 1 - interval.low)


def draw_all(study: Study) -> list[Plot]:
    """Every figure that the study has the numbers for, in reading order."""
    summaries = [s for s in ordered(study) if s.n]
    plots: list[Plot] = []
    if len(summaries) < 2:
        return plots
    if study.kind == "plane":
        plots += heat_maps(study, summaries)
    else:
        plots.append(curves(study, summaries))
    if "ssim" in study.metrics and study.rank_by != "ssim":
        plots.append(trade_off(study, summaries))
    if study.kind != "plane":
        signs = [m for m in SIGNS if any(m in s.metrics for s in summaries)]
        if signs:
            plots.append(cooking_signs(study, summaries, signs))
    if study.kind != "plane" and (told := likeness(study)):
        plots.append(told)
    if weights := study.evidence.weights:
        found = weight_dynamics(weights.rows)
        plots += [p for p in (found, weight_blocks(weights.rows)) if p]
    return plots


def hero(study: Study) -> Plot | None:
    """The one figure beside the answer: the ranked metric, with where it is clean and breaks."""
    summaries = [s for s in ordered(study) if s.n]
    metric = study.rank_by
    if len(summaries) < 2 or not any(_finite(s, metric) for s in summaries):
        return None
    better = "lower" if study.better == "lower" else "higher"
    if study.kind == "plane":
        wide, narrow = (_heat(study, summaries, metric, size) for size in (BESIDE, HALF))
        what = "over training and strength"
    else:
        sizes = {"hero0": (BESIDE, 4.2), "hero1": (HALF, 3.5)}
        wide, narrow = _curves(study, summaries, sizes, effect_too=False)
        what = "by strength" if study.kind == "strength" else "along training"
    title = f"{label(metric)} {what}"
    caption = f"{better.capitalize()} is better."
    if study.kind != "plane":
        caption += _beyond_words(study, summaries, _panels(study, summaries, effect_too=False))
    return Plot("hero", title, caption, wide, (), (), narrow=narrow)


def _finite(summary: Summary, metric: str) -> bool:
    return math.isfinite(summary.metrics.get(metric, Interval(math.nan)).mean)


def curves(study: Study, summaries: Sequence[Summary]) -> Plot:
    """Quality above, effect below, against strength or along training, with 95 % intervals."""
    panels = _panels(study, summaries, effect_too=True)
    several = len({s.case for s in study.scores if s.candidate is not None}) > 1
    height = 1.2 + 2.2 * len(panels)
    columns = ["setting", "pictures"]
    for name, _, _ in panels:
        columns += [name, "low", "high"]
    rows: list[tuple[str, ...]] = []
    for i, summary in enumerate(summaries):
        row: list[str] = [summary.candidate.heading(study.kind), str(summary.n)]
        for _, intervals, _ in panels:
            row += [_text(v) for v in (intervals[i].mean, intervals[i].low, intervals[i].high)]
        rows.append(tuple(row))
    sizes = {"curves": (WIDE, height), "curves-n": (HALF, height)}
    if several:
        sizes["curves-c"] = (WIDE, height)
    wide, narrow, *with_cases = _curves(study, summaries, sizes, cases="curves-c")
    return Plot(
        "curves",
        "Quality and effect" if len(panels) > 1 else "Quality",
        "Mean over the cases with its 95 % interval."
        + _shading_words(study)
        + _beyond_words(study, summaries, panels),
        wide,
        tuple(columns),
        tuple(rows),
        narrow=narrow,
        with_cases="".join(with_cases),
    )


Panel = tuple[str, Sequence[Interval], tuple[float, ...]]
"""A title, what is drawn for each setting, and what else the axis has to show."""


def _panels(study: Study, summaries: Sequence[Summary], *, effect_too: bool) -> list[Panel]:
    metric = study.rank_by
    ranked = [s.metrics.get(metric, Interval(math.nan)) for s in summaries]
    panels: list[Panel] = [(label(metric), ranked, _control_mean(study))]
    if effect_too and "ssim" in study.metrics and metric != "ssim":
        moved = [effect(s.metrics.get("ssim")) for s in summaries]
        panels.append(("effect (1 − SSIM)", moved, ()))
    return panels


def _curves(
    study: Study,
    summaries: Sequence[Summary],
    sizes: Mapping[str, tuple[float, float]],
    *,
    effect_too: bool = True,
    cases: str = "",
) -> list[str]:
    """One drawing at the sizes named; from the one called `cases` on with a line per case."""
    xs, ticks = _positions(study, summaries)
    panels = _panels(study, summaries, effect_too=effect_too)
    drawn = []
    with drawing.style():
        figure = drawing.figure(*next(iter(sizes.values())))
        axes = figure.subplots(
            len(panels),
            1,
            sharex=True,
            squeeze=False,
            gridspec_kw={"height_ratios": [1.45, 1][: len(panels)]},
        )[:, 0]
        for panel, (axis, (title, intervals, _)) in enumerate(zip(axes, panels, strict=True)):
            _shade(study, axis, summaries, xs, words=panel == 0)
            _band(axis, xs, intervals)
            axis.set_ylabel(title)
            axis.locator_params(axis="y", nbins=6)
            _mark_pick(study, axis, summaries, xs, intervals, words=panel == 0)
        _control_line(study, axes[0])
        better = "lower is better ↓" if study.better == "lower" else "higher is better ↑"
        axes[0].annotate(
            better, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points",
            color=MUTED,
        )  # fmt: skip
        arrows = _leave_out(axes, xs, panels)
        axes[-1].set_xlabel("strength" if study.kind == "strength" else "along training")
        for name, (width, height) in sizes.items():
            if name == cases:
                _case_lines(study, summaries, xs, axes)
                for arrow in arrows:
                    arrow.remove()
                for axis in axes:
                    axis.autoscale(axis="y")
                _room_above(axes[0])
            figure.set_size_inches(width, height)
            _ticks(axes[-1], xs, ticks, most=12 if width > BESIDE else 10 if width > HALF else 6)
            drawn.append(drawing.svg(figure, name))
    return drawn


def _leave_out(axes: Iterable[Axes], xs: Sequence[float], panels: Sequence[Panel]) -> list[Artist]:
    """Leave out of each axis what would flatten the rest; returns the arrows that stand for it."""
    arrows: list[Artist] = []
    for k, (axis, (_, intervals, also)) in enumerate(zip(axes, panels, strict=True)):
        arrows += cut(axis, xs, intervals, also)
        if k == 0 and not shown(intervals, also):
            _room_above(axis)
    return arrows


def _beyond_words(study: Study, summaries: Sequence[Summary], panels: Sequence[Panel]) -> str:
    """What a caption says of the settings that an axis leaves out."""
    heads = [_head(study, s) for s in summaries]
    return words((heads, intervals, also) for _, intervals, also in panels)


def _room_above(axis: Axes) -> None:
    """Room for the names of the shaded stretches above what is drawn."""
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))


def _case_lines(
    study: Study, summaries: Sequence[Summary], xs: Sequence[float], axes: Iterable[Axes]
) -> None:
    """A line per case, of the ranked metric in the first and of the effect in the second."""
    by_candidate = _case_values(study)
    names = list(dict.fromkeys(s.case for s in study.scores if s.candidate is not None))
    for case in names[:_MOST_LINES]:
        values = [by_candidate.get((s.candidate, case), {}) for s in summaries]
        ranked = [v.get(study.rank_by, math.nan) for v in values]
        moved = [1 - v.get("ssim", math.nan) for v in values]
        for axis, line in zip(axes, (ranked, moved), strict=False):
            axis.plot(xs, line, color=MUTED, lw=0.7, alpha=0.5, zorder=1.5)


def _control_mean(study: Study) -> tuple[float, ...]:
    """The controls' mean of the ranked metric; nothing where none is known."""
    values = [s.values.get(study.rank_by, math.nan) for s in study.scores if s.candidate is None]
    known = [value for value in values if math.isfinite(value)]
    return (sum(known) / len(known),) if known else ()


def _control_line(study: Study, axis: Axes) -> None:
    if not (known := _control_mean(study)):
        return
    [mean] = known
    axis.axhline(mean, color=SECOND, lw=1.2, ls=(0, (5, 3)), zorder=1)
    axis.annotate(
        "control", (1, mean), xycoords=("axes fraction", "data"), xytext=(4, 0),
        textcoords="offset points", va="center", color=SECOND,
    )  # fmt: skip


def trade_off(study: Study, summaries: Sequence[Summary]) -> Plot:
    """Quality against effect; the Pareto front joins the settings that none beats in both."""
    metric, pick = study.rank_by, study.verdict.pick
    points = []
    for summary in summaries:
        quality = summary.metrics.get(metric, Interval(math.nan))
        moved = effect(summary.metrics.get("ssim"))
        if math.isfinite(quality.mean) and math.isfinite(moved.mean):
            points.append((summary, moved, quality))
    front = pareto([(m.mean, q.mean) for _, m, q in points], study.better)
    with drawing.style():
        figure = drawing.figure(HALF, 4.4)
        axis = figure.subplots()
        if len(front) > 1:
            axis.plot(
                [points[i][1].mean for i in front],
                [points[i][2].mean for i in front],
                color=ACCENT, lw=1.4, alpha=0.55, zorder=1,
            )  # fmt: skip
        for point in points:
            _draw_point(axis, *point, picked=point[0].candidate == pick)
        axis.set_xlabel("effect (1 − SSIM) →")
        axis.set_ylabel(label(metric) + (" (lower is better)" if study.better == "lower" else ""))
        axis.margins(x=0.12, y=0.12)
        qualities = [quality for _, _, quality in points]
        cut(axis, [moved.mean for _, moved, _ in points], qualities)
        order = sorted(
            range(len(points)), key=lambda i: (points[i][0].candidate != pick, i not in front)
        )
        names = [_short(n, 24) for n in _brief([_head(study, s) for s, _, _ in points])]
        foot, top = axis.get_ylim()
        spots = [(m.mean, min(max(q.mean, foot), top)) for _, m, q in points]
        for i, (dx, dy) in _uncrowded(figure, axis, spots, names, order).items():
            bold = points[i][0].candidate == pick
            axis.annotate(
                names[i], spots[i], xytext=(dx, dy), textcoords="offset points", zorder=4,
                color=INK if bold else MUTED, fontweight="bold" if bold else "normal",
            )  # fmt: skip
        svg = drawing.svg(figure, "tradeoff")
    chosen = set(front)
    rows = tuple(
        (
            s.candidate.heading(study.kind),
            _text(m.mean),
            _text(q.mean),
            "yes" if i in chosen else "",
        )
        for i, (s, m, q) in enumerate(points)
    )
    return Plot(
        "tradeoff",
        "Quality against effect",
        "The line is the Pareto front: no other setting has both more effect and better quality. "
        "Filled: tied. Cross: broken, or beyond the breakdown."
        + words([([_head(study, s) for s, _, _ in points], qualities, ())]),
        svg,
        ("setting", "effect", label(metric), "on the front"),
        rows,
        wide=False,
    )


def _draw_point(
    axis: Axes, summary: Summary, moved: Interval, quality: Interval, *, picked: bool
) -> None:
    """A setting with its intervals: filled if it ties, a cross if it is broken."""
    axis.plot(
        [moved.low, moved.high], [quality.mean] * 2, color=MUTED, lw=0.8, alpha=0.45,
        zorder=1,
    )  # fmt: skip
    axis.plot(
        [moved.mean] * 2, [quality.low, quality.high], color=MUTED, lw=0.8, alpha=0.45,
        zorder=1,
    )  # fmt: skip
    broken = summary.beyond
    axis.plot(
        moved.mean, quality.mean, ls="none", zorder=3,
        marker="X" if broken else "o", ms=7 if broken else 6.5, mew=1.4,
        mec=BREAKS if broken else ACCENT,
        mfc=PAPER if not (broken or summary.contender or picked)
        else BREAKS if broken else ACCENT,
    )  # fmt: skip
    if picked:
        axis.plot(moved.mean, quality.mean, "o", ms=13, mfc="none", mec=ACCENT, mew=1.6, zorder=2)


def _uncrowded(
    figure: Figure,
    axis: Axes,
    spots: Sequence[tuple[float, float]],
    names: Sequence[str],
    order: Sequence[int],
) -> dict[int, tuple[float, float]]:
    """Where each label has room beside its point: index -> offset of its left foot, in points.

    Taken in `order`; a label that would lie on a point, on a label taken before or outside of the
    axes is tried on the other sides, and left out if it fits on none.
    """
    if not spots:
        return {}
    drawing.settle(figure)
    unit = figure.dpi / 72
    places = axis.transData.transform(spots)
    frame = axis.get_window_extent()
    taken = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in places]
    found: dict[int, tuple[float, float]] = {}
    for i in order:
        wide, high = 6.4 * len(names[i]), 9.0
        sides = ((8, 4), (8, -12), (-8 - wide, 4), (-8 - wide, -12), (-wide / 2, 10))
        for dx, dy in (*sides, (-wide / 2, -18)):
            x, y = places[i][0] + dx * unit, places[i][1] + dy * unit
            box = (x, y, x + wide * unit, y + high * unit)
            inside = box[0] >= frame.x0 and box[2] <= figure.bbox.x1
            inside = inside and box[1] >= frame.y0 and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found[i] = (dx, dy)
                break
    return found


_Box = tuple[float, float, float, float]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def pareto(points: Sequence[tuple[float, float]], better: str) -> list[int]:
    """Indices of the points not dominated in (more effect, better quality), by growing effect."""
    sign = 1 if better == "lower" else -1
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], sign * points[i][1]))
    front: list[int] = []
    best = math.inf
    for i in order:
        if sign * points[i][1] < best:
            best = sign * points[i][1]
            front.append(i)
    return front[::-1]


def cooking_signs(study: Study, summaries: Sequence[Summary], signs: Sequence[str]) -> Plot:
    """Small multiples of the signs of over-cooking, each against the control."""
    xs, ticks = _positions(study, summaries)
    series = [
        (
            "pictures alike" if m == "likeness" else declared_by_summary(m).label,
            [s.metrics.get(m, Interval(math.nan)) for s in summaries],
            m,
        )
        for m in signs
    ]
    with drawing.style():
        columns = 2 if len(series) > 1 else 1
        lines = math.ceil(len(series) / columns)
        figure = drawing.figure(HALF, 0.4 + 2.0 * lines)
        grid = figure.subplots(lines, columns, squeeze=False)
        for k, axis in enumerate(grid.flat):
            if k >= len(series):
                axis.remove()
                continue
            name, intervals, metric = series[k]
            aggregate = declared_by_summary(metric).aggregate
            if aggregate != "mean":
                unchanged = 0 if aggregate == "change" else 1
                axis.axhline(unchanged, color=SECOND, lw=1, ls=(0, (5, 3)))
            _band(axis, xs, intervals, small=True)
            _mark_pick(study, axis, summaries, xs, intervals, words=False)
            axis.set_title(name, loc="left", color=INK)
            axis.locator_params(axis="y", nbins=4)
            _ticks(axis, xs, ticks, most=4)
        svg = drawing.svg(figure, "signs")
    rows = tuple(
        (s.candidate.heading(study.kind), *(_text(v[i].mean) for _, v, _ in series))
        for i, s in enumerate(summaries)
    )
    return Plot(
        "signs",
        "Signs of over-cooking",
        "Against the control (dashed: as without the LoRA): ratios, and for clipped pixels the "
        "added share. A sudden rise of contrast, clipping, colour or fine detail, or of how alike "
        "the pictures of different prompts are, is what over-cooking looks like.",
        svg,
        ("setting", *(name for name, _, _ in series)),
        rows,
        wide=False,
    )


def _heat_frame(figure: Any, axis: Any, mesh: Any, title: str, *, aspect: int) -> None:
    """A heat map's axis without lines and ticks, and its colour bar, drawn as vectors."""
    axis.tick_params(length=0)
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(mesh, ax=axis, pad=0.02, aspect=aspect)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
        bar.solids.set_rasterized(False)
    bar.set_label(title)


def heat_maps(study: Study, summaries: Sequence[Summary]) -> list[Plot]:
    """Checkpoint x strength: quality, and the effect."""
    fields = [study.rank_by] + [m for m in ("brisque", "effect") if m != study.rank_by]
    known = {**dict.fromkeys(study.metrics, True), "effect": "ssim" in study.metrics}
    if study.rank_by == "ssim":
        fields = ["ssim", "brisque"]
    plots = []
    for metric in fields:
        if not known.get(metric):
            continue
        title = "Effect (1 − SSIM)" if metric == "effect" else label(metric)
        strengths, places, names = _plane_axes(summaries)
        matrix, _ = _plane(summaries, metric)
        rows = tuple(
            (strength_text(s), *(_text(v) for v in matrix[i])) for i, s in enumerate(strengths)
        )
        plots.append(
            Plot(
                f"heat-{metric}",
                f"{title} over training and strength",
                f"Star: {_pick_word(study)}. Cross: broken, or beyond the breakdown.",
                _heat(study, summaries, metric, WIDE),
                ("strength", *(names[p] for p in places)),
                rows,
                narrow=_heat(study, summaries, metric, HALF),
            )
        )
    return plots


def _plane_axes(summaries: Sequence[Summary]) -> tuple[list[Decimal], list[int], dict[int, str]]:
    """The strengths, the places along training, and what each place is called."""
    places = list(dict.fromkeys(s.candidate.place for s in summaries))
    strengths = sorted(
        {s.candidate.strength for s in summaries if s.candidate.strength is not None}
    )
    return strengths, places, {s.candidate.place: one_line(s.candidate.where) for s in summaries}


def _plane(summaries: Sequence[Summary], metric: str) -> tuple[Any, dict[tuple[int, int], Summary]]:
    """Means as (strengths, places), and the summary at each."""
    import numpy as np

    strengths, places, _ = _plane_axes(summaries)
    matrix = np.full((len(strengths), len(places)), math.nan)
    at = {}
    for s in summaries:
        if s.candidate.strength is None:
            continue
        i, j = strengths.index(s.candidate.strength), places.index(s.candidate.place)
        name = "ssim" if metric == "effect" else metric
        mean = s.metrics.get(name, Interval(math.nan)).mean
        matrix[i, j] = 1 - mean if metric == "effect" else mean
        at[i, j] = s
    return matrix, at


def _heat(study: Study, summaries: Sequence[Summary], metric: str, width: float) -> str:
    import numpy as np
    from matplotlib import colormaps

    strengths, places, names = _plane_axes(summaries)
    matrix, at = _plane(summaries, metric)
    ends = reach(matrix.flat, matrix.size // 8) or (None, None)
    bad_is_high = metric == study.rank_by and study.better == "lower"
    # cividis reads the same with and without a colour-vision deficiency.
    colours = colormaps["cividis_r" if bad_is_high else "cividis"].resampled(48)
    if ends[0] is not None:  # a wreck does not take all colours; its cell tells its value
        colours.colorbar_extend = "both"  # type: ignore[assignment]
    with drawing.style():
        figure = drawing.figure(width, 1.2 + 0.56 * max(4, len(strengths)))
        axis = figure.subplots()
        mesh = axis.pcolormesh(
            np.arange(len(places) + 1) - 0.5,
            np.arange(len(strengths) + 1) - 0.5,
            np.ma.masked_invalid(matrix),
            cmap=colours,
            vmin=ends[0],
            vmax=ends[1],
            edgecolors=PAPER,
            linewidth=1.2,
        )
        room = 72 * (width - 1.9) / len(places)
        for (i, j), summary in at.items():
            value = matrix[i, j]
            if not math.isfinite(value):
                continue
            red, green, blue, _ = mesh.cmap(mesh.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ink, edge = ("#ffffff", "#101010") if dark else ("#101010", "#ffffff")
            chosen = summary.candidate == study.verdict.pick
            text = f"{value:.2f}" if metric in ("effect", "ssim") else f"{value:.1f}"
            if room >= 12:
                low = 0.2 if chosen or summary.beyond else 0.0
                axis.text(
                    j, i - low, text, color=ink, ha="center", va="center", fontsize=10,
                    fontweight="bold" if chosen else "normal",
                    rotation=0 if room >= 6.2 * len(text) else 90,
                )  # fmt: skip
            if summary.beyond:
                axis.plot(j, i + 0.25, "x", color=ink, ms=6, mew=1.8)
            if chosen:
                axis.plot(j, i + 0.22, "*", ms=13, mfc=ink, mec=edge, mew=0.8, zorder=6)
        axis.set_yticks(range(len(strengths)), [strength_text(s) for s in strengths])
        most = max(2, int(72 * (width - 1.9) / 30))
        _ticks(axis, list(range(len(places))), [names[p] for p in places], most)
        axis.set_ylabel("strength")
        title = "effect (1 − SSIM)" if metric == "effect" else label(metric)
        if bad_is_high:
            title += " (lower is better)"
        _heat_frame(figure, axis, mesh, title, aspect=18)
        return drawing.svg(figure, f"heat{int(10 * width)}-{re.sub(r'[^a-z0-9]', '', metric)}")


def equal_effect(study: Study) -> list[tuple[str, str]]:
    """For the pick of a plane: at which strength each other checkpoint moves pictures as far.

    Linear interpolation of the mean effect between neighbouring strengths; checkpoints that do not
    reach that effect within the strengths tried are left out.
    """
    best = next((s for s in study.summaries if s.candidate == study.verdict.pick), None)
    if study.kind != "plane" or best is None or not math.isfinite(best.effect):
        return []
    target = best.effect
    by_place: dict[int, list[tuple[float, float]]] = {}
    names = {}
    for summary in ordered(study):
        candidate, moved = summary.candidate, summary.effect
        # A negative strength moves pictures as far and elsewhere.
        if not same_side(candidate, best.candidate) or not math.isfinite(moved):
            continue
        if candidate.strength is not None:
            names[candidate.place] = one_line(candidate.where)
            by_place.setdefault(candidate.place, []).append((float(candidate.strength), moved))
    found = []
    for place, points in by_place.items():
        for (s0, e0), (s1, e1) in pairwise(points):
            if min(e0, e1) <= target <= max(e0, e1) and e0 != e1:
                strength_here = s0 + (s1 - s0) * (target - e0) / (e1 - e0)
                found.append((names[place], f"{strength_here:.2f}"))
                break
    return found


def likeness(study: Study) -> Plot | None:
    """Likeness to the training pictures, and how much of them is known by heart, a panel each."""
    heads = [s.candidate.heading(study.kind) for s in ordered(study)]
    panels = [
        (title, level, found)
        for section, key, title, level in (
            (study.evidence.likeness, "likeness", "likeness to training pictures", 1.0),
            (study.evidence.by_heart, "gap", "known by heart (SSIM)", 0.0),
        )
        if section and len(found := _told(section.rows, key)) > 1
    ]
    heads = [head for head in heads if any(head in found for _, _, found in panels)]
    if not heads:
        return None
    nothing = Interval(math.nan)
    xs = [float(i) for i in range(len(heads))]

    def drawn(name: str, width: float, across: int) -> str:
        with drawing.style():
            figure = drawing.figure(width, 3.0 * len(panels) / across)
            grid = figure.subplots(len(panels) // across, across, squeeze=False)
            for axis, (title, level, found) in zip(grid.flat, panels, strict=True):
                _band(axis, xs, [found.get(head, nothing) for head in heads])
                axis.axhline(level, color=SECOND, lw=1.2, ls=(0, (5, 3)), zorder=1)
                axis.set_ylabel(title)
                _ticks(axis, xs, heads, most=12 // len(panels))
            return drawing.svg(figure, name)

    columns = ["setting"]
    for title, _, _ in panels:
        columns += [title, "low", "high"]
    return Plot(
        "likeness",
        "Likeness to the training pictures",
        "Mean over the cases with its 95 % interval. Likeness: 0 is as without the LoRA, the "
        "dashed line is what it could be. Known by heart: above the dashed line the nearest "
        "training picture is nearer than the nearest held-out one.",
        drawn("likeness", WIDE, len(panels)),
        tuple(columns),
        tuple(
            (
                head,
                *(
                    _text(value)
                    for _, _, found in panels
                    for one in [found.get(head, nothing)]
                    for value in (one.mean, one.low, one.high)
                ),
            )
            for head in heads
        ),
        narrow=drawn("likeness-n", HALF, 1),
    )


def _told(rows: Rows, key: str) -> dict[str, Interval]:
    """By heading, the intervals that rows of the evidence hold."""
    return {
        str(row.get("setting")): Interval(*(float(row[k]) for k in (key, "low", "high")))
        for row in rows
        if all(_is_number(row.get(k)) for k in (key, "low", "high"))
    }


def weight_dynamics(rows: Rows) -> Plot | None:
    """What training did to the LoRA's own numbers, one panel per number, along the checkpoints."""
    names = [
        key
        for key in dict.fromkeys(k for r in rows for k in r)
        if sum(_is_number(r.get(key)) for r in rows) > 1
        and key not in ("epoch", "step", "place")
        and not key.startswith(("share ", "block "))
    ][:8]
    if len(rows) < 2 or not names:
        return None
    heads = [
        one_line(str(r.get("label") or r.get("checkpoint") or i + 1)) for i, r in enumerate(rows)
    ]
    xs = [float(i) for i in range(len(rows))]

    def drawn(name: str, width: float, across: int) -> str:
        lines = math.ceil(len(names) / across)
        with drawing.style():
            figure = drawing.figure(width, 0.4 + 2.1 * lines)
            grid = figure.subplots(lines, across, squeeze=False)
            for k, axis in enumerate(grid.flat):
                if k >= len(names):
                    axis.remove()
                    continue
                ys = [float(r[names[k]]) if _is_number(r.get(names[k])) else math.nan for r in rows]
                _band(axis, xs, [Interval(y) for y in ys], small=True)
                axis.set_title(_weight_label(names[k]), loc="left", color=INK)
                _ticks(axis, xs, heads, most=4)
            return drawing.svg(figure, name)

    return Plot(
        "weights",
        "What training did to the weights",
        "Read from the LoRA files, without rendering. While the turn stays near 1, training still "
        "pushes one way; near 0 it wanders.",
        drawn("weights", WIDE, min(len(names), 4)),
        ("checkpoint", *map(_weight_label, names)),
        tuple(
            (
                head,
                *(_text(float(r[n])) if _is_number(r.get(n)) else "" for n in names),
            )
            for head, r in zip(heads, rows, strict=True)
        ),
        narrow=drawn("weights-n", HALF, min(len(names), 2)),
    )


def weight_blocks(rows: Rows) -> Plot | None:
    """Which blocks of the model the update sits in, along the checkpoints."""
    import numpy as np
    from matplotlib import colormaps

    blocks = [k for k in dict.fromkeys(k for r in rows for k in r) if k.startswith("block ")]
    if len(rows) < 2 or len(blocks) < 2:
        return None
    names = [one_line(b[len("block ") :]) for b in blocks]
    heads = [
        one_line(str(r.get("label") or r.get("checkpoint") or i + 1)) for i, r in enumerate(rows)
    ]
    shares = np.array(
        [[float(r[b]) if _is_number(r.get(b)) else math.nan for r in rows] for b in blocks]
    )
    with drawing.style():
        figure = drawing.figure(HALF, 1.2 + 0.22 * max(6, len(blocks)))
        axis = figure.subplots()
        mesh = axis.pcolormesh(
            np.arange(len(rows) + 1) - 0.5,
            np.arange(len(blocks) + 1) - 0.5,
            np.ma.masked_invalid(shares),
            cmap=colormaps["cividis"].resampled(48),
            vmin=0,
            edgecolors=PAPER,
            linewidth=0.8,
        )
        axis.set_yticks(range(len(blocks)), [_short(n, 28) for n in names])
        axis.tick_params(axis="y", labelsize=10)
        if 72 * (HALF - 2) / len(rows) >= 24:
            for (i, j), value in np.ndenumerate(shares):
                if math.isfinite(value):
                    dark = value < 0.55 * np.nanmax(shares)
                    axis.text(
                        j, i, f"{100 * value:.0f}", color="#ffffff" if dark else "#101010",
                        ha="center", va="center", fontsize=10,
                    )  # fmt: skip
        axis.invert_yaxis()
        _ticks(axis, [float(i) for i in range(len(rows))], heads, most=6)
        _heat_frame(figure, axis, mesh, "share of the update (%)", aspect=22)
        svg = drawing.svg(figure, "blocks")
    return Plot(
        "blocks",
        "Where in the model",
        "Each block's share of the squared size of the update, in per cent.",
        svg,
        ("block", *heads),
        tuple(
            (name, *(_text(float(v)) for v in line))
            for name, line in zip(names, shares, strict=True)
        ),
        wide=False,
    )


def _weight_label(name: str) -> str:
    known = {
        "frobenius": "size (Frobenius norm)",
        "spectral": "largest singular value",
        "growth": "size against the one before",
        "moved": "distance to the one before",
        "cosine": "cosine to the one before",
        "turn": "turn between movements",
        "te_share": "text encoder share",
    }
    return one_line(known.get(name, name.replace("_", " ")))


def _positions(study: Study, summaries: Sequence[Summary]) -> tuple[list[float], list[str]]:
    """Places on the x axis: the strength itself, else evenly spaced along training."""
    heads = [_head(study, s) for s in summaries]
    strengths = [s.candidate.strength for s in summaries]
    if study.kind == "strength" and all(s is not None for s in strengths):
        return [float(s) for s in strengths if s is not None], heads
    return [float(i) for i in range(len(summaries))], heads


def _ticks(axis: Axes, xs: Sequence[float], heads: Sequence[str], most: int = 12) -> None:
    """Names below the axis; of "epoch 1", "epoch 2", ... the numbers, and "epoch" once."""
    heads = _brief(heads)
    unit = heads[0].partition(" ")[0] if heads else ""
    if all(re.fullmatch(rf"{re.escape(unit)} \d+", head) for head in heads):
        heads = [head.partition(" ")[2] for head in heads]
        axis.set_xlabel(unit)
    apart = (max(xs) - min(xs)) / most * 0.999 if xs else 0.0
    chosen: list[int] = []
    for i in sorted(range(len(xs)), key=lambda i: xs[i]):
        if not chosen or xs[i] - xs[chosen[-1]] >= apart:
            chosen.append(i)
    texts = [_short(heads[i], 18) for i in chosen]
    axis.set_xticks([xs[i] for i in chosen], texts)
    if sum(map(len, texts)) > 8 * most and len(texts) > 3:
        axis.tick_params(axis="x", rotation=35)
        for tick in axis.get_xticklabels():
            tick.set_horizontalalignment("right")


def _brief(heads: Sequence[str]) -> Sequence[str]:
    """ "epoch 7 · step 1050" -> "epoch 7", "final (epoch 10)" -> "final", if all stay different."""
    short = [re.sub(r"\s*\(.*\)$", "", head).split(" · ")[0] for head in heads]
    return short if len(set(short)) == len(set(heads)) else heads


def _band(
    axis: Axes, xs: Sequence[float], intervals: Sequence[Interval], *, small: bool = False
) -> None:
    lows = [i.low for i in intervals]
    highs = [i.high for i in intervals]
    axis.fill_between(xs, lows, highs, color=ACCENT, alpha=0.16, lw=0, zorder=2)
    axis.plot(
        xs, [i.mean for i in intervals], color=ACCENT, lw=1.6 if small else 2.0, marker="o",
        ms=3.2 if small else 5, zorder=3,
    )  # fmt: skip


def _shade(
    study: Study, axis: Axes, summaries: Sequence[Summary], xs: Sequence[float], *, words: bool
) -> None:
    """Runs of settings that are all clean (epochs: the zone), and all from the breakdown on."""
    verdict = study.verdict
    zone = study.kind == "epochs" and bool(verdict.zone)
    spans: list[tuple[float, float, str, str, str | None]] = []
    if zone or verdict.strongest_clean:
        chosen = [s.candidate in verdict.zone if zone else s.safe is True for s in summaries]
        runs = _runs(chosen, xs)
        widest = max(runs, key=lambda run: run[1] - run[0], default=None)
        for run in runs:
            word = "Goldilocks zone" if zone else "clean"
            spans.append((*run, CLEAN, word if run is widest else "", None))
    at = {s.candidate: x for s, x in zip(summaries, xs, strict=True)}
    if verdict.breakdown in at:
        [run] = _runs([x >= at[verdict.breakdown] for x in xs], xs)
        spans.append((*run, BREAKS, "breaks", "///"))
    for low, high, colour, text, hatch in spans:
        axis.axvspan(low, high, color=colour, alpha=0.10, lw=0, zorder=0)
        if hatch:
            axis.axvspan(
                low, high, facecolor="none", edgecolor=colour, hatch=hatch, alpha=0.25, lw=0,
                zorder=0,
            )  # fmt: skip
        if words:
            axis.annotate(
                text, ((low + high) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, -12),
                textcoords="offset points", ha="center", color=colour, fontweight="bold",
            )  # fmt: skip


def _runs(chosen: Sequence[bool], xs: Sequence[float]) -> list[tuple[float, float]]:
    """The stretches of neighbours that are all chosen, halfway to those beside that are not."""
    line = sorted(zip(xs, chosen, strict=True))
    places = [x for x, _ in line]
    halves = [places[0], *((a + b) / 2 for a, b in pairwise(places)), places[-1]]
    found, start = [], 0
    for kept, group in groupby(line, key=lambda item: item[1]):
        end = start + len(list(group))
        if kept:
            found.append((halves[start], halves[end]))
        start = end
    return found


def _mark_pick(
    study: Study,
    axis: Axes,
    summaries: Sequence[Summary],
    xs: Sequence[float],
    intervals: Sequence[Interval],
    *,
    words: bool,
) -> None:
    for summary, x, interval in zip(summaries, xs, intervals, strict=True):
        if summary.candidate == study.verdict.pick and math.isfinite(interval.mean):
            axis.axvline(x, color=ACCENT, lw=1, ls=(0, (1, 2)), zorder=1)
            axis.plot(x, interval.mean, "o", ms=12, mfc="none", mec=ACCENT, mew=1.8, zorder=4)
            if words:
                # At the foot of its line, on the side that has more room.
                left = x - min(xs) <= max(xs) - x
                axis.annotate(
                    _pick_word(study), (x, 0), xycoords=("data", "axes fraction"),
                    xytext=(5 if left else -5, 5), textcoords="offset points",
                    ha="left" if left else "right", color=ACCENT, fontweight="bold", zorder=5,
                )  # fmt: skip


def _pick_word(study: Study) -> str:
    """What the marked setting is: recommended, or only first in the ranking."""
    return "recommended" if study.verdict.recommended else "ranked first"


def _shading_words(study: Study) -> str:
    verdict = study.verdict
    words = []
    if study.kind == "epochs" and verdict.zone:
        words.append("the Goldilocks zone, with most of the effect and clean")
    elif verdict.strongest_clean:
        words.append("what is clean")
    if verdict.breakdown:
        words.append("where it breaks")
    return f" Shaded: {' and '.join(words)}." if words else ""


def _case_values(study: Study) -> dict[tuple[Candidate, str], Mapping[str, float]]:
    return {(s.candidate, s.case): s.values for s in study.scores if s.candidate is not None}


def _head(study: Study, summary: Summary) -> str:
    return one_line(summary.candidate.heading(study.kind))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def figure_text(value: float, digits: int = 4) -> str:
    """Significant digits without exponents, "" for NaN: 23.41, 0.0153, "< 0.0001"."""
    if not math.isfinite(value):
        return ""
    if 0 < abs(value) < 1e-4:
        return "< 0.0001" if value > 0 else "> -0.0001"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


_text = figure_text


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
