"""Checkpoint by strength: the full plane against few pictures of it, in simulation.

Each study is decided twice by the code that decides: with all pictures, and with those that
`analysers.runs.refine.Refine` asks for along lines of equal effect, alone ("refine") or racing at
each stage ("both"). Constructed planes have checkpoints whose effect saturates along training,
independent residuals per picture (spread 4 BRISQUE), and damage that begins at a strength
(`strength`), at an effect (`effect`), earlier the longer the training (`overtrained`), only in a
late training (`late`), or nowhere (`flat`). `--study RUN` takes the scores of a finished full plane
instead, with so many of its prompts drawn anew for each study.

    python benchmarks/plane.py > benchmarks/results/plane.md
    python benchmarks/plane.py --study runs/plane --cases 12
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysers.racing import EARLY, Asked
from analysers.ranking import decide
from analysers.runs.conclude import load_study
from analysers.runs.refine import Refine
from analysers.statistics import ERROR
from analysers.study import Candidate, Score, Verdict

Array = NDArray[np.float64]
Rows = dict[tuple[Candidate | None, str], Score]
RESAMPLES, SPREAD, MARGIN = 500, 4.0, 5.0

DAMAGE: dict[str, Callable[[Array, Array], Array]] = {
    "flat": lambda t, s: 0.0 * t * s,
    "strength": lambda t, s: np.where(s > 1.3, 12.0, 0.0) + 0.0 * t,
    "effect": lambda t, s: np.clip(60.0 * (applied(t) * s - 0.9), 0.0, None),
    "overtrained": lambda t, s: np.clip(60.0 * (s * (0.3 + t) - 1.0), 0.0, None),
    "late": lambda t, s: np.where((t > 0.6) & (s > 0.5), 15.0, 0.0),
}
"""BRISQUE above the control's by place in training (0 to 1) and strength."""


def applied(t: Array) -> Array:
    """How much a checkpoint has learnt, from 0 to 1."""
    return 1.0 - np.exp(-3.0 * t)


class Study(NamedTuple):
    rows: Rows
    damage: dict[Candidate, float]
    """True damage, where it is known."""


def constructed(shape: str, places: int, strengths: int, cases: int, seed: int) -> Study:
    rng = np.random.Generator(np.random.PCG64([seed, places, strengths, cases]))
    t = np.arange(1, places + 1)[:, None] / places
    s = 2.0 * np.arange(1, strengths + 1)[None, :] / strengths
    truth = DAMAGE[shape](t, s)
    effect = 0.7 * (1.0 - np.exp(-1.2 * applied(t) * s))
    who = {
        (i, k): Candidate("l", i + 1, None, Decimal(2 * (k + 1)) / strengths, i, f"epoch {i + 1}")
        for i in range(places)
        for k in range(strengths)
    }
    rows: Rows = {}
    for c in range(cases):
        case = f"p{c:03d}_s1"
        level, moved = rng.normal(25.0, 10.0), rng.uniform(0.7, 1.3)
        control = {"brisque": float(level + SPREAD * rng.standard_normal()), "ssim": 1.0}
        rows[None, case] = Score(None, case, case, 1, case, "", control)
        for (i, k), one in who.items():
            ssim = 1.0 - np.clip(moved * effect[i, k] + 0.02 * rng.standard_normal(), 0.0, 1.0)
            brisque = level + truth[i, k] + SPREAD * rng.standard_normal()
            values = {"brisque": float(brisque), "ssim": float(ssim)}
            rows[one, case] = Score(one, case, case, 1, f"{i}/{k}/{c}", case, values)
    return Study(rows, {one: float(truth[place]) for place, one in who.items()})


def drawn(run: Path, cases: int, seed: int) -> Study:
    """The scores of a finished plane, in `cases` of its cases in a random order."""
    scores = load_study(run).scores
    rng = np.random.Generator(np.random.PCG64([seed, cases]))
    names = sorted({row.case for row in scores})
    turn = {name: n for n, name in enumerate(rng.permutation(names)[:cases])}
    kept = sorted((row for row in scores if row.case in turn), key=lambda row: turn[row.case])
    return Study({(row.candidate, row.case): row for row in kept}, {})


def asked_for(rows: Rows, how: str) -> Rows:
    runner = Refine(rows, Asked("plane", resamples=RESAMPLES), how == "both")
    seen: Rows = {}
    while cells := runner.ask(seen):
        seen |= {cell: rows[cell] for cell in cells}
    return seen


def answer(rows: Rows, error: float = ERROR) -> Verdict:
    return decide(list(rows.values()), kind="plane", error=error, resamples=RESAMPLES)[1]


def effect_of(rows: Rows, candidate: Candidate | None) -> float:
    found = [1 - row.values["ssim"] for (one, _), row in rows.items() if one == candidate]
    return float(np.mean(found))


def compared(study: Study, how: str, places: list[int], strengths: list[Decimal]) -> list[float]:
    """One study's row: the columns of the table, NaN where one says nothing."""
    rows = study.rows
    seen = asked_for(rows, how)
    full, less = answer(rows), answer(seen, ERROR if how == "refine" else ERROR - EARLY)
    a, b = full.recommended, less.recommended
    same = near = alike = float(a is b)
    if a is not None and b is not None:
        off = (
            abs(places.index(a.place) - places.index(b.place)),
            abs(strengths.index(a.strength) - strengths.index(b.strength)),
        )
        same, near = float(off == (0, 0)), float(max(off) <= 1)
        alike = float(effect_of(rows, b) >= effect_of(rows, a) - 0.03)
    ends = float("nan")
    if a is not None and b is not None and a.place == b.place:
        pair = [v.breakdown.strength if v.breakdown else None for v in (full, less)]
        known = [strengths.index(one) for one in pair if one is not None]
        ends = float(pair[0] == pair[1] or len(known) == 2 and abs(known[0] - known[1]) <= 1)
    harm = [
        float(study.damage[v.recommended] > MARGIN) if v.recommended in study.damage else np.nan
        for v in (full, less)
    ]
    looked = {one for one, _ in seen} - {None}
    everyone = {one for one, _ in rows} - {None}
    return [len(seen) / len(rows), len(looked) / len(everyone), same, near, alike, ends, *harm]


COLUMNS = (
    "plane", "cases", "pictures", "settings looked at", "same setting", "within a step",
    "as much effect", "same breakdown, within a step", "damaged one recommended, full / less",
)  # fmt: skip


def table(name: str, cases: int, how: str, studies: Iterator[Study]) -> str:
    found = []
    for study in studies:
        everyone = {one for one, _ in study.rows if one is not None}
        places = sorted({one.place for one in everyone})
        strengths = sorted({one.strength for one in everyone})
        found.append(compared(study, how, places, strengths))
    many = np.array(found)
    known = ~np.isnan(many)
    mean = np.where(known, many, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    told = [f"{x:.0%}" if ok else "–" for x, ok in zip(mean, known.any(axis=0), strict=True)]
    return f"| {name} | {cases} | {' | '.join(told[:6])} | {told[6]} / {told[7]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--shapes", nargs="*", default=list(DAMAGE))
    parser.add_argument("--sizes", nargs="*", default=["10x8", "20x20"], help="places x strengths")
    parser.add_argument("--cases", nargs="*", type=int, default=[12])
    parser.add_argument("--how", nargs="*", default=["refine", "both"])
    parser.add_argument("--study", type=Path, help="the run folder of a full plane")
    o = parser.parse_args()
    started = time.perf_counter()
    seeds = [o.seed + number for number in range(o.studies)]
    for how in o.how:
        words = "few settings" if how == "refine" else "few settings, which race"
        print(f"\n## {words.capitalize()} ({o.studies} studies a row)\n")
        print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
        for cases in o.cases:
            if o.study:
                found = (drawn(o.study, cases, seed) for seed in seeds)
                print(table(o.study.name, cases, how, found), flush=True)
                continue
            for size in o.sizes:
                places, strengths = map(int, size.split("x"))
                for shape in o.shapes:
                    found = (constructed(shape, places, strengths, cases, seed) for seed in seeds)
                    print(table(f"{shape}, {size}", cases, how, found), flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
