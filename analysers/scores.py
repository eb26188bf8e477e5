"""Score rows as tables: candidates x cases, each beside its own control."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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


def before(a: Candidate, b: Candidate, kind: Kind) -> bool:
    """Whether `a` applies no more of the LoRA than `b`: no stronger, no later in training."""
    if a == b:
        return False
    weaker = True
    if kind != "epochs" and a.strength is not None and b.strength is not None:
        weaker = abs(a.strength) <= abs(b.strength) and a.strength * b.strength >= 0
    return weaker and (kind == "strength" or a.place <= b.place)


def tabulate(scores: Sequence[Score], kind: Kind) -> Tables:
    """The rows as tables. Rows that failed count as missing; repeated rows are averaged."""
    rows = [row for row in scores if row.candidate is not None]
    controls = [row for row in scores if row.candidate is None]
    candidates = tuple(
        sorted({row.candidate for row in rows if row.candidate}, key=lambda c: preference(c, kind))
    )
    prompt_of = {row.case: row.prompt or _unseeded(row.case) for row in (*controls, *rows)}
    cases = tuple(sorted({row.case for row in rows}))
    number = {text: i for i, text in enumerate(sorted({prompt_of[case] for case in cases}))}
    metrics = sorted({name for row in rows for name in row.values})
    at = {candidate: i for i, candidate in enumerate(candidates)}
    column = {case: k for k, case in enumerate(cases)}
    by_path = {row.image: row for row in controls}
    by_case = {row.case: row for row in controls}
    shape = (len(candidates), len(cases))
    cells: dict[tuple[int, int], list[Score]] = {}
    reasons: dict[Candidate, str] = {}
    for row in rows:
        assert row.candidate is not None
        if row.status != "failed":
            cells.setdefault((at[row.candidate], column[row.case]), []).append(row)
        if row.reason and row.status != "ok":
            reasons[row.candidate] = min(row.reason, reasons.get(row.candidate, row.reason))
    rendered = np.zeros(shape, dtype=bool)
    values = {name: np.full(shape, math.nan) for name in metrics}
    control = {name: np.full(shape, math.nan) for name in metrics}
    undefined = {name: np.zeros(shape, dtype=bool) for name in metrics}
    for place, found in cells.items():
        rendered[place] = True
        own = by_path.get(found[0].control) or by_case.get(cases[place[1]])
        for name in metrics:
            given = (row.values.get(name, math.nan) for row in found)
            known = [value for value in given if math.isfinite(value)]
            if known:
                values[name][place] = math.fsum(known) / len(known)
            # a control in which the metric is undefined too says nothing against the LoRA
            reference = None if own is None or own.status == "failed" else own.values.get(name)
            if reference is not None and math.isfinite(reference):
                control[name][place] = reference
            undefined[name][place] = (
                not known
                and any(row.status == "flagged" and name in row.values for row in found)
                and (reference is None or math.isfinite(reference))
            )
    return Tables(
        candidates,
        cases,
        np.array([number[prompt_of[case]] for case in cases], dtype=np.intp),
        values,
        control,
        rendered,
        undefined,
        reasons,
    )


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
