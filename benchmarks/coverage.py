"""Do the intervals cover, and does the set that cannot be told from the best hold the best?

Studies with a known truth are drawn and analysed by the code that users run: seven strengths, each
case with a level of its own (spread 10, shared by all strengths, so that pairing matters) and an
independent residual per picture.

    python benchmarks/coverage.py                  # 1,000 studies per row
    python benchmarks/coverage.py --studies 4000 --markdown

Columns, as shares of studies (or of study x strength): `control`, the 95 % interval of the
difference from the control covers the truth; `best`, that of the difference from the candidate
that came out best (a choice made on the same numbers); `plain`, the same without allowing for the
choice; `percentile`, the plain percentile bootstrap of the difference from the control, for
comparison; `set`, the truly best (the lowest strength of several) is among those that cannot be
told from the best; `size`, how many of the seven that set holds on average.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysers.statistics import (
    clusters,
    differences_from_best,
    intervals,
    resample_counts,
)

Array = NDArray[np.float64]

STRENGTHS = np.arange(1, 8) * 0.2
SHAPES: dict[str, Array] = {
    "U": np.asarray(12.0 * (STRENGTHS - 0.6) ** 2, dtype=np.float64),
    "cliff": np.where(STRENGTHS > 0.9, 10.0, 0.0),
    "flat": np.zeros(len(STRENGTHS)),
}
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: rng.exponential(1.0, shape) - 1.0,
    "heavy tails": lambda rng, shape: rng.standard_t(4, shape) / math.sqrt(2.0),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: shape, residual spread, prompts x seeds, kind of residual."""

    shape: str
    spread: float
    prompts: int
    seeds: int = 1
    noise: str = "normal"
    shared: float = 0.0  # spread of a residual that all seeds of one prompt share


def rows() -> list[Row]:
    """Required rows first, then seeds within prompts, then residuals that are not normal."""
    plain = [Row(s, spread, n) for s in SHAPES for spread in (1.0, 4.0) for n in (6, 12, 24)]
    nested = [Row(s, 4.0, k, 4, shared=2.0) for s in SHAPES for k in (3, 6, 12)]
    noises = ("skewed", "heavy tails")
    other = [Row(s, 4.0, n, noise=x) for x in noises for s in ("U", "flat") for n in (12, 24)]
    few = [Row("U", 4.0, n) for n in (2, 3)] + [Row("flat", 4.0, n) for n in (2, 3, 4)]
    seeds = [
        Row(s, 4.0, prompts, seeds, shared=2.0)
        for s in ("U", "flat")
        for prompts, seeds in ((2, 8), (3, 8), (4, 4), (5, 4))
    ]
    return [*plain, *nested, *other, *few, *seeds]


def simulate(row: Row, studies: int, seed: int, number: int) -> dict[str, float]:
    """The shares of `row`; study `i` of row `number` has its own PCG64 stream."""
    truth = SHAPES[row.shape]
    groups = np.repeat(np.arange(row.prompts), row.seeds)
    units = clusters(groups)
    counts = resample_counts(units)
    counts = counts / counts.sum(axis=1, keepdims=True)
    draw = NOISES[row.noise]
    hits: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for study in range(studies):
        rng = np.random.Generator(np.random.PCG64([seed, number, study]))
        level = rng.normal(25.0, 10.0, row.prompts)[groups]
        shape = (len(truth) + 1, row.prompts)
        shared = row.shared * rng.standard_normal(shape)[:, groups]
        noise = row.spread * draw(rng, (len(truth) + 1, len(groups)))
        pictures = level + shared + noise
        control, table = pictures[0], truth[:, None] + pictures[1:]
        difference = intervals(table - control, groups)
        hits["control"].append(_covers(difference.low, difference.high, truth).mean())
        shares = counts @ (table - control).T
        low, high = np.quantile(shares, [0.025, 0.975], axis=0)
        hits["percentile"].append(_covers(low, high, truth).mean())
        best = int(np.argmin(table.mean(axis=1)))
        other = np.arange(len(truth)) != best
        gap = truth - truth[best]
        chosen = differences_from_best(table, groups, best)
        hits["best"].append(_covers(chosen.low, chosen.high, gap)[other].mean())
        plain = intervals(table - table[best], groups)
        hits["plain"].append(_covers(plain.low, plain.high, gap)[other].mean())
        kept = ~(chosen.low > 0) | ~other
        hits["set"].append(float(kept[int(np.argmin(truth))]))
        hits["size"].append(float(kept.sum()))
    return {name: float(np.mean(values)) for name, values in hits.items()}


COLUMNS = ("control", "percentile", "best", "plain", "set", "size")


def _covers(low: Array, high: Array, truth: Array) -> NDArray[np.bool_]:
    return np.asarray((low <= truth) & (truth <= high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per row")
    parser.add_argument("--seed", type=int, default=20260101)
    parser.add_argument("--below", type=int, default=1000, help="only rows with fewer prompts")
    parser.add_argument("--markdown", action="store_true", help="print a table for the docs")
    options = parser.parse_args()
    started = time.perf_counter()
    head = ("shape", "residual", "cases", *COLUMNS)
    line = "| " + " | ".join(["{}"] * len(head)) + " |" if options.markdown else "{:<8}" * 9
    print(line.format(*head))
    if options.markdown:
        print("|" + "---|" * len(head))
    for number, row in enumerate(rows()):
        if row.prompts >= options.below:
            continue
        shares = simulate(row, options.studies, options.seed, number)
        noise = f"{row.spread:g}" + ("" if row.noise == "normal" else f" {row.noise}")
        cases = f"{row.prompts}" + (f" x {row.seeds}" if row.seeds > 1 else "")
        values = [f"{shares[c]:.1%}" for c in COLUMNS[:-1]] + [f"{shares['size']:.1f}"]
        print(line.format(row.shape, noise, cases, *values), flush=True)
    print(f"\n{options.studies} studies per row, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
