"""A race against the full grid: pictures needed, the same answer, and errors, in simulation.

Studies are those of `benchmarks/answers.py` (candidates along one axis, one prompt a case), each
decided twice by the code that decides: with all pictures, and by `analysers.runs.race.Race`, which
sees only those that it asked for. With 40 candidates also by `analysers.runs.refine.Refine`, from
coarse to fine, alone and racing at each stage. "same" is the full grid's recommendation, "as good"
one that the full grid calls clean and cannot tell from its own first; a step is an eighth of the
axis for races, a fortieth for refining. `--doubts` stops races earlier or later than the default,
`--study RUN` takes the scores of a finished sweep instead, so many of its prompts in an order drawn
anew for each study, and `--sure` tells how often what was said at a look with 80 % is so.

    python benchmarks/race.py > benchmarks/results/race.md
    python benchmarks/race.py --study runs/demo-strength --cases 12 16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from answers import NOISES, SPREAD, TRUTHS
from numpy.typing import NDArray

from analysers import racing
from analysers.racing import EARLY, Asked
from analysers.ranking import decide
from analysers.runs.conclude import load_study
from analysers.runs.race import Race
from analysers.runs.refine import Refine
from analysers.statistics import ERROR
from analysers.study import Candidate, Score, Verdict

Array = NDArray[np.float64]
Cell = tuple[int, int]
Row = list[float]
Said = list[tuple[float, bool]]
"""The chance that a look gave, and whether its answer was that of all pictures."""
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


def asked_for(rows: dict[Any, Score], how: str, full: Verdict, said: Said) -> dict[Any, Score]:
    """The rows that a race, a refinement ("refine") or races while refining ("both") ask for. Of
    races, `said` gets what each look gave for a chance, and whether it answered as `full`."""
    asked = Asked("strength", resamples=RESAMPLES)
    runner = Race(rows, asked) if how == "race" else Refine(rows, asked, how == "both")
    seen: dict[Any, Score] = {}
    while cells := runner.ask(seen):
        if isinstance(runner, Race) and seen and not np.isnan(runner.sure):
            now = answer(seen, ERROR - EARLY)
            said.append((runner.sure, now.recommended == full.recommended))
        seen |= {cell: rows[cell] for cell in cells}
    return seen


def answer(rows: dict[Any, Score], error: float = ERROR) -> Verdict:
    return decide(list(rows.values()), kind="strength", error=error, resamples=RESAMPLES)[1]


def steps(a: Candidate | None, b: Candidate | None) -> float:
    """How much of the axis lies between, in strength; infinite where only one of them is there."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    assert a.strength is not None and b.strength is not None
    return float(abs(a.strength - b.strength))


def drawn(run: Path, cases: int, seed: int) -> dict[Any, Score]:
    """The scores of a finished sweep by BRISQUE and SSIM, in `cases` cases in a random order."""
    scores = load_study(run).scores
    names = sorted({row.case for row in scores})
    order = np.random.Generator(np.random.PCG64([seed, cases])).permutation(names)[:cases]
    turn = {name: n for n, name in enumerate(order)}
    kept = sorted((row for row in scores if row.case in turn), key=lambda row: turn[row.case])
    kinds = ("brisque", "ssim")
    return {
        (row.candidate, row.case): replace(
            row, values={k: v for k, v in row.values.items() if k in kinds}
        )
        for row in kept
    }


def compared(rows: dict[Any, Score], damage: dict[Candidate, float], how: str, said: Said) -> Row:
    """The columns of the tables for one study; what its looks said is added to `said`."""
    count = len({cell for cell, _ in rows}) - 1
    step = (0.25 if how == "race" else 2 / count) + 1e-9
    summaries, full = decide(list(rows.values()), kind="strength", resamples=RESAMPLES)
    clean = {s.candidate for s in summaries if s.safe}
    seen = asked_for(rows, how, full, said)
    less = answer(seen, ERROR if how == "refine" else ERROR - EARLY)
    use, end = steps(full.recommended, less.recommended), steps(full.breakdown, less.breakdown)
    good = use == 0 or (less.recommended in full.level and less.recommended in clean)
    harm = [float(damage.get(v.recommended, np.nan) > 5.0) for v in (full, less)]
    false = [
        float(v.breakdown is not None and damage.get(v.breakdown, 6.0) <= 5.0) for v in (full, less)
    ]
    shares = len(seen) / len(rows), use == 0, good, use <= step, end == 0, end <= step
    return [*map(float, shares), *false, *harm]


def line(name: str, studies: Iterator[tuple[dict[Any, Score], dict[Candidate, float]]], how: str,
         said: Said) -> str:  # fmt: skip
    """A row of a table: means over studies."""
    mean = np.mean([compared(rows, damage, how, said) for rows, damage in studies], axis=0)
    shares = " | ".join(f"{value:.0%}" for value in mean[:6])
    errors = " | ".join(f"{mean[k]:.1%} / {mean[k + 1]:.1%}" for k in (6, 8))
    return f"| {name} | {shares} | {errors} |"


def simulated(
    shape: str, noise: str, candidates: int, cases: int, o: argparse.Namespace
) -> Iterator[tuple[dict[Any, Score], dict[Candidate, float]]]:
    truth = SHAPES[shape](np.arange(1, candidates + 1) / candidates)
    for number in range(o.studies // (1 if candidates == 8 else 5)):
        rng = np.random.Generator(np.random.PCG64([o.seed, candidates, cases, number]))
        rows = study(shape, noise, candidates, cases, o.spread, rng)
        who = {row.candidate: i for (i, _), row in rows.items() if row.candidate is not None}
        yield rows, {one: float(truth[i]) for one, i in who.items()}


def calibration(said: Said) -> Iterator[str]:
    """How often the recommendation at a look was that of all pictures, by the chance it gave."""
    chance, stayed = np.array(said, dtype=float).T
    yield "| said | looks | stayed |\n| --- | --- | --- |"
    for low, high in pairwise([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01]):
        some = (chance >= low) & (chance < high)
        if some.any():
            most = f"{min(high, 1.0):.0%}"
            yield f"| {low:.0%} to {most} | {some.sum()} | {stayed[some].mean():.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400, help="per cell of 8; a fifth of 40")
    parser.add_argument("--seed", type=int, default=20260103)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--noises", nargs="*", default=["normal", "growing"])
    parser.add_argument("--cases", nargs="*", type=int, default=[8, 12, 16, 24])
    parser.add_argument("--candidates", nargs="*", type=int, default=[8, 40])
    parser.add_argument("--how", nargs="*", default=["race", "refine", "both"])
    parser.add_argument("--spread", type=float, default=SPREAD)
    parser.add_argument("--doubts", nargs="*", type=float, default=[racing.DOUBT])
    parser.add_argument("--sure", action="store_true", help="tell what the looks said, too")
    parser.add_argument("--study", type=Path, help="the run folder of a full sweep")
    o = parser.parse_args()
    columns = (
        "truth", "noise", "cases", "pictures", "same use", "as good", "within a step",
        "same breakdown", "within a step", "false breakdown, full / less",
        "damaged setting recommended, full / less",
    )  # fmt: skip
    head = "| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns)
    said: Said = []
    for how, candidates, doubt in product(o.how, o.candidates, o.doubts):
        if how != "race" and (candidates == 8 or o.study):
            continue
        racing.DOUBT = doubt
        kind = {"race": "Races", "refine": "From coarse to fine", "both": "Races while refining"}
        told = f"{candidates} candidates" if not o.study else o.study.name
        studies = o.studies // (1 if candidates == 8 else 5)
        print(f"\n## {kind[how]}, {told}, doubt {doubt:g} ({studies} studies a row)\n\n{head}")
        if o.study:
            for cases in o.cases:
                found = ((drawn(o.study, cases, o.seed + n), {}) for n in range(o.studies))
                name = f"{o.study.name} | its own | {cases}"
                print(line(name, found, how, said), flush=True)
            continue
        for shape, noise, cases in product(o.shapes, o.noises, o.cases):
            found = simulated(shape, noise, candidates, cases, o)
            print(line(f"{shape} | {noise} | {cases}", found, how, said), flush=True)
    if o.sure and said:
        print("\n## How sure the looks were\n")
        print(*calibration(said), sep="\n")
    print(f"\n{time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
