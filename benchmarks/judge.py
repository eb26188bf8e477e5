"""Who sees that content is lost: adherence, BRISQUE or SSIM, against labels given blind.

    python benchmarks/judge.py contrast STRENGTHS EPOCHS STYLE [--errors FILE]
    python benchmarks/judge.py settings RUN ... [--model JUDGE] [--errors FILE]
    python benchmarks/judge.py agreement STRENGTHS EPOCHS
    python benchmarks/judge.py ladders [--model JUDGE]
    python benchmarks/judge.py copies RUN ... REFERENCES
    python benchmarks/judge.py likeness RUN ... REFERENCES HELD_OUT
    python benchmarks/judge.py kinds RUN ...

STRENGTHS and EPOCHS are the demo's two runs in folders of these names, STYLE one in a folder
`style` of the LoRA `plain` (train_small.py) on the demo's prompts without the trigger;
results/labels-*.csv label their pictures. `contrast`: the area under the ROC curve of adherence, of
other definitions of it, of SSIM and of BRISQUE, on the demo, and where content was kept in pictures
that moved far.
`settings`: by setting, how often a picture's own prompt explains it best. `agreement`: what is
recommended by BRISQUE alone and by all criteria, beside the labels. `ladders`: twelve pictures of
the embedded model judged by their own prompt, by that with another subject's word in front
("similar"), and by another; and blended step by step with another picture or with noise. With
`--model` another model is asked about what the embedded one painted (train_judges.py). `copies`:
how many of the runs' pictures are called a copy, by each sign, and how much of a reference, moved
and mirrored, must shine through one until it is. REFERENCES is a folder of pictures. `likeness`:
that of the runs' settings, and of held-out pictures that are harmed step by step, as a share of the
way from controls to held-out pictures, by other features and other means. `kinds`: what finished
runs of LoRAs of known kinds (train_small.py) say of likeness, learning by heart, copies and leak.

With the embedded model on the CPU; each writes its section of results/judge.md. `--errors` keeps
what the model was asked.
"""

from __future__ import annotations

import argparse
import csv
import platform
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata, spearmanr

import sample_data
from analysers.intake.cases import without_triggers
from analysers.intake.references import find_references
from analysers.likeness import COPYING, HASH, LEAST_COPY
from analysers.metrics.adherence import Adherence, AdherenceMargin, rivals
from analysers.metrics.brisque import brisque
from analysers.metrics.copying import compared, small
from analysers.metrics.metric import Sample
from analysers.metrics.references import alike, fitted, parts
from analysers.metrics.ssim import ssim
from analysers.ranking import decide
from analysers.runs.conclude import load_study
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


def prompts() -> list[str]:
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()
    return [without_triggers(line, (TRIGGER,)) for line in lines]


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


LEVELS = ((150, 0), (350, 0), (350, 1), (500, 0), (650, 1), (650, 7), (850, 0))
"""Timesteps of 1000 and seeds of their noise at which all texts are asked, to compare levels."""

Errors = dict[str, np.ndarray]
"""Of a picture, the errors under all contents and under no text: (levels, contents + 1)."""


def errors(engine: Engine, picture: np.ndarray, levels: Sequence[tuple[int, int]]) -> np.ndarray:
    """The errors at these levels of the embedded model, or of another's two."""
    z, texts = judge.latents(engine, picture), [*prompts(), ""]
    shares = dict(zip(judge.TIMESTEPS, judge.NOISE_SHARES, strict=True))
    known, found = judge._texts(engine, texts), []
    with torch.inference_mode():
        for step, seed in levels:
            noisy, time, truth = judge._noised(engine, z, seed, step, shares.get(step, np.nan))
            noisy, time = noisy.expand(len(texts), -1, -1, -1), time.expand(len(texts))
            told = engine.traits.predict(engine.pipe, noisy, time, known)
            found.append(((told.float() - truth) ** 2).mean((1, 2, 3)).numpy())
    return np.array(found, np.float32)


def all_errors(pictures: Mapping[str, np.ndarray], kept: Path | None) -> Errors:
    """Of all pictures by name; those in the file `kept` are not asked again, the others added."""
    known = dict(np.load(kept)) if kept and kept.exists() else {}
    lacking = [name for name in pictures if name.replace("/", "|") not in known]
    engine = embedded() if lacking else None
    for name in lacking:
        known[name.replace("/", "|")] = errors(engine, pictures[name], LEVELS)
    if kept and lacking:
        np.savez(kept, **known)
    return {name: known[name.replace("/", "|")].astype(float) for name in pictures}


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


def clearness(found: np.ndarray, own: int, levels: Sequence[int], others: Sequence[int]) -> float:
    """As `analysers.metrics.adherence` has it, with each of the others at one level."""
    at = [levels[k % len(levels)] for k in range(len(others))]
    return float(np.mean([found[i, o] - found[i, own] for i, o in zip(at, others, strict=True)]))


def kept_share(
    found: np.ndarray, control: np.ndarray, own: int, levels: Sequence[int], every: bool = False
) -> float:
    contents = prompts()
    others = [contents.index(text) for text in rivals(contents[own], contents)]
    if every:  # each of all at each level
        rest = [k for k in range(len(contents)) if k != own]
        others = [k for k in rest for _ in levels]
    shown, first = (clearness(one, own, levels, others) for one in (found, control))
    return min(max(shown / first, 0.0), 1.0) if first > 0 else np.nan


Value = Callable[[np.ndarray, np.ndarray, int], float]
"""Of a picture's and its control's errors and the case: higher says kept."""


def _at(*levels: int, every: bool = False) -> Value:
    return lambda found, control, own: kept_share(found, control, own, levels, every)


def share_of_four(found: np.ndarray, _control: np.ndarray, own: int) -> float:
    contents = prompts()
    others = [contents.index(text) for text in rivals(contents[own], contents)]
    return float(np.mean([found[(1, 4)[k % 2], o] > found[(1, 4)[k % 2], own]
                          for k, o in enumerate(others)]))  # fmt: skip


def _beyond(found: np.ndarray, own: int, levels: Sequence[int]) -> np.ndarray:
    """By how much the error without a text is beyond that with the own, as a share of it."""
    without = found[list(levels), -1]
    return (without - found[list(levels), own]) / without


VALUES: dict[str, Value] = {
    "adherence: 650, 850, four others": _at(4, 6),
    "the same at 350, 650": _at(1, 4),
    "at 350": _at(1),
    "at 500": _at(3),
    "at 650": _at(4),
    "at 850": _at(6),
    "at 650, 850, all others": _at(4, 6, every=True),
    "at 500, 650, 850, all others": _at(3, 4, 6, every=True),
    "share of four others, 350, 650 (as it was)": share_of_four,
    "margin from no text, 350, 650": lambda e, c, own: float(
        np.mean(e[[1, 4], -1] - e[[1, 4], own])
    ),
    "the same less the control's": lambda e, c, own: float(
        np.mean(e[[1, 4], -1] - e[[1, 4], own] - c[[1, 4], -1] + c[[1, 4], own])
    ),
    "as a share of the error without": lambda e, c, own: float(_beyond(e, own, (1, 4)).mean()),
    "that less the control's": lambda e, c, own: float(
        np.mean(_beyond(e, own, (1, 4)) - _beyond(c, own, (1, 4)))
    ),
    "the error itself, less the control's": lambda e, c, own: float(
        np.mean(c[[4, 6], own] - e[[4, 6], own])
    ),
}


def contrast(runs: list[Path], kept: Path | None) -> list[str]:
    """STRENGTHS EPOCHS STYLE: what each value says of content that is lost, and of content that is
    kept in a picture that moved far."""
    *demo, style = runs
    sets = {"demo": labelled(demo, "labels-demo.csv")}
    for one in labelled([style], "labels-style.csv"):
        sets.setdefault(f"style LoRA at {one.setting}", []).append(one)
    controls = {one.case: one.control for one in sets["demo"]}
    controls = {k: controls[k] for k in sorted(controls)}
    sets |= made(controls)
    pictures = {one.name: one.picture for shown in sets.values() for one in shown}
    pictures |= {f"control/p{k:02d}_s1": control for k, control in controls.items()}
    found = all_errors(pictures, kept)
    values = {
        name: {
            key: np.array(
                [value(found[o.name], found[f"control/p{o.case:02d}_s1"], o.case) for o in shown]
            )
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
    """The table of the prototype, by setting."""
    text = [
        "| setting | own prompt first of all | adherence | margin | BRISQUE | SSIM | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = model == EMBEDDED
    engine = embedded() if ours else judging(model)
    levels = [4, 6] if ours else [0, 1]
    for run in runs:
        shown = labelled([run], "labels-style.csv" if run.name == "style" else "labels-demo.csv")
        shown.sort(key=lambda one: float(one.setting.removeprefix("epoch ").partition(" ")[0]))
        first = {one.case: one.control for one in shown}
        bare = [
            Shown(f"control/p{k:02d}_s1", "control", k, False, first[k], first[k])
            for k in sorted(first)
        ]
        every = [*bare, *shown]
        if ours:
            found = all_errors({one.name: one.picture for one in every}, kept)
        else:
            asked = [(step, level) for level, step in enumerate(judge.TIMESTEPS)]
            found = {one.name: errors(engine, one.picture, asked).astype(float) for one in every}
        rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        for one in every:
            own, whole = found[one.name][levels], found[one.name][levels].sum(axis=0)
            rows[one.setting].append(
                (
                    whole[one.case] <= whole[:-1].min(),
                    kept_share(found[one.name], found[bare[one.case].name], one.case, levels),
                    float(np.mean(own[:, -1] - own[:, one.case])),
                    brisque(one.picture),
                    1 - one.changed,
                    one.lost,
                )
            )
        for name, values in rows.items():
            a, b, c, d, e, f = np.nanmean(np.array(values, float), axis=0)
            text.append(f"| {name} | {a:.2f} | {b:.2f} | {c:+.3f} | {d:.1f} | {e:.2f} | {f:.2f} |")
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
    judged: dict[str, list[tuple[float, float]]] = defaultdict(list)
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
        judged[name].append((share, AdherenceMargin()([own])[0]))

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
    own = np.array(judged["its own prompt"])
    text = [
        "| twelve pictures, judged under | adherence | margin | AUC of adherence | of the margin |",
        "|---|---|---|---|---|",
    ]
    for name in ("its own prompt", "a similar prompt", "another prompt"):
        found = np.array(judged[name])
        sides = np.r_[np.zeros(len(own)), np.ones(len(found))] > 0
        areas = [auc(-np.r_[own[:, k], found[:, k]], sides) for k in (0, 1)]
        means = found.mean(axis=0)
        known = f"{means[0]:.2f} | {means[1]:+.4f} | {areas[0]:.3f} | {areas[1]:.3f}"
        text.append(f"| {name} | {known} |".replace("nan", ""))
    text += ["", "| share of the other picture | 0 | 0.25 | 0.5 | 0.75 | 1 | Spearman, mean |"]
    text.append("|---|" + "---|" * 6)
    for name in ("replaced", "noise"):
        found = np.array([judged[f"{name}, {step:.2f}"] for step in steps])
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


BLOCKS: dict[str, Callable[[Any], list[Any]]] = {
    "way up (as shipped)": lambda denoiser: list(denoiser.up_blocks),
    "first block": lambda denoiser: [denoiser.up_blocks[0]],
    "second": lambda denoiser: [denoiser.up_blocks[1]],
    "last": lambda denoiser: [denoiser.up_blocks[2]],
    "middle": lambda denoiser: [denoiser.mid_block],
}


def nearest_ten(own: list[np.ndarray], references: list[list[np.ndarray]]) -> float:
    """`alike` by the mean of the ten nearest parts, as it was."""
    found = []
    for mine, theirs in zip(own, zip(*references, strict=True), strict=True):
        known = np.concatenate(theirs)
        a, b = (one - known.mean(axis=0) for one in (mine, known))
        a, b = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (a, b))
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
    for block, chosen in BLOCKS.items():
        for step in (100, 250):
            with patch.object(judge, "_blocks", chosen), patch.object(judge, "FEATURES_AT", step):
                found = {
                    name: parts([Sample(picture, renderer=engine) for picture in painted])
                    for name, painted in pictures.items()
                }
            for by, like in (
                ("nearest part", alike), ("nearest ten", nearest_ten), ("their mean", means_alike),
            ):  # fmt: skip
                level = {
                    name: np.mean([like(own, found["seen"]) for own in found[name]])
                    for name in pictures
                }
                floor, span = level["control"], level["kept"] - level["control"]
                share = {name: f"{(level[name] - floor) / span:.2f}" for name in pictures}
                row = f"| {block}, {step}, {by} | "
                text.append(row + " | ".join(share[name] for name in rest) + " |")
                cells = (", ".join(share[f"{k} {x:g}"] for x in xs) for k, xs in HARMS.items())
                harms.append(row + " | ".join(cells) + " |")
    return [*text, "", *harms]


def kinds(runs: list[Path]) -> list[str]:
    text = []
    for run in runs:
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
                if "copies" in evidence:
                    rows[name]["copies"] = f"{copied[name]} of {painted[name]}"
        heads = list(dict.fromkeys(key for row in rows.values() for key in row))
        text += [f"{run.name}:", "", f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
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
    "contrast": lambda asked: contrast(asked.runs, asked.errors),
    "settings": lambda asked: settings(asked.runs, asked.model, asked.errors),
    "agreement": lambda asked: agreement(asked.runs),
    "ladders": lambda asked: ladders(asked.model),
    "copies": lambda asked: copies(asked.runs),
    "likeness": lambda asked: likeness(asked.runs),
    "kinds": lambda asked: kinds(asked.runs),
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
