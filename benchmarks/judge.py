"""Who sees that content is lost: adherence, BRISQUE or SSIM, against labels given blind.

    python benchmarks/judge.py labels STRENGTHS EPOCHS
    python benchmarks/judge.py ladders
    python benchmarks/judge.py copies STRENGTHS EPOCHS REFERENCES
    python benchmarks/judge.py kinds RUN ...

`labels`: the two demo runs' pictures that results/labels-demo.csv labels, the area under the ROC
curve of each metric, and by setting the share labelled as lost. `ladders`: twelve pictures of the
base model judged by their own prompt, by that with another subject's word in front ("similar"), and
by another; and blended step by step with another picture or with noise. With the embedded model on
the CPU; appended to results/judge.md. `copies`: how much of a reference, moved and mirrored, must
shine through a run's picture until it is called a copy, and how many of the runs' own are.
REFERENCES is a folder of pictures, such as `seen` of train_small.py. `kinds`: what finished runs of
LoRAs of a known kind (train_small.py) say of likeness, learning by heart, copies and leak.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

import sample_data
from analysers.intake.cases import without_triggers
from analysers.intake.references import find_references
from analysers.likeness import LEAST_COPY
from analysers.metrics.adherence import Adherence, AdherenceMargin, rivals
from analysers.metrics.brisque import brisque
from analysers.metrics.copying import nearest, small
from analysers.metrics.metric import Sample
from analysers.metrics.ssim import ssim
from analysers.runs.conclude import load_study
from generation.cells import Case
from generation.pictures.pixels import read_image
from generation.renderers.diffusers.engine import Engine, find_model

RESULTS = Path(__file__).with_name("results")
TRIGGER = "pstr style"


def embedded() -> Engine:
    return Engine(
        find_model(str(sample_data.PATH / "model")), sampler="dpmpp_2m_karras", steps=12,
        guidance_scale=4.0, width=128, height=128, batch_size=4,
    )  # fmt: skip


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


def ladders() -> list[str]:
    engine, contents = embedded(), prompts()[:12]
    begin = time.perf_counter()
    cases = [Case(text, 11 + k) for k, text in enumerate(contents)]
    pictures = [p for k in range(0, 12, 4) for p in engine.render(cases[k : k + 4])]
    painting = (time.perf_counter() - begin) / len(pictures)
    noise = np.random.default_rng(0)
    judged: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds = []

    def judge(name: str, picture: np.ndarray, text: str) -> None:
        own = Sample(picture, renderer=engine, content=text, others=rivals(text, contents))
        begin = time.perf_counter()
        share = Adherence()([own])[0]
        seconds.append(time.perf_counter() - begin)
        judged[name].append((share, AdherenceMargin()([own])[0]))

    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    for k, picture in enumerate(pictures):
        shown = contents[k].removeprefix("a picture of a ")
        similar = f"a picture of a {contents[(k + 5) % 12].split(' ')[4]} {shown}"
        judge("its own prompt", picture, contents[k])
        judge("a similar prompt", picture, similar)
        judge("another prompt", picture, contents[(k + 5) % 12])
        grain = noise.integers(0, 256, picture.shape)
        for name, other in (("replaced", pictures[(k + 5) % 12]), ("noise", grain)):
            for step in steps:
                mixed = np.rint((1 - step) * picture + step * other).astype(np.uint8)
                judge(f"{name}, {step:.2f}", mixed, contents[k])
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


def copies(folders: list[Path]) -> list[str]:
    *runs, folder = folders
    references = [read_image(path) for path in find_references(folder).pictures]
    looks = [small(picture) for picture in references]
    among = [nearest(look, looks[:k] + looks[k + 1 :]).value for k, look in enumerate(looks)]
    bare, own = [], []
    for run in runs:
        for score in load_study(run).scores:
            picture = read_image(run / score.image)
            value = nearest(small(picture), looks).value
            (own if score.candidate else bare).append((value, picture))
    limit = max(LEAST_COPY, *among, *(value for value, _ in bare))
    text = [
        f"{len(references)} references; the highest value among each other is {max(among):.2f}, of "
        f"{len(bare)} controls {max(v for v, _ in bare):.2f}, so the limit is {limit:.2f}. Of "
        f"{len(own)} pictures with the LoRA {sum(v > limit for v, _ in own)} are above it (highest "
        f"{max(v for v, _ in own):.2f}).",
        "",
        "| share of the reference | called a copy | with the right reference | mirrored |",
        "|---|---|---|---|",
    ]
    for share in (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        found = []
        for k, reference in enumerate(references):
            laid = np.roll(reference[:, ::-1], (6, -8), (0, 1))
            mixed = (1 - share) * own[(17 * k) % len(own)][1] + share * laid
            found.append((k, nearest(small(np.rint(mixed).astype(np.uint8)), looks)))
        named = [near.value > limit for _, near in found]
        right = [near.number == k for k, near in found]
        turned = [near.mirrored for _, near in found]
        cells = " | ".join(f"{np.mean(x):.2f}" for x in (named, right, turned))
        text.append(f"| {share:g} | {cells} |")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["labels", "ladders", "copies", "kinds"])
    parser.add_argument("runs", type=Path, nargs="*")
    options = parser.parse_args()
    text = {
        "labels": lambda: labels(options.runs),
        "ladders": ladders,
        "copies": lambda: copies(options.runs),
        "kinds": lambda: kinds(options.runs),
    }[options.what]()
    head = f"## {options.what}, {date.today()}, {platform.machine()} CPU, one thread\n"
    with (RESULTS / "judge.md").open("a") as file:
        file.write("\n".join([head, *text, "", ""]))
    print("\n".join(text))


if __name__ == "__main__":
    main()
