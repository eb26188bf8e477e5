"""How often is what is truly in a criterion's range called so, and what is truly outside?

Studies with a known truth are drawn and decided by the code that users run: six candidates, each
case with a level of its own, an independent residual per picture.

    python benchmarks/ranges.py --studies 400 > table.md

Of every candidate the share of studies in which it is said to be in range: adherence (no more than
0.35 below the control, whose is 1), likeness (the plateau), and what is known by heart
(surely above 0). Of the leak the share of studies whose interval holds the truth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from analysers.leak import BARE, leaks
from analysers.likeness import gaps
from analysers.ranking import decide
from analysers.study import Candidate, Score

ADHERENCE = (-0.02, -0.1, -0.2, -0.3, -0.35, -0.5)
LIKENESS = (0.0, -0.005, -0.01, -0.02, -0.04, -0.08)
GAP = (0.0, 0.0, 0.01, 0.02, 0.05, 0.1)
LEAK = (0.0, 0.05, 0.2, 0.5, 0.9, 1.0)
ALIKE = 2.3
"""How alike pictures of one truth are in adherence, as a beta distribution's two parameters
together: standard deviations of 0.2 about 0.84 and 0.27 about 0.44, as on the demo."""

Random = np.random.Generator


def study(random: Random, cases: int) -> list[Score]:
    """Rows of the controls and of six candidates, whose truths are those above."""
    alike, near = random.normal(0.4, 0.08, cases), random.normal(0.35, 0.1, cases)
    rows = []
    for number in range(len(LEAK) + 1):
        lost, less, gap = (
            (truth[number - 1] if number else 0.0) for truth in (ADHERENCE, LIKENESS, GAP)
        )
        candidate = Candidate(strength=Decimal(number) / 10) if number else None
        for case in range(cases):
            residual = random.normal(0, 1, 4)
            values = {
                "brisque": 25 + residual[0],
                "adherence": random.beta(ALIKE * (1 + lost), -ALIKE * lost) if number else 1.0,
                "reference_likeness": alike[case] + (0.1 + less if number else 0)
                + 0.02 * residual[1],
                "copying": near[case] + gap + 0.04 * residual[2],
                "held_out_copying": near[case] + 0.04 * residual[3],
                "ssim": 1 - random.uniform(0.2, 0.6) if number else 1.0,
            }  # fmt: skip
            name = f"p{case:02d}_s1"
            image = f"{number}/{name}"
            rows.append(Score(candidate, name, name, 1, image, f"0/{name}", values))
    return rows


def probes(random: Random, rows: list[Score]) -> Iterator[Score]:
    """The same without the trigger: a share of the effect, with a spread of a quarter."""
    for row in rows:
        if row.candidate is not None and row.candidate.strength is not None:
            share = LEAK[int(row.candidate.strength * 10) - 1]
            noise = 1 + 0.25 * random.normal()
            effect = share * (1 - row.values["ssim"]) * noise + 0.01 * random.exponential()
            effect -= 0.01  # the mean of what two renders differ by
            values = {"ssim": 1 - effect}
            yield Score(row.candidate, f"{row.case}_{BARE}", "", 1, "", "", values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    options = parser.parse_args()
    begin = time.perf_counter()
    counts = (6, 12, 24)
    found = {(name, cases): np.zeros(6) for name in range(4) for cases in counts}
    for cases in counts:
        for number in range(options.studies):
            random = np.random.Generator(np.random.PCG64([20260101, cases, number]))
            rows = study(random, cases)
            verdict = decide(rows, kind="strength", resamples=500)[1]
            inside = {one.name: {c.strength for c in one.inside} for one in verdict.criteria}
            surely = {c.strength for c, gap in gaps(rows, "strength") if gap.low > 0}
            known = {one.candidate.strength: one for one in leaks(rows, [*probes(random, rows)])}
            for k in range(6):
                at = Decimal(k + 1) / 10
                found[0, cases][k] += at in inside["adherence"]
                found[1, cases][k] += at in inside["reference_likeness"]
                found[2, cases][k] += at in surely
                found[3, cases][k] += known[at].without.low <= LEAK[k] <= known[at].without.high
    for name, (title, truths) in enumerate(
        (
            ("adherence in range, truth below the control's by", [abs(t) for t in ADHERENCE]),
            ("likeness in range, truth below the most alike by", [abs(t) for t in LIKENESS]),
            ("called known by heart, true gap", [*GAP]),
            ("the leak's interval holds the truth of", [*LEAK]),
        )
    ):
        print(f"| {title} | " + " | ".join(f"{t:g}" for t in truths) + " |")
        print("|---|" + "---|" * 6)
        for cases in counts:
            shares = found[name, cases] / options.studies
            print(f"| {cases} cases | " + " | ".join(f"{s:.1%}" for s in shares) + " |")
        print()
    print(f"{options.studies} studies a row, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
