"""What argues for and against the answer beside the scores, a class for each section."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from analysers.study.rows import Candidate, Kind
from generation.records import Sparse, plain

Rows = tuple[Mapping[str, Any], ...]
"""A table, plain JSON: column -> value. `candidate` is what the row is of, for programs."""


@dataclass(frozen=True)
class Ladder:
    """One way of degrading, in growing steps from 0 (untouched).

    `means` are the metric's means over the controls, one per level; `tau` is the mean over the
    controls of Kendall's tau-b between the true order and the metric's, from 1 (all in order) to -1
    (upside down), 0 for a control on which the metric does not move at all. Only a ladder that
    `decides` enters the verdict.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    means: tuple[float, ...]
    tau: float
    decides: bool


@dataclass(frozen=True)
class TrustResult:
    """Whether a metric can be trusted on the controls: `tau` is the mean over the ladders that
    decide, NaN if none could be scored; `controls` is how many pictures were degraded.
    """

    trusted: bool
    sentence: str
    tau: float
    controls: int
    ladders: tuple[Ladder, ...]


@dataclass(frozen=True)
class KindOfPicture:
    """A candidate whose pictures are of another kind than its controls: means over the cases."""

    candidate: str
    dark: float
    dark_control: float
    flat: float
    flat_control: float
    darker: bool
    flatter: bool


@dataclass(frozen=True)
class Share:
    """How many pictures of the full grid an answer so far is made from."""

    pictures: int
    of: int

    @property
    def words(self) -> str:
        """What stands before such an answer."""
        return f"So far, by {self.pictures} of {self.of} picture{'s' * (self.of != 1)}"


@dataclass(frozen=True)
class Noise:
    """Controls rendered twice: their content `keys`, (SSIM, difference of BRISQUE) of each pair,
    and the `floor` by metric (`analysers.checks.noise_floor`)."""

    keys: tuple[str, ...] = ()
    pairs: tuple[tuple[float, ...], ...] = ()
    floor: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights(Sparse):
    """The checkpoints' own numbers, a row each (`analysers.weights`), or the reason why none."""

    rows: Rows = ()
    reason: str | None = None
    sentence: str | None = None


@dataclass(frozen=True)
class Told:
    """What was found, in a sentence, and a row per candidate."""

    sentence: str
    rows: Rows = ()


def row_of(candidate: Candidate, kind: Kind, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of `Rows` on a candidate."""
    return {"setting": candidate.heading(kind), **values, "candidate": plain(candidate)}


@dataclass(frozen=True)
class Likeness:
    """Likeness to references, as a share of the way from floor to ceiling."""

    sentence: str
    floor: float
    ceiling: float
    rows: Rows = ()


@dataclass(frozen=True)
class Copy:
    """A picture and the training picture it repeats: their SSIM, whether mirrored, and the share of
    equal `bits` of their hashes; `side_by_side` is both as a data URI."""

    image: str
    reference: str
    caption: str
    value: float
    mirrored: bool
    candidate: Candidate
    side_by_side: str = ""
    bits: float = math.nan


@dataclass(frozen=True)
class Copies:
    """The pictures that are nearer to a training picture than `limit` (SSIM) or `hash_limit` (share
    of equal bits) allows (`analysers.likeness`)."""

    sentence: str
    limit: float
    pictures: tuple[Copy, ...] = ()
    hash_limit: float = math.nan


@dataclass(frozen=True)
class KindsOfPicture:
    """The candidates whose pictures may have been taken for damaged ones."""

    sentence: str
    candidates: tuple[KindOfPicture, ...]


@dataclass(frozen=True)
class Stopped:
    """A candidate that got no more pictures after so many cases, and why."""

    candidate: Candidate
    cases: int
    outcome: str


@dataclass(frozen=True)
class Left:
    """Of the `cells` of the full grid, `asked` were scored, in `looks` after so many cases each;
    `over_budget` says that the allowance ended it. `unseen` counts the candidates of the full grid
    that were never looked at, by the reason. `sure` is the chance that the full grid (on the plane,
    of those looked at) recommends the same, None where it is not foreseen."""

    cells: int
    asked: int
    looks: tuple[int, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    over_budget: bool = False
    unseen: Mapping[str, int] = field(default_factory=dict)
    sure: float | None = None


@dataclass(frozen=True)
class Vote:
    """What people's comparisons say of a setting: log-ability with its 95 % interval."""

    heading: str | None = None
    checkpoint: str | None = None
    epoch: int | None = None
    step: int | None = None
    strength: Decimal | None = None
    wins: int = 0
    losses: int = 0
    ties: int = 0
    bad: int = 0
    ability: float = 0.0
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Votes:
    """People's blind comparisons, fitted (`reports.votes`), the best setting first."""

    votes: int
    rows: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Evidence(Sparse):
    """What argues for and against the answer beside the scores; None where it was not asked."""

    so_far: Share | None = None
    noise: Noise | None = None
    weights: Weights | None = None
    leak: Told | None = None
    likeness: Likeness | None = None
    by_heart: Told | None = None
    copies: Copies | None = None
    trust: TrustResult | None = None
    kind_of_picture: KindsOfPicture | None = None
    race: Left | None = None
    votes: Votes | None = None

    @property
    def floor(self) -> Mapping[str, float]:
        """By metric, how much two renders of one picture differ; {} where it was not measured."""
        return self.noise.floor if self.noise else {}

    @property
    def doubts(self) -> tuple[str, ...]:
        """What of it makes the answer less certain, in sentences."""
        trust = None if self.trust is None or self.trust.trusted else self.trust
        copies = self.copies if self.copies and self.copies.pictures else None
        return tuple(one.sentence for one in (trust, copies, self.kind_of_picture) if one)
