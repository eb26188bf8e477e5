"""Does the LoRA act where nobody called it? Effects without the trigger word beside those with it.

The effect is 1 - SSIM to the picture of the same prompt and seed without the LoRA, so that what the
trigger word itself does to the base model's picture is no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysers.statistics import intervals
from analysers.study import Candidate, Interval, Kind, Score

UNRELATED = (
    "a mountain lake in the morning",
    "a bowl of soup on a table",
    "an old steam train",
    "a city street in the rain",
)
"""Prompts that hardly any LoRA is trained on."""

BARE, OTHER = "bare", "unrelated"
"""What a probe's case is called after its twin's name, and before an unrelated prompt's number."""


@dataclass(frozen=True)
class Leak:
    """A candidate's mean effect with the trigger, and shares of it without the trigger (paired by
    prompt and seed) and on unrelated prompts.
    """

    candidate: Candidate
    effect: float
    without: Interval
    unrelated: Interval


def leaks(scores: Sequence[Score], probes: Sequence[Score]) -> list[Leak]:
    """What the probes say, per candidate in order of the rows; a case's name tells its twin."""
    known = {
        (s.candidate, s.case): 1.0 - s.values["ssim"]
        for s in (*scores, *probes)
        if s.candidate is not None and math.isfinite(s.values.get("ssim", math.nan))
    }
    found = []
    for candidate in dict.fromkeys(s.candidate for s in scores if s.candidate is not None):
        if candidate.strength == 0:
            continue
        twins, apart = [], []
        for probe in probes:
            if probe.candidate != candidate or (candidate, probe.case) not in known:
                continue
            effect = known[candidate, probe.case]
            twin = (candidate, probe.case.removesuffix(f"_{BARE}"))
            if probe.case.startswith(OTHER):
                apart.append(effect)
            elif twin in known:
                twins.append((effect, known[twin]))
        if not twins:
            continue
        without, own = np.array(twins).T
        mean = float(own.mean())
        if not mean > 0:
            continue
        found.append(Leak(candidate, mean, _share(without, own), _share_of(np.array(apart), mean)))
    return found


def record(found: Sequence[Leak], kind: Kind) -> dict[str, Any]:
    """The leak section of a study's evidence."""
    return {
        "sentence": _sentence(found, kind),
        "rows": [
            {
                "setting": leak.candidate.heading(kind),
                "effect": leak.effect,
                "without trigger": leak.without.mean,
                "low": leak.without.low,
                "high": leak.without.high,
                "unrelated": leak.unrelated.mean,
                "unrelated low": leak.unrelated.low,
                "unrelated high": leak.unrelated.high,
                "candidate": asdict(leak.candidate),
            }
            for leak in found
        ],
    }


def _sentence(found: Sequence[Leak], kind: Kind) -> str:
    if not found:
        return "No picture without the trigger word could be compared."
    text = "The share of its effect that the LoRA has without its trigger word: "
    least, most = (end(found, key=lambda leak: leak.without.mean) for end in (min, max))
    if least is most:
        return f"{text}{100 * least.without.mean:.0f} %."
    return (
        f"{text}{100 * least.without.mean:.0f} % ({least.candidate.heading(kind)}) to "
        f"{100 * most.without.mean:.0f} % ({most.candidate.heading(kind)})."
    )


def _share(without: Any, own: Any) -> Interval:
    """The ratio of the means with its interval: that of the paired residuals, by the mean."""
    ratio, mean = float(without.mean() / own.mean()), float(own.mean())
    return _around(ratio, without - ratio * own, mean)


def _share_of(effects: Any, mean: float) -> Interval:
    if not effects.size:
        return Interval(math.nan)
    middle = float(effects.mean())
    return _around(middle / mean, effects - middle, mean)


def _around(ratio: float, residuals: Any, mean: float) -> Interval:
    _, low, high = intervals(residuals[None, :], np.arange(len(residuals)))
    return Interval(ratio, ratio + float(low[0]) / mean, ratio + float(high[0]) / mean)
