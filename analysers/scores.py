"""Score rows as tables: candidates x cases, each beside its own control."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysers.metrics.metric import Declaration
from analysers.study import Candidate, Kind, Score

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tables:
    """All arrays have shape (candidates, cases); NaN where a value is missing or undefined.

    `candidates` are in the order of `preference`, `cases` sorted by name. `prompts` (cases,)
    numbers each case's prompt, or its name without the seed where the prompt is not known.
    `control[metric]` holds the value of the control that belongs to each cell. `rendered` marks
    cells with a picture; `undefined[metric]`, pictures on which the metric has no value although
    its control has one (or has no row): black, solid, collapsed.
    """

    candidates: tuple[Candidate, ...]
    cases: tuple[str, ...]
    prompts: NDArray[np.intp]
    values: Mapping[str, Array]
    control: Mapping[str, Array]
    rendered: NDArray[np.bool_]
    undefined: Mapping[str, NDArray[np.bool_]]
    reasons: Mapping[Candidate, str]


def preference(candidate: Candidate, kind: Kind) -> tuple[object, ...]:
    """Sort key by which ties are broken: the lower strength, then the earlier epoch.

    Of a negative strength and a positive one of the same size, the positive comes first. Along
    training the place comes first, as strengths hardly differ there.
    """
    strength = candidate.strength
    size = (float(abs(strength)), strength < 0) if strength is not None else (0.0, False)
    when = (candidate.place, _number(candidate.epoch), _number(candidate.step))
    name = (candidate.checkpoint, candidate.label)
    return (*when, *size, *name) if kind == "epochs" else (*size, *when, *name)


def amount(candidate: Candidate, kind: Kind, effect: float) -> tuple[float, float, int]:
    """How much of the LoRA a candidate applies; on the plane the picture itself is the measure."""
    strength = 0.0 if candidate.strength is None else float(abs(candidate.strength))
    if kind == "strength":
        return (strength, 0.0, candidate.place)
    if kind == "epochs":
        return (float(candidate.place), strength, 0)
    return (effect if math.isfinite(effect) else -1.0, strength, candidate.place)


def before(a: Candidate, b: Candidate, kind: Kind) -> bool:
    """Whether `a` applies no more of the LoRA than `b`: no stronger, no later in training."""
    if a == b:
        return False
    weaker = True
    if kind != "epochs" and a.strength is not None and b.strength is not None:
        weaker = abs(a.strength) <= abs(b.strength) and a.strength * b.strength >= 0
    return weaker and (kind == "strength" or a.place <= b.place)


def same_side(candidate: Candidate, pick: Candidate) -> bool:
    """Whether both strengths are positive or both negative; beside 0 the positive side counts."""
    if candidate.strength is None or pick.strength is None:
        return True
    return (candidate.strength < 0) == (pick.strength < 0)


def tabulate(scores: Sequence[Score], kind: Kind) -> Tables:
    """The rows as tables. Rows that failed count as missing; repeated rows are averaged."""
    rows = [(row.candidate, row) for row in scores if row.candidate is not None]
    controls = [row for row in scores if row.candidate is None]
    candidates = tuple(
        sorted({candidate for candidate, _ in rows}, key=lambda c: preference(c, kind))
    )
    cases = tuple(sorted({row.case for _, row in rows}))
    metrics = sorted({name for _, row in rows for name in row.values})
    at = {candidate: i for i, candidate in enumerate(candidates)}
    column = {case: k for k, case in enumerate(cases)}
    cells: dict[tuple[int, int], list[Score]] = {}
    for candidate, row in rows:
        if row.status != "failed":
            cells.setdefault((at[candidate], column[row.case]), []).append(row)

    shape = (len(candidates), len(cases))
    rendered = np.zeros(shape, dtype=bool)
    values = {name: np.full(shape, math.nan) for name in metrics}
    control = {name: np.full(shape, math.nan) for name in metrics}
    undefined = {name: np.zeros(shape, dtype=bool) for name in metrics}
    by_path = {row.image: row for row in controls if row.image}
    by_case = {row.case: row for row in controls}
    for place, found in cells.items():
        rendered[place] = True
        own = by_path.get(found[0].control) or by_case.get(found[0].case)
        for name in metrics:
            one = _cell(found, own, name)
            values[name][place], control[name][place], undefined[name][place] = one
    prompts = _prompt_numbers(cases, [*controls, *(row for _, row in rows)])
    return Tables(candidates, cases, prompts, values, control, rendered, undefined, _reasons(rows))


def _cell(rows: Sequence[Score], control: Score | None, metric: str) -> tuple[float, float, bool]:
    """A cell's mean value and its control's, NaN where there is none, and whether its pictures
    are such that the metric is undefined."""
    given = (row.values.get(metric, math.nan) for row in rows)
    known = [value for value in given if math.isfinite(value)]
    if control is None or control.status == "failed":
        reference = None
    else:
        reference = control.values.get(metric)
    # a control in which the metric is undefined too says nothing against the LoRA
    excused = reference is not None and not math.isfinite(reference)
    flagged = any(row.status == "flagged" and metric in row.values for row in rows)
    return (
        math.fsum(known) / len(known) if known else math.nan,
        math.nan if reference is None or excused else reference,
        not known and flagged and not excused,
    )


def _prompt_numbers(cases: Sequence[str], rows: Iterable[Score]) -> NDArray[np.intp]:
    """Each case's prompt as a number, (cases,); the name without the seed where none is known."""
    prompt_of = {row.case: row.prompt or _unseeded(row.case) for row in rows}
    number = {text: i for i, text in enumerate(sorted({prompt_of[case] for case in cases}))}
    return np.array([number[prompt_of[case]] for case in cases], dtype=np.intp)


def _reasons(rows: Iterable[tuple[Candidate, Score]]) -> dict[Candidate, str]:
    """Why a picture of each candidate has no score: of several reasons, the first by name."""
    reasons: dict[Candidate, str] = {}
    for candidate, row in rows:
        if row.reason and row.status != "ok":
            reasons[candidate] = min(row.reason, reasons.get(candidate, row.reason))
    return reasons


def compared(tables: Tables, metric: Declaration) -> Array:
    """What is averaged of a metric, of shape (candidates, cases): its values, their differences
    from the control's, or the logarithms of their ratios to these (`Declaration.aggregate`)."""
    table, control = tables.values[metric.name], tables.control[metric.name]
    if metric.aggregate == "change":
        return table - control
    if metric.aggregate == "ratio":
        known = (table > 0) & (control > 0)
        logs = np.full(table.shape, math.nan)
        logs[known] = np.log(table[known] / control[known])
        return logs
    return table


def _unseeded(case: str) -> str:
    """A case's name without its seed: what is known of a prompt that pictures do not tell."""
    return re.sub(r"(?:^|_)s\d+$", "", case)


def _number(value: int | None) -> int:
    return -1 if value is None else value
