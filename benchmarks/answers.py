"""Does the answer claim what is not so? Simulated studies through the code that decides.

Each study has candidates along one axis, cases of their own level (one prompt each), a control, and
an independent residual per picture (spread 4 BRISQUE). Truth: `flat` (nothing happens), `cliff`
(+12 from 70 % of the axis on), `ramp` (60 points per axis length from the middle on) or `recovers`
(+12 between 50 and 80 % of the axis, clean again beyond). Noise: `normal`; `growing`, the residual
at the strongest three times that at the weakest; `heavy`, Student's t with 4 degrees of freedom;
`right` and `left`, skewed exponentials that grow likewise.

    python benchmarks/answers.py > benchmarks/results/answers.md

Tables: a breakdown named anywhere in flat studies; a breakdown named, and named within an eighth of
the axis, where there is one; and by the whole of `analysers.ranking.decide`, how often what is to
be used lies beyond the breakdown that is named, and is truly clean. `old` is the rule of version
0.1: every candidate by itself at 95 %, by the mean alone with one case, and "Use" the lowest mean.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysers.ranking import decide, margin_of
from analysers.statistics import freedoms, intervals, surely_above
from analysers.study import Candidate, Score

Array = NDArray[np.float64]

CASES = (1, 2, 3, 4, 6, 8, 12, 16)
CANDIDATES = (8, 40)
SPREAD = 4.0
MARGIN = margin_of("brisque")
TRUTHS: dict[str, Callable[[Array], Array]] = {
    "flat": lambda x: 0.0 * x,
    "cliff": lambda x: np.where(x > 0.7, 12.0, 0.0),
    "ramp": lambda x: np.clip(60.0 * (x - 0.5), 0.0, None),
    "recovers": lambda x: np.where((x > 0.5) & (x < 0.8), 12.0, 0.0),
}
NOISES: dict[str, tuple[float, Callable[[np.random.Generator, tuple[int, ...]], Array]]] = {
    "normal": (1.0, lambda rng, shape: rng.standard_normal(shape)),
    "growing": (3.0, lambda rng, shape: rng.standard_normal(shape)),
    "heavy": (1.0, lambda rng, shape: rng.standard_t(4, shape) / np.sqrt(2.0)),
    "right": (3.0, lambda rng, shape: rng.exponential(1.0, shape) - 1.0),
    "left": (3.0, lambda rng, shape: 1.0 - rng.exponential(1.0, shape)),
}


def differences(
    truth: Array, noise: str, cases: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Scores (candidates, cases) and the control's (cases,)."""
    growth, draw = NOISES[noise]
    spread = SPREAD * np.linspace(1.0, growth, len(truth))
    level = rng.normal(25.0, 10.0, cases)
    control = level + SPREAD * draw(rng, (cases,))
    return level + truth[:, None] + spread[:, None] * draw(rng, (len(truth), cases)), control


def old_broken(difference: Array) -> NDArray[np.bool_]:
    """Version 0.1: mean above the margin, and the candidate's own 95 % interval above zero."""
    cases = difference.shape[1]
    mean = difference.mean(axis=1)
    if cases == 1:
        return np.asarray(mean > MARGIN)
    error = difference.std(axis=1, ddof=1) / np.sqrt(cases)
    return np.asarray((mean > MARGIN) & (mean > stdtrit(cases - 1, 0.975) * error))


def new_broken(difference: Array, resamples: int) -> NDArray[np.bool_]:
    """The decision's own rule along one axis."""
    groups = np.arange(difference.shape[1])
    bounds = intervals(difference, groups, resamples=resamples)
    worse = surely_above(bounds, freedoms(difference, groups), [range(len(difference))])
    return np.asarray(worse & (bounds.mean > MARGIN))


def breakdowns(
    shape: str, noise: str, candidates: int, cases: int, studies: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Share of studies with a breakdown, and with one near the true one, by rule."""
    x = np.arange(1, candidates + 1) / candidates
    truth = TRUTHS[shape](x)
    true = int(np.argmax(truth > MARGIN))
    near = max(1, candidates // 8)
    found: dict[str, list[tuple[bool, bool]]] = {"old": [], "new": []}
    for number in range(studies):
        rng = np.random.Generator(np.random.PCG64([seed, candidates, cases, number]))
        scores, control = differences(truth, noise, cases, rng)
        for rule, broken in (
            ("old", old_broken(scores - control)),
            ("new", new_broken(scores - control, 500)),
        ):
            some = bool(broken.any())
            found[rule].append((some, some and abs(int(broken.argmax()) - true) <= near))
    return {
        rule: (float(np.mean([a for a, _ in hits])), float(np.mean([b for _, b in hits])))
        for rule, hits in found.items()
    }


def answers(
    shape: str, noise: str, candidates: int, cases: int, studies: int, seed: int
) -> dict[str, float]:
    """By whole decisions: shares of studies."""
    x = np.arange(1, candidates + 1) / candidates
    truth = TRUTHS[shape](x)
    who = [Candidate("l", strength=Decimal(k + 1) / candidates) for k in range(candidates)]
    hits: dict[str, list[bool]] = {
        name: [] for name in ("old beyond", "new beyond", "answered", "old clean", "new clean")
    }
    for number in range(studies):
        rng = np.random.Generator(np.random.PCG64([seed, candidates, cases, number]))
        scores, control = differences(truth, noise, cases, rng)
        rows = []
        for k in range(cases):
            case = f"p{k:02d}_s1"
            rows.append(Score(None, case, case, 1, case, "", {"brisque": control[k], "ssim": 1.0}))
            for i, candidate in enumerate(who):
                values = {"brisque": scores[i, k], "ssim": float(1 - 0.6 * x[i])}
                rows.append(Score(candidate, case, case, 1, f"{i}/{k}", case, values))
        _, verdict = decide(rows, kind="strength", resamples=200)
        best = int(scores.mean(axis=1).argmin())
        broken = old_broken(scores - control)
        hits["old beyond"].append(bool(broken[: best + 1].any()))
        hits["old clean"].append(bool(truth[best] <= MARGIN))
        pick = verdict.recommended
        hits["answered"].append(pick is not None)
        if pick is None:
            continue
        assert pick.strength is not None
        limit = verdict.breakdown
        hits["new beyond"].append(
            limit is not None and limit.strength is not None and pick.strength >= limit.strength
        )
        hits["new clean"].append(bool(truth[who.index(pick)] <= MARGIN))
    return {name: float(np.mean(found)) if found else float("nan") for name, found in hits.items()}


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="studies per cell of 8")
    parser.add_argument("--decisions", type=int, default=400, help="whole decisions per cell of 8")
    parser.add_argument("--seed", type=int, default=20260102)
    options = parser.parse_args()
    started = time.perf_counter()
    head = ("candidates", "cases")
    print(
        f"# Answers\n\n{options.studies} studies a cell ({options.studies // 2} with 40 candidates)"
    )
    print("\n## A breakdown named in flat studies (old / new)\n")
    row(*head, *NOISES)
    row(*["---"] * (2 + len(NOISES)))
    for candidates in CANDIDATES:
        studies = options.studies // (1 if candidates == 8 else 2)
        for cases in CASES:
            cells = []
            for noise in NOISES:
                found = breakdowns("flat", noise, candidates, cases, studies, options.seed)
                cells.append(f"{percent(found['old'][0])} / {percent(found['new'][0])}")
            row(candidates, cases, *cells)
    print("\n## Power: a breakdown named, and near the true one (old; new)\n")
    shapes = [(s, n) for s in ("cliff", "ramp", "recovers") for n in ("normal", "growing")]
    row(*head, *(f"{s}, {n}" for s, n in shapes))
    row(*["---"] * (2 + len(shapes)))
    for candidates in CANDIDATES:
        studies = options.studies // (4 if candidates == 8 else 8)
        for cases in CASES:
            cells = []
            for shape, noise in shapes:
                found = breakdowns(shape, noise, candidates, cases, studies, options.seed)
                cells.append("; ".join(f"{a:.0%}, {b:.0%}" for a, b in found.values()))
            row(candidates, cases, *cells)
    print("\n## What is to be used (whole decisions)\n")
    names = ("old beyond", "new beyond", "answered", "old clean", "new clean")
    row("truth", "noise", *head, "studies", *names)
    row(*["---"] * 10)
    for shape, noise in (("flat", "normal"), ("ramp", "normal"), ("recovers", "growing")):
        for candidates in CANDIDATES:
            studies = options.decisions // (1 if candidates == 8 else 8)
            for cases in CASES:
                found_here = answers(shape, noise, candidates, cases, studies, options.seed)
                shares = (percent(found_here[name]) for name in names)
                row(shape, noise, candidates, cases, studies, *shares)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
