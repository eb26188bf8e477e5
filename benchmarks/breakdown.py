"""Is a known breakdown found? Constructed sweeps over 20 photographs.

Twenty crops of the photographs that scikit-image carries stand for 20 prompts. At every strength
from 0.2 to 2.0 a crop is moved by up to 20 pixels and its tone and tint change in proportion to
the strength: another clean picture, as a LoRA makes it. From a known strength on an artefact is
added and grows with every step, by one degree (steep) or half a degree (slow): noise, blocking,
posterisation or blur.

    python benchmarks/breakdown.py [--markdown] [--rules]

Ours: the breakdown of `analysers.ranking.decide`. The ancestors only name the picture with the
lowest BRISQUE (ties within 0.01 to the lower strength); the next strength is taken for their
breakdown. Printed as shares of studies: the breakdown found `exact`ly and within `one step`, called
`early` (by more than a step), `late` (likewise) or `none` at all; and whether what is recommended
(the ancestors: their pick; `pick clean`) and our strongest clean strength (`clean is clean`) lie
below the true breakdown.

With --rules, other definitions of the breakdown are compared instead, at several margins: `upper`,
the first strength whose interval's upper end exceeds the margin; `mean`; `lower`; and `ours`, mean
above the margin and lower end above zero.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from analysers.metrics.brisque import brisque
from analysers.metrics.ssim import ssim
from analysers.ranking import decide
from analysers.statistics import Bounds, intervals
from analysers.study import Candidate, Score

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SIZE, JITTER = 256, 20
PHOTOGRAPHS = (
    ("astronaut.png", 0, 120),
    ("astronaut.png", 210, 200),
    ("brick.png", 100, 100),
    ("camera.png", 60, 100),
    ("camera.png", 200, 10),
    ("chelsea.png", 0, 20),
    ("chelsea.png", 0, 150),
    ("clock_motion.png", 0, 50),
    ("coffee.png", 50, 20),
    ("coffee.png", 90, 290),
    ("coins.png", 0, 40),
    ("grass.png", 100, 100),
    ("gravel.png", 100, 100),
    ("hubble_deep_field.jpg", 200, 300),
    ("ihc.png", 100, 100),
    ("moon.png", 100, 100),
    ("motorcycle_left.png", 100, 60),
    ("motorcycle_right.png", 190, 400),
    ("retina.jpg", 500, 500),
    ("rocket.jpg", 100, 250),
)
STRENGTHS = tuple(Decimal(k) / 5 for k in range(1, 11))
TRUE_BREAKDOWNS = (3, 5, 7)  # number of clean strengths before it: 0.8, 1.2, 1.6
CASES = (20, 12, 6, 3, 1)
SUBSETS = 20
GROWTHS = {"steep": 1.0, "slow": 0.5}


def noise(image: Floats, degree: float, rng: np.random.Generator) -> Floats:
    """White noise, standard deviation 8 grey levels a degree."""
    return image + rng.normal(0, 8.0 * degree, image.shape)


def blocking(image: Floats, degree: float, rng: np.random.Generator) -> Floats:
    """JPEG of quality 45 at half a degree, then 30, 20, 14, 10, 7, 5, 3 at 1 to 7."""
    quality = round(np.interp(degree, (0.5, 1, 2, 3, 4, 5, 6, 7), (45, 30, 20, 14, 10, 7, 5, 3)))
    buffer = io.BytesIO()
    Image.fromarray(_bytes(image)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), dtype=float)


def posterisation(image: Floats, degree: float, rng: np.random.Generator) -> Floats:
    """16 levels a channel at half a degree, then 12, 9, 7, 5, 4, 3, 2 at 1 to 7."""
    levels = round(np.interp(degree, (0.5, 1, 2, 3, 4, 5, 6, 7), (16, 12, 9, 7, 5, 4, 3, 2)))
    return np.asarray(np.round(image / 255 * (levels - 1)) * 255 / (levels - 1))


def blur(image: Floats, degree: float, rng: np.random.Generator) -> Floats:
    """Gaussian, standard deviation 0.8 pixels a degree."""
    return np.asarray(gaussian_filter(image, (0.8 * degree, 0.8 * degree, 0)))


ARTEFACTS: dict[str, Callable[[Floats, float, np.random.Generator], Floats]] = {
    "noise": noise,
    "blocking": blocking,
    "posterisation": posterisation,
    "blur": blur,
}


def photograph(number: int) -> Floats:
    """The crop with room to move in, float (SIZE + 2 JITTER, ..., 3)."""
    name, top, left = PHOTOGRAPHS[number]
    side = SIZE + 2 * JITTER
    path = Path(skimage.__file__).parent / "data" / name
    image = np.asarray(Image.open(path).convert("RGB"), dtype=float)
    crop = image[top : top + side, left : left + side]
    if crop.shape != (side, side, 3):
        raise ValueError(f"{name} at {top}, {left} gives {crop.shape}, not {side} x {side}")
    return crop


def measured(number: int) -> dict[str, list[tuple[float, float]]]:
    """(BRISQUE, SSIM to the control) of one photograph: "control", "clean" by strength, and
    "artefact/growth/clean strengths" by strength."""
    rng = np.random.Generator(np.random.PCG64([31, number]))
    image = photograph(number)
    control = _bytes(image[JITTER:-JITTER, JITTER:-JITTER])
    gamma, tint = rng.uniform(-0.15, 0.15), rng.uniform(-0.08, 0.08, 3)
    clean = []
    for strength in STRENGTHS:
        down, right = rng.integers(0, 2 * JITTER + 1, 2)
        moved = image[down : down + SIZE, right : right + SIZE]
        s = float(strength)
        toned = 255 * (moved / 255) ** np.exp(gamma * s) * (1 + tint * s)
        clean.append(np.clip(toned, 0, 255))
    found = {
        "control": [(brisque(control), 1.0)],
        "clean": [_score(picture, control) for picture in clean],
    }
    for name, artefact in ARTEFACTS.items():
        for growth, rate in GROWTHS.items():
            for first in TRUE_BREAKDOWNS:
                broken = [
                    _score(artefact(picture, rate * step, rng), control)
                    for step, picture in enumerate(clean[first:], 1)
                ]
                found[f"{name}/{growth}/{first}"] = found["clean"][:first] + broken
    return found


Table = list[dict[str, list[tuple[float, float]]]]


def true_breakdown(sweep: str) -> int:
    """Index of the first broken strength; "clean" has none."""
    return len(STRENGTHS) if sweep == "clean" else int(sweep.rpartition("/")[2])


def studies(cases: int) -> list[tuple[int, ...]]:
    """Which photographs make up each study: every one alone, all, or random subsets."""
    if cases == 1:
        return [(number,) for number in range(len(PHOTOGRAPHS))]
    if cases == len(PHOTOGRAPHS):
        return [tuple(range(cases))]
    rng = np.random.Generator(np.random.PCG64([32, cases]))
    return [
        tuple(sorted(int(i) for i in rng.choice(len(PHOTOGRAPHS), cases, replace=False)))
        for _ in range(SUBSETS)
    ]


def judge(
    table: Table, sweep: str, chosen: tuple[int, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """Ours and the ancestors' on one study."""
    true = true_breakdown(sweep)
    rows = []
    for number in chosen:
        case, control = f"photograph {number:02d}", f"control/{number}.png"
        value = table[number]["control"][0][0]
        rows.append(Score(None, case, case, 0, control, "", {"brisque": value}))
        for strength, (score, likeness) in zip(STRENGTHS, table[number][sweep], strict=True):
            values = {"brisque": score, "ssim": likeness}
            image = f"{strength}/{number}.png"
            rows.append(Score(Candidate(strength=strength), case, case, 0, image, control, values))
    _, verdict = decide(rows, kind="strength")
    best = STRENGTHS.index(verdict.best.strength) if verdict.best else -1
    end = len(STRENGTHS)
    place = STRENGTHS.index(verdict.breakdown.strength) if verdict.breakdown else end
    pick = verdict.recommended
    ours = _compared(place, true, STRENGTHS.index(pick.strength) if pick else end)
    if pick is None:
        del ours["pick clean"]
    strongest = verdict.strongest_clean
    if strongest is not None:
        ours["clean is clean"] = float(STRENGTHS.index(strongest.strength) < true)
    return ours, _compared(best + 1, true, best)


def _compared(place: int, true: int, pick: int) -> dict[str, float]:
    end = len(STRENGTHS)
    return {
        "exact": float(place == true),
        "one step": float(abs(place - true) <= 1),
        "early": float(place < true - 1),
        "late": float(true + 1 < place < end),
        "none": float(place == end and true < end - 1),
        "pick clean": float(pick < true),
    }


def _score(picture: Floats, control: Pixels) -> tuple[float, float]:
    image = _bytes(picture)
    return brisque(image), ssim(image, control)


def _bytes(image: Floats) -> Pixels:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


COLUMNS = ("exact", "one step", "early", "late", "none", "pick clean", "clean is clean")
RULES: dict[str, Callable[[Bounds, float], NDArray[np.bool_]]] = {
    "upper": lambda b, margin: b.high > margin,
    "mean": lambda b, margin: b.mean > margin,
    "lower": lambda b, margin: b.low > margin,
    "ours": lambda b, margin: (b.mean > margin) & (b.low > 0),
}


def by_rule(table: Table, sweep: str, chosen: tuple[int, ...]) -> Bounds:
    """Interval of the difference from the control at every strength."""
    differences = [
        [score - table[number]["control"][0][0] for score, _ in table[number][sweep]]
        for number in chosen
    ]
    return intervals(np.array(differences).T, np.arange(len(chosen)))


def print_rules(table: Table, sweeps: dict[str, list[str]], line: str) -> None:
    """One row per rule, margin and number of cases, over all artefacts of a growth."""
    for growth, members in sweeps.items():
        for cases in CASES[:-1]:
            pairs = [(m, by_rule(table, m, chosen)) for m in members for chosen in studies(cases)]
            for rule, broken in RULES.items():
                for margin in (2.0, 5.0, 10.0):
                    found = []
                    for sweep, bounds in pairs:
                        hit = np.flatnonzero(broken(bounds, margin))
                        place = int(hit[0]) if hit.size else len(STRENGTHS)
                        found.append(_compared(place, true_breakdown(sweep), 0))
                    shares = [f"{np.mean([f[c] for f in found]):.0%}" for c in COLUMNS[:5]]
                    print(line.format(growth, cases, rule, f"{margin:g}", *shares), flush=True)


def print_table(table: Table, groups: dict[str, list[str]], line: str) -> None:
    """Ours and the ancestors', one row each per group of sweeps and number of cases."""
    for name, members in groups.items():
        for cases in CASES:
            pairs = [judge(table, sweep, chosen) for sweep in members for chosen in studies(cases)]
            for rule, side in (("ours", 0), ("ancestors'", 1)):
                shares = []
                for column in COLUMNS:
                    known = [pair[side][column] for pair in pairs if column in pair[side]]
                    shares.append(f"{np.mean(known):.0%}" if known else "")
                print(line.format(name, cases, len(pairs), rule, *shares), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print a table for the docs")
    parser.add_argument("--rules", action="store_true", help="compare rules and margins instead")
    options = parser.parse_args()
    started = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        table = list(pool.map(measured, range(len(PHOTOGRAPHS))))
    names = {
        f"{name}, {growth}": [f"{name}/{growth}/{first}" for first in TRUE_BREAKDOWNS]
        for growth in GROWTHS
        for name in ARTEFACTS
    }
    whole = {
        f"all four, {growth}": [sweep for name in names if growth in name for sweep in names[name]]
        for growth in GROWTHS
    }
    if options.rules:
        head: tuple[str, ...] = ("artefacts", "cases", "rule", "margin", *COLUMNS[:5])
    else:
        head = ("artefact", "cases", "studies", "rule", *COLUMNS)
    line = "| " + " | ".join(["{}"] * len(head)) + " |"
    if not options.markdown:
        line = "{:<22}" + "{:<11}" * (len(head) - 1)
    print(line.format(*head))
    if options.markdown:
        print("|" + "---|" * len(head))
    if options.rules:
        print_rules(table, {**whole, "no artefact": ["clean"]}, line)
    else:
        print_table(table, {**names, **whole, "no artefact": ["clean"]}, line)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
