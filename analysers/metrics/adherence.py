"""Does a picture still show its prompt? The base model that rendered the control is the judge.

A model that is told what is to be seen removes noise from the picture better than one that is told
something else. So the denoising error under the picture's own prompt is compared with the errors
under other prompts of the study, and under none: Li et al. (2023), "Your Diffusion Model is
Secretly a Zero-Shot Classifier", https://arxiv.org/abs/2303.16203; Krojer et al. (2023), "Are
Diffusion Models Vision-And-Language Reasoners?", https://arxiv.org/abs/2305.16397, who compare
with the empty prompt. Both take many noises and timesteps; one suffices here, because all prompts
and all candidates meet the same one, and the control says how clearly this model can tell this
prompt at all (docs/metrics.md has the tables).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from analysers.metrics.metric import Declaration, Declared, Sample, together

if TYPE_CHECKING:
    import torch

JUDGED = 4
"""Pictures that are judged together."""

OTHERS = 4
"""With how many other prompts a picture's own is compared."""


def rivals(content: str, contents: Sequence[str], most: int = OTHERS) -> tuple[str, ...]:
    """So many of the contents that are not this one at most, the same whenever they are there.

    A case's choice does not depend on the candidate, and a prompt that is added to the study
    changes few choices: the lowest hashes of the pair are taken.
    """

    def lot(other: str) -> bytes:
        return hashlib.sha256(f"{content}\0{other}".encode("utf-8", "surrogatepass")).digest()

    return tuple(sorted({c for c in contents if c.strip() and c != content}, key=lot)[:most])


@dataclass(frozen=True)
class Adherence(Declared):
    """How clearly the picture shows its prompt, as a share of how clearly its control does, 0 to 1.

    That is by how much the errors of other prompts exceed that of its own, in the mean. It is 1 of
    a picture without a control, which is one. NaN where the control's own prompt explains it no
    better than others do.
    """

    controls: dict[Hashable, float] = field(default_factory=dict, compare=False, repr=False)

    declaration = Declaration(
        "adherence",
        "higher",
        version=3,
        unit="share of the control's",
        about="does it still show its prompt",
        margin=0.35,
        needs=frozenset({"renderer", "content", "others"}),
        uses=frozenset({"control"}),
        bounds=(0.0, 1.0),
        batch=JUDGED,
        undefined="the base model itself does not show this prompt",
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        if not samples:
            return []
        keys = list(map(_control, samples))
        lacking = {
            key: sample if sample.control is None else replace(sample, image=sample.control)
            for key, sample in zip(keys, samples, strict=True)
            if key not in self.controls
        }
        with samples[0].renderer.without_lora():
            self.controls.update(zip(lacking, _clearness(list(lacking.values())), strict=True))
            beside = [sample for sample in samples if sample.control is not None]
            shown = dict(zip(map(id, beside), _clearness(beside), strict=True))
        firsts = [self.controls[key] for key in keys]
        return [
            min(max(shown.get(id(sample), first) / first, 0.0), 1.0) if first > 0 else math.nan
            for sample, first in zip(samples, firsts, strict=True)
        ]


def _control(sample: Sample) -> Hashable:
    """What tells the control of a sample, and what it is asked."""
    control = sample.image if sample.control is None else sample.control
    return hashlib.sha256(control.tobytes()).digest(), sample.content, sample.others


@dataclass(frozen=True)
class AdherenceMargin(Declared):
    """The error without a prompt minus that under the picture's own; below 0, none is better."""

    declaration = Declaration(
        "adherence_margin",
        label="adherence, margin",
        unit="mean squared error",
        version=3,
        about="how much the prompt helps to explain the picture",
        needs=frozenset({"renderer", "content"}),
        batch=JUDGED,
    )

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        if not samples:
            return []
        with samples[0].renderer.without_lora():
            own, empty = together(samples, _own), together(samples, _empty)
        return [without - known for known, without in zip(own, empty, strict=True)]


def latents(sample: Sample) -> torch.Tensor:
    """The picture as the base model's denoiser takes it."""
    from generation.renderers.diffusers import judge

    return judge.latents(sample.renderer, sample.image)


def _clearness(samples: Sequence[Sample]) -> list[float]:
    """By how much the other prompts' errors exceed those of the pictures' own, in the mean."""
    own, others = together(samples, _own), together(samples, _others)
    return [
        sum(error - known for error in rivals) / len(rivals)
        for known, rivals in zip(own, others, strict=True)
    ]


def _own(samples: Sequence[Sample]) -> list[float]:
    return [error for (error,) in _errors(samples, [(sample.content,) for sample in samples])]


def _empty(samples: Sequence[Sample]) -> list[float]:
    return [error for (error,) in _errors(samples, [("",)] * len(samples))]


def _others(samples: Sequence[Sample]) -> list[list[float]]:
    return _errors(samples, [sample.others for sample in samples])


def _errors(samples: Sequence[Sample], texts: Sequence[Sequence[str]]) -> list[list[float]]:
    """The base model's errors for each sample's texts."""
    from generation.renderers.diffusers import judge

    pictures = [sample.once(latents) for sample in samples]
    return judge.errors(samples[0].renderer, pictures, texts)
