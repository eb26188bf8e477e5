"""Which pictures a race still needs: what is foreseen of the answer by all of them.

After each block every picture that is missing is drawn, many times over, from what is seen so far
(`_completed`), and the rule that decides is applied to each full grid that may come of it
(`_final`). That says how likely the answer is to stay, and of which candidates the next pictures
tell most about it: where one is surely clean at 1.2, weaker ones need no more, and where one is
surely no choice, neither does it. So a race goes into depth, the candidate whose fate decides
first, and stops when the recommendation will stay with `1 - DOUBT`, and the breakdown will move by
no more than one candidate with `1 - STEP_DOUBT` (stochastic curtailment: Lan, Simon and Halperin
1982). Foreseeing claims nothing, so it spends no error.

*Broken* is a finding, and who looks often finds too much. A candidate has at most as many sizes of
samples as there are `looks`. At all of them but the last its tests share one hundredth of error
(`EARLY`), and the last has the rest of the five: a union bound over the sizes (Haybittle 1971; Peto
et al. 1976), so that it holds whenever and in whatever order one looks. Confidence sequences that
hold at every size (Howard et al. 2021) need no list of sizes, but with the 2 to 24 cases of a study
they are two to three times as wide. What is broken at the last level alone is seen to its end.

What is asked decides what is raced: with metrics beside the ranked one that have a range
(`analysers.criteria`) only what is inside all of them is a choice. Where references tell, the most
alike is recommended and not the most effect; then all that may be a choice go on.

The decision itself is `analysers.ranking.decide`, at each look as at the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from analysers import ranking, wording
from analysers.criteria import by_references, from_control, gained
from analysers.metrics.metric import declared_by_summary
from analysers.scores import Tables, amount, before, compared, preference, tabulate
from analysers.statistics import (
    BEST_SHARE,
    ERROR,
    RESAMPLES,
    clusters,
    largest_t,
    row_means,
    standard_errors,
)
from analysers.study import Candidate, Kind, Score, Summary, Verdict

Array = NDArray[np.float64]

EARLY = 0.01
"""Chance of a false finding over all looks before the last; the last keeps `ERROR - EARLY`."""

DOUBT, ENOUGH = 0.05, 10
"""A race ends when the cases that are left change the recommendation with a smaller chance; of
fewer cases than `ENOUGH`, with as much a smaller one, as few tell less well what is to come."""

STAGE_DOUBT = 0.01
"""The same for one of many races, each among some of the candidates: doubts add up."""

UNSEEN_DOUBT = 0.07
"""And when the candidates that nobody looked at change the recommendation, or move the breakdown by
more than one, with a smaller chance."""

STEP_DOUBT = 0.05
"""And when they move the breakdown by more than one candidate with a smaller chance."""

SHARE = 0.8
"""Those go on whose next pictures tell at least so much, of what they tell of the most telling."""

DRAWS = 1000
"""Of the pictures that are missing; fewer, but a hundred, where that is more than `MOST` scores."""

MOST = 20_000_000

FIRST, GROWTH, FEWEST = 4, 1.35, 2
"""Cases before the first look, or a quarter of them where that is less; so many times as many
before each next one, and at least so many more."""

LATEST = 0.85
"""Share of the cases after which the next look is that after all of them."""

PRIOR = 4.0
"""Cases that all candidates together count for in the spread of each, and in how two go along."""

ALIKE = 0.5
"""Correlation of two candidates' differences from the same control, as long as little is seen."""

TAILS = 4.0
"""Degrees of freedom of how much an odd prompt sticks out, with all candidates alike."""

SEEDS = 0.3
"""Correlation of a candidate's differences from the control among the seeds of a prompt."""

OFFSET, WALKS, OWN, JUMPS = 0.5, (0.1, 0.3, 1.0), (0.05, 0.2, 0.8), (2.0, 6.0)
"""What is held possible of the means before anything is seen, in standard deviations of a picture:
how far all differ from the control, along the whole axis, each by itself, and where they break."""

PLACES = 40
"""At how many places along the axis damage may begin."""

Outcome = Literal["beyond", "settled", "failed"]


def looks(cases: int) -> list[int]:
    """After how many cases to look: 4, 6, 9, 14 and so on, the last after all of them. There is
    none where hardly any cases are left."""
    found, size = [], float(max(2, min(FIRST, cases // 4)))
    while size < max(LATEST * cases, 3):
        found.append(math.ceil(size))
        size = max(size * GROWTH, size + FEWEST)
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


@dataclass(frozen=True)
class Outlook:
    """`more` are the candidates whose next pictures tell most about the answer, none where it is
    settled. `sure` is the chance that what would be recommended now is recommended by all cases,
    NaN where that cannot be told. `outcomes` are of those that need no more: why."""

    more: frozenset[Candidate]
    sure: float
    outcomes: Mapping[Candidate, Outcome]


def foresee(
    scores: Sequence[Score],
    asked: Asked,
    cases: Mapping[str, int],
    early_looks: int,
    doubt: float | None = None,
) -> Outlook:
    """Of the rows so far, each candidate having the first so many of the `cases`.

    `cases` are all that the study is to have, in order, each with the number of its prompt;
    `early_looks` is how many looks there may be at a candidate before its last.
    """
    doubt = DOUBT * min(1.0, len(cases) / ENOUGH) if doubt is None else doubt
    tables = tabulate(scores, asked.kind)
    summaries, verdict = asked.decide(scores, ERROR - EARLY)
    surely = _broken(summaries)
    if surely:
        surely = _broken(asked.decide(scores, EARLY / max(1, early_looks))[0])
    seen, running = _seen(scores, cases), _running(summaries)
    open_ = {c for c in running if seen[c] < len(cases)}
    past = {c for c in running if any(b == c or before(b, c, asked.kind) for b in surely)}
    outcomes: dict[Candidate, Outcome] = {c: "settled" for c in running}
    outcomes |= dict.fromkeys(past, "beyond")
    outcomes |= {s.candidate: "failed" for s in summaries if s.rank is None}

    def outlook(more: Iterable[Candidate], sure: float) -> Outlook:
        return Outlook(frozenset(more), sure, outcomes)

    study = _Unfinished.of(tables, asked, running, seen, cases)
    if not running or not open_:
        return outlook((), 1.0)
    if study is None:
        return outlook(open_ - past, math.nan)
    final = study.final()
    if by_references(tables):
        choice = {c for i, c in enumerate(running) if final.may[:, i].mean() > doubt}
        return outlook(open_ & choice - past, math.nan)
    now = study.place(verdict.recommended), study.place(verdict.breakdown)
    # what the last level alone calls broken, of fewer cases, is no finding yet
    hasty: set[Candidate] = set()
    if verdict.breakdown is not None and verdict.breakdown not in surely:
        broken = _broken(summaries) & open_
        hasty = {verdict.breakdown} & open_ or broken
    sure = float((final.pick == now[0]).mean())
    ends = float(study.near[now[1], final.end].mean())
    if sure >= 1 - doubt and ends >= 1 - STEP_DOUBT and not hasty:
        return outlook((), sure)
    more = hasty or study.telling(final, sure < 1 - doubt, ends < 1 - STEP_DOUBT)
    return outlook(more or open_, sure)


def unseen_that_tell(
    scores: Sequence[Score],
    summaries: Sequence[Summary],
    verdict: Verdict,
    asked: Asked,
    cases: Mapping[str, int],
    unseen: Collection[Candidate],
) -> tuple[float, tuple[Candidate, ...]]:
    """The chance that all pictures, of the `unseen` candidates too, say as the verdict of those so
    far does; and, where it is less than `1 - UNSEEN_DOUBT`, the unseen ones, those first on which
    that turns most.

    Of those that nobody looked at the means are drawn between their neighbours'. Where references
    tell what is recommended nothing is foreseen: NaN.
    """
    tables = tabulate(scores, asked.kind)
    running = _running(summaries)
    study = None
    if running and unseen and not by_references(tables):
        everyone = [*running, *unseen]
        study = _Unfinished.of(tables, asked, everyone, _seen(scores, cases), cases)
    if study is None:
        return math.nan if unseen else 1.0, ()
    final = study.final()
    changed = final.pick != study.place(verdict.recommended)
    moved = ~study.near[study.place(verdict.breakdown), final.end]
    sure = 1 - float(changed.mean())
    if max(changed.mean(), moved.mean()) <= UNSEEN_DOUBT:
        return sure, ()
    count = len(study.candidates)
    turns = np.zeros(count + 1)
    for places, when in ((final.pick, changed), (final.lead, changed), (final.end, moved)):
        turns += np.bincount(places[when], minlength=count + 1)
    order = sorted(range(count), key=lambda i: (-turns[i], -i))
    return sure, tuple(study.candidates[i] for i in order if not study.seen[i])


def _seen(scores: Iterable[Score], cases: Mapping[str, int]) -> dict[Candidate, int]:
    """How many of the cases each candidate has."""
    place = {case: k for k, case in enumerate(cases, 1)}
    seen: dict[Candidate, int] = {}
    for row in scores:
        if row.candidate is not None:
            seen[row.candidate] = max(seen.get(row.candidate, 0), place[row.case])
    return seen


def _running(summaries: Iterable[Summary]) -> list[Candidate]:
    """Those that use the LoRA and could be scored."""
    return [s.candidate for s in summaries if s.rank is not None and s.candidate.strength != 0]


def _broken(summaries: Iterable[Summary]) -> set[Candidate]:
    return {s.candidate for s in summaries if s.state == "broken"}


class _Final(NamedTuple):
    """What the decision may be by all cases. All but the last three have shape (draws,
    candidates)."""

    mean: Array
    broken: NDArray[np.bool_]
    may: NDArray[np.bool_]
    """Clean, level with the first, inside other ranges, and not beyond a breakdown."""
    pick: NDArray[np.intp]
    end: NDArray[np.intp]
    lead: NDArray[np.intp]
    """(draws,): the recommended one, the breakdown, the number of candidates for none; and the
    lowest that is not beyond it."""


@dataclass(frozen=True, eq=False)
class _Unfinished:
    """A study of which cases are missing. The rows are the candidates that use the LoRA and could
    be scored, or that nobody looked at (`seen` 0); `change` is their loss (lower is better) less
    the control's, of shape (candidates, all cases), NaN where `seen` ends."""

    candidates: Sequence[Candidate]
    change: Array
    seen: NDArray[np.intp]
    prompts: NDArray[np.intp]
    asked: Asked
    reach: Array
    undefined: NDArray[np.bool_]
    calm: Array
    fits: Array
    amount: Array
    """How much of the LoRA each applies, from 0 to 1, and on which side of strength 0."""
    side: NDArray[np.bool_]
    by_criteria: bool

    @classmethod
    def of(
        cls,
        tables: Tables,
        asked: Asked,
        running: Sequence[Candidate],
        seen: Mapping[Candidate, int],
        cases: Mapping[str, int],
    ) -> _Unfinished | None:
        """None where a candidate cannot be compared with the control."""
        running = sorted(running, key=lambda one: preference(one, asked.kind))
        if asked.rank_by not in tables.values:
            return None
        sign = 1.0 if asked.better == "lower" else -1.0
        looked = np.flatnonzero(np.array([seen.get(one, 0) > 0 for one in running]))
        rows = np.array([tables.candidates.index(running[i]) for i in looked], dtype=np.intp)
        order = [*cases]
        columns = np.array([order.index(case) for case in tables.cases], dtype=np.intp)
        table = sign * (tables.values[asked.rank_by] - tables.control[asked.rank_by])
        change = np.full((len(running), len(order)), math.nan)
        change[np.ix_(looked, columns)] = table[rows]
        have = np.isfinite(change)
        if not rows.size or (have[looked].sum(axis=1) < 2).any():
            return None
        counts = np.array([seen.get(one, 0) for one in running])
        gap = ~have & (np.arange(len(order)) < counts[:, None])
        change = np.where(gap, row_means(change)[:, None], change)
        undefined = tables.undefined[asked.rank_by]
        for_all = (undefined | ~tables.rendered).all(axis=0)
        whole = np.zeros(len(tables.candidates))
        whole[rows] = np.where(counts < len(order), len(order), 0)[looked]
        effect = np.full(len(running), math.nan)
        if "ssim" in tables.values:
            effect[looked] = row_means(1 - tables.values["ssim"])[rows]
        amounts = [
            amount(one, asked.kind, float(of)) for one, of in zip(running, effect, strict=True)
        ]
        reach = np.empty(len(running))
        reach[sorted(range(len(running)), key=amounts.__getitem__)] = np.arange(len(running))

        def spread(values: Array) -> Array:
            """Of all from those that were looked at."""
            return np.interp(np.arange(len(running)), looked, values[rows])

        undone = np.zeros(len(running), dtype=bool)
        undone[looked] = (undefined & ~for_all)[rows].any(axis=1)
        return cls(
            running, change, counts, np.array([*cases.values()]), asked, reach, undone,
            spread(_calm(tables, whole)), spread(_fits(tables, asked, whole)), _share(amounts),
            np.array([(one.strength or 0) < 0 for one in running]),
            bool(from_control(tables, asked.rank_by)),
        )  # fmt: skip

    def place(self, candidate: Candidate | None) -> int:
        """The row of a candidate; their number for none."""
        count = len(self.candidates)
        return self.candidates.index(candidate) if candidate in self.candidates else count

    def final(self) -> _Final:
        """The rule of `analysers.ranking`, on every draw of the full grid."""
        change = self._completed()
        asked, count = self.asked, len(self.candidates)
        units = clusters(self.prompts)
        freedom = int(units.max())
        mean = change.mean(axis=2)
        error = _errors(change, mean, units)
        margin = ranking.margin_of(asked.rank_by, asked.margin)
        clean = mean + stdtrit(freedom, 1 - ERROR / 2) * error <= margin
        t = np.divide(mean, error, out=np.where(mean > 0, math.inf, -math.inf), where=error > 0)
        found = _surely(t, freedom, ranking.along(self.candidates, asked.kind))
        broken = (found & (mean > margin)) | self.undefined
        beyond = broken.copy()
        for i in np.flatnonzero(broken.any(axis=0)):
            ahead = [before(self.candidates[int(i)], one, asked.kind) for one in self.candidates]
            beyond |= broken[:, [i]] & np.array(ahead)
        rows = np.arange(len(mean))
        lead = np.where(beyond, math.inf, mean).argmin(axis=1)
        behind = mean - mean[rows, lead][:, None]
        apart = _errors(change - change[rows, lead][:, None], behind, units)
        arm = largest_t(max(1, count - 1), freedom, BEST_SHARE * ERROR) * apart
        luck = np.random.Generator(np.random.PCG64(1)).random((2, len(mean), 1))
        may = clean & ~beyond & (luck[0] < self.fits)
        if not self.by_criteria:
            may &= behind <= arm
        free = may & (luck[1] < self.calm)
        good = np.where(free.any(axis=1, keepdims=True), free, may)
        most = np.where(good, self.reach, -1.0).argmax(axis=1)
        other = np.where(beyond.all(axis=1) | self.by_criteria, count, lead)
        pick = np.where(good.any(axis=1), most, other)
        end = self._first(broken, np.where(pick < count, pick, lead))
        return _Final(mean, broken, may, pick.astype(np.intp), end.astype(np.intp), lead)

    @property
    def draws(self) -> int:
        """How many full grids are drawn."""
        return max(100, min(DRAWS, MOST // self.change.size))

    @cached_property
    def near(self) -> NDArray[np.bool_]:
        """Which breakdowns are one, or next to each other, or both none."""
        count = len(self.candidates)
        found = np.eye(count + 1, dtype=bool)
        found[:count, :count] = self.side == self.side[:, None]
        for values in (self._strengths, self._places):
            rank = np.unique(values, return_inverse=True)[1]
            found[:count, :count] &= np.abs(rank - rank[:, None]) <= 1
        return found

    @property
    def _strengths(self) -> Array:
        return np.array([abs(float(one.strength or 0)) for one in self.candidates])

    @property
    def _places(self) -> Array:
        return np.array([float(one.place) for one in self.candidates])

    def _first(self, broken: NDArray[np.bool_], pick: NDArray[np.intp]) -> NDArray[np.intp]:
        """The breakdown of each draw: the first broken one on the pick's side, on the plane of its
        checkpoint, else at its strength. `broken` is of shape (draws, candidates)."""
        line = broken & (self.side == self.side[pick][:, None])
        if self.asked.kind == "plane":
            up = line & (self._places == self._places[pick][:, None])
            along = line & (self._strengths == self._strengths[pick][:, None])
            line = np.where(up.any(axis=1, keepdims=True), up, along)
        first = np.where(line.any(axis=1), line.argmax(axis=1), len(self.candidates))
        return np.asarray(first, dtype=np.intp)

    def telling(self, final: _Final, pick: bool, end: bool) -> set[Candidate]:
        """The candidates of whose next pictures each tells most of which is the pick, the
        breakdown, or both; those that tell half as much as the most do."""
        count, cases = self.change.shape
        rank = final.mean.argsort(axis=0).argsort(axis=0) * 4 // len(final.mean)
        state = 8 * final.may + 4 * final.broken + rank
        worth = np.zeros(count)
        for i in np.flatnonzero(self.seen < cases):
            n = int(self.seen[i])
            then = next(k for k in looks(cases) if k > n)
            pictures = (then - n) + max(0, then - int(self.seen.max()))
            open_now, open_then = 1 / n - 1 / cases, 1 / then - 1 / cases
            told = 0.0
            if pick:
                told += _telling(state[:, i], final.pick, np.eye(count + 1))
            if end:
                told += _telling(state[:, i], final.end, self.near)
            worth[i] = told * (1 - open_then / open_now) / pictures
        return {
            one for one, of in zip(self.candidates, worth, strict=True)
            if of >= worth.max() * SHARE and of > 0
        }  # fmt: skip

    def _completed(self) -> Array:
        """The changes with the missing ones drawn: shape (draws, candidates, cases).

        Normal, with the spread of each candidate drawn towards that of all, and the correlations
        towards `ALIKE`. Those that have more cases come first; the missing cases of the others are
        regressed on theirs.
        """
        stream = np.random.Generator(np.random.PCG64(0))
        count, cases = self.change.shape
        spread, freedom = self._spreads()
        covariance = self._correlations() * spread * spread[:, None]
        wide = np.sqrt(freedom / stream.chisquare(freedom, (self.draws, count)))
        level, doubt = np.zeros(count), np.zeros((count, count))
        groups: list[tuple[NDArray[np.intp], NDArray[np.intp], Array, Array]] = []
        done = np.zeros(0, dtype=np.intp)
        for n in sorted(set(self.seen.tolist()), reverse=True):
            rows = np.flatnonzero(self.seen == n)
            across = covariance[np.ix_(done, rows)]
            slope = np.linalg.solve(covariance[np.ix_(done, done)], across).T
            rest = covariance[np.ix_(rows, rows)] - slope @ across
            groups.append((rows, done, slope, rest))
            if not n:
                break
            apart = self.change[rows, :n] - slope @ self.change[done, :n]
            level[rows] = apart.mean(axis=1) + slope @ level[done]
            between = slope @ doubt[np.ix_(done, done)]
            doubt[np.ix_(rows, done)], doubt[np.ix_(done, rows)] = between, between.T
            doubt[np.ix_(rows, rows)] = rest / n + between @ slope.T
            done = np.concatenate([done, rows])
        means = self._means(level, doubt, wide, stream)
        full = np.broadcast_to(self.change, (self.draws, count, cases)).copy()
        for rows, known, slope, rest in groups:
            n = int(self.seen[rows[0]])
            if n == cases:
                continue
            apart = self.change[rows, :n] - slope @ self.change[known, :n]
            apart = apart - row_means(apart)[:, None]
            noise = self._noise(apart, _root(rest), n, stream) * wide[:, rows, None]
            other = full[:, known, n:] - means[:, known, None]
            full[:, rows, n:] = means[:, rows, None] + noise
            full[:, rows, n:] += slope @ other
        return np.asarray(full)

    def _means(self, level: Array, doubt: Array, wide: Array, stream: np.random.Generator) -> Array:
        """Draws of the true means, (draws, candidates): by what was seen of them, `level` with
        covariance `doubt`, and by what is known before: they begin near 0 and change gradually with
        the amount of the LoRA (a Brownian motion, of a size that is drawn by what is seen) and by
        something of their own."""
        priors = np.array(self._priors(float(np.sqrt((self._spreads()[0] ** 2).mean()))))
        known = np.flatnonzero(self.seen > 0)
        inside = np.ix_(known, known)
        level, doubt = level[known], doubt[inside]
        weight = _log_densities(level, priors[:, known[:, None], known] + doubt)
        each = len(WALKS) * len(OWN)
        weight[each:] -= math.log(max(1, len(priors) // each - 1))  # of damage anywhere, or none
        weight = np.exp(weight - weight.max())
        counts = np.bincount(
            stream.choice(len(priors), self.draws, p=weight / weight.sum()), minlength=len(priors)
        )
        found, at = np.empty((self.draws, len(self.seen))), 0
        for prior, many in zip(priors, counts, strict=True):
            if many:
                gain = np.linalg.solve(prior[inside] + doubt, prior[known]).T
                left = _root(prior - gain @ prior[known])
                drawn = stream.standard_normal((many, len(self.seen))) @ left.T
                found[at : at + many] = gain @ level + wide[at : at + many] * drawn
                at += many
        return found

    def _priors(self, unit: float) -> list[Array]:
        """Covariances of the means before anything is seen: of every size, and with damage that
        begins at any place or at none."""
        one_side = self.side == self.side[:, None]
        near = np.minimum(self.amount, self.amount[:, None]) * one_side
        places = np.unique(self.amount)
        most = max(2, min(PLACES, 1600 // len(places)))  # of hundreds of settings each takes long
        begins = places[:: -(-len(places) // most)]
        damage = [np.zeros(near.shape)]
        for begin in begins:
            past = (near >= begin - 1e-9) * one_side
            further = np.maximum(near - begin, 0.0) / max(1.0 - begin, 1e-9)
            damage += [jump**2 * past * (1.0 + further) for jump in JUMPS]
        return [
            unit**2 * (OFFSET**2 + walk**2 * near + own**2 * np.eye(len(near)) + broken)
            for broken in damage
            for walk in WALKS
            for own in OWN
        ]

    def _noise(self, apart: Array, root: Array, n: int, stream: np.random.Generator) -> Array:
        """Of the cases after the first `n`: shape (draws, rows, cases). Seeds of one prompt share
        some of it, also with those that were seen."""
        later = self.prompts[n:]
        shape = (self.draws, len(root))
        odd = np.sqrt(
            (TAILS - 2)
            / np.random.Generator(np.random.PCG64(2)).chisquare(
                TAILS, (self.draws, 1, len(self.prompts))
            )
        )
        alone = stream.standard_normal((*shape, len(later))) * odd[:, :, n:]
        found = np.asarray(root @ alone)
        if len(np.unique(self.prompts)) in (1, len(self.prompts)):
            return found
        found *= math.sqrt(1 - SEEDS)
        for prompt in np.unique(later):
            mine = np.flatnonzero(self.prompts[:n] == prompt)
            weight = SEEDS / (SEEDS + (1 - SEEDS) / len(mine)) if len(mine) else 0.0
            shared = stream.standard_normal(shape) @ root.T * math.sqrt(SEEDS * (1 - weight))
            if len(mine):
                shared = shared + weight * apart[:, mine].mean(axis=1)
            found[:, :, later == prompt] += shared[:, :, None]
        return np.asarray(found)

    def _spreads(self) -> tuple[Array, Array]:
        """Standard deviation of each candidate's changes, and its degrees of freedom."""
        own = np.zeros(len(self.seen))
        own[self.seen > 0] = np.nanvar(self.change[self.seen > 0], axis=1, ddof=1)
        freedom = np.maximum(self.seen - 1.0, 0.0)
        together = (freedom * own).sum() / freedom.sum()
        spread = np.sqrt((PRIOR * together + freedom * own) / (PRIOR + freedom))
        return np.asarray(np.maximum(spread, 1e-6)), np.asarray(PRIOR + freedom)

    def _correlations(self) -> Array:
        """How the candidates' changes go along: those seen, drawn towards `ALIKE`."""
        count = len(self.candidates)
        found = np.full((count, count), ALIKE)
        for n in sorted(set(self.seen.tolist()) - {0}):
            rows = np.flatnonzero(self.seen >= n)
            part = self.change[rows, :n] - self.change[rows, :n].mean(axis=1, keepdims=True)
            size = np.sqrt((part**2).sum(axis=1))
            part = np.divide(part, size[:, None], out=np.zeros_like(part), where=size[:, None] > 0)
            weight = (n - 1) / (n - 1 + 2 * PRIOR)
            found[np.ix_(rows, rows)] = weight * (part @ part.T) + (1 - weight) * ALIKE
        np.fill_diagonal(found, 1.0)
        values, vectors = np.linalg.eigh(found)
        found = vectors * np.maximum(values, 0.02) @ vectors.T
        size = np.sqrt(np.diag(found))
        return np.asarray(found / size / size[:, None])


def _share(amounts: Sequence[tuple[float, ...]]) -> Array:
    """The first of each amount as a share of the largest: along training, place by place."""
    first = np.array([one[0] for one in amounts])
    first = first - min(0.0, first.min() - 1.0) if first.min() <= 0 else first
    return np.asarray(first / first.max())


def _root(covariance: Array) -> Array:
    """A square root, also of a matrix that is all but singular."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _log_densities(value: Array, covariances: Array) -> Array:
    """Of a normal vector about 0 by each of the covariances (n, size, size), but for a constant."""
    roots = np.linalg.cholesky(covariances)
    scaled = np.linalg.solve(roots, np.broadcast_to(value[:, None], (len(roots), len(value), 1)))
    size = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    return np.asarray(-0.5 * (scaled**2).sum(axis=(1, 2)) - size)


def _telling(state: NDArray[np.intp], answer: NDArray[np.intp], near: NDArray[Any]) -> float:
    """How much more often two draws have the same answer, or one that is `near` (answers, answers),
    where both have the same state (0 to 15); both of shape (draws,)."""
    count = len(near)
    joint = np.bincount(state * count + answer, minlength=16 * count).reshape(16, count)
    hits = joint @ near.astype(float)
    many = np.maximum(joint.sum(axis=1), 1)
    agree = float(((joint * hits).sum(axis=1) / many).sum()) / len(answer)
    return agree - float(joint.sum(axis=0) @ hits.sum(axis=0)) / len(answer) ** 2


def _errors(table: Array, mean: Array, units: NDArray[np.intp]) -> Array:
    """Standard errors of the means, between units: (draws, rows, cases) -> (draws, rows)."""
    count = int(units.max()) + 1
    residual = table - mean[:, :, None]
    if count < table.shape[2]:
        member = np.zeros((len(units), count))
        member[np.arange(len(units)), units] = 1.0
        residual = residual @ member
    squares = np.einsum("zrk,zrk->zr", residual, residual)
    return np.asarray(np.sqrt(squares * count / max(1, count - 1)) / table.shape[2])


def _surely(t: Array, freedom: int, lines: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """`analysers.statistics.surely_above`, for draws: `t` has shape (draws, candidates)."""
    alpha = ERROR / 2
    found = np.zeros(t.shape, dtype=bool)
    for line in lines:
        so_far = np.ones(len(t), dtype=bool)
        for i in reversed(line):
            so_far &= t[:, i] > stdtrit(freedom, 1 - alpha / len(lines))
            found[:, i] = so_far
    left = t.shape[1] - found.sum(axis=1, keepdims=True)
    order = np.argsort(np.where(found, math.inf, -t), axis=1)
    place = np.arange(t.shape[1])
    by_count = stdtrit(freedom, 1 - alpha / np.arange(1, t.shape[1] + 1))
    limit = by_count[np.maximum(left - place, 1) - 1]
    passed = (np.take_along_axis(t, order, axis=1) > limit) & (place < left)
    step_down = np.zeros_like(found)
    np.put_along_axis(step_down, order, np.logical_and.accumulate(passed, axis=1), axis=1)
    return found | step_down


def _calm(tables: Tables, cases: Array) -> Array:
    """Chances that no sign of over-cooking will show, of shape (candidates,)."""
    calm = np.ones(len(cases))
    for name, (threshold, _) in wording.SIGNS.items():
        metric = declared_by_summary(name)
        if metric.name in tables.values:
            most = math.log(threshold) if metric.aggregate == "ratio" else threshold
            signs = _Trend.of(compared(tables, metric), tables.prompts, cases)
            calm = np.fmin(calm, signs.below(np.full(len(cases), most)))
    return calm


def _fits(tables: Tables, asked: Asked, cases: Array) -> Array:
    """Chances to be inside the ranges of metrics beside the ranked one."""
    fits = np.ones(len(cases))
    for metric in from_control(tables, asked.rank_by):
        lost = _Trend.of(-gained(tables, metric), tables.prompts, cases)
        fits = np.fmin(fits, lost.below(metric.margin - lost.arm(ERROR / 2)))
    return fits


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
    def of(cls, table: Array, prompts: NDArray[np.intp], cases: Array) -> _Trend:
        """`cases` (candidates,): how many each will have; it stays with more."""
        mean = row_means(table)
        error, freedom = standard_errors(table, mean, clusters(prompts))
        have = np.isfinite(table).sum(axis=1)
        share = have / np.maximum(np.maximum(have, cases), 1)
        later = np.floor((freedom + 1) / np.maximum(share, 1e-9)).astype(np.intp) - 1
        return cls(mean, error * np.sqrt(1 - share), error * np.sqrt(share), freedom, later)

    def arm(self, tail: float) -> Array:
        """How far a bound with this one-sided tail will lie from the mean."""
        return np.asarray(stdtrit(np.maximum(self.later, 1), 1 - tail) * self.error)

    def below(self, limit: Array) -> Array:
        """Chances that the final mean is not above the limit; NaN of fewer than two units."""
        sure = np.where(self.mean <= limit, math.inf, -math.inf)
        z = np.divide(limit - self.mean, self.moves, out=sure, where=self.moves > 0)
        return np.where(self.freedom >= 1, stdtr(np.maximum(self.freedom, 1), z), math.nan)
