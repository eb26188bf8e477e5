"""Rows and evidence -> the study, decided and written; and read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analysers import checks, ranking
from analysers.measure import Measured
from analysers.metrics.luma import Pixels
from analysers.metrics.metric import declared
from analysers.phrases import named
from analysers.runs.evidence import unrelated
from analysers.runs.request import Judging
from analysers.runs.source import relative
from analysers.statistics import ERROR
from analysers.study import (
    FORMAT,
    Candidate,
    Evidence,
    Kind,
    Left,
    RunRecord,
    Score,
    Sentence,
    Study,
    TrustResult,
    Verdict,
    from_json,
    to_json,
)
from analysers.wording import say
from generation.errors import UserError
from generation.files import read_utf8
from generation.folder import write_result
from generation.records import plain

MOST_STUDY = 1 << 28
"""Bytes of a study.json that are read: a study of a million pictures has a few hundred MB."""


def load_study(run: Path) -> Study:
    """The finished study in a run folder; UserError if there is none."""
    path = run / "study.json"
    try:
        study = from_json(read_utf8(path, MOST_STUDY))
    except OSError as error:
        why = (
            "" if isinstance(error, FileNotFoundError) else f" that can be read ({error.strerror})"
        )
        raise UserError(
            f"{run} holds no study.json{why}; name the folder of a finished run.",
            field="report_only",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); run the study again.", field="report_only"
        ) from error
    return study if study.format == FORMAT else ranking.decide_again(study)


def decide(
    kind: Kind,
    title: str,
    scores: Sequence[Score],
    measured: Iterable[Measured],
    judging: Judging,
    out: Path,
    evidence: Evidence,
    run: RunRecord,
    warnings: Sequence[str],
    left: Left | None = None,
) -> Study:
    """The study: decided, with what argues for and against the decision."""
    from analysers.racing import EARLY
    from analysers.trust import kind_of_picture

    results: list[Measured] = list(measured)
    margin = ranking.margin_of(judging.rank_by, judging.margin)
    evidence = replace(
        evidence,
        trust=_trust(results, judging.rank_by),
        kind_of_picture=kind_of_picture(scores, kind, judging.rank_by, margin)
        if judging.ladders
        else None,
        race=left,
    )
    by_image = {relative(r.task.image, out): r for r in results}
    pixels = {s.image: r.pixels for s in scores if (r := by_image.get(s.image)) and r.pixels}
    better = declared(judging.rank_by).better or "lower"
    controls = [by_image[s.image] for s in scores if s.candidate is None and s.image in by_image]
    found = checks.check(
        scores, kind=kind, floor=evidence.floor, pixels=pixels, unrelated=unrelated(controls)
    )
    summaries, verdict = ranking.decide(
        scores,
        kind=kind,
        error=ERROR - EARLY if left is not None and left.looks else ERROR,
        stopped={one.candidate for one in left.stopped} if left is not None else (),
        rank_by=judging.rank_by,
        better=better,
        tie_tolerance=judging.tie_tolerance,
        margin=judging.margin,
        noise_floor=evidence.floor,
        likeness=_likenesses(scores, by_image),
        warnings=(*evidence.doubts, *found, *warnings),
    )
    judged = "adherence" in judging.all_metrics
    beside = [
        *_beside(verdict.pick, evidence, kind, judged),
        *_passed_over(verdict, evidence, kind),
        *_foreseen(verdict, evidence, kind),
    ]
    return Study(
        kind=kind,
        title=title,
        rank_by=judging.rank_by,
        better=better,
        metrics=judging.all_metrics,
        scores=tuple(scores),
        summaries=summaries,
        verdict=replace(verdict, sentences=(*verdict.sentences, *beside)),
        tie_tolerance=judging.tie_tolerance,
        margin=margin,
        evidence=evidence,
        run=run,
    )


def _likenesses(
    scores: Sequence[Score], by_image: Mapping[str, Measured]
) -> dict[Candidate | None, float]:
    """How alike each candidate's pictures are, and under None the controls."""
    from analysers.overcooking import likeness

    thumbnails: dict[Candidate | None, list[Pixels]] = {}
    for score in scores:
        result = by_image.get(score.image)
        if result is not None and result.pixels:
            thumbnails.setdefault(score.candidate, []).append(result.thumbnail)
    return {c: likeness(images) for c, images in thumbnails.items() if len(images) > 1}


def _beside(
    pick: Candidate | None, evidence: Evidence, kind: Kind, judged: bool
) -> Iterator[Sentence]:
    """What training pictures and the leak test say of the recommended, or else the first; `judged`
    is whether its content was, too."""
    if pick is None:
        return
    own = {
        name: row
        for name in ("likeness", "by_heart", "leak")
        if (section := getattr(evidence, name)) is not None
        for row in section.rows
        if row["candidate"] == plain(pick)
    }
    which = named(pick, kind)
    if "likeness" in own:
        row = own["likeness"]
        text = f"Likeness of {which} to the training pictures: {row['likeness']:.2f} (95 % "
        text += f"interval {row['low']:.2f} to {row['high']:.2f}), from 0 without the LoRA to 1 as "
        text += "it could be"
        if "by_heart" in own:
            known = own["by_heart"]["low"] > 0
            text += f"; it {'knows' if known else 'does not surely know'} them by heart"
        values = {name: row[name] for name in ("likeness", "low", "high")}
        yield say("why", "likeness", f"{text}.", [pick], **values)
        if not judged:
            text = "Likeness does not say whether a picture still shows its prompt; the metric "
            yield say("why", "content", f"{text}adherence would, and was not asked.", [pick])
    if "leak" in own:
        row = own["leak"]
        share, low, high = (100 * row[name] for name in ("without trigger", "low", "high"))
        text = f"Without its trigger word {which} keeps {share:.0f} % of its effect (95 % "
        text += f"interval {low:.0f} to {high:.0f})."
        yield say("why", "leak", text, [pick], share=row["without trigger"])


def _passed_over(verdict: Verdict, evidence: Evidence, kind: Kind) -> Iterator[Sentence]:
    """Why settings of the full grid were not looked at."""
    unseen = dict(evidence.race.unseen) if evidence.race else {}
    if verdict.pick is None or not unseen:
        return
    words = {
        "beyond": "beyond what breaks",
        "less": f"with less effect than {named(verdict.pick, kind)}",
        "more": "with more that will hardly be clean",
        "beside": "beside settings that are less like the references",
    }
    told = [f"{unseen[why]} {text}" for why, text in words.items() if unseen.get(why)]
    text = f"Not looked at: {', '.join(told)}."
    yield say("how", "unseen", text, (), **unseen)


def _foreseen(verdict: Verdict, evidence: Evidence, kind: Kind) -> Iterator[Sentence]:
    """How likely all pictures would recommend the same."""
    race = evidence.race
    if race is None or verdict.recommended is None or race.sure is None:
        return
    if race.asked < race.cells:
        some = race.over_budget or kind == "plane" and race.unseen
        which = "all pictures of the settings looked at" if some else "all pictures"
        text = f"With {which} the recommendation would be the same with a chance of about "
        yield say("how", "sure", f"{text}{race.sure:.0%}.".replace("%", " %"), (), sure=race.sure)


def _trust(results: Sequence[Measured], rank_by: str) -> TrustResult | None:
    """Whether the ranked metric noticed that the user's own controls were degraded."""
    from analysers.trust import judge

    scores = {r.pixels: r.ladders for r in results if r.ladders}
    if not scores:
        return None
    metric = declared(rank_by)
    return judge(list(scores.values()), better=metric.better or "lower", name=metric.label)


def write(study: Study, out: Path) -> Path:
    """Write run.json and study.json into the run folder; return study.json's path."""
    write_result(out / "run.json", study.run.to_json())
    write_result(out / "study.json", to_json(study))
    return out / "study.json"
