"""The chooser that renders no more of what is already decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from analysers.racing import Asked, Outcome, looks, settled
from analysers.runs.chooser import ChoiceRecord, Chooser, with_lora
from analysers.study import Candidate, Score

C = TypeVar("C")


@dataclass
class Race(Chooser[C]):
    """Cases come in blocks; after each, candidates that are settled get no more pictures.

    `rows` says of every cell of the full grid which row of the scores it is; at most `budget` of
    them are asked for, whole cases at a time. What is asked follows from the scores alone: a race
    that was cut off goes on where it was, and one that ended is completed by the chooser that asks
    for every cell.
    """

    rows: Mapping[C, Score]
    asked: Asked
    budget: int | None = None
    stopped: dict[Candidate, tuple[int, Outcome]] = field(default_factory=dict, init=False)
    """What has been stopped: after how many cases, and why."""
    _looked: list[int] = field(default_factory=list, init=False)
    _seen: int = field(default=0, init=False)
    _spent: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._cases = in_turn(self.rows.values())
        self._looks = looks(len(self._cases))
        self._running = with_lora(self.rows.values())

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """The cells of the next block without a score; none when all is settled."""
        self._seen = sum(cell in scores for cell in self.rows)
        for n in self._looks:
            if n > self._looks[0] and self._running <= self.stopped.keys():
                return []
            block = {case: k for k, case in enumerate(self._cases[:n])}
            cells = [c for c, row in self.rows.items() if self._runs(row, block)]
            missing = [cell for cell in cells if cell not in scores]
            if missing:
                return self._affordable(missing)
            if n < len(self._cases) and n not in self._looked:
                self._look(n, [scores[cell] for cell in cells])
        return []

    def record(self) -> ChoiceRecord:
        """What was left out, and why."""
        return ChoiceRecord(
            len(self.rows), self._seen, tuple(self._looked), self.stopped, self._spent
        )

    def _look(self, n: int, seen: Sequence[Score]) -> None:
        early = len(self._looks) - 1
        done = settled(seen, self.asked, len(self._cases), early, self.stopped)
        for candidate, outcome in done.items():
            self.stopped.setdefault(candidate, (n, outcome))
        self._looked.append(n)

    def _runs(self, row: Score, block: Mapping[str, int]) -> bool:
        """Whether the row is in the block, and its candidate was still running then."""
        if row.case not in block:
            return False
        if row.candidate is None or row.candidate not in self.stopped:
            return True
        return block[row.case] < self.stopped[row.candidate][0]

    def _affordable(self, missing: Sequence[C]) -> Sequence[C]:
        """As many whole cases as the budget has room for."""
        if self.budget is None:
            return missing
        room = self.budget - self._seen
        by_case: dict[str, list[C]] = {}
        for cell in missing:
            by_case.setdefault(self.rows[cell].case, []).append(cell)
        chosen: list[C] = []
        for case in filter(by_case.__contains__, self._cases):
            if len(chosen) + len(by_case[case]) > room:
                self._spent = True
                break
            chosen += by_case[case]
        return chosen


def in_turn(rows: Iterable[Score]) -> list[str]:
    """The cases, the first of every prompt before the second of any: prompts tell more."""
    by_prompt: dict[str, list[str]] = {}
    for row in rows:
        cases = by_prompt.setdefault(row.prompt, [])
        if row.case not in cases:
            cases.append(row.case)
    turns = zip_longest(*by_prompt.values())
    return [case for turn in turns for case in turn if case is not None]
