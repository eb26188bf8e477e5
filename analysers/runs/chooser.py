"""Which cells come next, from the scores so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from analysers.study import Candidate, Left, Score

C = TypeVar("C")


class Chooser(Protocol[C]):
    """Ask and tell: `ask` is told the scores so far and says what is to be scored next.

    Nothing more ends the study; subclasses need nothing else. A failed cell has a score too, with
    its reason; it need not be asked again. Cells with a LoRA are compared with their control, so
    that it is asked before them or with them. What follows the protocol can be run through
    `analysers.runs.conformance.chooser_conforms`.
    """

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]: ...

    def record(self) -> Left | None:
        """What was left out and why, for the study's evidence; None where nothing can be."""
        return None


@dataclass(frozen=True)
class FullGrid(Chooser[C]):
    """Every cell, at once."""

    cells: Sequence[C]

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """Those without a score."""
        return [cell for cell in self.cells if cell not in scores]


def with_lora(rows: Iterable[Score]) -> set[Candidate]:
    """The candidates of the rows; the controls and strength 0 are none."""
    candidates = (row.candidate for row in rows)
    return {one for one in candidates if one is not None and one.strength != 0}
