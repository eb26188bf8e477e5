"""The chooser that renders no more of what is already decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Generic, TypeVar

from analysers.racing import Asked, Outcome, looks, settled
from analysers.study import Candidate, Score

C = TypeVar("C")


@dataclass(frozen=True)
class Race(Generic[C]):
    """Cases come in blocks; after each, candidates that are settled get no more pictures.

    `rows` says of every cell of the full grid which row of the scores it is. What is asked follows
    from the scores alone: a race that was cut off goes on where it was, and one that ended is
    completed by the chooser that asks for every cell.
    """

    rows: Mapping[C, Score]
    asked: Asked
    stopped: dict[Candidate, tuple[int, Outcome]] = field(default_factory=dict, init=False)
    """What has been stopped: after how many cases, and why."""
    _looked: set[int] = field(default_factory=set, init=False)

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """The cells of the next block without a score; none when all is settled."""
        cases = in_turn(self.rows.values())
        plan = looks(len(cases))
        candidates = {
            row.candidate
            for row in self.rows.values()
            if row.candidate is not None and row.candidate.strength != 0
        }
        for n in plan:
            if n > plan[0] and candidates <= set(self.stopped):
                return []
            block = {case: k for k, case in enumerate(cases[:n])}
            cells = [
                c for c, row in self.rows.items() if row.case in block and self._runs(row, block)
            ]
            missing = [cell for cell in cells if cell not in scores]
            if missing or n == plan[-1]:
                return missing
            if n not in self._looked:
                seen = [scores[cell] for cell in cells]
                done = settled(seen, self.asked, len(cases), len(plan) - 1, self.stopped)
                for candidate, outcome in done.items():
                    self.stopped.setdefault(candidate, (n, outcome))
                self._looked.add(n)
        return []

    def _runs(self, row: Score, block: Mapping[str, int]) -> bool:
        """Whether its candidate was still running at that case."""
        if row.candidate is None or row.candidate not in self.stopped:
            return True
        return block[row.case] < self.stopped[row.candidate][0]


def in_turn(rows: Iterable[Score]) -> list[str]:
    """The cases, the first of every prompt before the second of any: prompts tell more."""
    by_prompt: dict[str, list[str]] = {}
    for row in rows:
        cases = by_prompt.setdefault(row.prompt, [])
        if row.case not in cases:
            cases.append(row.case)
    turns = zip_longest(*by_prompt.values())
    return [case for turn in turns for case in turn if case is not None]
