"""Score rows, and one summary per candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from generation.cells import strength_text

NOT_RENDERED = "not rendered"
"""Why a picture is missing that a run was asked for and had not come to."""

Kind = Literal["strength", "epochs", "plane"]
Status = Literal["ok", "flagged", "failed"]
State = Literal["", "clean", "unsure", "broken"]


@dataclass(frozen=True)
class Candidate:
    """What is being chosen: a checkpoint at a strength.

    `place` is the checkpoint's order along training (0 first; the same for one checkpoint at many
    strengths). `checkpoint` is the LoRA's file name (with its folder's, where files share one), ""
    when pictures do not tell it; `tensor_hash` is its identity, "" likewise and in older studies.
    """

    checkpoint: str = ""
    epoch: int | None = None
    step: int | None = None
    strength: Decimal | None = None
    place: int = 0
    label: str = ""
    tensor_hash: str = ""

    def heading(self, kind: Kind) -> str:
        """The candidate as a column heading: "0.6", "epoch 7", "epoch 7 at 0.6"."""
        strength = "" if self.strength is None else strength_text(self.strength)
        if kind == "strength" and strength:
            return strength
        return f"{self.where} at {strength}" if kind == "plane" and strength else self.where

    @property
    def where(self) -> str:
        """The checkpoint's name for people: "epoch 7"."""
        return self.label or self.checkpoint or "these pictures"


@dataclass(frozen=True)
class Score:
    """One picture and what was measured on it: one row of scores.csv.

    `candidate is None` marks the control's own row. `image` and `control` are paths relative to
    the run folder where they lie inside it, else absolute. `values` maps metric names to floats;
    NaN means undefined, and `reason` then says why.
    """

    candidate: Candidate | None
    case: str
    prompt: str
    seed: int | None
    image: str
    control: str
    values: Mapping[str, float]
    status: Status = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % interval; bounds are NaN where none can be had."""

    mean: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Summary:
    """One candidate over its cases: one row of summary.csv.

    `metrics` holds an interval per metric, by the name of what it is: "brisque" is the mean over
    the cases, "rms_contrast_ratio" the geometric mean of the ratios to the controls,
    "clipped_change" the mean difference from them (`Declaration.summary`); `likeness` is a plain
    value without bounds. `diff_best` and `diff_control` are paired differences of the ranked
    metric, in its own direction (positive = larger value than the
    best's, the control's). `tied` means within the tie tolerance of the lowest mean; `contender`,
    that it cannot be told from the best. `state` is "clean" or "broken" where the evidence says so,
    "unsure" between and with one case, "" without control. `beyond`: broken, or more of the LoRA
    than one that is. `safe` is clean and not beyond; None where there is no control to judge by.
    """

    candidate: Candidate
    rank: int | None
    n: int
    metrics: Mapping[str, Interval]
    diff_best: Interval = Interval(math.nan)
    diff_control: Interval = Interval(math.nan)
    p_best: float = math.nan
    tied: bool = False
    best: bool = False
    contender: bool = False
    safe: bool | None = None
    reason: str = ""
    state: State = ""
    beyond: bool = False
    missing: int = 0
    unscored: int = 0

    @property
    def effect(self) -> float:
        """How far the picture moved, 1 - SSIM to the control; NaN where it was not measured."""
        return 1.0 - self.metrics.get("ssim", Interval(math.nan)).mean
