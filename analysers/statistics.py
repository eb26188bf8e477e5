"""Paired bootstrap intervals over cases: arrays in, arrays out.

Tables are candidates x cases, float, NaN where a cell is missing. `groups` gives each case's prompt
as an integer. Prompts are the units that a study repeats; where all cases share one, cases are. A
few facts decide the rest:

* The plain percentile interval is too narrow with few units, and drawing twice (prompts, then
  seeds) makes it too wide. So the resamples give the interval its *shape*, and its *scale* comes
  from the unbiased standard error between prompts with Student's t. With one seed per prompt this
  is close to the expanded percentile interval of Hesterberg (2015, "What teachers should know
  about the bootstrap", The American Statistician 69:371). Fewer than `MIN_UNITS` units have no
  shape to show: there the interval is Student's own.
* The best was picked because it looked lowest, so an ordinary interval of the difference from it
  excludes zero too often. `differences_from_best` allows for the choice, in the manner of Hsu's
  multiple comparisons with the best (1981, Annals of Statistics 9:1026).
* Of forty candidates one looks worse than the control by luck. `surely_above` counts them.
* Results do not depend on the machine: resamples come from PCG64's raw output (its stream is
  fixed, that of numpy's distributions is not), and sums are made exact by a common binary grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_UNITS = 6
RESAMPLES = 4000
LEVEL = 0.95
ERROR = 1 - LEVEL
"""Chance of a false finding, all candidates counted: of any breakdown, and of losing the best."""

BEST_SHARE = 0.7
"""One-sided share of `ERROR` in the comparison with the best. At 1 the truly best was kept in
94.4 % of studies in the hardest row of benchmarks/coverage.py; at 0.5 intervals covered up to
98.6 %."""


class Bounds(NamedTuple):
    """Means with interval bounds, each of shape (rows,); NaN bounds where none can be had."""

    mean: Array
    low: Array
    high: Array


def clusters(groups: NDArray[Any]) -> NDArray[np.intp]:
    """Which unit each case belongs to, as 0..K-1: its prompt, or itself where all share one.

    `groups` has shape (cases,).
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) >= 2:
        return np.asarray(inverse, dtype=np.intp).reshape(-1)
    return np.arange(len(groups), dtype=np.intp)


def resample_counts(
    units: NDArray[np.intp], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """How often each case enters each resample: shape (resamples, cases), whole numbers.

    Units are drawn with replacement, then as many cases within each as it has.
    """
    return _resample_counts(tuple(int(u) for u in units), resamples, seed)


@lru_cache(maxsize=8)
def _resample_counts(units: tuple[int, ...], resamples: int, seed: int) -> Array:
    n = len(units)
    order = np.argsort(np.array(units), kind="stable")
    sizes = np.bincount(np.array(units, dtype=np.intp))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    k, widest = len(sizes), int(sizes.max())
    stream = np.random.PCG64(seed)
    counts = np.empty((resamples, n))
    step = max(1, 4_000_000 // (k * widest))  # bounds the memory of one block of draws
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        unit = _below(stream, np.full((rows, k), k))
        size = sizes[unit]
        if widest == 1:
            flat = starts[unit] + n * np.arange(rows)[:, None]
        else:
            within = _below(stream, np.repeat(size[:, :, None], widest, axis=2))
            drawn = np.arange(widest)[None, None, :] < size[:, :, None]
            place = starts[unit][:, :, None] + within + n * np.arange(rows)[:, None, None]
            flat = place[drawn]
        block = np.bincount(flat.ravel(), minlength=rows * n).reshape(rows, n)
        counts[first : first + rows, order] = block
    counts.setflags(write=False)
    return counts


def _below(stream: np.random.PCG64, limit: NDArray[np.integer]) -> NDArray[np.intp]:
    """Whole numbers in [0, limit) from raw 64-bit output; the bias is below limit / 2**32."""
    half = np.uint64(32)
    raw = stream.random_raw(limit.size).reshape(limit.shape)
    scaled = np.right_shift(np.right_shift(raw, half) * limit.astype(np.uint64), half)
    return np.asarray(scaled, dtype=np.intp)


def row_means(table: Array) -> Array:
    """Correctly rounded mean of each row's finite entries; NaN for a row without any."""
    means = np.full(len(table), math.nan)
    for i, row in enumerate(np.asarray(table, dtype=float)):
        kept = row[np.isfinite(row)]
        if kept.size:
            means[i] = math.fsum(kept) / kept.size
    return means


def intervals(
    table: Array, groups: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = 0
) -> Bounds:
    """Mean of each row with its 95 % interval.

    `table` has shape (rows, cases), such as paired differences; `groups` shape (cases,). A row with
    fewer than two units (prompts or cases) has NaN bounds: one case says nothing about the next.
    """
    from scipy.special import ndtri, stdtrit

    table = np.asarray(table, dtype=float)
    mean = row_means(table)
    low, high = np.full(len(table), math.nan), np.full(len(table), math.nan)
    units = clusters(groups)
    error, freedom = standard_errors(table, mean, units)
    tail = (1 - LEVEL) / 2
    few = (freedom >= 1) & (freedom < MIN_UNITS - 1)
    arm = stdtrit(freedom[few], 1 - tail) * error[few]
    low[few], high[few] = mean[few] - arm, mean[few] + arm
    rows = np.flatnonzero(freedom >= MIN_UNITS - 1)
    if rows.size:
        deviations = _resampled_means(table[rows] - mean[rows, None], units, resamples, seed)
        whole = np.isfinite(deviations).all()  # the functions that skip NaN are five times as slow
        spread = np.std(deviations, axis=0) if whole else np.nanstd(deviations, axis=0)
        quantile = np.quantile if whole else np.nanquantile
        lower, upper = quantile(deviations, [tail, 1 - tail], axis=0)
        widen = stdtrit(freedom[rows], 1 - tail) / ndtri(1 - tail)
        scale = widen * np.divide(error[rows], spread, out=np.zeros_like(spread), where=spread > 0)
        low[rows] = mean[rows] + np.minimum(lower * scale, 0.0)
        high[rows] = mean[rows] + np.maximum(upper * scale, 0.0)
    # rounding to nine decimals hides what the last bit of a library function may differ in
    low, high = np.minimum(np.round(low, 9), mean), np.maximum(np.round(high, 9), mean)
    return Bounds(mean, low, high)


def differences_from_best(
    table: Array,
    groups: NDArray[Any],
    best: int,
    *,
    error: float = ERROR,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bounds:
    """Each row's mean difference from row `best`, over the cases that both have, lower = better.

    The lower bound allows for `best` having been chosen among all rows: row i's is the mean
    difference less q_i standard errors, q_i the 1 - `BEST_SHARE` * `error` quantile of the largest
    standardised error among row i's differences from all other rows: by resampling, or `largest_t`
    where units are few. So whichever row is truly best, its lower bound is above zero in fewer
    than a share `error` of studies. The upper bound is that of `intervals`.
    """
    from scipy.special import ndtr, stdtrit

    alpha = BEST_SHARE * error

    table = np.asarray(table, dtype=float)
    plain = intervals(table - table[best], groups, resamples=resamples, seed=seed)
    low = plain.low.copy()
    units = clusters(groups)
    complete = bool(np.isfinite(table).all())
    means = row_means(table)
    together = (
        _resampled_means(table - means[:, None], units, resamples, seed) if complete else None
    )
    for i in range(len(table)):
        if i == best or not math.isfinite(plain.low[i]):
            continue
        pairs = table[i] - table
        mean = row_means(pairs)
        deviation, freedom = standard_errors(pairs, mean, units)
        others = np.flatnonzero((freedom >= 1) & (deviation > 0) & (np.arange(len(table)) != i))
        if not others.size or not deviation[best] > 0:
            continue
        if freedom[best] < MIN_UNITS - 1:
            students = largest_t(len(others), int(freedom[best]), alpha)
            low[i] = min(plain.low[i], plain.mean[i] - students * deviation[best])
            continue
        if together is not None:
            deviations = together[:, i, None] - together[:, others]
        else:
            centred = pairs[others] - mean[others, None]
            deviations = _resampled_means(centred, units, resamples, seed)
        spread = np.nanstd(deviations, axis=0)
        standard = deviations / np.where(spread > 0, spread, math.inf)
        worst = np.where(np.isnan(standard), -math.inf, standard).max(axis=1)
        quantile = np.quantile(worst[np.isfinite(worst)], 1 - alpha)
        # the resamples speak of a known spread: move the same tail to Student's t
        students = stdtrit(freedom[best], 1 - ndtr(-quantile))
        low[i] = min(plain.low[i], plain.mean[i] - students * deviation[best])
    return Bounds(plain.mean, np.minimum(np.round(low, 9), plain.mean), plain.high)


def surely_above(
    bounds: Bounds,
    freedom: NDArray[np.intp],
    lines: Sequence[Sequence[int]],
    floor: float = 0.0,
    error: float = ERROR,
) -> NDArray[np.bool_]:
    """Which rows' means are surely above `floor`, all rows counted: shape (rows,).

    `bounds` are those of `intervals`, `freedom` that of `freedoms`. `lines` hold row numbers, the
    strongest candidate last, whose damage is expected to grow; each row is in one line. The chance
    of any false finding is at most `error`, half of it for each of two ways of finding:

    * from the strongest down, each row at the full level until one is not found (a fixed sequence
      needs no correction: Maurer, Hothorn and Lehmacher 1995); lines share the level;
    * the rest counted, by Holm's step-down test (1979) on the longer arm of the interval, since
      damage may also show only in the middle, where the metric recovers beyond it.
    """
    from scipy.special import stdtrit

    alpha = error / 2
    above = bounds.mean > floor
    unit = stdtrit(np.maximum(freedom, 1), 1 - ERROR / 2)

    def in_t(arm: Array) -> Array:
        """The distance from the floor in units of t, an arm of the interval being t's quantile."""
        sure = np.where(above, math.inf, -math.inf)
        return np.divide(bounds.mean - floor, arm, out=sure, where=arm > 0) * unit

    lower = bounds.mean - bounds.low
    t = in_t(lower)
    counted = in_t(np.maximum(lower, bounds.high - bounds.mean))
    known = (freedom >= 1) & np.isfinite(bounds.low)
    found = np.zeros(len(t), dtype=bool)
    lines = [kept for line in lines if (kept := [i for i in line if known[i]])]
    for line in lines:
        for i in reversed(line):
            if not t[i] > stdtrit(freedom[i], 1 - alpha / len(lines)):
                break
            found[i] = True
    left = sorted(
        (i for line in lines for i in line if not found[i]), key=lambda i: (-counted[i], i)
    )
    for k, i in enumerate(left):
        if not counted[i] > stdtrit(freedom[i], 1 - alpha / (len(left) - k)):
            break
        found[i] = True
    return found


def freedoms(table: Array, groups: NDArray[Any]) -> NDArray[np.intp]:
    """Degrees of freedom of each row's mean: its units (prompts) less one; -1 without any."""
    units = clusters(groups)
    member = np.zeros((len(units), int(units.max(initial=-1)) + 1))
    member[np.arange(len(units)), units] = 1.0
    seen = np.isfinite(table).astype(float) @ member
    return np.asarray((seen > 0).sum(axis=1) - 1, dtype=np.intp)


@lru_cache(maxsize=4096)
def largest_t(count: int, freedom: int, alpha: float) -> float:
    """The value that the largest of `count` Student's t passes with probability `alpha`.

    For comparisons of `count` candidates with one other (Dunnett 1955), each with a standard error
    of its own. All numerators share the other's error (correlation 1/2); the standard errors are
    taken as independent, which errs on the safe side. With one candidate this is Student's t.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    shared, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    # trapezoid in log s, s the estimated over the true standard error
    log = np.linspace(
        -32 / freedom - 6 / math.sqrt(freedom), math.log1p(64 / freedom) / 2 + 0.1, 200
    )
    density = np.exp(freedom * (log - np.expm1(2 * log) / 2))
    density /= density.sum()

    def beyond(value: float) -> float:
        below = ndtr(math.sqrt(2) * value * np.exp(log) + shared[:, None]) @ density
        return float(weight @ below**count) - (1 - alpha)

    return float(brentq(beyond, 0.0, 1e6, xtol=1e-9))


def fill_missing(table: Array) -> Array:
    """The table with missing cells filled from candidate + case effects (least squares).

    The means of its rows are then means over the same cases, so that a candidate that missed the
    hard ones does not look better for it. A row that shares no case with the rest stays NaN
    (the largest connected set of rows is kept).
    """
    table = np.asarray(table, dtype=float)
    have = np.isfinite(table)
    if have.all():
        return table
    filled = np.where(have, table, math.nan)
    rows = _largest_connected(have)
    if not rows.size:
        return filled
    cases = np.flatnonzero(have[rows].any(axis=0))
    block, mask = table[np.ix_(rows, cases)], have[np.ix_(rows, cases)]
    values = np.where(mask, block, 0.0)
    weight = mask / mask.sum(axis=0)
    # normal equations after the case effects are eliminated; the ones fix the free constant
    matrix = np.diag(mask.sum(axis=1).astype(float)) - mask.astype(float) @ weight.T
    right = (values - mask * (values.sum(axis=0) / mask.sum(axis=0))).sum(axis=1)
    effect = np.linalg.solve(matrix + 1.0, right)
    case = ((values - mask * effect[:, None]).sum(axis=0)) / mask.sum(axis=0)
    fitted = np.round(effect[:, None] + case[None, :], 9)
    filled[np.ix_(rows, cases)] = np.where(mask, block, fitted)
    lost = np.setdiff1d(np.arange(len(table)), rows)
    filled[lost] = math.nan
    return filled


def probability_of_best(
    table: Array,
    groups: NDArray[Any],
    *,
    tolerance: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Array:
    """Share of resamples in which each row has the lowest mean; ties go to the earlier row.

    Rows are to be given in order of preference; `tolerance` is the tie tolerance. Rows or cases
    that are NaN throughout are left out (NaN); so are all with fewer than two units.
    """
    table = np.asarray(table, dtype=float)
    share = np.full(len(table), math.nan)
    rows = np.flatnonzero(np.isfinite(table).any(axis=1))
    cases = np.isfinite(table[rows]).all(axis=0)
    if not rows.size or len(np.unique(clusters(np.asarray(groups)[cases]))) < 2:
        return share
    units = clusters(np.asarray(groups)[cases])
    means = _resampled_means(table[np.ix_(rows, np.flatnonzero(cases))], units, resamples, seed)
    within = means <= means.min(axis=1, keepdims=True) + tolerance + 1e-9
    share[rows] = np.bincount(within.argmax(axis=1), minlength=len(rows)) / len(means)
    return share


def _resampled_means(
    table: Array, units: NDArray[np.intp], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means of each row in each resample: shape (resamples, rows); NaN where no case was drawn."""
    counts = resample_counts(units, resamples, seed)
    have = np.isfinite(table)
    values = _on_grid(np.where(have, table, 0.0), counts)
    sums = counts @ values.T
    if have.all():
        return np.asarray(sums / counts.sum(axis=1, keepdims=True))
    drawn = counts @ have.T.astype(float)
    means = np.full(sums.shape, math.nan)
    np.divide(sums, drawn, out=means, where=drawn > 0)
    return means


def _on_grid(values: Array, counts: Array) -> Array:
    """Values rounded to a power of two so small (about 1e-11 of the largest) that all weighted
    sums are exact in float64, whatever order a BLAS adds them in."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return values
    heaviest = float(counts.sum(axis=1).max())
    bits = 52 - math.ceil(math.log2(max(heaviest, 2.0)))
    exponent = math.frexp(largest)[1] - bits
    return np.asarray(np.ldexp(np.round(np.ldexp(values, -exponent)), exponent))


def standard_errors(
    table: Array, mean: Array, units: NDArray[np.intp]
) -> tuple[Array, NDArray[np.intp]]:
    """Standard error of each row's mean, from sums of residuals within units, and units - 1."""
    have = np.isfinite(table)
    member = np.zeros((table.shape[1], int(units.max(initial=-1)) + 1))
    member[np.arange(table.shape[1]), units] = 1.0
    residual = np.where(have, table - np.where(np.isfinite(mean), mean, 0.0)[:, None], 0.0)
    sums = residual @ member
    k = ((have.astype(float) @ member) > 0).sum(axis=1)
    n = have.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(k / (k - 1.0) * (sums**2).sum(axis=1)) / n
    error = np.where(error > 1e-12 * np.maximum(1.0, np.abs(mean)), error, 0.0)
    return np.where(k >= 2, error, math.nan), (k - 1).astype(np.intp)


def _largest_connected(have: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Rows of the largest set that is linked by shared columns; the earlier set among equals."""
    left = {int(i) for i in np.flatnonzero(have.any(axis=1))}
    best: set[int] = set()
    while left:
        found = {min(left)}
        while True:
            columns = have[sorted(found)].any(axis=0)
            grown = {i for i in left if have[i][columns].any()}
            if grown == found:
                break
            found = grown
        if len(found) > len(best):
            best = found
        left -= found
    return np.array(sorted(best), dtype=np.intp)
