"""Which candidates need no more pictures: a sequential test over the blocks of a race.

After each block of cases every candidate that is still running is asked whether its outcome is
settled. There are two kinds of answer, and they need different care:

* *"beyond"*: it, or one that applies less of the LoRA, is broken. That is a finding, and who looks
  five times finds too much. So all looks but the last share one hundredth of error (`EARLY`), and
  the last has the rest of the five (Haybittle 1971; Peto et al. 1976). Confidence sequences that
  hold at any time (Howard et al. 2021) need no plan of looks, but with the 4 to 24 cases of a study
  they are two to three times as wide.
* *"settled"*: by what is seen so far, the cases that are left will hardly make it what is
  recommended, nor broken (stochastic curtailment: Lan, Simon and Halperin 1982). Final means are
  drawn for all candidates together, and of those that are seldom chosen in the end as many go as
  would be in `DOUBT` of the draws. Nothing is claimed of them, so no error is spent; the final
  decision judges them by the pictures that they have.

What is asked decides what is raced: with metrics beside the ranked one that have a range
(`analysers.criteria`) a candidate is as good as certain only inside all of them, and no choice
where it is surely outside one. Where references tell, the most alike is recommended and not the
most effect, so that nothing is settled because another has more effect.

A candidate of which no picture could be had is settled too ("failed").

The decision itself is `analysers.ranking.decide`, at each look as at the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from analysers import ranking, wording
from analysers.criteria import by_references, from_control, gained
from analysers.metrics.metric import declared_by_summary
from analysers.scores import Tables, amount, compared, tabulate
from analysers.statistics import (
    BEST_SHARE,
    ERROR,
    RESAMPLES,
    clusters,
    row_means,
    standard_errors,
)
from analysers.study import Candidate, Kind, Score, Summary, Verdict

Array = NDArray[np.float64]

EARLY = 0.01
"""Chance of a false finding over all looks before the last; the last keeps `ERROR - EARLY`."""

DOUBT = 0.02
"""Candidates are settled when the cases that are left make one of them the recommended one with a
smaller chance, and each of them broken."""

DRAWS = 1000
"""Of the final means, by which the chance of each candidate to be recommended is found."""

FIRST = 4
GROWTH = 1.5

Outcome = Literal["beyond", "settled", "failed"]


def looks(cases: int) -> list[int]:
    """After how many cases to look: 4, 6, 9, 14 and so on, the last after all of them."""
    found, size = [], float(FIRST)
    while size < cases:
        found.append(math.ceil(size))
        size *= GROWTH
    return [*(n for n in found if n < cases), cases]


@dataclass(frozen=True)
class Asked:
    """How the study is judged; what `analysers.ranking.decide` takes beside the scores."""

    kind: Kind
    rank_by: str = "brisque"
    better: Literal["lower", "higher"] = "lower"
    tie_tolerance: float = 0.01
    margin: float | None = None
    resamples: int = RESAMPLES

    def decide(
        self, scores: Sequence[Score], error: float = ERROR
    ) -> tuple[tuple[Summary, ...], Verdict]:
        """Summaries and verdict of the rows so far."""
        return ranking.decide(
            scores,
            kind=self.kind,
            rank_by=self.rank_by,
            better=self.better,
            tie_tolerance=self.tie_tolerance,
            margin=self.margin,
            error=error,
            resamples=self.resamples,
        )


def settled(
    scores: Sequence[Score],
    asked: Asked,
    cases: int,
    early_looks: int,
    stopped: Collection[Candidate] = (),
) -> dict[Candidate, Outcome]:
    """The candidates that need no more pictures, of a study that is to have `cases` cases.

    `scores` are all rows so far, `early_looks` the number of looks before the last; `stopped` have
    been settled before.
    """
    summaries, _ = asked.decide(scores, EARLY / max(1, early_looks))
    done: dict[Candidate, Outcome] = {s.candidate: "beyond" for s in summaries if s.beyond}
    done |= {s.candidate: "failed" for s in summaries if s.rank is None}
    running = [
        s for s in summaries if s.rank is not None and s.candidate.strength != 0 and not s.beyond
    ]
    if not running:
        return done
    tables = tabulate(scores, asked.kind)
    ahead = _forecast(tables, asked, running, cases, stopped)
    hardly = _together_below(DOUBT, {c: ahead[c].chosen for c in ahead})
    reach = {s.candidate: amount(s.candidate, asked.kind, s.effect) for s in running}
    enough = max(
        (s.candidate for s in running if ahead[s.candidate].good() >= 1 - DOUBT),
        key=reach.__getitem__,
        default=None,
    )
    for s in running:
        chance = ahead[s.candidate]
        no_choice = chance.clean <= DOUBT or chance.level <= DOUBT or chance.fits <= DOUBT
        outdone = enough is not None and reach[s.candidate] <= reach[enough]
        if chance.broken <= DOUBT and (no_choice or outdone or s.candidate in hardly):
            done[s.candidate] = "settled"
    if any(s.candidate not in done and s.candidate not in stopped for s in running):
        # those that go on are compared with the first, and may yet give way to the strongest
        for candidate in (running[0].candidate, *([enough] if enough else [])):
            done.pop(candidate, None)
    return done


def _together_below(most: float, chances: Mapping[Candidate, float]) -> set[Candidate]:
    """As many as possible whose chances add up to no more than `most`; the least likely first."""
    found, total = set(), 0.0
    for candidate in sorted(chances, key=lambda candidate: chances[candidate]):
        total += chances[candidate]
        if not total <= most:
            break
        found.add(candidate)
    return found


class _Chances(NamedTuple):
    """That a candidate will be called clean, broken, and level with the leader, and be inside the
    ranges of other metrics, when all cases are there; and that it will be the one recommended. NaN
    where fewer than three prompts say nothing yet."""

    clean: float
    broken: float
    level: float
    calm: float
    fits: float
    chosen: float

    def good(self) -> float:
        """The least of the chances that it has to have to be as good as the leader; 0 where one is
        not known, or where it is not the most effect that is recommended."""
        chances = (self.clean, self.level, self.calm, self.fits)
        known = not any(map(math.isnan, (*chances, self.chosen)))
        return min(chances) if known else 0.0


def _forecast(
    tables: Tables,
    asked: Asked,
    running: Sequence[Summary],
    cases: int,
    stopped: Collection[Candidate],
) -> dict[Candidate, _Chances]:
    """By the trend so far; `running` are those that may be recommended, the leader first.

    The final mean of a paired difference is Student's t about today's, and the standard error
    shrinks as the root of the cases. A pair of which one is stopped stays as it is.
    """
    sign = 1.0 if asked.better == "lower" else -1.0
    empty = np.full(tables.rendered.shape, math.nan)
    loss = sign * tables.values.get(asked.rank_by, empty)
    control = sign * tables.control.get(asked.rank_by, empty)
    margin = ranking.margin_of(asked.rank_by, asked.margin)
    rows = [tables.candidates.index(s.candidate) for s in running]
    first = rows[0]
    counted = BEST_SHARE * ERROR / max(1, len(loss) - 1)
    runs = np.array([candidate not in stopped for candidate in tables.candidates])

    def trend(table: Array, runs: NDArray[np.bool_]) -> _Trend:
        return _Trend.of(table, tables.prompts, np.where(runs, cases, 0))

    worse = trend(loss - control, runs)
    limit = margin - worse.arm(ERROR / 2)
    clean = worse.below(limit)
    broken = 1 - worse.below(np.full(len(loss), margin))
    from_leader = trend(loss - loss[first], runs & runs[first])
    arm = from_leader.arm(counted)
    level = from_leader.below(arm)
    level[first] = 1.0
    calm = np.ones(len(loss))
    for name, (threshold, _) in wording.SIGNS.items():
        metric = declared_by_summary(name)
        if metric.name in tables.values:
            most = math.log(threshold) if metric.aggregate == "ratio" else threshold
            signs = trend(compared(tables, metric), runs)
            calm = np.minimum(calm, signs.below(np.full(len(loss), most)))
    fits = np.ones(len(loss))
    for metric in from_control(tables, asked.rank_by):
        lost = trend(-gained(tables, metric), runs)
        fits = np.minimum(fits, lost.below(metric.margin - lost.arm(ERROR / 2)))
    chosen = np.full(len(loss), math.nan)
    if not by_references(tables) and worse.freedom[first] >= 2:
        others = arm[[i for i in rows if i != first and math.isfinite(arm[i])]]
        arm[first] = np.median(others) if others.size else math.inf
        reach = [amount(s.candidate, asked.kind, s.effect) for s in running]
        picks = _picks(
            worse.drawn(loss - control, tables.prompts)[:, rows] <= limit[rows],
            from_leader.drawn(loss - loss[first], tables.prompts)[:, rows],
            arm[rows],
            calm[rows],
            fits[rows],
            np.array(sorted(range(len(rows)), key=reach.__getitem__)),
        )
        chosen[rows] = np.bincount(picks, minlength=len(rows)) / len(picks)
    return {
        candidate: _Chances(
            *(float(chance[i]) for chance in (clean, broken, level, calm, fits, chosen))
        )
        for i, candidate in enumerate(tables.candidates)
    }


def _picks(
    clean: NDArray[np.bool_],
    behind: Array,
    arm: Array,
    calm: Array,
    fits: Array,
    weakest_first: NDArray[np.intp],
) -> NDArray[np.intp]:
    """Which of the candidates is recommended in each draw: of those that are clean, level with the
    lowest and inside other ranges, and free of signs if any is, the one that applies most; else the
    lowest. `clean` and `behind` (a final mean less the leader's) have shape (draws, candidates)."""
    luck = np.random.Generator(np.random.PCG64(1)).random((2, len(behind), 1))
    good = clean & (behind - behind.min(axis=1, keepdims=True) <= arm) & (luck[0] < fits)
    free = good & (luck[1] < calm)
    good = np.where(free.any(axis=1, keepdims=True), free, good)
    strongest_first = weakest_first[::-1]
    most = strongest_first[good[:, strongest_first].argmax(axis=1)]
    return np.asarray(np.where(good.any(axis=1), most, behind.argmin(axis=1)), dtype=np.intp)


class _Trend(NamedTuple):
    """Paired differences now and when all cases are there; arrays of shape (candidates,)."""

    mean: Array
    moves: Array
    """Standard deviation of the final mean about today's."""
    error: Array
    """Standard error then."""
    freedom: NDArray[np.intp]
    later: NDArray[np.intp]

    @classmethod
    def of(cls, table: Array, prompts: NDArray[np.intp], cases: NDArray[np.intp]) -> _Trend:
        """`cases` (candidates,): how many each will have; it stays with more."""
        mean = row_means(table)
        error, freedom = standard_errors(table, mean, clusters(prompts))
        have = np.isfinite(table).sum(axis=1)
        share = have / np.maximum(np.maximum(have, cases), 1)
        later = np.floor((freedom + 1) / np.maximum(share, 1e-9)).astype(np.intp) - 1
        return cls(mean, error * np.sqrt(1 - share), error * np.sqrt(share), freedom, later)

    def drawn(self, table: Array, prompts: NDArray[np.intp]) -> Array:
        """Final means as they may come, together: shape (draws, candidates). `table` is that which
        the trend is of; what its rows have in common, such as the control's own noise, they keep.
        """
        units = clusters(prompts)
        member = np.zeros((len(units), int(units.max(initial=-1)) + 1))
        member[np.arange(len(units)), units] = 1.0
        known = np.isfinite(self.mean)
        residual = np.nan_to_num(table - self.mean[:, None]) @ member
        size = np.sqrt((residual**2).sum(axis=1, keepdims=True))
        direction = np.divide(residual, size, out=np.zeros_like(residual), where=size > 0)
        stream = np.random.Generator(np.random.PCG64(0))
        freedom = int(self.freedom.max())
        scale = np.sqrt(freedom / stream.chisquare(freedom, (DRAWS, 1)))
        moved = stream.standard_normal((DRAWS, member.shape[1])) @ direction.T
        moves = np.where(np.isfinite(self.moves), self.moves, 0.0)
        return np.where(known, self.mean + scale * moved * moves, math.inf)

    def arm(self, tail: float) -> Array:
        """How far a bound with this one-sided tail will lie from the mean."""
        return np.asarray(stdtrit(np.maximum(self.later, 1), 1 - tail) * self.error)

    def below(self, limit: Array) -> Array:
        """Chances that the final mean is not above the limit."""
        sure = np.where(self.mean <= limit, math.inf, -math.inf)
        z = np.divide(limit - self.mean, self.moves, out=sure, where=self.moves > 0)
        return np.where(self.freedom >= 2, stdtr(np.maximum(self.freedom, 1), z), math.nan)
