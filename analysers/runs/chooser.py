"""Which cells come next, from the scores so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from analysers.study import Score

C = TypeVar("C")


class Chooser(Protocol[C]):
    """Ask and tell: `ask` is told the scores so far and says what is to be scored next.

    Nothing more ends the study. A failed cell has a score too, with its reason; it need not be
    asked again. Cells with a LoRA are compared with their control, so that it is asked before them
    or with them. What follows the protocol can be run through `tests/analysers/conformance.py`.
    """

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]: ...


@dataclass(frozen=True)
class FullGrid(Generic[C]):
    """Every cell, at once."""

    cells: Sequence[C]

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """Those without a score."""
        return [cell for cell in self.cells if cell not in scores]
