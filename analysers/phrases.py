"""Parts of sentences: names, figures, lists and runs of settings, and the glossary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysers.metrics.metric import declared
from analysers.study import Candidate, Kind, Summary

GLOSSARY = {
    "setting": "What is chosen: a checkpoint of the LoRA at a strength.",
    "case": "One prompt with one seed. All settings share the cases.",
    "control": "The picture of a case without the LoRA.",
    "BRISQUE": "A score of a picture's quality by itself: noise, blur and burnt colours raise it. "
    "Lower is better.",
    "SSIM": "Likeness to the control: 1 is identical.",
    "effect": "How far the LoRA moved the picture: 1 - SSIM to the control.",
    "tied": "These pictures cannot tell it from the best.",
    "clean": "Surely not worse than the control by more than the margin.",
    "broken": "Surely worse than the control.",
    "unsure": "Neither clean nor broken for certain.",
    "breakdown": "The first broken setting on the way up from strength 0, or along training.",
    "confidence": "How surely the recommended setting is as good as any.",
    "interval": "Where the mean would lie for other prompts of this kind, in 95 of 100 studies.",
    "Goldilocks zone": "Clean checkpoints with at least 90 % of the effect.",
    "signs of over-cooking": "Contrast, clipping, colour or fine detail far above the control's.",
    "chance to be first": "How often it would have the best mean with other prompts of this kind.",
}
"""Each idea's one name, on pages, in tables and in sentences, and what it means."""


def metric_name(name: str) -> str:
    """A metric's name as people write it."""
    return declared(name).label


def number(value: float) -> str:
    """One decimal from 1 on, three digits below, no exponents: 23.0, -7.1, 0.87, 114."""
    if not math.isfinite(value):
        return "unknown"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 1:
        return f"{value:.1f}"
    text = f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if "e" in text else text


def listed(words: Sequence[str]) -> str:
    """Words as English lists them: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


LONG = 60
"""Characters of a list of the plane's settings; of a longer one only the number is said."""


def span(chosen: Sequence[Candidate], walk: Sequence[Summary], kind: Kind) -> str:
    """Candidates in words, a run of three or more as a range: "0.4 to 0.8", "0.2 and 0.6".

    On the plane by checkpoint: "epoch 3 at 0.6 to 1.0, epoch 4 at 0.6"; many as their number.
    """
    order = [s.candidate for s in walk]
    if kind != "plane":
        return _runs([c.heading(kind) for c in order], [order.index(c) for c in chosen])
    words = []
    for place in sorted({c.place for c in chosen}):
        row = [c for c in order if c.place == place]
        held = [row.index(c) for c in chosen if c.place == place]
        words.append(
            f"{row[0].heading('epochs')} at {_runs([c.heading('strength') for c in row], held)}"
        )
    text = listed(words) if all(" and " not in w for w in words) else "; ".join(words)
    return text if len(text) <= LONG else f"{len(chosen)} settings"


def _runs(names: Sequence[str], held: Sequence[int]) -> str:
    """The names at the places `held`, neighbours of three and more as a range."""
    places = sorted(held)
    words: list[str] = []
    while places:
        run = 1
        while run < len(places) and places[run] == places[0] + run:
            run += 1
        found = [names[p] for p in places[:run]]
        words += [f"{found[0]} to {found[-1]}"] if run >= 3 else found
        places = places[run:]
    return listed(words)


def along(candidate: Candidate, kind: Kind) -> tuple[object, ...]:
    strength = 0.0 if candidate.strength is None else float(candidate.strength)
    if kind == "strength":
        return (strength, candidate.place, candidate.checkpoint, candidate.label)
    return (candidate.place, strength, candidate.checkpoint, candidate.label)


def several(chosen: Sequence[Candidate], walk: Sequence[Summary], kind: Kind) -> str:
    """Candidates with their noun: "Strengths 0.2 to 0.8", "Epochs 1 to 8", "12 settings"."""
    text = _several(chosen, walk, kind)
    return text if len(text.split()) <= 8 else f"{len(chosen)} settings"


def _several(chosen: Sequence[Candidate], walk: Sequence[Summary], kind: Kind) -> str:
    if kind == "plane":
        return f"{len(chosen)} settings" if len(chosen) > 2 else capital(span(chosen, walk, kind))
    if kind == "strength":
        alone = all(c.strength is not None for c in chosen)
        return f"Strengths {span(chosen, walk, kind)}" if alone else span(chosen, walk, kind)
    order = [s.candidate for s in walk]
    for noun, number_of in (("epoch", _epoch), ("step", _step)):
        if all(c.label == f"{noun} {number_of(c)}" for c in chosen):
            names = [str(number_of(c)) for c in order]
            return f"{noun.capitalize()}s {_runs(names, [order.index(c) for c in chosen])}"
    return capital(span(chosen, walk, kind))


def _epoch(candidate: Candidate) -> int | None:
    return candidate.epoch


def _step(candidate: Candidate) -> int | None:
    return candidate.step


def number_word(count: int) -> str:
    """3 to 5 in words."""
    return {3: "three", 4: "four", 5: "five"}.get(count, str(count))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def is_or_are(chosen: Sequence[object]) -> str:
    return "is" if len(chosen) == 1 else "are"


def show_or_shows(chosen: Sequence[object]) -> str:
    return "shows" if len(chosen) == 1 else "show"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
