"""From what the user typed to the cells of a study: strengths, seeds, the grid.

Numbers are parsed in decimal, so that 0.2:1.4:0.2 ends at exactly 1.4 and 0.6 stays 0.6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from generation.cells import Case, Cell, Checkpoint, InputPicture
from generation.errors import UserError
from generation.prompts import PromptLine

MOST_VALUES = 1000
"""More values than this on one axis is taken for a typing error."""

STRONGEST = Decimal(100)


def parse_strengths(text: str) -> tuple[Decimal, ...]:
    """Strengths from "0.2:1.4:0.2" (both ends included), "0.6,0.8,1" or a mixture, ascending.

    The X/Y/Z-plot forms of A1111 are understood too: "0.1-1.0 (+0.1)" and "0-1 [5]".
    Raises UserError for anything else, for an empty range and for a step that leads nowhere.
    """
    values: set[Decimal] = set()
    for part in text.split(","):
        values.update(_range(part.strip(), text))
    beyond = [v for v in values if abs(v) > STRONGEST]
    if beyond:
        raise UserError(
            f"{beyond[0]} is no usable strength; stay within -100 to 100.", field="strengths"
        )
    return tuple(sorted(values))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "1:4" (1, 2, 3, 4), "7,11" or a mixture, in the order given, without repeats."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        ends = part.strip().split(":")
        try:
            low, high = int(ends[0]), int(ends[-1])
        except ValueError:
            low, high = 1, 0
        if len(ends) > 2 or high < low or low < 0 or high >= 2**63:
            raise UserError(
                f"cannot read {text!r}; write 1:4 for 1 to 4, or 7,11,42.", field="seeds"
            )
        if high - low >= MOST_VALUES:
            raise UserError(
                f"{part.strip()} asks for {high - low + 1} seeds; give fewer.", field="seeds"
            )
        seeds.update(dict.fromkeys(range(low, high + 1)))
    return tuple(seeds)


def cases(
    prompts: Sequence[PromptLine],
    seeds: Sequence[int],
    negative: str,
    pictures: Mapping[Path | None, InputPicture] | None = None,
) -> tuple[Case, ...]:
    """Every prompt with every seed (a line's own `--d` replaces the seeds), named "p00_s1".

    `pictures` are those that the lines name, for a model that edits pictures.
    """
    found: dict[tuple[str, str, int, InputPicture | None], Case] = {}
    for index, line in enumerate(prompts):
        for seed in (line.seed,) if line.seed is not None else seeds:
            words = negative if line.negative is None else line.negative
            picture = (pictures or {}).get(line.picture)
            case = Case(line.prompt, seed, words, f"p{index:02d}_s{seed}", picture)
            found.setdefault((case.prompt, case.negative, case.seed, picture), case)
    return tuple(found.values())


def cells(
    all_cases: Sequence[Case], checkpoints: Sequence[Checkpoint], strengths: Sequence[Decimal]
) -> tuple[Cell, ...]:
    """The controls, then every checkpoint at every strength, cases innermost.

    In this order the weights change once per (checkpoint, strength).
    """
    controls = [Cell(case) for case in all_cases]
    return (
        *controls,
        *(
            Cell(case, checkpoint, strength)
            for checkpoint in checkpoints
            for strength in strengths
            for case in all_cases
        ),
    )


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_STEPPED = (
    rf"({_NUMBER})\s*:\s*({_NUMBER})\s*:\s*({_NUMBER})",
    rf"({_NUMBER})\s*-\s*({_NUMBER})\s*\(\s*\+?({_NUMBER})\s*\)",
)
_COUNTED = rf"({_NUMBER})\s*-\s*({_NUMBER})\s*\[\s*(\d{{1,9}})\s*\]"


def _range(part: str, text: str) -> list[Decimal]:
    if re.fullmatch(_NUMBER, part):
        return [Decimal(part)]
    if match := re.fullmatch(_COUNTED, part):
        low, high, count = Decimal(match[1]), Decimal(match[2]), int(match[3])
        if count < 2 or count > MOST_VALUES or high <= low:
            raise _unreadable(text)
        gap = (high - low) / (count - 1)
        return [round(low + i * gap, 6).normalize() for i in range(count)]
    stepped = [match for form in _STEPPED if (match := re.fullmatch(form, part))]
    if not stepped:
        raise _unreadable(text)
    low, high, step = (Decimal(group) for group in stepped[0].groups())
    if step <= 0 or high < low:
        raise UserError(
            f"{part} never arrives; write low:high:step with a positive step, such as 0.2:1.4:0.2.",
            field="strengths",
        )
    if (high - low) / step > MOST_VALUES:
        raise UserError(
            f"{part} asks for too many strengths; use a larger step.", field="strengths"
        )
    return [low + i * step for i in range(int((high - low) / step) + 1)]


def _unreadable(text: str) -> UserError:
    return UserError(
        f"cannot read {text!r}; write a range such as 0.2:1.4:0.2 or a list such as 0.6,0.8,1.0.",
        field="strengths",
    )
