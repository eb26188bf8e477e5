"""Parts of sentences: names, figures, lists and runs of settings, and the glossary."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from analysers.metrics.metric import declared
from analysers.study import Candidate, Kind

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
"""Characters of a list of settings; of a longer one only the number is said."""


def span(chosen: Collection[Candidate], among: Iterable[Candidate], kind: Kind) -> str:
    """Candidates in words with their noun, three and more neighbours `among` all as a range:
    "strength 0.6", "strengths 0.2 and 0.6", "epochs 1 to 8".

    On the plane by checkpoint: "epochs 1 to 3 at 0.6 to 1.0, epoch 4 at 0.6". Three and more that
    make a long list are told as their number: "12 settings".
    """
    order = sorted({*among, *chosen}, key=lambda c: along(c, kind))
    chosen = [c for c in order if c in chosen]
    if kind != "plane":
        text = _run(chosen, order, kind)
    elif all(c.strength is not None for c in chosen):
        text = _by_checkpoint(chosen, order)
    else:
        text = listed([c.heading(kind) for c in chosen])
    return text if len(chosen) < 3 or len(text) <= LONG else f"{len(chosen)} settings"


def _by_checkpoint(chosen: Sequence[Candidate], order: Sequence[Candidate]) -> str:
    """Checkpoints that are chosen at the same strengths together."""
    heads = list({c.place: c for c in order}.values())
    together: dict[str, list[Candidate]] = {}
    for head in heads:
        row = [c for c in order if c.place == head.place]
        held = [row.index(c) for c in chosen if c.place == head.place]
        if held:
            strengths = _ranges([c.heading("strength") for c in row], held)
            together.setdefault(strengths, []).append(head)
    words = [f"{_run(some, heads, 'epochs')} at {at}" for at, some in together.items()]
    return "; ".join(words) if any(" and " in word for word in words) else listed(words)


def _run(chosen: Sequence[Candidate], order: Sequence[Candidate], kind: Kind) -> str:
    """Neighbours as ranges, under one noun where all have it: "epochs 1 to 3 and 5"."""
    held = [order.index(c) for c in chosen]
    for noun, numbered in _NOUNS[kind]:
        numbers = {place: numbered(order[place]) for place in held}
        if all(numbers.values()):
            names = [numbered(c) for c in order]
            return f"{noun}{'s' * (len(held) > 1)} {_ranges(names, held)}"
    return _ranges([c.heading(kind) for c in order], held)


def _ranges(names: Sequence[str], held: Sequence[int]) -> str:
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


def _strength(candidate: Candidate) -> str:
    return "" if candidate.strength is None else candidate.heading("strength")


def _epoch(candidate: Candidate) -> str:
    return str(candidate.epoch) if candidate.label == f"epoch {candidate.epoch}" else ""


def _step(candidate: Candidate) -> str:
    return str(candidate.step) if candidate.label == f"step {candidate.step}" else ""


_NOUNS: Mapping[Kind, Sequence[tuple[str, Callable[[Candidate], str]]]] = {
    "strength": [("strength", _strength)],
    "epochs": [("epoch", _epoch), ("step", _step)],
    "plane": [],
}
"""What a setting is called, and its number of that where it has one."""


def named(candidate: Candidate, kind: Kind) -> str:
    """A candidate within a sentence, where other figures stand beside it: "strength 0.6"."""
    return _run([candidate], [candidate], kind)


def along(candidate: Candidate, kind: Kind) -> tuple[object, ...]:
    strength = 0.0 if candidate.strength is None else float(candidate.strength)
    if kind == "strength":
        return (strength, candidate.place, candidate.checkpoint, candidate.label)
    return (candidate.place, strength, candidate.checkpoint, candidate.label)


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
