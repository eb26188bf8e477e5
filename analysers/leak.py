"""Does the LoRA act where nobody called it? Effects without the trigger word beside those with it.

The effect is 1 - SSIM to the picture of the same prompt and seed without the LoRA, so that what the
trigger word itself does to the base model's picture is no part of it. SSIM falls by much where
shapes move a little; how far the colours moved is told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, TypeVar

import numpy as np

from analysers.phrases import named
from analysers.statistics import intervals
from analysers.study import Candidate, Interval, Kind, Score, Told, row_of

C = TypeVar("C")

UNRELATED = (
    "a mountain lake in the morning",
    "a bowl of soup on a table",
    "an old steam train",
    "a city street in the rain",
)
"""Prompts that hardly any LoRA is trained on."""

BARE, CLASS, OTHER = "bare", "class", "unrelated"
"""What a probe's case is called after its twin's name (both, where the prompt without the trigger
names the class already), and before an unrelated prompt's number."""


@dataclass(frozen=True)
class Leak:
    """A candidate's mean effect with the trigger, and shares of it without the trigger, with the
    class word in its place (both paired by prompt and seed) and on unrelated prompts. `colours` is
    the share without the trigger of the colour difference.
    """

    candidate: Candidate
    effect: float
    without: Interval
    unrelated: Interval
    beside: Interval = field(default_factory=lambda: Interval(math.nan))
    colours: Interval = field(default_factory=lambda: Interval(math.nan))


def leaks(scores: Sequence[Score], probes: Sequence[Score]) -> list[Leak]:
    """What the probes say, per candidate in order of the rows; a case's name tells its twin."""
    rows = [s for s in (*scores, *probes) if s.candidate is not None]
    effects = {(s.candidate, s.case): 1.0 - s.values.get("ssim", math.nan) for s in rows}
    moved = {(s.candidate, s.case): s.values.get("colour_difference", math.nan) for s in rows}
    found = []
    for candidate in dict.fromkeys(s.candidate for s in scores if s.candidate is not None):
        if candidate.strength == 0:
            continue
        cases = [s.case for s in probes if s.candidate == candidate]
        twins = {word: _twins(effects, candidate, cases, word) for word in (BARE, CLASS)}
        apart = [effects[candidate, case] for case in cases if case.startswith(OTHER)]
        mean = float(np.mean([own for _, own in twins[BARE]])) if twins[BARE] else 0.0
        if not mean > 0:
            continue
        found.append(
            Leak(
                candidate,
                mean,
                _share(twins[BARE]),
                _share_of(np.array([effect for effect in apart if math.isfinite(effect)]), mean),
                _share(twins[CLASS]),
                _share(_twins(moved, candidate, cases, BARE)),
            )
        )
    return found


def wanted(scores: Sequence[Score], probes: Mapping[C, Score]) -> list[C]:
    """The probes that stand beside what was scored: a race or a refinement leaves out others.
    `probes` are their rows, without values yet; controls come along with their case."""
    made = {(s.candidate, s.case) for s in scores}
    candidates = {s.candidate for s in scores if s.candidate is not None}
    cells = {
        cell: row
        for cell, row in probes.items()
        if row.candidate in candidates
        and (row.case.startswith(OTHER) or (row.candidate, _twin(row.case)) in made)
    }
    cases = {row.case for row in cells.values()}
    return [
        cell
        for cell, row in probes.items()
        if cell in cells or (row.candidate is None and row.case in cases)
    ]


def _twin(case: str) -> str:
    """The name of the case with the trigger."""
    return case.removesuffix(f"_{CLASS}").removesuffix(f"_{BARE}")


def _twins(
    values: Mapping[tuple[Candidate | None, str], float],
    candidate: Candidate,
    cases: Sequence[str],
    word: str,
) -> list[tuple[float, float]]:
    """(value of the probe, value with the trigger) of every probe of this word that has both."""
    found = []
    for case in cases:
        if f"_{word}" in case and not case.startswith(OTHER):
            pair = values[candidate, case], values.get((candidate, _twin(case)), math.nan)
            if np.isfinite(pair).all():
                found.append(pair)
    return found


def record(found: Sequence[Leak], kind: Kind, class_word: str = "") -> Told:
    """The leak section of a study's evidence."""
    names = {
        "without": ("without trigger", "low", "high"),
        "unrelated": ("unrelated", "unrelated low", "unrelated high"),
        "colours": ("colours without trigger", "colours low", "colours high"),
        **({"beside": ("class word", "class low", "class high")} if class_word else {}),
    }
    rows = []
    for leak in found:
        values = {"effect": leak.effect}
        for field_name, columns in names.items():
            values |= zip(columns, astuple(getattr(leak, field_name)), strict=True)
        rows.append(row_of(leak.candidate, kind, values))
    return Told(_sentence(found, kind, class_word), tuple(rows))


def _sentence(found: Sequence[Leak], kind: Kind, class_word: str) -> str:
    if not found:
        return "No picture without the trigger word could be compared."
    text = "The share of its effect that the LoRA has without its trigger word: "
    text += _range([(leak.without.mean, leak.candidate) for leak in found], kind)
    colours = [(leak.colours.mean, leak.candidate) for leak in found if leak.colours.mean >= 0]
    if colours:
        text += f"; of the change of colours {_range(colours, kind)}"
    beside = [(leak.beside.mean, leak.candidate) for leak in found if leak.beside.mean >= 0]
    if class_word and beside:
        text += f'; with "{class_word}" instead: {_range(beside, kind)}'
    return f"{text}."


def _range(shares: Sequence[tuple[float, Candidate]], kind: Kind) -> str:
    """ "12 % (epoch 1) to 40 % (epoch 9)"."""
    least, most = (end(shares, key=lambda one: one[0]) for end in (min, max))
    if least is most:
        return f"{100 * least[0]:.0f} %"
    return " to ".join(f"{100 * s:.0f} % ({named(c, kind)})" for s, c in (least, most))


def _share(pairs: Sequence[tuple[float, float]]) -> Interval:
    """The ratio of the means of (effect, effect with the trigger) with its interval: that of the
    paired residuals, by the mean."""
    if not pairs:
        return Interval(math.nan)
    without, own = np.array(pairs).T
    mean = float(own.mean())
    if not mean > 0:
        return Interval(math.nan)
    ratio = float(without.mean()) / mean
    return _around(ratio, without - ratio * own, mean)


def _share_of(effects: Any, mean: float) -> Interval:
    if not effects.size:
        return Interval(math.nan)
    middle = float(effects.mean())
    return _around(middle / mean, effects - middle, mean)


def _around(ratio: float, residuals: Any, mean: float) -> Interval:
    _, low, high = intervals(residuals[None, :], np.arange(len(residuals)))
    return Interval(ratio, ratio + float(low[0]) / mean, ratio + float(high[0]) / mean)
