"""Studies built from constructed pictures, so that reports are tested without a renderer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data

from analysers.metrics.metric import declared
from analysers.study import (
    Candidate,
    Evidence,
    Interval,
    Ladder,
    Noise,
    RunRecord,
    Score,
    Sentence,
    Study,
    Summary,
    TrustResult,
    Verdict,
    Weights,
)

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name: str, size: int) -> Image.Image:
    """One of scikit-image's photographs, its middle square, `size` pixels wide."""
    picture = Image.fromarray(getattr(data, name)()).convert("RGB")
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.crop((left, top, left + edge, top + edge)).resize((size, size))


def styled(picture: Image.Image, amount: float, seed: int) -> Image.Image:
    """A stand-in for a LoRA: colour and contrast grow with `amount`, past 1 it breaks."""
    out = ImageEnhance.Color(picture).enhance(1 + 1.2 * amount)
    out = ImageEnhance.Contrast(out).enhance(1 + 0.5 * amount)
    if amount > 1:
        noise = np.random.default_rng(seed).normal(0, 90 * (amount - 1), np.shape(out))
        out = Image.fromarray(np.clip(np.asarray(out) + noise, 0, 255).astype(np.uint8))
    return out


def build_study(
    folder: Path,
    kind: str = "strength",
    *,
    strengths: tuple[str, ...] = ("0.2", "0.4", "0.6", "0.8", "1.0", "1.2", "1.4"),
    epochs: int = 8,
    prompts: tuple[str, ...] = (
        "portrait of an astronaut, studio light",
        "a cup of coffee on a wooden table",
        "a cat looking into the camera",
        "a rocket on its launch pad at dusk",
    ),
    seeds: tuple[int, ...] = (1, 2),
    size: int = 160,
    aspect: float = 1.0,
    failed: bool = True,
    title: str = "my-style-v3",
) -> Study:
    """A study with pictures under `folder/images`, whose figures follow a known curve."""
    if kind == "strength":
        candidates = [Candidate("my-style-v3.safetensors", strength=Decimal(s)) for s in strengths]
        amounts = [float(s) for s in strengths]
    elif kind == "epochs":
        candidates = [
            Candidate(f"my-{i:06d}.safetensors", i, i * 150, Decimal("0.8"), i - 1, f"epoch {i}")
            for i in range(1, epochs + 1)
        ]
        amounts = [1.5 * i / epochs for i in range(1, epochs + 1)]
    else:
        candidates = [
            Candidate(f"my-{i:06d}.safetensors", i, i * 150, Decimal(s), i - 1, f"epoch {i}")
            for i in range(1, epochs + 1)
            for s in strengths
        ]
        amounts = [float(c.strength or 0) * (c.epoch or 0) * 1.4 / epochs for c in candidates]

    scores: list[Score] = []
    values: dict[int, list[dict[str, float]]] = {i: [] for i in range(len(candidates))}
    for p, prompt in enumerate(prompts):
        for seed in seeds:
            case = f"p{p:02d}_s{seed}"
            base = photograph(PHOTOGRAPHS[p % len(PHOTOGRAPHS)], size)
            if aspect != 1:
                base = base.resize((round(size * aspect), size))
            if seed % 2 == 0:
                base = base.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            control = f"images/control/{case}.png"
            _save(base, folder / control)
            start = 22 + 3 * p + seed
            scores.append(
                Score(None, case, prompt, seed, control, control, _values(0, start, p + seed))
            )
            for i, (candidate, amount) in enumerate(zip(candidates, amounts, strict=True)):
                if failed and i == len(candidates) - 1 and p == 1:
                    scores.append(
                        Score(
                            candidate, case, prompt, seed, "", control, {}, "failed",
                            "the picture could not be decoded (truncated file)",
                        )
                    )  # fmt: skip
                    continue
                path = f"images/c{i:03d}/{case}.png"
                _save(styled(base, amount, seed), folder / path)
                row = _values(amount, start, 7 * i + p + seed)
                values[i].append(row)
                scores.append(Score(candidate, case, prompt, seed, path, control, row))

    means = {i: np.mean([r["brisque"] for r in rows]) for i, rows in values.items() if rows}
    order = sorted(means, key=lambda i: float(means[i]))
    summaries = []
    for rank, i in enumerate(order, 1):
        metrics = {declared(m).summary: _interval([r[m] for r in values[i]]) for m in values[i][0]}
        difference = float(means[i] - means[order[0]])
        summaries.append(
            Summary(
                candidates[i], rank, len(values[i]), metrics,
                Interval(difference, difference - 1.5, difference + 1.5),
                Interval(float(means[i]) - 27, float(means[i]) - 29, float(means[i]) - 25),
                p_best=0.7 if rank == 1 else 0.1 if rank < 4 else 0.0,
                tied=rank == 1, best=rank == 1, contender=difference < 1.5, safe=amounts[i] <= 1,
                beyond=amounts[i] > 1, state="clean" if amounts[i] <= 1 else "broken",
            )
        )  # fmt: skip
    best = candidates[order[0]]
    clean = [c for c, a in zip(candidates, amounts, strict=True) if a <= 1]
    broken = [c for c, a in zip(candidates, amounts, strict=True) if a > 1]
    what = best.heading(kind)  # type: ignore[arg-type]
    said = [
        Sentence("answer", "use", f"Use {what}.", (best,)),
        Sentence("answer", "lowest", "It has the lowest mean BRISQUE.", (best,)),
        Sentence(
            "why",
            "control",
            "Over 8 pictures its mean BRISQUE is 3.1 below the control's (1.2 to 4.9).",
        ),
        Sentence("why", "probability", "It would come first in about 70 % of studies."),
    ]
    if failed:
        text = "1 setting lost 2 pictures: the picture could not be decoded."
        said.append(Sentence("caution", "found", text))
    verdict = Verdict(
        best=best,
        recommended=best,
        level=tuple(s.candidate for s in summaries if s.contender),
        why=("most_effect",),
        confidence="moderate",
        sentences=tuple(said),
        contenders=tuple(s.candidate for s in summaries if s.contender),
        strongest_clean=clean[-1] if clean else None,
        breakdown=broken[0] if broken else None,
        plateau=clean[-2] if len(clean) > 1 else None,
        zone=tuple(clean[-2:]),
    )
    steps = (0.0, 1.0, 2.0)
    taus = {"blur": 1.0, "JPEG": 0.33}
    ladders = [Ladder(name, "", steps, steps, tau, True) for name, tau in taus.items()]
    evidence = Evidence(
        noise=Noise(floor={"brisque": 0.0, "pictures": 3.0}),
        trust=TrustResult(True, "BRISQUE notices.", 0.83, 3, tuple(ladders)),
    )
    if kind != "strength":
        weights = [
            {
                "checkpoint": f"my-{i:06d}.safetensors",
                "label": f"epoch {i}",
                "frobenius": 2.0 * math.sqrt(i),
                "effective_rank": 6.5 - 0.2 * i,
                "te_share": 0.2,
                "cosine": 1 - 0.4 / i,
            }
            for i in range(1, epochs + 1)
        ]
        evidence = replace(evidence, weights=Weights(tuple(weights)))
    return Study(
        kind=kind,  # type: ignore[arg-type]
        title=title,
        rank_by="brisque",
        better="lower",
        metrics=("ssim", "brisque", "rms_contrast", "clipped", "colourfulness", "laplacian_energy"),
        scores=tuple(scores),
        summaries=tuple(summaries),
        verdict=verdict,
        evidence=evidence,
        run=RunRecord(
            settings={
                "model": "demo",
                "width": size,
                "height": size,
                "steps": 20,
                "guidance_scale": 4.0,
                "sampler": "dpmpp_2m_karras",
            },
        ),
    )


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, compress_level=1)


def _values(amount: float, start: float, seed: int) -> dict[str, float]:
    wobble = float(np.random.default_rng(seed).normal(0, 0.8))
    return {
        "ssim": 1.0 if amount == 0 else float(np.exp(-0.55 * amount) + 0.004 * wobble),
        "brisque": start - 6 * amount + 7.5 * amount**3 / 1.4 + wobble,
        "rms_contrast": 1 + 0.3 * amount,
        "clipped": 1 + 2 * amount**2,
        "colourfulness": 1 + 0.8 * amount + 0.02 * wobble,
        "laplacian_energy": 1 + (6 * (amount - 1) if amount > 1 else 0.1 * amount),
    }


def _interval(values: list[float]) -> Interval:
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean)
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    return build_study


@pytest.fixture(scope="session")
def strength_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("strength")
    return build_study(folder), folder


@pytest.fixture(scope="session")
def plane_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("plane")
    study = build_study(
        folder, "plane", strengths=("0.4", "0.7", "1.0", "1.3"), epochs=6,
        prompts=("a cup of coffee", "a cat"), seeds=(1,), size=96,
    )  # fmt: skip
    return study, folder
