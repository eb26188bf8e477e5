"""Who sees that content is lost: adherence, BRISQUE or SSIM, against labels given blind.

    python benchmarks/judge.py labels STRENGTHS EPOCHS
    python benchmarks/judge.py ladders [--model JUDGE]
    python benchmarks/judge.py judged RUN ... [--model JUDGE]
    python benchmarks/judge.py copies RUN ... REFERENCES
    python benchmarks/judge.py likeness RUN ... REFERENCES HELD_OUT
    python benchmarks/judge.py kinds RUN ...

`labels`: the two demo runs' pictures that results/labels-demo.csv labels, the area under the ROC
curve of each metric, and by setting the share labelled as lost. `ladders`: twelve pictures of the
embedded model judged by their own prompt, by that with another subject's word in front ("similar"),
and by another; and blended step by step with another picture or with noise. `judged`: adherence by
setting of finished runs. With `--model` these two ask another model about what the embedded one
painted (train_judges.py). `copies`: how many of the runs' pictures are called a copy, by each sign,
and how much of a reference, moved and mirrored, must shine through one until it is. REFERENCES is a
folder of pictures, such as `seen` of train_small.py. `likeness`: that of the runs' settings as a
share of the way from controls to held-out pictures, by other features and other means. `kinds`:
what finished runs of LoRAs of known kinds (train_small.py) say of likeness, learning by heart,
copies and leak.

With the embedded model on the CPU; appended to results/judge.md.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
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
from analysers.runs.conclude import load_study
from generation.cells import Case
from generation.pictures.pixels import read_image
from generation.renderers.diffusers import judge
from generation.renderers.diffusers.engine import Engine, find_model

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


def labels(runs: list[Path]) -> list[str]:
    rows = list(csv.DictReader((RESULTS / "labels-demo.csv").open()))
    scores = {}
    for run in runs:
        for score in load_study(run).scores:
            scores[run.name, score.image] = run, score
    engine, contents = embedded(), prompts()
    lost = np.array([row["lost"] == "1" for row in rows])
    values: dict[str, list[float]] = defaultdict(list)
    settings = defaultdict(list)
    for row in rows:
        run, score = scores[row["run"], row["image"]]
        picture, control = read_image(run / score.image), read_image(run / score.control)
        content = without_triggers(score.prompt, (TRIGGER,))
        own = Sample(picture, renderer=engine, content=content, others=rivals(content, contents))
        values["adherence"].append(-Adherence()([own])[0])
        values["adherence, margin"].append(-AdherenceMargin()([own])[0])
        values["BRISQUE"].append(brisque(picture))
        values["BRISQUE less the control's"].append(brisque(picture) - brisque(control))
        values["1 - SSIM"].append(1 - ssim(picture, control))
        candidate = score.candidate
        assert candidate is not None
        heading = candidate.heading("strength" if row["run"] == "strengths" else "epochs")
        settings[row["run"], candidate.place, float(candidate.strength or 0), heading].append(
            (row["lost"] == "1", -values["adherence"][-1], values["BRISQUE"][-1])
        )
    groups = np.array([row["case"] for row in rows])
    text = [
        f"{len(rows)} pairs, {int(lost.sum())} labelled lost; intervals resample prompts.",
        "",
        "| a higher value says lost | AUC | 95 % |",
        "|---|---|---|",
    ]
    for name, found in values.items():
        low, high = bounds(np.array(found), lost, groups)
        text.append(f"| {name} | {auc(np.array(found), lost):.3f} | {low:.3f} to {high:.3f} |")
    text += [
        "",
        "| setting | pairs | labelled lost | adherence | BRISQUE |",
        "|---|---|---|---|---|",
    ]
    order = sorted(settings.items(), key=lambda item: (item[0][0] != "strengths", *item[0]))
    for key, found in order:
        mean = np.mean(np.array(found, float), axis=0)
        text.append(f"| {key[3]} | {len(found)} | {mean[0]:.2f} | {mean[1]:.2f} | {mean[2]:.1f} |")
    return text


def ladders(model: Path) -> list[str]:
    engine, judging_engine, contents = embedded(), judging(model), prompts()[:12]
    begin = time.perf_counter()
    cases = [Case(text, 11 + k) for k, text in enumerate(contents)]
    pictures = [p for k in range(0, 12, 4) for p in engine.render(cases[k : k + 4])]
    painting = (time.perf_counter() - begin) / len(pictures)
    noise = np.random.default_rng(0)
    judged: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds = []

    def hold(name: str, picture: np.ndarray, text: str) -> None:
        others = rivals(text, contents)
        own = Sample(picture, renderer=judging_engine, content=text, others=others)
        begin = time.perf_counter()
        share = Adherence()([own])[0]
        seconds.append(time.perf_counter() - begin)
        judged[name].append((share, AdherenceMargin()([own])[0]))

    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    for k, picture in enumerate(pictures):
        shown = contents[k].removeprefix("a picture of a ")
        similar = f"a picture of a {contents[(k + 5) % 12].split(' ')[4]} {shown}"
        hold("its own prompt", picture, contents[k])
        hold("a similar prompt", picture, similar)
        hold("another prompt", picture, contents[(k + 5) % 12])
        grain = noise.integers(0, 256, picture.shape)
        for name, other in (("replaced", pictures[(k + 5) % 12]), ("noise", grain)):
            for step in steps:
                mixed = np.rint((1 - step) * picture + step * other).astype(np.uint8)
                hold(f"{name}, {step:.2f}", mixed, contents[k])
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
        text.append(f"| {name} | {known} |")
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
    usual = float(np.median(seconds))
    text += [
        "",
        f"Adherence takes {usual:.3f} s a picture (median), painting one takes {painting:.3f} s "
        f"with 12 steps and guidance: {100 * usual / painting:.0f} %; with the usual 25 steps that "
        f"is {100 * usual / painting * 12 / 25:.0f} %.",
    ]
    return text


Signs = tuple[float, float, float]
"""Of the nearest reference: SSIM, share of equal bits, likeness by the base model's features."""


class Nearness:
    """Pictures held against references by all signs; the limits are what references have among each
    other, and what controls have, at most."""

    def __init__(self, references: list[np.ndarray]) -> None:
        self.engine = embedded()
        self.looks = [small(picture) for picture in references]
        self.features = [self._features(picture) for picture in references]
        numbers = range(len(references))
        self.least = np.array([LEAST_COPY[COPYING], LEAST_COPY[HASH], -1.0])
        among = [self.of(references[k], [n for n in numbers if n != k]) for k in numbers]
        self.limits = np.maximum(self.least, np.max(among, axis=0))

    def of(self, picture: np.ndarray, among: list[int] | None = None) -> Signs:
        numbers = range(len(self.looks)) if among is None else among
        found = compared(small(picture), [self.looks[k] for k in numbers])
        own = self._features(picture)
        like = max(alike(own, [self.features[k]]) for k in numbers)
        return max(n.value for n in found), max(n.bits for n in found), like

    def _features(self, picture: np.ndarray) -> np.ndarray:
        return parts([Sample(fitted(picture, 128, 128), renderer=self.engine)])[0]

    def row(self, name: str, pictures: list[np.ndarray]) -> str:
        found = np.array([self.of(picture) for picture in pictures])
        called = found > self.limits
        called = np.c_[called, called[:, :2].any(axis=1)].sum(axis=0)
        cells = [
            f"{n} (highest {high:.2f})" for n, high in zip(called, found.max(axis=0), strict=False)
        ]
        return f"| {name} | {len(pictures)} | {' | '.join(cells)} | {called[3]} |"


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "paler": lambda picture: 0.4 * picture + 100,
    "darker": lambda picture: 0.3 * picture,
    "noisy": lambda picture: picture + np.random.default_rng(0).normal(0, 40, picture.shape),
    "colours exchanged": lambda picture: picture[..., ::-1].astype(float),
}


def judged(runs: list[Path], model: Path) -> list[str]:
    engine, contents = judging(model), prompts()
    text = ["| setting | pictures | adherence | margin |", "|---|---|---|---|"]
    for run in runs:
        study = load_study(run)
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for score in study.scores:
            content = without_triggers(score.prompt, (TRIGGER,))
            others = rivals(content, contents)
            own = Sample(
                read_image(run / score.image), renderer=engine, content=content, others=others
            )
            name = score.candidate.heading(study.kind) if score.candidate else "control"
            found[name].append((Adherence()([own])[0], AdherenceMargin()([own])[0]))
        for name, values in found.items():
            share, margin = np.mean(values, axis=0)
            text.append(f"| {name} | {len(values)} | {share:.2f} | {margin:+.4f} |")
    return text


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
    ssim, bits, like = near.limits
    text = [
        f"{len(references)} references, {len(controls)} controls. Called a copy above an SSIM of "
        f"{ssim:.2f}, a share of equal bits of {bits:.2f}, a likeness of {like:.2f}.",
        "",
        "| pictures | | by SSIM | by hash | by features | by SSIM or hash, as shipped |",
        "|---|---|---|---|---|---|",
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


BLOCKS: dict[str, Callable[[Any], Any]] = {
    "middle": lambda denoiser: denoiser.mid_block,
    "first of the way up": lambda denoiser: denoiser.up_blocks[0],
    "second": lambda denoiser: denoiser.up_blocks[1],
    "last": lambda denoiser: denoiser.up_blocks[2],
}


def means_alike(own: np.ndarray, references: list[np.ndarray]) -> float:
    """The mean cosine between the mean over a picture's parts and that of each reference's."""
    means = [part.mean(axis=0) for part in (own, *references)]
    units = [mean / np.linalg.norm(mean) for mean in means]
    return float(np.mean([units[0] @ unit for unit in units[1:]]))


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
    text = [f"| block, timestep, of | {' | '.join(rest)} |", "|---|" + "---|" * len(rest)]
    for block, chosen in BLOCKS.items():
        for step in (50, 250):
            with (
                patch.object(judge, "_blocks", lambda d, c=chosen: [c(d)]),
                patch.object(judge, "FEATURES_AT", step),
            ):
                found = {
                    name: parts([Sample(picture, renderer=engine) for picture in painted])
                    for name, painted in pictures.items()
                }
            for by, like in (("each part", alike), ("their mean", means_alike)):
                level = {
                    name: np.mean([like(own, found["seen"]) for own in found[name]])
                    for name in pictures
                }
                floor, span = level["control"], level["kept"] - level["control"]
                cells = " | ".join(f"{(level[name] - floor) / span:.2f}" for name in rest)
                text.append(f"| {block}, {step}, {by} | {cells} |")
    return text


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
    "labels": lambda asked: labels(asked.runs),
    "ladders": lambda asked: ladders(asked.model),
    "judged": lambda asked: judged(asked.runs, asked.model),
    "copies": lambda asked: copies(asked.runs),
    "likeness": lambda asked: likeness(asked.runs),
    "kinds": lambda asked: kinds(asked.runs),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--model", type=Path, default=EMBEDDED, help="the judge")
    options = parser.parse_args()
    text = WHAT[options.what](options)
    by = "" if options.model == EMBEDDED else f" by {options.model.name}"
    head = f"## {options.what}{by}, {date.today()}, {platform.machine()} CPU, one thread\n"
    with (RESULTS / "judge.md").open("a") as file:
        file.write("\n".join([head, *text, "", ""]))
    print("\n".join(text))


if __name__ == "__main__":
    main()
