"""Does a picture still show its prompt? The base model that rendered the control is the judge.

A model that is told what is to be seen removes noise from the picture better than one that is told
something else. So the denoising error under the picture's own prompt is compared with the errors
under other prompts of the study, and under none: Li et al. (2023), "Your Diffusion Model is
Secretly a Zero-Shot Classifier", https://arxiv.org/abs/2303.16203; Krojer et al. (2023), "Are
Diffusion Models Vision-And-Language Reasoners?", https://arxiv.org/abs/2305.16397, who compare
with the empty prompt. Both take many noises and timesteps; two suffice here, because all prompts
and all candidates meet the same ones (docs/metrics.md has the table).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysers.metrics.metric import Declaration, Declared, Sample

if TYPE_CHECKING:
    import torch

OTHERS = 4
"""With how many other prompts a picture's own is compared, each at one noise level."""


def rivals(content: str, contents: Sequence[str]) -> tuple[str, ...]:
    """At most `OTHERS` of the contents that are not this one, the same whenever they are there.

    A case's choice does not depend on the candidate, and a prompt that is added to the study
    changes few choices: the lowest hashes of the pair are taken.
    """

    def lot(other: str) -> bytes:
        return hashlib.sha256(f"{content}\0{other}".encode("utf-8", "surrogatepass")).digest()

    return tuple(sorted({c for c in contents if c.strip() and c != content}, key=lot)[:OTHERS])


@dataclass(frozen=True)
class Adherence(Declared):
    """Share of the other prompts, 0 to 1, that explain the picture worse than its own."""

    declaration = Declaration(
        "adherence",
        "higher",
        unit="share of other prompts",
        about="does it still show its prompt",
        margin=0.1,
        needs=frozenset({"renderer", "content", "others"}),
        bounds=(0.0, 1.0),
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [_judged(sample, _share) for sample in samples]


@dataclass(frozen=True)
class AdherenceMargin(Declared):
    """The error without a prompt minus that under the picture's own; below 0, none is better."""

    declaration = Declaration(
        "adherence_margin",
        label="adherence, margin",
        unit="mean squared error",
        about="how much the prompt helps to explain the picture",
        needs=frozenset({"renderer", "content"}),
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [_judged(sample, _margin) for sample in samples]


def _judged(sample: Sample, judge: Callable[[Sample], float]) -> float:
    with sample.renderer.without_lora():
        return judge(sample)


def _share(sample: Sample) -> float:
    own = sample.once(_own)
    asked = [(other, k % len(own)) for k, other in enumerate(sample.others)]
    worse = [
        error > own[level] for error, (_, level) in zip(_errors(sample, asked), asked, strict=True)
    ]
    return sum(worse) / len(worse)


def _margin(sample: Sample) -> float:
    own = sample.once(_own)
    empty = _errors(sample, [("", level) for level in range(len(own))])
    return (sum(empty) - sum(own)) / len(own)


def _own(sample: Sample) -> list[float]:
    from generation.renderers.diffusers.judge import LEVELS

    return _errors(sample, [(sample.content, level) for level in range(LEVELS)])


def _errors(sample: Sample, asked: Sequence[tuple[str, int]]) -> list[float]:
    from generation.renderers.diffusers.judge import errors

    return errors(sample.renderer, sample.once(_latents), asked)


def _latents(sample: Sample) -> torch.Tensor:
    from generation.renderers.diffusers.judge import latents

    return latents(sample.renderer, sample.image)
