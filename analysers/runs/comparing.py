"""The same cells painted by a server and by this suite: is as much of the LoRA applied?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from analysers.metrics.ssim import ControlMaps
from analysers.runs.plan import Plan, plan_study
from analysers.runs.request import StudyRequest
from analysers.study import Interval, Study
from analysers.translation import Translation, factor, translate
from generation import plan as grid
from generation.errors import UserError, named
from generation.families import FAMILIES
from generation.pictures.pixels import read_image
from generation.records import plain

TOLERANCE = 0.1
"""Factors this close to 1 are no difference that anybody would see."""

HERE, THERE = "here", "there"
"""The run folders of both, inside the comparison's."""


@dataclass(frozen=True)
class Comparison:
    """`rows` are the server's strengths with those that have the same effect here, `factor` is how
    much of the LoRA the server applies, `controls` the mean SSIM between both's pictures without
    it (1: the same pixels)."""

    rows: tuple[Translation, ...]
    factor: Interval
    controls: float

    @property
    def told(self) -> bool:
        """Whether the factor is known well enough to say yes or no."""
        return self.same or self.differs

    @property
    def same(self) -> bool:
        """Whether all of the interval is so close to 1 that nobody would see a difference."""
        return self.factor.low >= 1 - TOLERANCE and self.factor.high <= 1 + TOLERANCE

    @property
    def differs(self) -> bool:
        """Whether the server applies more or less than this suite: 1 lies outside of the interval,
        and the factor is further from 1 than anybody would overlook."""
        value = self.factor
        return abs(value.mean - 1) > TOLERANCE and not value.low <= 1 <= value.high

    @property
    def headline(self) -> str:
        """The answer in a few words."""
        if not self.told:
            return "Cannot be told"
        return "As strongly" if self.same else f"{self.factor.mean:.2f} times"

    @property
    def answer(self) -> str:
        """What was found, in a sentence."""
        value = self.factor
        if not math.isfinite(value.mean):
            return (
                "How much of the LoRA the server applies cannot be told: no strength moves these "
                "pictures further than weaker ones do; give strengths from 0.2 on."
            )
        bounds = f"{value.low:.2f} to {_most(value.high)}"
        if self.same:
            return "The server applies the LoRA as strongly as this suite does."
        if not self.differs:
            return (
                "Whether the server applies the LoRA as strongly cannot be told from few cells: "
                f"{bounds} times its strength; give more prompts, and strengths from 0.2 on."
            )
        if value.mean == 0:
            return "The server applies nothing of the LoRA: its pictures are the controls."
        return f"The server applies the LoRA at {value.mean:.2f} times its strength ({bounds})."

    def record(self) -> dict[str, Any]:
        """The comparison as JSON has it; bounds that are not finite are null."""
        verdict = "same" if self.same else "differs" if self.differs else "unknown"
        told: dict[str, Any] = plain(
            {"verdict": verdict, "answer": self.answer, "controls": self.controls,
             "likeness": self.likeness, "factor": self.factor, "strengths": self.rows}
        )  # fmt: skip
        return told

    @property
    def likeness(self) -> str:
        """How alike the pictures without the LoRA are, in a sentence."""
        if self.controls == 1:
            return "Without the LoRA both paint the same pixels."
        return (
            f"Without the LoRA their pictures of one prompt and seed are alike to SSIM "
            f"{self.controls:.2f}; effects are each measured against the own control."
        )


def _most(high: float) -> str:
    return f"{high:.2f}" if math.isfinite(high) else "more than was tried"


def plan_comparison(asked: StudyRequest, model: str) -> tuple[Plan, Plan]:
    """The server's plan and ours: the same prompts, seeds, size and sampling; ours has strengths
    between the server's too.

    Raises UserError for what makes no two full sweeps of one LoRA.
    """
    rendering, out = asked.rendering, asked.output.out
    if rendering.renderer == "diffusers":
        raise UserError(
            f"there is no server to compare with; name one by {named('renderer')} and "
            f"{named('urls')}.",
            field="compare_renderers",
        )
    if asked.judging.thrifty or asked.judging.leak_test:
        raise UserError(
            "both sides paint every cell and nothing else; leave out what plans fewer or more.",
            field="compare_renderers",
        )
    out = out or Path("runs", f"{asked.folder.name}-renderers")
    plain = replace(rendering, model_config=None, prediction_type=None)
    there = plan_study(
        replace(asked, rendering=plain, output=replace(asked.output, out=out / THERE))
    )
    used = there.settings
    family = FAMILIES.get(there.loras[0].family or "")
    distilled = family is not None and family.flow  # whose guidance is another number than cfg
    given = rendering.guidance_scale
    ours = replace(
        rendering,
        renderer="diffusers",
        urls=(),
        workflow=None,
        sets=(),
        model=model,
        width=used.width or rendering.width,
        height=used.height or rendering.height,
        steps=used.steps or rendering.steps,
        sampler=used.sampler or rendering.sampler,
        guidance_scale=given if distilled or given is not None else used.guidance_scale or None,
    )
    here = plan_study(replace(asked, rendering=ours, output=replace(asked.output, out=out / HERE)))
    if lost := {**there.refused, **here.refused}:
        raise UserError(next(iter(lost.values())), field="loras")
    ruler = _between(asked.subject.strengths)
    return there, replace(here, cells=grid.cells(there.cases, here.checkpoints, ruler))


def _between(strengths: Sequence[Decimal]) -> tuple[Decimal, ...]:
    """The positive strengths, and those halfway between them and 0: a ruler with finer marks."""
    marks = sorted({s for s in strengths if s > 0})
    halves = {(one + other) / 2 for one, other in pairwise((Decimal(0), *marks))}
    return tuple(sorted({*marks, *halves}))


def compare(there: Study, here: Study, folder: Path) -> Comparison:
    """What two finished studies of the same cells say; `folder` holds the run folders of both.

    Raises UserError where they share fewer than two cases.
    """
    return Comparison(
        tuple(translate(there, here)),
        factor(there, here),
        _alike(_controls(there, folder / THERE), _controls(here, folder / HERE)),
    )


def _controls(study: Study, folder: Path) -> dict[str, Path]:
    return {s.case: folder / s.image for s in study.scores if s.candidate is None and s.image}


def _alike(theirs: dict[str, Path], ours: dict[str, Path]) -> float:
    """The mean SSIM of the controls of both. Raises UserError where their sizes differ."""
    found = []
    for case, path in theirs.items():
        if case not in ours:
            continue
        one, other = read_image(path), read_image(ours[case])
        if one.shape != other.shape:
            raise UserError(
                f"the server's pictures are {one.shape[1]}x{one.shape[0]}, ours "
                f"{other.shape[1]}x{other.shape[0]}; give {named('size')}.",
                field="compare_renderers",
            )
        found.append(ControlMaps.of(other).ssim(one))
    return float(np.mean(found)) if found else math.nan
