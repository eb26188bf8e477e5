"""A race against the full grid: pictures needed, the same answer, and errors, in simulation.

Studies are those of `benchmarks/answers.py` (candidates along one axis, one prompt a case), each
decided twice by the code that decides: with all pictures, and by `analysers.runs.race.Race`, which
sees only those that it asked for. With 40 candidates also by `analysers.runs.refine.Refine`, from
coarse to fine, alone and racing at each stage. "same" is the full grid's recommendation, "as good"
one that the full grid calls clean and cannot tell from its own first; a step is an eighth of the
axis for races, a fortieth for refining. "wrong" are studies in which at any look something
undamaged was called broken, or whose answer is truly damaged, or surely worse than the first by
all pictures (95 % interval of the share: Wilson 1927). `--doubts` stops races earlier or later than
the default, `--study RUN` takes the scores of a finished sweep instead, so many of its prompts in
an order drawn anew for each study, and `--sure` tells how often what was said at a look with 80 %
is so.

    python benchmarks/race.py > benchmarks/results/race.md
    python benchmarks/race.py --study runs/demo-strength --cases 12 16
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

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
Said = list[tuple[float, bool]]
"""The chance that a look gave, and whether its answer was that of all pictures."""
RESAMPLES = 500
MARGIN = 5.0

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


class Asking(NamedTuple):
    """What was asked for, what each look said, and the weakest called broken at any of them."""

    seen: dict[Any, Score]
    said: Said
    broken: set[Candidate]


def asked_for(rows: dict[Any, Score], how: str, full: Verdict, sure: bool) -> Asking:
    """The rows that a race, a refinement ("refine") or races while refining ("both") ask for."""
    asked = Asked("strength", resamples=RESAMPLES)
    runner = Race(rows, asked) if how == "race" else Refine(rows, asked, how == "both")
    found = Asking({}, [], set())
    while cells := runner.ask(found.seen):
        if sure and isinstance(runner, Race) and found.seen and not np.isnan(runner.sure):
            now = answer(found.seen, ERROR - EARLY)
            found.said.append((runner.sure, now.recommended == full.recommended))
        beyond = [one.candidate for one in runner.record().stopped if one.outcome == "beyond"]
        found.broken.update(sorted(beyond, key=lambda one: one.strength or 0)[:1])
        found.seen.update((cell, rows[cell]) for cell in cells)
    return found


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


@dataclass(frozen=True)
class Task:
    """One study: simulated, or so many cases of a `run` in an order of its own."""

    shape: str
    noise: str
    candidates: int
    cases: int
    spread: float
    seed: tuple[int, ...]
    how: str
    doubt: float
    sure: bool
    run: Path | None = None

    def rows(self) -> tuple[dict[Any, Score], dict[Candidate, float]]:
        """With the true damage of each candidate, where it is known."""
        if self.run:
            return drawn(self.run, self.cases, self.seed[-1]), {}
        rng = np.random.Generator(np.random.PCG64(self.seed))
        rows = study(self.shape, self.noise, self.candidates, self.cases, self.spread, rng)
        truth = SHAPES[self.shape](np.arange(1, self.candidates + 1) / self.candidates)
        who = {row.candidate: i for (i, _), row in rows.items() if row.candidate is not None}
        return rows, {one: float(truth[i]) for one, i in who.items()}


def compared(task: Task) -> tuple[list[float], Said]:
    """The columns of the tables for one study, and what its looks said."""
    racing.DOUBT = task.doubt
    rows, damage = task.rows()
    how = task.how
    count = len({cell for cell, _ in rows}) - 1
    step = (0.25 if how == "race" else 2 / count) + 1e-9
    summaries, full = decide(list(rows.values()), kind="strength", resamples=RESAMPLES)
    clean = {s.candidate for s in summaries if s.safe}
    asking = asked_for(rows, how, full, task.sure)
    less = answer(asking.seen, ERROR if how == "refine" else ERROR - EARLY)
    use, end = steps(full.recommended, less.recommended), steps(full.breakdown, less.breakdown)
    good = use == 0 or (less.recommended in full.level and less.recommended in clean)
    harm = [float(damage.get(v.recommended, np.nan) > MARGIN) for v in (full, less)]
    false = [
        float(v.breakdown is not None and damage.get(v.breakdown, np.inf) <= MARGIN)
        for v in (full, less)
    ]
    worse = use != 0 and less.recommended is not None and less.recommended not in full.level
    early = any(damage.get(one, np.inf) <= MARGIN for one in asking.broken)
    wrong = float(early or worse or false[1] > 0 or harm[1] > 0)
    shares = len(asking.seen) / len(rows), use == 0, good, use <= step, end == 0, end <= step
    return [*map(float, shares), *false, *harm, wrong], asking.said


def wilson(hits: float, count: int) -> str:
    """A share with its 95 % interval (Wilson 1927)."""
    share, z2 = hits / count, 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    arm = np.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return f"{share:.1%} ({max(0.0, middle - arm):.1%} to {middle + arm:.1%})"


def line(name: str, found: Sequence[list[float]]) -> str:
    """A row of a table: means over studies."""
    mean = np.mean(found, axis=0)
    shares = " | ".join(f"{value:.0%}" for value in mean[:6])
    errors = " | ".join(f"{mean[k]:.1%} / {mean[k + 1]:.1%}" for k in (6, 8))
    return f"| {name} | {shares} | {errors} | {wilson(len(found) * mean[10], len(found))} |"


def calibration(said: Said) -> Iterator[str]:
    """How often the recommendation at a look was that of all pictures, by the chance it gave."""
    chance, stayed = np.array(said, dtype=float).T
    yield "| said | looks | stayed |\n| --- | --- | --- |"
    for low, high in pairwise([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01]):
        some = (chance >= low) & (chance < high)
        if some.any():
            most = f"{min(high, 1.0):.0%}"
            yield f"| {low:.0%} to {most} | {some.sum()} | {stayed[some].mean():.0%} |"


COLUMNS = (
    "truth", "noise", "cases", "pictures", "same use", "as good", "within a step",
    "same breakdown", "within a step", "false breakdown, full / less",
    "damaged setting recommended, full / less", "wrong",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200, help="per row")
    parser.add_argument("--seed", type=int, default=20260103)
    parser.add_argument("--shapes", nargs="*", default=["flat", "cliff"])
    parser.add_argument("--noises", nargs="*", default=["normal"])
    parser.add_argument("--cases", nargs="*", type=int, default=[8, 16, 24])
    parser.add_argument("--candidates", nargs="*", type=int, default=[8])
    parser.add_argument("--how", nargs="*", default=["race"])
    parser.add_argument("--spread", type=float, default=SPREAD)
    parser.add_argument("--doubts", nargs="*", type=float, default=[racing.DOUBT])
    parser.add_argument("--sure", action="store_true", help="tell what the looks said, too")
    parser.add_argument("--study", type=Path, help="the run folder of a full sweep")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    o = parser.parse_args()
    kind = {"race": "Races", "refine": "From coarse to fine", "both": "Races while refining"}
    head = "| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS)
    said: Said = []
    tables = list(product(o.how, o.candidates, o.doubts))
    rows = list(product(o.shapes, o.noises, o.cases))
    if o.study:
        tables = [(how, 0, doubt) for how, _, doubt in tables]
        rows = [(o.study.name, "its own", cases) for cases in o.cases]
    with ProcessPoolExecutor(o.jobs) as pool:
        for how, candidates, doubt in tables:
            told = f"{candidates} candidates" if not o.study else o.study.name
            print(
                f"\n## {kind[how]}, {told}, doubt {doubt:g} ({o.studies} studies a row)\n\n{head}"
            )
            for shape, noise, cases in rows:
                tasks = [
                    Task(shape, noise, candidates, cases, o.spread,
                         (o.seed, candidates, cases, zlib.crc32(shape.encode()), number),
                         how, doubt, o.sure, o.study)
                    for number in range(o.studies)
                ]  # fmt: skip
                found = list(pool.map(compared, tasks, chunksize=4))
                said += [one for _, looks in found for one in looks]
                name = f"{shape} | {noise} | {cases}"
                print(line(name, [row for row, _ in found]), flush=True)
    if o.sure and said:
        print("\n## How sure the looks were\n")
        print(*calibration(said), sep="\n")
    print(f"\n{sum(os.times()[:4]):.0f} s of one core")


if __name__ == "__main__":
    main()
