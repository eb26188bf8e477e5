"""What training pictures say of the candidates: how like them they are, learnt or by heart.

A cosine or an SSIM means little by itself. So likeness is told as a share of the way from the
pictures without the LoRA (0) to held-out pictures, or else to the training pictures among each
other (1), and a picture is called a copy where it is nearer to a training picture than these are to
each other, than held-out pictures are, and than any picture without the LoRA is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysers.phrases import listed, named, span
from analysers.scores import Tables, tabulate
from analysers.statistics import Array, intervals, row_means
from analysers.study import Candidate, Copy, Interval, Kind, Likeness, Score, Told, row_of

LIKENESS, COPYING, HELD_OUT = "reference_likeness", "copying", "held_out_copying"
HASH = "copying_hash"

LEAST_COPY = {COPYING: 0.6, HASH: 61 / 64}
"""SSIM of small pictures and share of equal bits (`analysers.metrics.copying`) up to which nothing
is called a copy: the first is what sixteen unlike posters had among each other at most, the second
more than any of 400 pictures had that copied nothing, and one bit more than two rockets at night
had, one of them mirrored. Two or three references say too little."""

GAINED = {COPYING: 0.1, HASH: 0.05}
"""By how much a copy is nearer to its reference than the picture of the same prompt and seed
without the LoRA: what the base paints so by itself (one bear in one pose) is no copy."""

SAME = 0.9
"""SSIM from which on two pictures are one, saved again, mirrored or moved."""


@dataclass(frozen=True)
class Resemblance:
    """A candidate's likeness, as a share of the way."""

    candidate: Candidate
    share: Interval


def resemblance(
    scores: Sequence[Score], kind: Kind, ideal: Sequence[float]
) -> tuple[float, float, list[Resemblance]]:
    """Floor (the controls' mean), ceiling (that of `ideal`), and each candidate.

    `ideal` are the values of what is as like the references as can be: held-out pictures, or the
    references among each other. Intervals are of paired differences from the controls. No
    candidates where the ceiling is not above the floor.
    """
    tables = tabulate(scores, kind)
    ceiling = float(np.mean(ideal)) if len(ideal) else math.nan
    floor = _mean(s.values.get(LIKENESS) for s in scores if s.candidate is None)
    way = ceiling - floor
    if LIKENESS not in tables.values or not way > 0:
        return floor, ceiling, []

    gained = (tables.values[LIKENESS] - tables.control[LIKENESS]) / way
    shares = _intervals(gained, tables.prompts)
    rows = [Resemblance(*row) for row in zip(tables.candidates, shares, strict=True)]
    return floor, ceiling, rows


def gaps(scores: Sequence[Score], kind: Kind) -> list[tuple[Candidate, Interval]]:
    """How much nearer each candidate comes to its nearest reference than to its nearest held-out
    picture, in SSIM, beyond the controls' own; none where either was not measured.

    A mean over all references would not do: it hardly moves where each picture repeats one of them.
    """
    tables = tabulate(scores, kind)
    if not {COPYING, HELD_OUT} <= tables.values.keys():
        return []
    found = _intervals(nearer(tables), tables.prompts)
    return list(zip(tables.candidates, found, strict=True))


def nearer(tables: Tables) -> Array:
    """How much nearer, beyond the control's, each picture is to its nearest reference, (candidates,
    cases)."""
    seen, kept = (tables.values[name] - tables.control[name] for name in (COPYING, HELD_OUT))
    return seen - kept


def record_gaps(found: Sequence[tuple[Candidate, Interval]], kind: Kind) -> Told:
    """The section "by_heart" of a study's evidence."""
    order = sorted(found, key=lambda one: (one[0].place, one[0].strength or 0))
    surely = [candidate for candidate, gap in order if gap.low > 0]
    said = span(surely, [candidate for candidate, _ in order], kind) if surely else "no setting"
    return Told(
        "By how much the nearest training picture is nearer (SSIM) than the nearest held-out one, "
        "beyond what the base model's own pictures are: above 0, training pictures are known by "
        f"heart. Surely so: {said}.",
        tuple(
            row_of(candidate, kind, {"gap": gap.mean, "low": gap.low, "high": gap.high})
            for candidate, gap in order
        ),
    )


def copies(
    scores: Sequence[Score], among: Mapping[str, Sequence[float]]
) -> tuple[dict[str, float], list[Score]]:
    """The limits above either of which a picture is a copy, unless its control is as near, and the
    rows that are, nearest first.

    `among` are the values of pictures that copy nothing, by metric and in one order; those of one
    picture twice say nothing.
    """
    once = [value < SAME for value in among.get(COPYING, ())]
    limits = {}
    for name, least in LEAST_COPY.items():
        known = among.get(name, ())
        unlike = [value for value, alone in zip(known, once, strict=False) if alone]
        bare = [s.values.get(name, math.nan) for s in scores if s.candidate is None]
        limits[name] = max([least, *unlike, *(value for value in bare if math.isfinite(value))])
    without = {s.case: s.values for s in scores if s.candidate is None}

    def copied(s: Score) -> bool:
        own = without.get(s.case, {})
        return any(
            s.values.get(name, -1.0) > max(limit, own.get(name, -1.0) + GAINED[name])
            for name, limit in limits.items()
        )

    found = [s for s in scores if s.candidate is not None and s.status != "failed" and copied(s)]
    return limits, sorted(found, key=lambda s: (-s.values.get(COPYING, -1.0), s.image))


def told_twice(among: Sequence[float], apart: Sequence[float]) -> str:
    """What is said of training pictures that are there twice, and of held-out ones among them."""
    twice, known = (sum(value >= SAME for value in values) for values in (among, apart))
    said = f"{twice} training pictures are nearly the same as another. " if twice else ""
    if known:
        said += f"{known} of the held-out pictures are nearly the same as a training picture, so "
        said += "what is known by heart is told too low. "
    return said.strip()


def told_copies(rows: Sequence[Copy], kind: Kind) -> str:
    """ "Epoch 8 repeats 2 training pictures; epoch 9 repeats 3." """
    repeated: dict[Candidate, set[str]] = {}
    for row in rows:
        repeated.setdefault(row.candidate, set()).add(row.reference)
    order = sorted(repeated, key=lambda c: (c.place, c.strength or 0))
    said = [
        f"{named(candidate, kind)} repeats {len(repeated[candidate])} training "
        f"picture{'s' * (len(repeated[candidate]) != 1)}"
        for candidate in order
    ]
    text = listed(said) if said else ""
    return f"{text[:1].upper()}{text[1:]}: look at them side by side." if text else ""


def record(
    found: tuple[float, float, list[Resemblance]], kind: Kind, *, held_out: bool = False
) -> Likeness:
    """The likeness section of a study's evidence; the ceiling is that of `held_out` pictures, if
    there are any."""
    floor, ceiling, rows = found
    which = "held-out pictures are" if held_out else "the training pictures are among each other"
    sentence = f"Likeness to the training pictures: 0 is as without the LoRA, 1 as {which}."
    if not rows:
        alike = "Held-out pictures" if held_out else "Others of the training pictures"
        sentence = (
            f"{alike} are not more like the training pictures than pictures without the LoRA are, "
            "so likeness says nothing here."
        )
    return Likeness(
        sentence,
        floor,
        ceiling,
        tuple(
            row_of(
                row.candidate,
                kind,
                {"likeness": row.share.mean, "low": row.share.low, "high": row.share.high},
            )
            for row in rows
        ),
    )


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _intervals(table: Array, prompts: Any) -> list[Interval]:
    if not table.size:
        return [Interval(float(mean)) for mean in row_means(table)]
    bounds = intervals(table, prompts)
    return [Interval(*(float(part[i]) for part in bounds)) for i in range(len(table))]
