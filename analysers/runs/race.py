"""The chooser that renders no more of what is already decided."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from analysers.racing import Asked, Outcome, foresee, looks
from analysers.runs.chooser import Chooser, with_lora
from analysers.study import Candidate, Left, Score, Stopped

C = TypeVar("C")


@dataclass
class Race(Chooser[C]):
    """Every candidate gets a few cases; more, block by block, those of which the answer needs them.

    `rows` says of every cell of the full grid which row of the scores it is; at most `budget` of
    them are asked for, whole cases at a time. What is asked follows from the scores alone: a race
    that was cut off goes on where it was, and one that ended is completed by the chooser that asks
    for every cell. `given` is how many cases some candidates are to have from the start; it ends
    where the chance of another answer is less than `doubt`.
    """

    rows: Mapping[C, Score]
    asked: Asked
    budget: int | None = None
    given: Mapping[Candidate, int] = field(default_factory=dict)
    doubt: float | None = None
    sure: float = field(default=math.nan, init=False)
    """Chance that what would be recommended now is recommended by all cases."""
    _outcomes: Mapping[Candidate, Outcome] = field(default_factory=dict, init=False)
    _over: bool = field(default=False, init=False)
    _seen: int = field(default=0, init=False)
    _spent: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._cases = in_turn(self.rows.values())
        self._looks = looks(len(self._cases))
        running = with_lora(self.rows.values())
        self.given = {one: self.given.get(one, self._looks[0]) for one in running}

    def ask(self, scores: Mapping[C, Score]) -> Sequence[C]:
        """The cells of the next block without a score; none when all is settled."""
        self._seen = sum(cell in scores for cell in self.rows)
        place = {case: k for k, case in enumerate(self._cases)}
        while not self._over:
            most = max(self.given.values(), default=len(self._cases))
            cells = [
                cell for cell, row in self.rows.items()
                if place[row.case] < self._given(row.candidate, most)
            ]  # fmt: skip
            missing = [cell for cell in cells if cell not in scores]
            if missing:
                return self._affordable(missing)
            self._look([scores[cell] for cell in cells])
        return []

    def record(self) -> Left:
        """What was left out, and why."""
        every = len(self._cases)
        most = every if self._over else max(self.given.values(), default=every)
        short = [
            Stopped(one, n, self._outcomes.get(one, "settled"))
            for one, n in self.given.items()
            if n < most
        ]
        looked = sorted({n for n in self.given.values() if n < every})
        sure = None if math.isnan(self.sure) else round(self.sure, 3)
        return Left(len(self.rows), self._seen, tuple(looked), tuple(short), self._spent, sure=sure)

    def _given(self, candidate: Candidate | None, most: int) -> int:
        """How many cases it is to have; the control, and strength 0, as many as any other."""
        return most if candidate is None else self.given.get(candidate, most)

    def _look(self, seen: Sequence[Score]) -> None:
        if min(self.given.values(), default=len(self._cases)) == len(self._cases):
            self.sure, self._over = 1.0, True
            return
        cases = numbered_cases(self.rows.values())
        outlook = foresee(seen, self.asked, cases, len(self._looks) - 1, self.doubt)
        self.sure, self._outcomes = outlook.sure, outlook.outcomes
        self._over = not outlook.more
        self.given = {
            one: next(k for k in self._looks if k > n) if one in outlook.more else n
            for one, n in self.given.items()
        }

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


def numbered_cases(rows: Collection[Score]) -> dict[str, int]:
    """The cases in turn, each with the number of its prompt."""
    prompts = {row.case: row.prompt for row in rows}
    number = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts.values()))}
    return {case: number[prompts[case]] for case in in_turn(rows)}
