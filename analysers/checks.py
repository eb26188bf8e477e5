"""Did the LoRA apply, and do the pictures belong together? Score rows in, warnings out.

Every function looks at rows only and returns sentences, most serious first; an empty tuple means
that nothing was noticed. `pixels` maps a row's `image` to a digest of its decoded pixels; without
it, pictures with equal measurements count as the same picture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from statistics import median

from analysers.phrases import capital, listed, named, number, span
from analysers.scores import preference
from analysers.study import Candidate, Kind, Score

SAME = 1e-3
"""1 - SSIM up to which two renders count as one picture where no noise floor was measured.
Rounding in another batch composition moves single grey levels and stays well below it."""

ROUNDING = 2
"""Grey levels that another batch composition moves a pixel by, at most, in single precision."""

SAME_COLOUR = 0.5
"""Mean CIEDE2000 up to which two renders count as one picture; 1 is just noticeable."""

SMALL = 0.02
"""1 - SSIM below which hardly anything of a picture's brightness has changed."""

SEEN_COLOUR = 5.0
"""Mean CIEDE2000 that anybody sees at a glance."""

UNRELATED = 0.35
"""SSIM that pictures of different prompts or seeds seldom exceed (docs/statistics.md), used where
the SSIM between the study's own controls is not given."""

WEAK = Decimal("0.5")
"""Strength up to which a LoRA leaves the composition alone, so that SSIM must show kinship."""


def noise_floor(pairs: Iterable[tuple[float, float]]) -> dict[str, float]:
    """The largest change that rendering the same picture twice made.

    Each pair is (SSIM between the two renders, difference of their BRISQUE). Returns "ssim" (as
    1 - SSIM), "brisque" (absolute) and "pictures", the number of pairs; {} without any.
    """
    known = [(s, b) for s, b in pairs if math.isfinite(s) and math.isfinite(b)]
    if not known:
        return {}
    return {
        "ssim": max(0.0, max(1.0 - s for s, _ in known)),
        "brisque": max(abs(b) for _, b in known),
        "pictures": float(len(known)),
    }


def check(
    scores: Sequence[Score],
    *,
    kind: Kind,
    floor: Mapping[str, float] | None = None,
    pixels: Mapping[str, str] | None = None,
    unrelated: float | None = None,
) -> tuple[str, ...]:
    """All checks. `floor` is `noise_floor`'s result; `unrelated` the usual SSIM between controls
    of different cases, where it was measured."""
    return (
        *no_effect(scores, kind=kind, pixels=pixels),
        *colour_alone(scores, kind=kind),
        *foreign_controls(scores, kind=kind, unrelated=unrelated),
        *zero_strength(scores, floor=floor),
        *undefined_pictures(scores),
        *duplicates(scores, kind=kind, pixels=pixels),
    )


def zero_strength(
    scores: Sequence[Score], *, floor: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """Strength 0 must reproduce the control."""
    found = [
        row
        for row in _candidate_rows(scores)
        if row.candidate and row.candidate.strength == 0 and _another(row, floor)
    ]
    if not found:
        return ()
    how = f"SSIM down to {number(min(_ssim(row) for row in found))}"
    colour = max(_colour(row) for row in found)
    if colour > SAME_COLOUR:
        how += f", colour difference up to {number(colour)}"
    return (
        f"Strength 0 does not reproduce the control ({_cases(found)}, {how}): the controls "
        "were made with another model, seed or setting.",
    )


def no_effect(
    scores: Sequence[Score], *, kind: Kind, pixels: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """A LoRA that was applied changes pixels: not necessarily luma, so SSIM is not asked."""
    moved: dict[Candidate, float] = {}
    for row in _candidate_rows(scores):
        levels = _levels_moved(row, pixels)
        if row.candidate and row.candidate.strength != 0 and levels is not None:
            moved[row.candidate] = max(moved.get(row.candidate, 0.0), levels)
    order = sorted(moved, key=lambda c: preference(c, kind))
    same = [c for c in order if moved[c] == 0]
    if order and len(same) == len(order):
        return (
            "Every picture equals its control, pixel for pixel: the LoRA was not applied. Is it "
            "made for this base model, and does it hold any weights?",
        )
    hardly = [c for c in order if 0 < moved[c] <= ROUNDING]
    said = (
        (
            same,
            "equal",
            "the control in every picture, pixel for pixel: there the LoRA does nothing.",
        ),
        (
            hardly,
            "differ",
            f"from the control by at most {ROUNDING} of 255 grey levels in any pixel, as rounding "
            "does: there the LoRA does nothing that can be seen.",
        ),
    )
    return tuple(
        f"{capital(span(those, order, kind))} {verb}{'s' if len(those) == 1 else ''} {what}"
        for those, verb, what in said
        if those
    )


def colour_alone(scores: Sequence[Score], *, kind: Kind) -> tuple[str, ...]:
    """A LoRA that moves colours and no luma has an effect that 1 - SSIM does not tell."""
    rows: dict[Candidate, list[Score]] = {}
    for row in _candidate_rows(scores):
        if row.candidate and row.candidate.strength != 0 and math.isfinite(_ssim(row)):
            rows.setdefault(row.candidate, []).append(row)
    colours = {
        candidate: median(map(_colour, found))
        for candidate, found in rows.items()
        if median(map(_ssim, found)) > 1.0 - SMALL
    }
    seen = [c for c in colours if colours[c] > SEEN_COLOUR]
    if not seen:
        return ()
    most = number(max(colours[c] for c in seen))
    return (
        f"At {span(seen, rows, kind)} the colours change (CIEDE2000 {most}) and the brightness, "
        "which is all that SSIM sees, does not: the effect is larger than 1 - SSIM tells.",
    )


def _levels_moved(row: Score, pixels: Mapping[str, str] | None) -> float | None:
    """The largest difference of any pixel from the control; 0 for the same pixels, None unknown."""
    mine, other = (pixels or {}).get(row.image), (pixels or {}).get(row.control)
    if mine and mine == other:
        return 0.0
    levels = row.values.get("largest_difference", math.nan)
    return levels if math.isfinite(levels) else None


def foreign_controls(
    scores: Sequence[Score], *, kind: Kind, unrelated: float | None = None
) -> tuple[str, ...]:
    """Where the LoRA does least, a picture still resembles its control, if the control is its own.

    A case is named when its SSIM there is that of unrelated pictures, and either the strength is
    at most 0.5 or the other cases are far closer to their controls.
    """
    level = UNRELATED if unrelated is None else unrelated
    rows = [r for r in _candidate_rows(scores) if math.isfinite(_ssim(r))]
    used = {r.candidate for r in rows if r.candidate and r.candidate.strength != 0}
    if not used:
        return ()
    least = min(used, key=lambda c: preference(c, kind))
    ssim: dict[str, float] = {r.case: _ssim(r) for r in rows if r.candidate == least}
    far = sorted(case for case, value in ssim.items() if value <= level)
    near = [value for value in ssim.values() if value > level]
    weak = kind != "epochs" and least.strength is not None and abs(least.strength) <= WEAK
    outliers = len(near) > len(far) and median(near) >= level + 0.2
    if not far or not (weak or outliers):
        return ()
    values = f"SSIM {number(min(ssim[c] for c in far))}"
    if len(far) > 1:
        values += f" to {number(max(ssim[c] for c in far))}"
    whose = _some(far) if near else ("every case" if len(far) > 1 else _some(far))
    return (
        f"At {named(least, kind)} the pictures of {whose} resemble their control no more than an "
        f"unrelated picture would ({values}): is it the same prompt, seed, size and model?",
    )


def undefined_pictures(scores: Sequence[Score]) -> tuple[str, ...]:
    """Pictures without a score although they could be read: black, solid, collapsed; not such as
    only lack what a control would tell."""
    rows = [r for r in _candidate_rows(scores) if r.status == "flagged"]
    reasons = Counter(
        r.reason for r in rows if (any if r.control else all)(map(math.isnan, r.values.values()))
    )
    total = sum(1 for _ in _candidate_rows(scores))
    return tuple(
        f"{count} of {total} pictures {'has' if count == 1 else 'have'} no score: {reason}."
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    )


def duplicates(
    scores: Sequence[Score], *, kind: Kind, pixels: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Candidates or cases that share their pictures, pixel for pixel."""
    rows = [r for r in _candidate_rows(scores) if r.status != "failed"]
    looks: dict[Candidate, dict[str, object]] = {}
    for row in rows:
        mark = _mark(row, pixels)
        if row.candidate and mark is not None:
            looks.setdefault(row.candidate, {})[row.case] = mark
    order = sorted(looks, key=lambda c: preference(c, kind))
    found = []
    using = [c for c in order if c.strength != 0]  # at 0 all checkpoints paint the control
    groups = _alike(using, looks)
    if len(groups) == 1 and len(using) > 1:
        found.append(
            f"All {len(using)} settings have the same pictures: the setting was not "
            "applied, or one picture was saved under every name."
        )
    else:
        for group in groups:
            if len(group) > 1:
                found.append(
                    f"{capital(span(group, order, kind))} have the same pictures: one file "
                    "under several names, or a setting that was not applied."
                )
    found += _same_cases(order, looks)
    return (*found, *_same_controls(scores, pixels))


def _alike(
    order: Sequence[Candidate], looks: Mapping[Candidate, Mapping[str, object]]
) -> list[list[Candidate]]:
    """Candidates grouped by equality of all pictures that they share with the group's first."""
    groups: list[list[Candidate]] = []
    for candidate in order:
        own = looks[candidate]
        for group in groups:
            other = looks[group[0]]
            shared = own.keys() & other.keys()
            if shared and all(own[case] == other[case] for case in shared):
                group.append(candidate)
                break
        else:
            groups.append([candidate])
    return groups


def _same_cases(
    order: Sequence[Candidate], looks: Mapping[Candidate, Mapping[str, object]]
) -> list[str]:
    """Cases of one candidate with one picture: the prompt or the seed was ignored."""
    together: Counter[tuple[str, ...]] = Counter()
    for candidate in order:
        cases: dict[object, list[str]] = {}
        for case, mark in looks[candidate].items():
            cases.setdefault(mark, []).append(case)
        together.update(tuple(sorted(c)) for c in cases.values() if len(c) > 1)
    return [
        f"{_some(cases)} have the same picture at {count} {'setting' if count == 1 else 'settings'}"
        ": was a prompt or seed ignored, or a file copied?"
        for cases, count in sorted(together.items())
    ]


def _same_controls(scores: Sequence[Score], pixels: Mapping[str, str] | None) -> list[str]:
    """Controls of different cases in different files with the same pixels."""
    if pixels is None:
        return []
    files: dict[str, dict[str, str]] = {}
    for row in scores:
        if row.candidate is None and row.image in pixels:
            files.setdefault(pixels[row.image], {}).setdefault(row.image, row.case)
    found = []
    for same in files.values():
        cases = sorted(set(same.values()))
        if len(same) > 1 and len(cases) > 1:
            found.append(f"The controls of {_some(cases)} are the same picture.")
    return sorted(found)


def _mark(row: Score, pixels: Mapping[str, str] | None) -> object | None:
    """What identifies a picture; None where nothing does."""
    if pixels is not None:
        return pixels.get(row.image) or None
    known = tuple((k, v) for k, v in sorted(row.values.items()) if math.isfinite(v))
    return known or None


def _candidate_rows(scores: Sequence[Score]) -> Iterable[Score]:
    return (row for row in scores if row.candidate is not None)


def _ssim(row: Score) -> float:
    return row.values.get("ssim", math.nan)


def _colour(row: Score) -> float:
    """The colour difference from the control; 0 where it was not measured."""
    value = row.values.get("colour_difference", math.nan)
    return value if math.isfinite(value) else 0.0


def _another(row: Score, floor: Mapping[str, float] | None) -> bool:
    """Whether a picture is not its control rendered again."""
    return _ssim(row) < 1.0 - _same(floor) or _colour(row) > SAME_COLOUR


def _same(floor: Mapping[str, float] | None) -> float:
    """1 - SSIM within which two renders are the same picture; a hair for rounding."""
    measured = (floor or {}).get("ssim")
    return SAME if measured is None else measured + 1e-9


def _cases(rows: Sequence[Score]) -> str:
    return _some(sorted({row.case for row in rows}))


def _some(names: Sequence[str]) -> str:
    """At most three names, then how many more."""
    names = [name or "the case without a name" for name in names]
    if len(names) <= 4:
        return listed(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"
