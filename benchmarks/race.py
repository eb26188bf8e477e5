"""A race against the full grid: pictures needed, the same answer, and errors, in simulation.

Studies are those of `benchmarks/answers.py` (candidates along one axis, one prompt a case), each
decided twice by the code that decides: with all pictures, and by `analysers.runs.race.Race`, which
sees only those that it asked for. With 40 candidates also by `analysers.runs.refine.Refine`, from
coarse to fine, alone and racing at each stage. A step is an eighth of the axis for races, a
fortieth for refining.

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
from analysers.runs.refine import Refine
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


def asked_for(rows: dict[Cell, Score], how: str) -> dict[Cell, Score]:
    """The rows that a race, a refinement ("refine") or races while refining ("both") ask for."""
    asked = Asked("strength", resamples=RESAMPLES)
    runner = Race(rows, asked) if how == "race" else Refine(rows, asked, how == "both")
    seen: dict[Cell, Score] = {}
    while cells := runner.ask(seen):
        seen |= {cell: rows[cell] for cell in cells}
    return seen


def answer(rows: dict[Cell, Score], error: float = ERROR) -> Verdict:
    return decide(list(rows.values()), kind="strength", error=error, resamples=RESAMPLES)[1]


def steps(a: Candidate | None, b: Candidate | None) -> float:
    """How much of the axis lies between, in strength; infinite where only one of them is there."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    assert a.strength is not None and b.strength is not None
    return float(abs(a.strength - b.strength))


def compared(
    shape: str,
    noise: str,
    candidates: int,
    cases: int,
    studies: int,
    how: str,
    o: argparse.Namespace,
) -> NDArray[np.float64]:
    """Means over studies: the columns of the tables."""
    truth = SHAPES[shape](np.arange(1, candidates + 1) / candidates)
    step = (0.25 if how == "race" else 2 / candidates) + 1e-9
    found = []
    for number in range(studies):
        rng = np.random.Generator(np.random.PCG64([o.seed, candidates, cases, number]))
        rows = study(shape, noise, candidates, cases, o.spread, rng)
        seen = asked_for(rows, how)
        full, less = answer(rows), answer(seen, ERROR if how == "refine" else ERROR - EARLY)
        use, end = steps(full.recommended, less.recommended), steps(full.breakdown, less.breakdown)
        false = [
            v.breakdown is not None
            and v.breakdown.strength is not None
            and truth[round(float(v.breakdown.strength) * candidates / 2) - 1] <= 5.0
            for v in (full, less)
        ]
        harm = [
            v.recommended is not None
            and v.recommended.strength is not None
            and truth[round(float(v.recommended.strength) * candidates / 2) - 1] > 5.0
            for v in (full, less)
        ]
        shares = len(seen) / len(rows), use == 0, use <= step, end == 0, end <= step
        found.append((*shares, *false, *harm))
    return np.asarray(np.mean(np.array(found, dtype=float), axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400, help="per cell of 8; a fifth of 40")
    parser.add_argument("--seed", type=int, default=20260103)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--noises", nargs="*", default=["normal", "growing"])
    parser.add_argument("--cases", nargs="*", type=int, default=[8, 12, 24])
    parser.add_argument("--candidates", nargs="*", type=int, default=[8, 40])
    parser.add_argument("--how", nargs="*", default=["race", "refine", "both"])
    parser.add_argument("--spread", type=float, default=SPREAD)
    o = parser.parse_args()
    started = time.perf_counter()
    columns = (
        "truth", "noise", "cases", "pictures", "same use", "within a step",
        "same breakdown", "within a step", "false breakdown, full / less",
        "damaged setting recommended, full / less",
    )  # fmt: skip
    for title, candidates, how in (
        ("Races, 8 candidates", 8, "race"),
        ("Races, 40 candidates", 40, "race"),
        ("From coarse to fine, 40 candidates", 40, "refine"),
        ("Races while refining, 40 candidates", 40, "both"),
    ):
        if how not in o.how or candidates not in o.candidates:
            continue
        studies = o.studies // (1 if candidates == 8 else 5)
        print(f"\n## {title} ({studies} studies a row)\n")
        print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
        for shape in o.shapes:
            for noise in o.noises:
                for cases in o.cases:
                    mean = compared(shape, noise, candidates, cases, studies, how, o)
                    shares = " | ".join(f"{value:.0%}" for value in mean[:5])
                    errors = " | ".join(f"{mean[k]:.1%} / {mean[k + 1]:.1%}" for k in (5, 7))
                    print(f"| {shape} | {noise} | {cases} | {shares} | {errors} |", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
