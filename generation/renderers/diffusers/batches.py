"""How many pictures are painted at once: as many as fit, and none for nothing.

A batch of another size rounds otherwise, so a run folder keeps the size that it began with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from generation.cells import Cell
from generation.files import read_json
from generation.folder import write_result

MOST = 16
"""More at once gains nothing: the matrix units are busy."""

MOST_ON_CPU = 4

USED = 0.9
"""The share of the device's memory that a batch may take."""


@dataclass(frozen=True)
class Batching:
    """How many pictures make a batch, whether one batch holds many strengths, and whether a CPU's
    cores share out its rows, which they did not in every version."""

    size: int
    mixed: bool = False
    shared: bool = False


def balanced(cases: int, most: int) -> int:
    """The smallest batch that needs no more batches than `most` does: 6 cases, at most 4 -> 3."""
    if cases < 1:
        return 1
    batches = -(-cases // most)
    return -(-cases // batches)


def largest(peak: Callable[[int], float], memory: float, most: int = MOST) -> int:
    """The most pictures that fit, taken from the peak memory of one and of two.

    `peak(n)` is in bytes and may raise MemoryError. Memory grows in proportion to the batch.
    """
    one = peak(1)
    try:
        each = peak(2) - one
    except MemoryError:
        return 1
    if each <= 0:
        return most
    fitting = 1 + int((USED * memory - one) // each)
    return max(1, min(most, fitting))


def stretches(cells: Sequence[Cell], mixed: bool = False) -> list[list[Cell]]:
    """The cells in order, cut where the weights change.

    With `mixed`, which needs one batch for many strengths, they are cut where the checkpoint
    changes, and controls go with what follows them; inside a stretch they then come case by case,
    which costs nothing there, so that an answer before the end rests on the same cases of all
    strengths.
    """
    if not mixed:
        return [list(group) for _, group in groupby(cells, lambda c: (c.checkpoint, c.strength))]
    found: list[list[Cell]] = []
    for checkpoint, group in groupby(cells, lambda c: c.checkpoint):
        if found and checkpoint is not None and found[-1][-1].is_control:
            found[-1].extend(group)
        else:
            found.append(list(group))
    return [_by_case(stretch) for stretch in found]


def _by_case(cells: Sequence[Cell]) -> list[Cell]:
    turn = {case: n for n, case in enumerate(dict.fromkeys(cell.case for cell in cells))}
    return sorted(cells, key=lambda cell: turn[cell.case])


def kept(out: Path, key: str) -> Batching | None:
    """How this run folder batches under `key` (device, size, model), if it began already."""
    try:
        found = read_json(out / "batch.json")[key]
        shared = bool(found.get("shared", False))
        batching = Batching(int(found["size"]), bool(found["mixed"]), shared)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return batching if 0 < batching.size <= 64 else None


def keep(out: Path, key: str, batching: Batching) -> None:
    """Remember how this run folder batches, for later runs."""
    try:
        known = dict(read_json(out / "batch.json"))
    except (OSError, ValueError, TypeError):
        known = {}
    known[key] = asdict(batching)
    write_result(out / "batch.json", json.dumps(known, indent=1) + "\n")
