"""What a run tells while it goes on: frozen events, to whoever observes.

A progress bar, a log and a page in a browser are observers: functions of an event. They are called
in the run's own thread, one event after the other, and must not take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysers.study import Kind, Score, Study


@dataclass(frozen=True)
class Planned:
    """A study begins: what it is called, where its folder is, how many pictures it may have.

    `so_far` is the answer from what is scored when it is asked; ValueError before anything is.
    """

    kind: Kind
    title: str
    out: Path
    pictures: int
    so_far: Callable[[], Study]


@dataclass(frozen=True)
class Asked:
    """The chooser wants these rows (without values yet).

    `rendering` says that pictures are painted now, not only measured; the pace is that of the rest
    after `warm_up` of them. `beside` names what the rows are where they are no part of the
    comparison ("leak test").
    """

    rows: tuple[Score, ...]
    rendering: bool
    warm_up: int = 1
    beside: str = ""


@dataclass(frozen=True)
class Rendered:
    """A picture lies at `row.image`, or failed with `row.reason`; `fresh` if painted just now."""

    row: Score
    fresh: bool


@dataclass(frozen=True)
class Measured:
    """A row has its values."""

    score: Score


@dataclass(frozen=True)
class Ended:
    """What was asked is scored, or the run was interrupted meanwhile."""


@dataclass(frozen=True)
class SoFar:
    """What would be answered now, before the chooser asks for `more`."""

    study: Study
    more: tuple[Score, ...] = ()


@dataclass(frozen=True)
class Repeated:
    """Of `total` controls that are painted again for the noise floor, `done` are."""

    done: int
    total: int


@dataclass(frozen=True)
class Decided:
    """The answer, from all that was scored."""

    study: Study


@dataclass(frozen=True)
class Written:
    """The study lies in its folder."""

    path: Path


Event = Planned | Asked | Rendered | Measured | Ended | SoFar | Repeated | Decided | Written

Observer = Callable[[Event], object]
