"""A race against the full grid: pictures needed, the same answer, and errors, in simulation.

Studies are those of `benchmarks/answers.py` (candidates along one axis, one prompt a case), each
decided twice by the code that decides: with all pictures, and by `analysers.runs.race.Race`, which
sees only those that it asked for.

    python benchmarks/race.py > benchmarks/results/race.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from decimal import Decimal

import numpy as np
from answers import NOISES, SPREAD, TRUTHS
from numpy.typing import NDArray

from analysers.racing import EARLY, Asked
from analysers.ranking import decide
from analysers.runs.race import Race
from analysers.statistics import ERROR
from analysers.study import Candidate, Score, Verdict

Array = NDArray[np.float64]
Cell = tuple[int, int]
RESAMPLES = 500

SHAPES: dict[str, Callable[[Array], Array]] = {
    **TRUTHS,
    "wreck": lambda x: np.where(x > 0.6, 40.0, 0.0),
    "U": lambda x: 40.0 * (x - 0.45) ** 2 * np.where(x > 0.45, 3.0, 1.0),
}


def study(
    shape: str, noise: str, candidates: int, cases: int, spread: float, rng: np.random.Generator
) -> dict[Cell, Score]:
    """All rows, by (candidate or -1 for the control, case)."""
    x = np.arange(1, candidates + 1) / candidates
    growth, draw = NOISES[noise]
    level = rng.normal(25.0, 10.0, cases)
    control = level + spread * draw(rng, (cases,))
    spreads = spread * np.linspace(1.0, growth, candidates)
    scores = level + SHAPES[shape](x)[:, None] + spreads[:, None] * draw(rng, (candidates, cases))
    rows: dict[Cell, Score] = {}
    for k in range(cases):
        case = f"p{k:03d}_s1"
        rows[-1, k] = Score(
            None, case, case, 1, case, "", {"brisque": float(control[k]), "ssim": 1.0}
        )
        for i in range(candidates):
            who = Candidate("l", strength=Decimal(2 * (i + 1)) / candidates)
            values = {"brisque": float(scores[i, k]), "ssim": float(1 - 0.6 * x[i])}
            rows[i, k] = Score(who, case, case, 1, f"{i}/{k}", case, values)
    return rows


def race(rows: dict[Cell, Score]) -> dict[Cell, Score]:
    """The rows that a race asks for."""
    runner = Race(rows, Asked("strength", resamples=RESAMPLES))
    seen: dict[Cell, Score] = {}
    while cells := runner.ask(seen):
        seen |= {cell: rows[cell] for cell in cells}
    return seen


def answer(rows: dict[Cell, Score], error: float = ERROR) -> Verdict:
    return decide(list(rows.values()), kind="strength", error=error, resamples=RESAMPLES)[1]


def steps(a: Candidate | None, b: Candidate | None, candidates: int) -> float:
    """How many strengths lie between; infinite where only one of them is there."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    assert a.strength is not None and b.strength is not None
    return float(abs(a.strength - b.strength)) * candidates / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20260103)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--noises", nargs="*", default=["normal", "growing"])
    parser.add_argument("--cases", nargs="*", type=int, default=[8, 12, 24])
    parser.add_argument("--candidates", nargs="*", type=int, default=[8, 40])
    parser.add_argument("--spread", type=float, default=SPREAD)
    options = parser.parse_args()
    started = time.perf_counter()
    print("# Races\n")
    columns = (
        "truth", "noise", "candidates", "cases", "pictures", "same use", "within one step",
        "same breakdown", "within one step", "false breakdown full / race",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for shape in options.shapes:
        for noise in options.noises:
            for candidates in options.candidates:
                for cases in options.cases:
                    found = []
                    x = np.arange(1, candidates + 1) / candidates
                    truth = SHAPES[shape](x)
                    for number in range(options.studies // (1 if candidates == 8 else 4)):
                        rng = np.random.Generator(
                            np.random.PCG64([options.seed, candidates, cases, number])
                        )
                        rows = study(shape, noise, candidates, cases, options.spread, rng)
                        seen = race(rows)
                        full, raced = answer(rows), answer(seen, ERROR - EARLY)
                        use = steps(full.recommended, raced.recommended, candidates)
                        end = steps(full.breakdown, raced.breakdown, candidates)
                        false = [
                            v.breakdown is not None
                            and truth[int(v.breakdown.strength * candidates / 2) - 1] <= 5.0
                            for v in (full, raced)
                        ]
                        found.append(
                            (len(seen) / len(rows), use == 0, use <= 1, end == 0, end <= 1, *false)
                        )
                    mean = np.mean(np.array(found, dtype=float), axis=0)
                    cells = [f"{value:.0%}" for value in mean[:5]]
                    print(
                        f"| {shape} | {noise} | {candidates} | {cases} | "
                        + " | ".join(cells)
                        + f" | {mean[5]:.1%} / {mean[6]:.1%} |",
                        flush=True,
                    )
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
