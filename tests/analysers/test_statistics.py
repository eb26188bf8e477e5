"""Intervals against closed forms, properties and a small calibration."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysers.statistics import (
    Bounds,
    clusters,
    differences_from_best,
    fill_missing,
    freedoms,
    intervals,
    largest_t,
    probability_of_best,
    resample_counts,
    row_means,
    surely_above,
)


def study(seed: int, rows: int = 5, prompts: int = 8, seeds: int = 3) -> tuple:
    rng = np.random.Generator(np.random.PCG64(seed))
    groups = np.repeat(np.arange(prompts), seeds)
    level = rng.normal(25, 10, len(groups))
    return level + rng.normal(0, 2, (rows, len(groups))), groups


def test_prompts_are_the_units():
    assert clusters(np.repeat(np.arange(6), 2)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert clusters(np.repeat(np.arange(2), 3)).tolist() == [0, 0, 0, 1, 1, 1]
    assert clusters(np.zeros(3)).tolist() == [0, 1, 2]  # one prompt: its seeds
    table = np.zeros((2, 6))
    table[1, :4] = math.nan
    assert freedoms(table, np.repeat(np.arange(3), 2)).tolist() == [2, 0]


def test_few_units_have_students_interval():
    sample = np.random.Generator(np.random.PCG64(2)).normal(3.0, 2.0, (5, 4))
    bounds = intervals(sample, np.arange(4))
    half = stats.t.ppf(0.975, 3) * sample.std(axis=1, ddof=1) / 2
    assert bounds.high - bounds.mean == pytest.approx(half)
    assert bounds.mean - bounds.low == pytest.approx(half)


@pytest.mark.parametrize(
    "count, published", [(1, 1.64), (2, 1.92), (3, 2.06), (4, 2.16), (5, 2.23), (9, 2.42)]
)
def test_the_largest_t_is_dunnetts(count, published):
    """Dunnett 1955, table 1a (one-sided 5 %), at infinite degrees of freedom."""
    assert largest_t(count, 100_000, 0.05) == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize("freedom", [1, 2, 5, 30])
def test_the_largest_of_one_t_is_students_and_of_many_below_bonferronis(freedom):
    assert largest_t(1, freedom, 0.025) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-5)
    many = largest_t(12, freedom, 0.025)
    assert stats.t.ppf(0.975, freedom) < many < stats.t.ppf(1 - 0.025 / 12, freedom)


def test_from_the_strongest_down_nothing_is_paid_for_the_others():
    """Ten rows at t just above Student's: found along a line, not found each alone."""
    high = np.full(10, 5.0)
    low = 5.0 - 4.9
    bounds = Bounds(high, np.full(10, low), high + 4.9)
    freedom = np.full(10, 5)
    assert surely_above(bounds, freedom, [range(10)]).all()
    assert not surely_above(bounds, freedom, [[i] for i in range(10)]).any()
    bounds.low[9] = -1.0  # the strongest recovers: the rest is counted
    assert not surely_above(bounds, freedom, [range(10)]).any()
    bounds.low[4], bounds.high[4] = 4.5, 5.5
    assert np.flatnonzero(surely_above(bounds, freedom, [range(10)])).tolist() == [4]


@pytest.mark.parametrize("cases, candidates", [(3, 8), (3, 40), (6, 8), (6, 40)])
def test_of_flat_sweeps_few_have_anything_surely_above(cases, candidates):
    """A small version of benchmarks/answers.py, without the margin that breakdowns also take."""
    wrong = []
    for number in range(300):
        rng = np.random.Generator(np.random.PCG64([11, number]))
        table = rng.normal(0, 4, (candidates, cases)) - rng.normal(0, 4, cases)
        bounds = intervals(table, np.arange(cases), resamples=400)
        freedom = freedoms(table, np.arange(cases))
        wrong.append(surely_above(bounds, freedom, [range(candidates)]).any())
    assert np.mean(wrong) <= 0.05 + 0.025  # two standard errors of 300 studies


def test_resamples_are_the_same_on_every_machine():
    """Against PCG64 (O'Neill 2014) in whole numbers of Python; only its seeding is numpy's."""
    begun = np.random.PCG64(0).state["state"]
    state, drawn = begun["state"], []
    for _ in range(20):
        state = (state * 0x2360ED051FC65DA44385DF649FCCF645 + begun["inc"]) % 2**128
        word, turn = (state >> 64 ^ state) % 2**64, state >> 122
        drawn.append(((word >> turn | word << (64 - turn)) % 2**64 >> 32) * 5 >> 32)
    expected = [[drawn[5 * b : 5 * b + 5].count(case) for case in range(5)] for b in range(4)]
    counts = resample_counts(np.arange(5), 4, seed=0).tolist()
    assert (
        counts == expected == [[2, 1, 0, 1, 1], [0, 0, 1, 2, 2], [2, 0, 0, 1, 2], [1, 1, 2, 0, 1]]
    )
    assert counts != resample_counts(np.arange(5), 4, seed=1).tolist()


def test_resamples_draw_prompts_then_their_seeds():
    units = np.repeat(np.arange(6), [1, 2, 3, 4, 1, 2])
    counts = resample_counts(units, 2000)
    per_unit = counts @ np.eye(6)[units]
    sizes = np.bincount(units)
    assert (per_unit % sizes == 0).all()  # a drawn prompt brings as many seeds as it has
    assert ((per_unit / sizes).sum(axis=1) == 6).all()
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("n", [6, 12, 50])
def test_normal_residuals_give_nearly_students_interval(n):
    rng = np.random.Generator(np.random.PCG64(n))
    sample = rng.normal(3.0, 2.0, (40, n))
    bounds = intervals(sample, np.arange(n))
    half = stats.t.ppf(0.975, n - 1) * sample.std(axis=1, ddof=1) / math.sqrt(n)
    assert (bounds.high - bounds.low) / (2 * half) == pytest.approx(1.0, abs=0.08)
    assert bounds.mean == pytest.approx(sample.mean(axis=1))


def test_skew_shows_in_the_interval():
    sample = np.array([[0.0] * 10 + [10.0, 20.0]])
    bounds = intervals(sample, np.arange(12))
    assert bounds.high[0] - bounds.mean[0] > 1.2 * (bounds.mean[0] - bounds.low[0])


def test_one_case_has_no_interval_and_two_have_a_wide_one():
    one = intervals(np.array([[4.0]]), np.zeros(1))
    assert one.mean[0] == 4.0 and math.isnan(one.low[0]) and math.isnan(one.high[0])
    two = intervals(np.array([[4.0, 6.0]]), np.zeros(2))
    assert two.high[0] - two.low[0] > 10.0


def test_equal_values_have_an_interval_without_width():
    bounds = intervals(np.full((2, 12), 0.1), np.arange(12))
    assert bounds.low == pytest.approx([0.1, 0.1]) and bounds.high == pytest.approx([0.1, 0.1])


def test_rows_use_the_cases_they_have():
    table, groups = study(1)
    holes = table.copy()
    holes[0, 3:] = math.nan
    holes[1] = math.nan
    bounds = intervals(holes, groups)
    assert bounds.mean[0] == pytest.approx(table[0, :3].mean())
    assert math.isnan(bounds.low[0])  # three seeds of one prompt: one unit
    assert math.isnan(bounds.mean[1]) and math.isnan(bounds.high[1])
    assert bounds.low[2] == intervals(table, groups).low[2]


@given(st.integers(0, 10_000), st.floats(-500, 500))
@settings(max_examples=15)
def test_shifting_a_prompt_changes_no_difference(seed, shift):
    table, groups = study(seed)
    shifted = table + np.where(groups == 2, shift, 0.0)
    for before, after in zip(
        differences_from_best(table, groups, 1),
        differences_from_best(shifted, groups, 1),
        strict=True,
    ):
        assert after == pytest.approx(before, abs=1e-7)


@given(st.integers(0, 10_000), st.permutations(range(5)))
@settings(max_examples=15)
def test_the_order_of_rows_changes_nothing(seed, order):
    table, groups = study(seed)
    before = differences_from_best(table, groups, 0)
    after = differences_from_best(table[list(order)], groups, order.index(0))
    for x, y in zip(before, after, strict=True):
        assert y == pytest.approx(x[list(order)], abs=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.booleans())
@settings(max_examples=15)
def test_units_of_measurement_do_not_matter(seed, factor, nested):
    table, groups = study(seed, seeds=2 if nested else 1)
    plain, scaled = intervals(table, groups), intervals(table * factor, groups)
    for x, y in zip(plain, scaled, strict=True):
        assert y == pytest.approx(x * factor, rel=1e-6, abs=1e-6)


def test_the_best_is_compared_with_itself_at_zero():
    table, groups = study(3)
    bounds = differences_from_best(table, groups, 2)
    assert [part[2] for part in bounds] == [0.0, 0.0, 0.0]


def test_two_identical_rows_cannot_be_told_apart():
    table, groups = study(4)
    table[1] = table[0]
    bounds = differences_from_best(table, groups, 0)
    assert [part[1] for part in bounds] == [0.0, 0.0, 0.0]


def test_choosing_the_best_widens_the_lower_bound_only():
    table, groups = study(5)
    best = int(table.mean(axis=1).argmin())
    plain = intervals(table - table[best], groups)
    chosen = differences_from_best(table, groups, best)
    other = np.arange(5) != best
    assert (chosen.low[other] < plain.low[other]).all()
    assert (chosen.high == plain.high).all()


def test_missing_cells_are_filled_on_the_others_footing():
    case = np.array([10.0, 20.0, 30.0, 40.0])
    table = np.array([[0.0], [1.0], [2.0]]) + case
    table[0, 3] = math.nan  # missed the case on which all score high
    table[2, 0] = math.nan
    assert row_means(table).argmin() == 0
    assert row_means(fill_missing(table)) == pytest.approx([25.0, 26.0, 27.0])
    assert fill_missing(table)[1] == pytest.approx(table[1])


def test_a_row_without_shared_cases_stays_unknown():
    table = np.array([[1.0, 2.0, math.nan], [2.0, 3.0, math.nan], [math.nan, math.nan, 0.0]])
    filled = fill_missing(table)
    assert np.isnan(filled[2]).all() and filled[0, :2].tolist() == [1.0, 2.0]
    assert np.isnan(fill_missing(np.full((2, 3), math.nan))).all()


def test_probability_of_best_goes_to_the_first_of_equals():
    table, groups = study(6)
    table[0] = table[:].min(axis=0) - 1.0
    table[3] = table[0]
    assert probability_of_best(table, groups).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert np.isnan(probability_of_best(table[:, :1], groups[:1])).all()


def test_probability_of_best_is_even_for_a_coin():
    rng = np.random.Generator(np.random.PCG64(9))
    half = rng.normal(0, 1, 100)
    table = np.array([np.concatenate([half, -half]), np.concatenate([-half, half])])
    share = probability_of_best(table, np.arange(200))
    assert share.sum() == pytest.approx(1.0) and share[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("prompts, seeds", [(12, 1), (8, 3)])
def test_the_interval_covers_and_the_set_holds_the_best(prompts, seeds):
    """A small version of benchmarks/coverage.py: flat truth, where errors are easiest."""
    groups = np.repeat(np.arange(prompts), seeds)
    covered, held = [], []
    for number in range(250):
        rng = np.random.Generator(np.random.PCG64([7, number]))
        shared = rng.normal(0, 2, (6, prompts))[:, groups]
        table = rng.normal(25, 10, prompts)[groups] + shared + rng.normal(0, 4, (6, len(groups)))
        bounds = intervals(table[1:] - table[0], groups, resamples=1000)
        covered.append(((bounds.low <= 0) & (bounds.high >= 0)).mean())
        best = int(table.mean(axis=1).argmin())
        held.append(not differences_from_best(table, groups, best, resamples=1000).low[3] > 0)
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(held) >= 0.93  # 0.95 less what 250 studies can be off by


def test_forty_candidates_and_two_hundred_cases_take_less_than_two_seconds():
    table, groups = study(8, rows=40, prompts=50, seeds=4)
    table[5, :7] = math.nan
    started = time.process_time()
    intervals(table, groups)
    differences_from_best(table, groups, 3)
    probability_of_best(fill_missing(table), groups)
    assert time.process_time() - started < 2.0
