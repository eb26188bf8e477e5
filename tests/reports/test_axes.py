"""Axes leave out what would flatten the rest, and say so."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysers.study import Interval, Study
from reports import plots
from reports.axes import FLATTENED, beyond, reach, shown, words


@pytest.mark.parametrize(
    "values, most, kept",
    [
        ((24, 25, 26, 31, 40, 60, 95), 1, None),  # a breakdown that grows is shown whole
        ((24, 25, 26, 27, 95), 1, (24, 27)),
        ((24, 25, 26, 27, -95), 1, (24, 27)),
        ((24, 25, 26, 27, 95, 95, 28, 29), 2, (24, 29)),  # two are as bad as one
        ((24, 25, 26, 27, 95, 95, 28, 29), 1, None),
        ((-90, 24, 25, 26, 27, 95, 28, 29), 2, (24, 29)),  # one on each side
        ((24, 24, 24, 24, 95), 1, None),  # nothing to see without it
        ((24, math.nan, 25, 26, 27, 95), 1, (24, 27)),
        ((24, 95), 1, None),
        ((), 1, None),
    ],
)
def test_what_an_axis_reaches(values, most, kept) -> None:
    assert reach(values, most) == kept


@given(st.lists(st.one_of(st.floats(-500, 500), st.just(math.nan)), max_size=12))
def test_few_are_left_out_and_those_are_far(values: list[float]) -> None:
    intervals = [Interval(value, value - 1, value + 1) for value in values]
    out = beyond(intervals)
    assert len(out) <= len(values) // 4
    room = shown(intervals)
    if not out or room is None:
        return
    rest = [v for i, v in enumerate(values) if i not in out and math.isfinite(v)]
    assert room[0] <= min(rest) and max(rest) <= room[1]
    assert all(math.isfinite(values[i]) for i in out)
    whole = [v for v in values if math.isfinite(v)]
    assert max(whole) - min(whole) > FLATTENED * (max(rest) - min(rest))


def test_the_control_belongs_to_what_is_seen() -> None:
    four = [Interval(20.0 + i) for i in range(4)]
    assert beyond([*four, Interval(95.0)], [22.0]) == [4]
    assert beyond([*four, Interval(95.0)], [80.0]) == []
    assert shown(four, [900.0]) == (20.0, 900.0)


def test_a_caption_says_what_is_left_out() -> None:
    names = [f"0.{i}" for i in range(1, 9)]
    line = [Interval(20.0 + i, 19.0 + i, 21.0 + i) for i in range(8)]
    assert words([(names, line, ())]) == ""
    line[-1] = Interval(900.0, 890.0, 910.0)
    assert words([(names, line, ())]).startswith(" An arrow at the edge stands for 0.8, so far off")
    line[2] = Interval(22.0, -900.0, 944.0)
    assert words([(names, line, ())]).endswith(" Intervals that reach the edge go on beyond it.")


def test_a_wreck_flattens_no_curve(strength_study: tuple[Study, Path]) -> None:
    study = strength_study[0]

    def lifted(by: float) -> Study:
        last = max(study.summaries, key=lambda s: s.candidate.strength or 0)
        metrics = {**last.metrics, "brisque": Interval(by, by - 5, by + 5)}
        worse = dataclasses.replace(last, metrics=metrics)
        return dataclasses.replace(
            study, summaries=tuple(worse if s is last else s for s in study.summaries)
        )

    plain, wrecked = lifted(40.0), lifted(4321.0)
    for one, told in ((plain, False), (wrecked, True)):
        drawn = {plot.name: plot for plot in (plots.hero(one), *plots.draw_all(one)) if plot}
        for name in ("hero", "curves", "tradeoff"):
            assert ("arrow at the edge stands for 1.4" in drawn[name].caption) is told
            assert ("4.32e+03" in drawn[name].svg or ">4321<" in drawn[name].svg) is told
        if told:
            assert ">4000<" not in drawn["curves"].svg
            assert ">4321<" not in drawn["curves"].with_cases
        assert any("4321" in cell for row in drawn["curves"].rows for cell in row) is told
