"""People's blind A/B votes: the exported file, Bradley-Terry, agreement with a metric.

File format 1: a JSON object with `kind` "lora-analysers votes", `format` 1, `settings` (a list of
{heading, checkpoint, epoch, step, strength}) and `votes` (a list of {a, b, choice, case}, where `a`
and `b` index `settings` and `choice` is "a", "b", "tie" or "bad": neither is any good).
`run` may name the folder of the report they were given in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysers import phrases
from analysers.study import Candidate, Interval, Study, Vote, Votes
from generation.errors import UserError, named
from generation.files import read_json
from generation.records import build

FORMAT = 1
KIND = "lora-analysers votes"
_EVEN = ("tie", "bad")


def read_votes(path: Path) -> Votes:
    """The votes of a file that the report exported, fitted; settings without one are left out.

    Raises UserError when the file cannot be read or is something else.
    """
    path = Path(path)
    try:
        data = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{path}: this is not JSON; export the votes from the report.") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"{path}: these are not votes; export them from the report's blind test.")
    if data.get("format") != FORMAT:
        raise UserError(
            f"{path}: votes of format {data.get('format')}, this version reads {FORMAT}; "
            "export them again from a report of this version."
        )
    settings, votes = data.get("settings"), data.get("votes")
    if not isinstance(settings, list) or not isinstance(votes, list):
        raise UserError(f"{path}: settings or votes are missing; export them again.")
    if not all(isinstance(s, dict) for s in settings):
        raise UserError(f"{path}: a setting is not an object; export the votes again.")
    pairs = []
    for number, vote in enumerate(votes, 1):
        if (
            not isinstance(vote, dict)
            or not all(_index(vote.get(side), len(settings)) for side in "ab")
            or vote["a"] == vote["b"]
            or vote.get("choice") not in ("a", "b", *_EVEN)
        ):
            raise UserError(f"{path}: vote {number} is damaged; export the votes again.")
        pairs.append((vote["a"], vote["b"], vote["choice"]))
    fitted = bradley_terry(len(settings), pairs)
    rows = []
    for i, setting in enumerate(settings):
        wins = sum((a == i and c == "a") or (b == i and c == "b") for a, b, c in pairs)
        losses = sum((a == i and c == "b") or (b == i and c == "a") for a, b, c in pairs)
        ties, bad = (sum(i in (a, b) and c == word for a, b, c in pairs) for word in _EVEN)
        if wins + losses + ties + bad == 0:
            continue
        names = ("heading", "checkpoint", "epoch", "step", "strength")
        try:
            of = build(Vote, {key: setting.get(key) for key in names}, f"setting {i + 1}")
        except ValueError as error:
            raise UserError(f"{path}: {error}; export the votes again.") from error
        rows.append(
            replace(
                of,
                wins=wins,
                losses=losses,
                ties=ties,
                bad=bad,
                ability=fitted[i].mean,
                low=fitted[i].low,
                high=fitted[i].high,
            )
        )
    return Votes(len(pairs), tuple(sorted(rows, key=lambda row: -row.ability)))


def bradley_terry(n: int, votes: Sequence[tuple[int, int, str]]) -> list[Interval]:
    """Log-abilities (mean 0) with 95 % intervals from votes (a, b, "a" | "b" | "tie" | "bad").

    Bradley and Terry (1952): P(i beats j) = p_i / (p_i + p_j), fitted by the MM iteration of Hunter
    (2004). A tie, "bad" too, is half a win for each. Every setting also ties once with
    an imaginary opponent of ability 1, so that one that never lost stays finite. Intervals come
    from the Fisher information of each setting with the others held.
    """
    wins = [0.5] * n
    games: dict[tuple[int, int], float] = {}
    for a, b, choice in votes:
        wins[a] += {"a": 1.0, "b": 0.0}.get(choice, 0.5)
        wins[b] += {"a": 0.0, "b": 1.0}.get(choice, 0.5)
        pair = (min(a, b), max(a, b))
        games[pair] = games.get(pair, 0) + 1
    power = [1.0] * n
    for _ in range(2000):
        rate = [1 / (p + 1) for p in power]
        for (a, b), count in games.items():
            share = count / (power[a] + power[b])
            rate[a] += share
            rate[b] += share
        updated = [w / r for w, r in zip(wins, rate, strict=True)]
        moved = max((abs(math.log(u / p)) for u, p in zip(updated, power, strict=True)), default=0)
        power = updated
        if moved < 1e-10:
            break
    information = [p / (p + 1) ** 2 for p in power]
    for (a, b), count in games.items():
        share = count * power[a] * power[b] / (power[a] + power[b]) ** 2
        information[a] += share
        information[b] += share
    logs = [math.log(p) for p in power]
    centre = sum(logs) / n if n else 0.0
    return [
        Interval(x - centre, x - centre - 1.96 / math.sqrt(f), x - centre + 1.96 / math.sqrt(f))
        for x, f in zip(logs, information, strict=True)
    ]


def votes_table(study: Study) -> dict[str, Any] | None:
    """The votes beside the ranked metric, for the report; None without votes.

    `tau` is Kendall's tau-b between people's order and the metric's (1: the same order).
    """
    votes = study.evidence.votes
    if votes is None:
        return None
    by_identity = {identity(s.candidate): s for s in study.summaries}
    rows, ours, theirs = [], [], []
    for row in votes.rows:
        summary = by_identity.get(identity(row))
        if summary is None:
            continue
        mean = summary.metrics.get(study.rank_by, Interval(math.nan)).mean
        if math.isfinite(mean):
            ours.append(-mean if study.better == "lower" else mean)
            theirs.append(row.ability)
        share = tuple(map(_share, (row.ability, row.low, row.high)))
        names = {
            "heading": summary.candidate.heading(study.kind),
            "named": phrases.named(summary.candidate, study.kind),
        }
        rows.append({**vars(row), **names, "rank": summary.rank, "metric": mean, "share": share})
    return {
        "votes": votes.votes,
        "rows": rows,
        "tau": _agreement(theirs, ours),
        "unknown": len(votes.rows) - len(rows),
    }


def _agreement(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Kendall's tau-b of two orders; NaN where either has none (all equal, fewer than two)."""
    from scipy.stats import kendalltau

    return float(kendalltau(theirs, ours).statistic) if len(ours) > 1 else math.nan


def _share(ability: float) -> int:
    """In how many of 100 comparisons it is preferred to a setting of ability 0."""
    return round(100 / (1 + math.exp(-max(-40.0, min(40.0, ability)))))


def people(study: Study) -> str:
    """What people preferred, in a sentence; "" without votes."""
    table = votes_table(study)
    if table is None or not table["rows"]:
        return ""
    first, *others = table["rows"]
    count = table["votes"]
    told = f"{count} blind comparison" + "s" * (count != 1)
    if others and not _surely(first, others[0]):
        return (
            f"People: after {told} {first['named']} is ahead of {others[0]['named']}, not yet "
            "surely; more comparisons would tell."
        )
    return f"People: in {told} {first['named']} was preferred."


def _surely(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one ability is above another beyond the 95 % interval of their difference."""
    room = math.hypot(one["ability"] - one["low"], other["ability"] - other["low"])
    return bool(one["ability"] - other["ability"] > room)


def with_votes(study: Study, path: Path) -> Study:
    """The study with people's votes on its settings; UserError for those of another."""
    votes = read_votes(path)
    ours = {identity(s.candidate) for s in study.summaries}
    strangers = [row for row in votes.rows if identity(row) not in ours]
    if strangers:
        raise UserError(
            f"{path}: these votes are of another study ({strangers[0].heading} of "
            f"{strangers[0].checkpoint or 'its LoRA'} is not in this one); name the run that "
            "they were given in."
        )
    return replace(study, evidence=replace(study.evidence, votes=votes))


def run_of(path: Path) -> Path:
    """The run folder that votes were given in: as they say, or the one beside them.

    UserError if no study is there.
    """
    read_votes(path)
    told = read_json(path).get("run")
    for folder in (*([Path(told)] if isinstance(told, str) and told else []), path.parent):
        if (folder / "study.json").is_file():
            return folder
    raise UserError(
        f"{path}: it is not known which run these votes were given in; name it beside "
        f"{named('report_only')}."
    )


def identity(of: Candidate | Vote) -> tuple[Any, ...]:
    return (of.checkpoint or "", of.epoch, of.step, of.strength)


def _index(value: object, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
