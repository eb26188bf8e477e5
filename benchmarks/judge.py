"""Who sees that content is lost: adherence, BRISQUE or SSIM, against labels given blind.

    python benchmarks/judge.py choice STRENGTHS EPOCHS STYLE [--errors FILE]
    python benchmarks/judge.py contrast STRENGTHS EPOCHS STYLE [--errors FILE]
    python benchmarks/judge.py settings RUN ... [--model JUDGE] [--errors FILE]
    python benchmarks/judge.py agreement STRENGTHS EPOCHS
    python benchmarks/judge.py ladders [--model JUDGE]
    python benchmarks/judge.py copies RUN ... REFERENCES
    python benchmarks/judge.py likeness RUN ... REFERENCES HELD_OUT
    python benchmarks/judge.py kinds OUT

STRENGTHS and EPOCHS are the demo's two runs in folders of these names, STYLE one in a folder
`style` of the LoRA `plain` (train_small.py; strengths 0.5, 1, 1.5, 2) on the demo's prompts without
the trigger; `settings` knows one of 0.6, 0.7 and 0.8, too, in a folder `between`;
results/labels-*.csv label their pictures. `choice`: how adherence's definition was chosen by half
of the prompts, and what it and others say of the other half and of the style LoRA. `contrast`: the
area under the ROC curve of adherence, of other definitions of it, of SSIM and of BRISQUE, on the
demo, and where content was kept in pictures that moved far. `settings`: by setting, how often a
picture's own prompt explains it best; what margin the labels of some runs ask for, and how it does
on the others. `agreement`: what is recommended by BRISQUE alone and by all criteria, beside the
labels. `ladders`: twelve pictures of the embedded model judged by their own prompt, by that with
another subject's word in front ("similar"), and by another; and blended step by step with another
picture or with noise. With `--model` another model is asked about what the embedded one painted
(train_judges.py). `copies`: how many of the runs' pictures are called a copy, by each sign, and how
much of a reference, moved and mirrored, must shine through one until it is. REFERENCES is a folder
of pictures. `likeness`: that of the runs' settings, and of held-out pictures that are harmed step
by step, as a share of the way from controls to held-out pictures, by other features and other
means. `kinds`: LoRAs of known kinds (train_small.py; two are in tests/loras, one is trained) are
rendered into folders of OUT: what is said of likeness, learning by heart, copies and leak.

With the embedded model on the CPU; each writes its section of results/judge.md. `--errors` keeps
what the model was asked.
"""

from __future__ import annotations

import argparse
import csv
import platform
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from scipy.stats import rankdata, spearmanr

import sample_data
from analysers.intake.cases import without_triggers
from analysers.intake.references import find_references
from analysers.likeness import COPYING, HASH, LEAST_COPY
from analysers.metrics.adherence import OTHERS, Adherence, AdherenceMargin, rivals
from analysers.metrics.brisque import brisque
from analysers.metrics.copying import compared, small
from analysers.metrics.metric import Sample
from analysers.metrics.references import alike, fitted, parts
from analysers.metrics.ssim import ssim
from analysers.ranking import decide
from analysers.runs.conclude import load_study
from analysers.statistics import intervals
from analysers.study import Study
from generation.cells import Case
from generation.pictures.pixels import read_image
from generation.renderers.diffusers import judge
from generation.renderers.diffusers.engine import Engine, find_model

sys.path.insert(0, str(sample_data.PATH / "build"))
from pictures import poster, recolour  # noqa: E402

RESULTS = Path(__file__).with_name("results")
TRIGGER = "pstr style"


EMBEDDED = sample_data.PATH / "model"


def embedded() -> Engine:
    return Engine(
        find_model(str(EMBEDDED)), sampler="dpmpp_2m_karras", steps=12, guidance_scale=4.0,
        width=128, height=128, batch_size=4,
    )  # fmt: skip


def judging(folder: Path) -> Engine:
    return Engine(find_model(str(folder)), width=128, height=128, batch_size=4)


@cache
def prompts() -> list[str]:
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()
    return [without_triggers(line, (TRIGGER,)) for line in lines]


@cache
def others(own: int, count: int) -> list[int]:
    """The numbers of so many prompts with which this one is compared."""
    contents = prompts()
    return [contents.index(text) for text in rivals(contents[own], contents, count)]


def auc(scores: np.ndarray, lost: np.ndarray) -> float:
    """Chance that a picture labelled lost has the higher score; ties count half."""
    ranks = rankdata(scores)
    n, m = int(lost.sum()), int((~lost).sum())
    return float((ranks[lost].sum() - n * (n + 1) / 2) / (n * m))


def bounds(scores: np.ndarray, lost: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % percentiles of the AUC over resampled prompts."""
    random = np.random.default_rng(0)
    names = np.unique(groups)
    found = []
    for _ in range(2000):
        drawn = random.choice(names, len(names))
        at = np.concatenate([np.flatnonzero(groups == name) for name in drawn])
        if 0 < lost[at].sum() < len(at):
            found.append(auc(scores[at], lost[at]))
    return tuple(np.percentile(found, [2.5, 97.5]))


Level = tuple[int, int]
"""A timestep of 1000, and the seed of the noise there."""

SHIPPED: Level = (judge.TIMESTEP, judge.NOISE)

LEVELS: tuple[Level, ...] = (
    (350, 0), (350, 1), (500, 0), (500, 1), (600, 0), (600, 1), (650, 0), (650, 1), (700, 0),
    (700, 1), (750, 0), (750, 1), (850, 0), (850, 1),
)  # fmt: skip
"""Where all texts are asked, to compare definitions."""

Errors = Mapping[Level, np.ndarray]
"""Of a picture, by level the errors under all contents and, last, under no text."""


def errors(engine: Engine, picture: np.ndarray, levels: Sequence[Level]) -> Errors:
    """The errors at these levels of the embedded model, or of another at the shipped one."""
    z, texts = judge.latents(engine, picture), [*prompts(), ""]
    known, found = judge._texts(engine, texts), {}
    with torch.inference_mode():
        for step, seed in levels:
            share = judge.NOISE_SHARE if (step, seed) == SHIPPED else np.nan
            noisy, time, truth = judge._noised(engine, z, seed, step, share)
            noisy, time = noisy.expand(len(texts), -1, -1, -1), time.expand(len(texts))
            told = engine.traits.predict(engine.pipe, noisy, time, known)
            found[step, seed] = ((told.float() - truth) ** 2).mean((1, 2, 3)).numpy().astype(float)
    return found


def all_errors(
    pictures: Mapping[str, np.ndarray], kept: Path | None, levels: Sequence[Level] = LEVELS
) -> dict[str, Errors]:
    """Of all pictures by name; what the file `kept` has is not asked again, the rest is added."""
    known = dict(np.load(kept)) if kept and kept.exists() else {}

    def key(name: str, level: Level) -> str:
        return f"{name}@{level[0]}_{level[1]}".replace("/", "|")

    lacking = {name: [at for at in levels if key(name, at) not in known] for name in pictures}
    if asked := [name for name in pictures if lacking[name]]:
        engine = embedded()
        for name in asked:
            for at, told in errors(engine, pictures[name], lacking[name]).items():
                known[key(name, at)] = told.astype(np.float32)
        if kept:
            np.savez(kept, **known)
    return {n: {at: known[key(n, at)].astype(float) for at in levels} for n in pictures}


@dataclass(frozen=True)
class Shown:
    """A picture with the LoRA, its case's number among the prompts, and whether its subject is
    lost."""

    name: str
    setting: str
    case: int
    lost: bool
    picture: np.ndarray
    control: np.ndarray

    @property
    def changed(self) -> float:
        return 1 - ssim(self.picture, self.control)


def labelled(runs: Sequence[Path], file: str) -> list[Shown]:
    """The runs' pictures in the order of their labels."""
    scores = {
        (run.name, score.image): (run, score, load_study(run).kind)
        for run in runs
        for score in load_study(run).scores
    }
    found = []
    for row in csv.DictReader((RESULTS / file).open()):
        if (key := (row["run"], row["image"])) in scores:
            run, score, kind = scores[key]
            heading = score.candidate.heading(kind)
            picture, control = read_image(run / score.image), read_image(run / score.control)
            name, case = f"{run.name}/{score.image}", int(score.case[1:3])
            found.append(Shown(name, heading, case, row["lost"] == "1", picture, control))
    return found


def made(controls: Mapping[int, np.ndarray]) -> dict[str, list[Shown]]:
    """Pictures that keep all content by construction: the controls printed as posters, or with
    other colours, and the base model's own of another seed."""
    engine, contents = embedded(), prompts()
    cases = [Case(contents[k], 101 + k) for k in controls]
    seeds = [p for k in range(0, len(cases), 4) for p in engine.render(cases[k : k + 4])]
    found = {"seeds": seeds, "posters": [], "recoloured": []}
    for k, control in controls.items():
        printed = poster(control / 255.0), recolour(control / 255.0, np.random.default_rng(k))
        for name, picture in zip(("posters", "recoloured"), printed, strict=True):
            found[name].append(np.rint(picture * 255).astype(np.uint8))
    return {
        name: [
            Shown(f"{name}/p{k:02d}_s1", name, k, False, picture, controls[k])
            for k, picture in zip(controls, pictures, strict=True)
        ]
        for name, pictures in found.items()
    }


def contrasts(
    found: Errors, own: int, levels: Sequence[Level], count: int, every: bool = False
) -> np.ndarray:
    """By how much the errors under so many other prompts exceed that under the own: each at one of
    the levels in turn, or as the mean of every level."""
    rest = others(own, count)
    if every:
        return np.mean([found[at][rest] - found[at][own] for at in levels], axis=0)
    turn = [found[levels[k % len(levels)]] for k in range(len(rest))]
    return np.array([told[o] - told[own] for told, o in zip(turn, rest, strict=True)])


def as_shipped(shown: np.ndarray, first: np.ndarray) -> np.ndarray:
    """As `analysers.metrics.adherence` has it: contrasts of pictures and controls, a row each."""
    return shown.mean(axis=1) / first.mean(axis=1)


def kept_share(found: Errors, control: Errors, own: int, levels: Sequence[Level] = (SHIPPED,),
               count: int = OTHERS, every: bool = False) -> float:  # fmt: skip
    shown, first = (contrasts(one, own, levels, count, every) for one in (found, control))
    return cut(as_shipped, shown[None], first[None])[0]


def cut(by: Statistic, shown: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Cut to 0 to 1; NaN where the control does not show its prompt."""
    with np.errstate(all="ignore"):
        told = np.clip(by(shown, first), 0, 1)
    return np.where(first.mean(axis=1) > 0, told, np.nan)


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]

STATISTICS: dict[str, Statistic] = {
    "mean by mean": as_shipped,
    "median by median": lambda d, c: np.median(d, axis=1) / np.median(c, axis=1),
    "each cut to the control's": lambda d, c: np.nanmean(
        np.where(c > 0, np.clip(d / c, 0, 1), np.nan), axis=1
    ),
    "slope on the control's": lambda d, c: (d * c).sum(axis=1) / (c * c).sum(axis=1),
    "cosine with the control's": lambda d, c: (
        (d * c).sum(axis=1) / np.sqrt((d * d).sum(axis=1) * (c * c).sum(axis=1))
    ),
    "by the mean's spread": lambda d, c: (
        (d.mean(axis=1) / np.sqrt((d * d).mean(axis=1)))
        / (c.mean(axis=1) / np.sqrt((c * c).mean(axis=1)))
    ),
    "nearest by mean": lambda d, c: d.min(axis=1) / c.mean(axis=1),
    "logistic, half the control's": lambda d, c: _odds(d, c, 0.5).mean(axis=1),
    "logistic, a quarter": lambda d, c: _odds(d, c, 0.25).mean(axis=1),
    "posterior, half the control's": lambda d, c: _posterior(d, c, 0.5) / _posterior(c, c, 0.5),
    "posterior, a quarter": lambda d, c: _posterior(d, c, 0.25) / _posterior(c, c, 0.25),
}
"""Of contrasts of pictures and of their controls, (pictures, pairs) each."""


def _odds(d: np.ndarray, c: np.ndarray, share: float) -> np.ndarray:
    """Of each pair the chance that the own prompt is the right one; the unit of errors is a share
    of the control's mean contrast."""
    return 1 / (1 + np.exp(-d / (share * c.mean(axis=1, keepdims=True))))


def _posterior(d: np.ndarray, c: np.ndarray, share: float) -> np.ndarray:
    """The same among all prompts together."""
    unit = share * c.mean(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-d / unit).sum(axis=1))


Value = Callable[[Errors, Errors, int], float]
"""Of a picture's and its control's errors and the case: higher says kept."""


def _at(*levels: Level, count: int = OTHERS, every: bool = False) -> Value:
    return lambda found, control, own: kept_share(found, control, own, levels, count, every)


FIRST: tuple[Level, Level] = ((350, 0), (650, 1))
"""Where the first definition asked."""


def share_of_four(found: Errors, _control: Errors, own: int) -> float:
    return float((contrasts(found, own, FIRST, 4) > 0).mean())


def _margin(found: Errors, own: int, *, share: bool = False) -> float:
    """By how much the error without a text is beyond that with the own, or the share of it."""
    without = np.array([found[at][-1] for at in FIRST])
    beyond = without - [found[at][own] for at in FIRST]
    return float((beyond / without if share else beyond).mean())


VALUES: dict[str, Value] = {
    "adherence: 600, four others": _at(SHIPPED),
    "with other noise": _at((600, 0)),
    "with both noises, all others": _at((600, 0), (600, 1), count=15, every=True),
    "at 350, this noise": _at((350, 1)),
    "at 500": _at((500, 1)),
    "at 650": _at((650, 1)),
    "at 700": _at((700, 1)),
    "at 750": _at((750, 1)),
    "at 850": _at((850, 1)),
    "at 650 and 850 (version 2)": _at((650, 0), (850, 1)),
    "at 500, 650, 850, all others": _at((500, 0), (650, 1), (850, 0), count=15, every=True),
    "share of four others, 350, 650 (version 1)": share_of_four,
    "margin from no text, 350, 650": lambda e, c, own: _margin(e, own),
    "the same less the control's": lambda e, c, own: _margin(e, own) - _margin(c, own),
    "as a share of the error without": lambda e, c, own: _margin(e, own, share=True),
    "that less the control's": lambda e, c, own: (
        _margin(e, own, share=True) - _margin(c, own, share=True)
    ),
    "the error itself, less the control's": lambda e, c, own: float(
        c[SHIPPED][own] - e[SHIPPED][own]
    ),
}


@dataclass(frozen=True)
class Judged:
    """The labelled pictures, those made to keep their content, and what the model was asked."""

    sets: dict[str, list[Shown]]
    found: dict[str, Errors]

    def picture(self, one: Shown) -> Errors:
        return self.found[one.name]

    def control(self, one: Shown) -> Errors:
        return self.found[f"control/p{one.case:02d}_s1"]


def judged(runs: list[Path], kept: Path | None) -> Judged:
    """STRENGTHS EPOCHS STYLE."""
    *demo, style = runs
    sets = {"demo": labelled(demo, "labels-demo.csv")}
    for one in labelled([style], "labels-style.csv"):
        sets.setdefault(f"style LoRA at {one.setting}", []).append(one)
    controls = {one.case: one.control for one in sets["demo"]}
    controls = {k: controls[k] for k in sorted(controls)}
    sets |= made(controls)
    pictures = {one.name: one.picture for shown in sets.values() for one in shown}
    pictures |= {f"control/p{k:02d}_s1": control for k, control in controls.items()}
    return Judged(sets, all_errors(pictures, kept))


EVALUATIONS, EQUAL = 7, 0.01
"""How many evaluations of the denoiser a picture may take (14 % of 25 steps with guidance), and
areas that are called equal."""


def choice(runs: list[Path], kept: Path | None) -> list[str]:
    """STRENGTHS EPOCHS STYLE: what the even prompts choose, and how it does elsewhere."""
    asked = judged(runs, kept)
    shown = [one for some in asked.sets.values() for one in some]
    kind = np.array([name for name, some in asked.sets.items() for _ in some])
    lost, even = np.array([o.lost for o in shown]), np.array([o.case % 2 == 0 for o in shown])
    gone = (kind == "demo") & lost

    def against(told: np.ndarray, others: np.ndarray, among: np.ndarray) -> float:
        at = among & (gone | others) & np.isfinite(told)
        return auc(-told[at], lost[at])

    def area(told: np.ndarray, among: np.ndarray) -> float:
        own = against(told, (kind == "demo") & ~lost, among)
        made_ = [against(told, kind == k, among) for k in ("seeds", "posters", "recoloured")]
        return (own + float(np.mean(made_))) / 2

    single = [((at,), count, False) for at in LEVELS for count in (4, 6)]
    pairs = [*combinations(LEVELS, 2)]
    double = [(two, count, every) for two in pairs for count, every in ((4, False), (2, True))]
    rows = []
    for levels, count, every in [*single, *double]:
        both = [
            np.array([contrasts(of(o), o.case, levels, count, every) for o in shown])
            for of in (asked.picture, asked.control)
        ]
        cost = len(levels) * (count + 1) if every else count + len(levels)
        for name, by in STATISTICS.items():
            told = cut(by, *both)
            where = ", ".join(f"{step} (noise {seed})" for step, seed in levels)
            what = f"{where}; {count} others{' at each' if every else ''}; {name}"
            order = (cost, len({step for step, _ in levels}), -area(told, even))
            rows.append((what, order, area(told, even), area(told, ~even), told))
    affordable = [row for row in rows if row[1][0] <= EVALUATIONS]
    best = [max(row[k] for row in affordable) for k in (2, 3)]
    equal = sorted((r for r in affordable if r[2] >= best[0] - EQUAL), key=lambda row: row[1])
    there = sorted((r for r in affordable if r[3] >= best[1] - EQUAL),
                   key=lambda row: (*row[1][:2], -row[3]))  # fmt: skip
    before = [r for r in rows if r[0].startswith("650 (noise 0), 850 (noise 1); 4 others; mean")]
    again = [r for r in rows if r[0].startswith("600 (noise 0); 4 others; mean")]
    text = [
        "Stated when errors at five of the fourteen timesteps and noises were known, and before "
        "the other nine were computed: the even-numbered of the sixteen prompts choose. What is "
        "highest is the mean of two areas: the demo's lost pictures against its "
        "kept ones, and against what keeps its content by construction (other seeds, prints, other "
        f"colours; mean of the three). Of {len(affordable)} definitions of at most {EVALUATIONS} "
        f"evaluations of the denoiser all within {EQUAL} of the best are equal; of these that with "
        "the fewest evaluations is taken, then the fewest timesteps, then the highest area. The "
        "odd prompts and the style LoRA had no part.",
        "",
        f"Best: even {best[0]:.3f}, odd {best[1]:.3f}; {len(equal)} are equal on the even prompts, "
        f"{len(there)} on the odd ones.",
        "",
        "| | evaluations | even | odd | style LoRA at 0.5 | at 1.0 | at 1.5 |",
        "|---|---|---|---|---|---|---|",
    ]
    marked = [
        ("chosen: ", equal[0]), *(("", row) for row in equal[1:4]), ("by the odd: ", there[0]),
        *(("the same, other noise: ", row) for row in again),
        *(("as it was: ", row) for row in before),
    ]  # fmt: skip
    for mark, (what, (cost, *_), ours, theirs, told) in marked:
        aside = [(kind == f"style LoRA at {at}") & ~lost for at in ("0.5", "1.0", "1.5")]
        cells = " | ".join(f"{against(told, mask, gone | mask):.2f}" for mask in aside)
        text.append(f"| {mark}{what} | {cost} | {ours:.3f} | {theirs:.3f} | {cells} |")
    text += ["", *ramps(equal[0][4], kind, lost, even)]
    return text


def ramps(told: np.ndarray, kind: np.ndarray, lost: np.ndarray, even: np.ndarray) -> list[str]:
    """What a ramp would do that makes the value the chance that content was kept."""

    def brier(value: np.ndarray, among: np.ndarray) -> float:
        return float(np.nanmean((value[among] - ~lost[among]) ** 2))

    def both(value: np.ndarray, among: np.ndarray) -> float:
        made_ = [brier(value, among & (kind == k)) for k in ("seeds", "posters", "recoloured")]
        return (brier(value, among & (kind == "demo")) + float(np.mean(made_))) / 2

    steps = [(a, b) for a in (0, 0.1, 0.2, 0.3) for b in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)]
    ramped = {(a, b): np.clip((told - a) / (b - a), 0, 1) for a, b in steps}
    low, high = min(steps, key=lambda at: both(ramped[at], even))
    style = np.char.startswith(kind, "style")
    cells = [
        f"{both(value, even):.3f} on the even prompts, {both(value, ~even):.3f} on the odd ones, "
        f"{brier(value, style):.3f} on the style LoRA"
        for value in (told, ramped[low, high])
    ]
    return [
        f"Brier score as the chance that content was kept: {cells[0]}; with the ramp from {low:g} "
        f"to {high:g} that the even prompts choose: {cells[1]}."
    ]


def contrast(runs: list[Path], kept: Path | None) -> list[str]:
    """STRENGTHS EPOCHS STYLE: what each value says of content that is lost, and of content that is
    kept in a picture that moved far."""
    asked = judged(runs, kept)
    sets = asked.sets
    values = {
        name: {
            key: np.array([value(asked.picture(o), asked.control(o), o.case) for o in shown])
            for key, shown in sets.items()
        }
        for name, value in VALUES.items()
    }
    values["SSIM"] = {key: np.array([1 - o.changed for o in shown]) for key, shown in sets.items()}
    values["BRISQUE, negative"] = {
        key: np.array([-brisque(o.picture) for o in shown]) for key, shown in sets.items()
    }
    lost = {key: np.array([o.lost for o in shown]) for key, shown in sets.items()}
    groups = np.array([one.case for one in sets["demo"]])
    gone = lost["demo"]
    first = np.arange(len(gone)) < 100
    twice: dict[tuple[int, bytes], set[bool]] = defaultdict(set)
    for one in sets["demo"]:
        twice[one.case, one.picture.tobytes()].add(one.lost)
    again = len(gone) - len(twice)
    unlike = sum(len(seen) > 1 for seen in twice.values())
    text = [
        f"{len(gone)} pairs of the demo, {int(gone.sum())} labelled lost. Area under the ROC curve;"
        " intervals resample prompts. The first hundred were labelled before any choice was made, "
        "the others before any of their scores was looked at. "
        f"{again} pictures are in both runs: {unlike} of them was labelled otherwise.",
        "",
        "| a lower value says lost | all | 95 % | the first hundred | the others |",
        "|---|---|---|---|---|",
    ]
    for name, by in values.items():
        low, high = bounds(-by["demo"], gone, groups)
        parts_ = [auc(-by["demo"][some], gone[some]) for some in (first, ~first)]
        areas = " | ".join(f"{area:.2f}" for area in parts_)
        text.append(
            f"| {name} | {auc(-by['demo'], gone):.2f} | {low:.2f} to {high:.2f} | {areas} |"
        )
    aside = [key for key in sets if key != "demo"]
    kept_of = {key: ~lost[key] for key in aside if (~lost[key]).any()}
    heads = [f"{key} ({int(mask.sum())})" for key, mask in kept_of.items()]
    text += [
        "",
        "The demo's lost pictures against pictures that kept their content, AUC, and in brackets "
        "the share of the latter that is called lost where nine of ten lost ones are found; last, "
        "lost against kept within the style LoRA:",
        "",
        f"| | {' | '.join(heads)} | style LoRA |",
        "|---|" + "---|" * (len(heads) + 1),
    ]
    text.append(
        "| SSIM to the control, mean | "
        + " | ".join(f"{values['SSIM'][key][mask].mean():.2f}" for key, mask in kept_of.items())
        + f" | lost in the demo: {values['SSIM']['demo'][gone].mean():.2f} |"
    )
    styled = [key for key in aside if key.startswith("style")]
    for name, by in values.items():
        level, cells = np.quantile(by["demo"][gone], 0.9), []
        for key, mask in kept_of.items():
            both = np.r_[by[key][mask], by["demo"][gone]]
            sides = np.r_[np.zeros(mask.sum()), np.ones(gone.sum())] > 0
            cells.append(f"{auc(-both, sides):.2f} ({(by[key][mask] <= level).mean():.0%})")
        own, sides = (np.concatenate([one[key] for key in styled]) for one in (by, lost))
        text.append(f"| {name} | {' | '.join(cells)} | {auc(-own, sides):.2f} |")
    return text


def settings(runs: list[Path], model: Path, kept: Path | None) -> list[str]:
    """The table of the prototype, by setting, and the margin that the labels ask for."""
    text = [
        "| setting | own prompt first of all | adherence | surely at least | margin | BRISQUE | "
        "SSIM | lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = model == EMBEDDED
    engine = None if ours else judging(model)
    known: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        file = "labels-style.csv" if run.name in ("style", "between") else "labels-demo.csv"
        shown = labelled([run], file)
        shown.sort(key=lambda one: float(one.setting.removeprefix("epoch ").partition(" ")[0]))
        first = {one.case: one.control for one in shown}
        bare = [
            Shown(f"control/p{k:02d}_s1", "control", k, False, first[k], first[k])
            for k in sorted(first)
        ]
        every = [*bare, *shown]
        if engine is None:
            found = all_errors({one.name: one.picture for one in every}, kept, [SHIPPED])
        else:
            found = {one.name: errors(engine, one.picture, [SHIPPED]) for one in every}
        rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        for one in every:
            whole = found[one.name][SHIPPED]
            rows[one.setting].append(
                (
                    whole[one.case] <= whole[:-1].min(),
                    kept_share(found[one.name], found[bare[one.case].name], one.case),
                    float(whole[-1] - whole[one.case]),
                    brisque(one.picture),
                    1 - one.changed,
                    one.lost,
                )
            )
        table = np.array([[row[1] for row in values] for values in rows.values()])
        least = 1 + intervals(table - 1, np.arange(table.shape[1])).low
        for (name, values), low in zip(rows.items(), least, strict=True):
            a, b, c, d, e, f = np.nanmean(np.array(values, float), axis=0)
            text.append(
                f"| {name} | {a:.2f} | {b:.2f} | {low:.2f} | {c:+.3f} | {d:.1f} | {e:.2f} | "
                f"{f:.2f} |"
            )
            if name != "control":
                known.setdefault(run.name, []).append((low, f))
    return [*text, "", *margins(known)] if ours and len(known) > 1 else text


KEPT = 1 / 16
"""Share of subjects that may be lost where content is called kept."""


def margins(known: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """The margin that some runs' labels ask for, and how often it is wrong there and elsewhere.

    Of each setting: what adherence surely is at least, and the share of subjects lost. A bound
    halfway between two settings that calls the fewest wrong; of several the highest."""

    def wrong(bound: float, some: Sequence[tuple[float, float]]) -> int:
        return sum((low >= bound) != (lost <= KEPT) for low, lost in some)

    text = [
        f"A setting keeps its content where at most {KEPT:.2f} of the subjects were labelled lost.",
        "",
        "| margin by the labels of | | settings called wrong there | elsewhere | with the shipped "
        "margin |",
        "|---|---|---|---|---|",
    ]
    for chosen in (["strengths"], ["epochs"], ["strengths", "epochs"], ["style"], list(known)):
        here = [one for name in chosen for one in known.get(name, ())]
        away = [one for name in known if name not in chosen for one in known[name]]
        lows = sorted(low for low, _ in here)
        bounds_ = [(a + b) / 2 for a, b in pairwise(lows)]
        bound = min(bounds_, key=lambda b: (wrong(b, here), -b))
        shipped = wrong(1 - Adherence.declaration.margin, here)
        text.append(
            f"| {', '.join(chosen)} | {1 - bound:.2f} | {wrong(bound, here)} of {len(here)} | "
            f"{wrong(bound, away)} of {len(away)} | {shipped} of {len(here)} |"
        )
    return text


def picked(study: Study, cases: Collection[str], without: Collection[str]) -> str:
    """What is recommended of these cases without these metrics."""
    rows = [
        replace(score, values={k: v for k, v in score.values.items() if k not in without})
        for score in study.scores
        if score.case in cases
    ]
    found = decide(rows, kind=study.kind, resamples=300)[1].recommended
    return "none" if found is None else found.heading(study.kind)


CRITERIA = {
    "all criteria": (),
    "without adherence": ("adherence",),
    "BRISQUE alone": (
        "adherence", "reference_likeness", "held_out_likeness", "copying", "held_out_copying",
    ),
}  # fmt: skip
"""What is left out."""


def agreement(runs: list[Path]) -> list[str]:
    """STRENGTHS EPOCHS: what is recommended of all prompts and of halves of them, and how many
    subjects were labelled lost there."""
    text = [
        "| | recommended, of all sixteen prompts | lost there | of eight prompts, drawn a hundred "
        "times | lost there, all prompts, mean | none recommended |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        study = load_study(run)
        gone: dict[str, list[bool]] = defaultdict(list)
        for one in labelled([run], "labels-demo.csv"):
            gone[one.setting].append(one.lost)
        cases = sorted({score.case for score in study.scores})
        for name, without in CRITERIA.items():
            random = np.random.default_rng(0)
            halves = [random.choice(cases, 8, replace=False) for _ in range(100)]
            drawn = [picked(study, half, without) for half in halves]
            whole = picked(study, cases, without)
            counts = ", ".join(f"{k} ({n})" for k, n in Counter(drawn).most_common(5))
            losses = [float(np.mean(gone[one])) for one in drawn if one != "none"]
            text.append(
                f"| {run.name}, {name} | {whole} | {np.mean(gone[whole] or [np.nan]):.2f} | "
                f"{counts} | {np.mean(losses):.3f} | {drawn.count('none')} |"
            )
    return text


def ladders(model: Path) -> list[str]:
    engine, judging_engine, contents = embedded(), judging(model), prompts()[:12]
    begin = time.process_time()
    cases = [Case(text, 11 + k) for k, text in enumerate(contents)]
    pictures = [p for k in range(0, 12, 4) for p in engine.render(cases[k : k + 4])]
    painting = (time.process_time() - begin) / len(pictures)
    noise = np.random.default_rng(0)
    found_of: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds = []

    adherence = Adherence()

    def hold(name: str, picture: np.ndarray, text: str, k: int) -> None:
        """Beside the picture that its prompt was painted as."""
        others = rivals(text, contents)
        own = Sample(picture, pictures[k], renderer=judging_engine, content=text, others=others)
        adherence([replace(own, image=pictures[k], control=None)])
        begin = time.process_time()
        share = adherence([own])[0]
        seconds.append(time.process_time() - begin)
        # No picture was painted from a similar prompt: there is no control.
        share = np.nan if name == "a similar prompt" else share
        found_of[name].append((share, AdherenceMargin()([own])[0]))

    def mirrored(k: int) -> Sample:
        own = Sample(pictures[k][:, ::-1].copy(), pictures[k], renderer=judging_engine)
        return replace(own, content=contents[k], others=rivals(contents[k], contents))

    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    for k, picture in enumerate(pictures):
        shown = contents[k].removeprefix("a picture of a ")
        similar = f"a picture of a {contents[(k + 5) % 12].split(' ')[4]} {shown}"
        hold("its own prompt", picture, contents[k], k)
        hold("a similar prompt", picture, similar, k)
        hold("another prompt", picture, contents[(k + 5) % 12], (k + 5) % 12)
        grain = noise.integers(0, 256, picture.shape)
        for name, other in (("replaced", pictures[(k + 5) % 12]), ("noise", grain)):
            for step in steps:
                mixed = np.rint((1 - step) * picture + step * other).astype(np.uint8)
                hold(f"{name}, {step:.2f}", mixed, contents[k], k)
    own = np.array(found_of["its own prompt"])
    taught = [f"By the `{model.name}` of `train_judges.py`, taught as its first lines say.", ""]
    text = [
        *(taught if model != EMBEDDED else []),
        "| twelve pictures, judged under | adherence | margin | AUC of adherence | of the margin |",
        "|---|---|---|---|---|",
    ]
    for name in ("its own prompt", "a similar prompt", "another prompt"):
        found = np.array(found_of[name])
        sides = np.r_[np.zeros(len(own)), np.ones(len(found))] > 0
        areas = [auc(-np.r_[own[:, k], found[:, k]], sides) for k in (0, 1)]
        means = found.mean(axis=0)
        known = f"{means[0]:.2f} | {means[1]:+.4f} | {areas[0]:.3f} | {areas[1]:.3f}"
        text.append(f"| {name} | {known} |".replace("nan", ""))
    text += ["", "| share of the other picture | 0 | 0.25 | 0.5 | 0.75 | 1 | Spearman, mean |"]
    text.append("|---|" + "---|" * 6)
    for name in ("replaced", "noise"):
        found = np.array([found_of[f"{name}, {step:.2f}"] for step in steps])
        for k, label in ((0, "adherence"), (1, "margin")):
            rho = [
                spearmanr(steps, -found[:, i, k])[0] if np.ptp(found[:, i, k]) else 0.0
                for i in range(found.shape[1])
            ]
            cells = " | ".join(f"{v:.3f}" for v in found[:, :, k].mean(axis=1))
            text.append(f"| {name}: {label} | {cells} | {np.mean(rho):.2f} |")
    alone = float(np.median(seconds))
    begin = time.process_time()
    for first in range(0, 12, 4):
        adherence([mirrored(k) for k in range(first, first + 4)])
    usual = (time.process_time() - begin) / 12
    text += [
        "",
        f"Adherence of four pictures at once, as in a study, takes {usual:.3f} s of processor time "
        f"a picture, painting four at once {painting:.3f} s with 12 steps and guidance: "
        f"{100 * usual / painting:.0f} %; with the usual 25 steps that is "
        f"{100 * usual / painting * 12 / 25:.0f} %. A single picture, of which the judge makes "
        f"rows as of four, takes {alone:.3f} s (median).",
    ]
    return text


Signs = tuple[float, float]
"""Of the nearest reference: SSIM, share of equal bits."""


class Nearness:
    """Pictures held against references by both signs; the limits are what references have among
    each other, and what controls have, at most."""

    def __init__(self, references: list[np.ndarray]) -> None:
        self.looks = [small(picture) for picture in references]
        numbers = range(len(references))
        least = np.array([LEAST_COPY[COPYING], LEAST_COPY[HASH]])
        among = [self.of(references[k], [n for n in numbers if n != k]) for k in numbers]
        self.limits = np.maximum(least, np.max(among, axis=0))

    def of(self, picture: np.ndarray, among: list[int] | None = None) -> Signs:
        numbers = range(len(self.looks)) if among is None else among
        found = compared(small(picture), [self.looks[k] for k in numbers])
        return max(n.value for n in found), max(n.bits for n in found)

    def row(self, name: str, pictures: list[np.ndarray]) -> str:
        found = np.array([self.of(picture) for picture in pictures])
        called = found > self.limits
        cells = [
            f"{n} (highest {high:.2f})"
            for n, high in zip(called.sum(axis=0), found.max(axis=0), strict=True)
        ]
        either = called.any(axis=1).sum()
        return f"| {name} | {len(pictures)} | {' | '.join(cells)} | {either} |"


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "paler": lambda picture: 0.4 * picture + 100,
    "darker": lambda picture: 0.3 * picture,
    "noisy": lambda picture: picture + np.random.default_rng(0).normal(0, 40, picture.shape),
    "colours exchanged": lambda picture: picture[..., ::-1].astype(float),
}


def copies(folders: list[Path]) -> list[str]:
    *runs, folder = folders
    references = [fitted(read_image(p), 128, 128) for p in find_references(folder).pictures]
    near = Nearness(references)
    painted: dict[str, list[np.ndarray]] = defaultdict(list)
    for run in runs:
        study = load_study(run)
        for score in study.scores:
            who = f"{run.name}, {score.candidate.heading(study.kind)}" if score.candidate else ""
            painted[who].append(read_image(run / score.image))
    controls = painted.pop("")
    near.limits = np.maximum(near.limits, np.max([near.of(p) for p in controls], axis=0))
    ssim, bits = near.limits
    text = [
        f"{len(references)} references, {len(controls)} controls. Called a copy above an SSIM of "
        f"{ssim:.2f} or a share of equal bits of {bits:.2f} (and where the control is not as near, "
        "which is left aside here).",
        "",
        "| pictures | | by SSIM | by hash | by either |",
        "|---|---|---|---|---|",
    ]
    text += [near.row(name, pictures) for name, pictures in painted.items()]
    moved = [np.roll(picture[:, ::-1], (6, -8), (0, 1)) for picture in references]
    own = [picture for pictures in painted.values() for picture in pictures]
    laid = [own[(17 * k) % len(own)] for k in range(len(references))]
    for share in (0.25, 0.5, 0.6, 0.7, 0.8, 1.0):
        mixed = [
            np.rint((1 - share) * under + share * over).astype(np.uint8)
            for under, over in zip(laid, moved, strict=True)
        ]
        text.append(near.row(f"references, mirrored and moved, {share:g} of them", mixed))
    for name, change in CHANGES.items():
        toned = [np.clip(np.rint(change(p)), 0, 255).astype(np.uint8) for p in moved]
        text.append(near.row(f"the same, {name}", toned))
    return text


BLOCKS = {
    "way up (as shipped)": (1, 2, 3), "first block": (1,), "second": (2,), "last": (3,),
    "middle": (0,),
}  # fmt: skip
"""By their numbers among the middle block and those of the way up."""


def all_blocks(denoiser: Any) -> list[Any]:
    return [denoiser.mid_block, *denoiser.up_blocks]


def centred(mine: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts as unit vectors from the mean of those that are known."""
    a, b = (one - known.mean(axis=0) for one in (mine, known))
    return tuple(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (a, b))


def nearest_ten(own: list[np.ndarray], references: list[list[np.ndarray]]) -> float:
    """`alike` by the mean of the ten nearest parts, as it was."""
    found = []
    for mine, theirs in zip(own, zip(*references, strict=True), strict=True):
        a, b = centred(mine, np.concatenate(theirs))
        found.append(np.sort(a @ b.T, axis=1)[:, -10:].mean())
    return float(np.mean(found))


def means_alike(own: list[np.ndarray], references: list[list[np.ndarray]]) -> float:
    """The mean cosine between the mean over a picture's parts and that of each reference's."""
    found = []
    for mine, theirs in zip(own, zip(*references, strict=True), strict=True):
        means = [part.mean(axis=0) for part in (mine, *theirs)]
        units = [mean / np.linalg.norm(mean) for mean in means]
        found.append(np.mean([units[0] @ unit for unit in units[1:]]))
    return float(np.mean(found))


def covered(own: list[np.ndarray], references: list[list[np.ndarray]]) -> float:
    """The other way round: how like each of the references' parts the picture's nearest is."""
    found = []
    for mine, theirs in zip(own, zip(*references, strict=True), strict=True):
        a, b = centred(mine, np.concatenate(theirs))
        found.append((b @ a.T).max(axis=1).mean())
    return float(np.mean(found))


def whitened(own: list[np.ndarray], references: list[list[np.ndarray]]) -> float:
    """`alike` among the references' 32 principal components, each of variance 1."""
    whole, known = [], []
    for mine, theirs in zip(own, zip(*references, strict=True), strict=True):
        every = np.concatenate(theirs)
        variances, axes = np.linalg.eigh(np.cov(every, rowvar=False))
        by = axes[:, -32:] / np.sqrt(variances[-32:])
        whole.append((mine - every.mean(axis=0)) @ by)
        known.append([(one - every.mean(axis=0)) @ by for one in theirs])
    return alike(whole, list(map(list, zip(*known, strict=True))))


def by_their_own(own: list[np.ndarray], references: list[list[np.ndarray]]) -> float:
    """How far the nearest part of the references is, beside how far that is from the nearest of
    another reference; channels of variance 1, a quarter of the references' parts."""
    found = []
    for mine, theirs in zip(own, zip(*references, strict=True), strict=True):
        known = np.concatenate(theirs)[::4]
        of = np.repeat(range(len(theirs)), [len(one) for one in theirs])[::4]
        scale = known.std(axis=0) + 1e-6
        far = cdist(mine / scale, known / scale)
        among = cdist(known / scale, known / scale)
        among[of[:, None] == of] = np.inf
        nearest = far.argmin(axis=1)
        ratio = among.min(axis=1)[nearest] / np.maximum(far.min(axis=1), 1e-6)
        found.append(np.log(ratio).mean())
    return float(np.mean(found))


def toned(pictures: list[np.ndarray], like: list[np.ndarray]) -> list[np.ndarray]:
    """Pictures whose channels have the mean and the spread of those of others."""
    middle = np.mean([p.mean(axis=(0, 1)) for p in like], axis=0)
    spread = np.mean([p.std(axis=(0, 1)) for p in like], axis=0)
    scaled = (
        (p - p.mean(axis=(0, 1))) / (p.std(axis=(0, 1)) + 1e-6) * spread + middle for p in pictures
    )
    return [np.clip(np.rint(one), 0, 255).astype(np.uint8) for one in scaled]


def harmed(picture: np.ndarray, kind: str, step: float, random: np.random.Generator) -> np.ndarray:
    plain = picture.astype(float)
    if kind == "blur":
        plain = ndimage.gaussian_filter(plain, (step, step, 0))
    elif kind == "noise":
        plain += random.normal(0, step, plain.shape)
    elif kind == "colours":
        grey = (plain @ [0.299, 0.587, 0.114])[..., None]
        plain = grey + step * (plain - grey)
    else:
        side, count = int(step), 128 // int(step)
        tiles = plain.reshape(count, side, count, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        tiles = random.permutation(tiles).reshape(count, count, side, side, 3)
        plain = tiles.swapaxes(1, 2).reshape(128, 128, 3)
    return np.clip(np.rint(plain), 0, 255).astype(np.uint8)


HARMS = {"blur": (1, 2, 4), "noise": (20, 50, 100), "colours": (1.5, 2.5, 5), "tiles": (64, 32, 16)}
"""Sigma, standard deviation in grey levels, factor of the chroma, side of the exchanged tiles."""


Alike = Callable[[list[np.ndarray], list[list[np.ndarray]]], float]

MEANS: dict[str, Alike] = {
    "nearest part": alike, "nearest ten": nearest_ten, "their mean": means_alike,
    "references' parts": covered, "whitened": whitened, "by their own distances": by_their_own,
}  # fmt: skip


def likeness(folders: list[Path]) -> list[str]:
    *runs, seen, kept = folders
    engine = embedded()
    pictures: dict[str, list[np.ndarray]] = defaultdict(list)
    for run in runs:
        study = load_study(run)
        for score in study.scores:
            name = score.candidate.heading(study.kind) if score.candidate else "control"
            pictures[name].append(read_image(run / score.image))
    for name, folder in (("seen", seen), ("kept", kept)):
        paths = find_references(folder).pictures
        pictures[name] = [fitted(read_image(path), 128, 128) for path in paths]
    rest = [name for name in pictures if name not in ("control", "seen", "kept")]
    random = np.random.default_rng(0)
    for kind, steps in HARMS.items():
        for step in steps:
            pictures[f"{kind} {step:g}"] = [
                harmed(picture, kind, step, random) for picture in pictures["kept"]
            ]
    text = [f"| blocks, timestep, of | {' | '.join(rest)} |", "|---|" + "---|" * len(rest)]
    harms = [
        "| the same; held-out pictures, harmed | " + " | ".join(HARMS) + " |",
        "|---|---|---|---|---|",
    ]

    def features(step: int, tone: bool = False) -> dict[str, list[list[np.ndarray]]]:
        with patch.object(judge, "_blocks", all_blocks), patch.object(judge, "FEATURES_AT", step):
            return {
                name: parts(
                    [
                        Sample(picture, renderer=engine)
                        for picture in (toned(painted, pictures["seen"]) if tone else painted)
                    ]
                )
                for name, painted in pictures.items()
            }

    def add(name: str, found: dict[str, list[list[np.ndarray]]], block: str, by: Alike) -> None:
        some = {
            key: [[one[k] for k in BLOCKS[block]] for one in whole] for key, whole in found.items()
        }
        level = {key: np.mean([by(own, some["seen"]) for own in some[key]]) for key in some}
        floor, span = level["control"], level["kept"] - level["control"]
        share = {key: f"{(level[key] - floor) / span:.2f}" for key in pictures}
        text.append(f"| {name} | " + " | ".join(share[key] for key in rest) + " |")
        cells = (", ".join(share[f"{k} {x:g}"] for x in xs) for k, xs in HARMS.items())
        harms.append(f"| {name} | " + " | ".join(cells) + " |")

    for step in (250, 100):
        found = features(step)
        for block in BLOCKS:
            for name, by in MEANS.items():
                if name in ("nearest part", "nearest ten", "their mean") or step == 250:
                    add(f"{block}, {step}, {name}", found, block, by)
    found = features(250, tone=True)
    for block in ("way up (as shipped)", "first block", "middle"):
        add(f"{block}, 250, nearest part, all in the references' tone", found, block, alike)
    return [*text, "", *harms]


LORAS = Path(__file__).parents[1] / "tests" / "loras"
LEAKING = ("--leak-test", "--trigger", TRIGGER, "--class-word", "style")
KINDS: dict[str, tuple[int, tuple[str | Path, ...]]] = {
    "memorised, against the six pictures it knows and six it does not": (6, (
        LORAS / "memorised.safetensors", "--seeds", "1,2", "--references", LORAS / "seen",
        "--held-out", LORAS / "unseen",
    )),
    "trigger, with trigger and regularisation, 240 steps": (
        8, (LORAS / "triggered.safetensors", *LEAKING)
    ),
    "plain, trained without a trigger, 80 steps": (8, ("plain-000002.safetensors", *LEAKING)),
}  # fmt: skip
"""What is tried, from how many prompts of the demo, with what; a name alone is trained."""


def tried(out: Path) -> Iterator[tuple[str, Path]]:
    """The finished runs of the kinds."""
    for name, (count, (lora, *options)) in KINDS.items():
        kind = name.partition(",")[0]
        out.mkdir(parents=True, exist_ok=True)
        lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()[:count]
        (out / f"{kind}.txt").write_text("\n".join(lines) + "\n")
        if isinstance(lora, str) and not (lora := out / "lora" / lora).exists():
            script = Path(__file__).with_name("train_small.py")
            train = [kind, out / "lora", "--steps", "80", "--save", "40"]
            subprocess.run([sys.executable, script, *train], check=True)
        subprocess.run(
            [
                Path(sys.executable).with_name("analyse-epochs"), lora, "--model", "demo",
                "--prompts", out / f"{kind}.txt", "--steps", "12", "--guidance-scale", "4",
                "--size", "128x128", "--sampler", "dpmpp_2m_karras", "--device", "cpu",
                "--out", out / kind, *options,
            ],
            check=True,
        )  # fmt: skip
        yield name, out / kind


def kinds(out: Path) -> list[str]:
    text = []
    for title, run in tried(out):
        study = load_study(run)
        evidence = study.evidence
        repeated = {one.image for one in (evidence.copies.pictures if evidence.copies else ())}
        rendered = [s for s in study.scores if s.candidate is not None]
        painted = Counter(s.candidate.heading(study.kind) for s in rendered)
        copied = Counter(s.candidate.heading(study.kind) for s in rendered if s.image in repeated)
        rows: dict[str, dict[str, str]] = defaultdict(dict)
        for section, keys in (
            (evidence.likeness, (("likeness", "low", "high"),)),
            (evidence.by_heart, (("gap", "low", "high"),)),
            (evidence.leak, LEAKS),
        ):
            for row in section.rows if section else ():
                name = row["setting"]
                for key, low, high in keys:
                    if key in row:
                        told = f"{row[key]:.2f} ({row[low]:.2f} to {row[high]:.2f})"
                        rows[name][key] = told
                if evidence.copies is not None:
                    rows[name]["copies"] = f"{copied[name]} of {painted[name]}"
        heads = list(dict.fromkeys(key for row in rows.values() for key in row))
        text += [f"{title}:", "", f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
        for name, row in rows.items():
            text.append(f"| {name} | {' | '.join(row.get(head, '') for head in heads)} |")
        text.append("")
    return text[:-1]


LEAKS = (
    ("without trigger", "low", "high"),
    ("colours without trigger", "colours low", "colours high"),
    ("class word", "class low", "class high"),
    ("unrelated", "unrelated low", "unrelated high"),
)


WHAT: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "choice": lambda asked: choice(asked.runs, asked.errors),
    "contrast": lambda asked: contrast(asked.runs, asked.errors),
    "settings": lambda asked: settings(asked.runs, asked.model, asked.errors),
    "agreement": lambda asked: agreement(asked.runs),
    "ladders": lambda asked: ladders(asked.model),
    "copies": lambda asked: copies(asked.runs),
    "likeness": lambda asked: likeness(asked.runs),
    "kinds": lambda asked: kinds(*asked.runs),
}


def write(title: str, text: Sequence[str]) -> None:
    """The section of this title in results/judge.md, in the place of the one of another day."""
    path = RESULTS / "judge.md"
    head, *sections = re.split(r"(?m)^(?=## )", path.read_text())
    made = f"## {title}, {date.today()}, {platform.machine()} CPU, one thread\n\n"
    made += "\n".join([*text, "", ""])
    at = [n for n, one in enumerate(sections) if one.startswith(f"## {title}, ")]
    if at:
        sections[at[0]] = made
    else:
        sections.append(made)
    path.write_text((head + "".join(sections)).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--model", type=Path, default=EMBEDDED, help="the judge")
    parser.add_argument("--errors", type=Path, help="a file for what the model was asked")
    options = parser.parse_args()
    text = WHAT[options.what](options)
    write(options.what + ("" if options.model == EMBEDDED else f" by {options.model.name}"), text)
    print("\n".join(text))


if __name__ == "__main__":
    main()
