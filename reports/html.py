"""One study in, one page out: `report.html` opens from disk, offline, in any current browser.

The page is built from `Page`, a record of plain values, by an autoescaping jinja2 template. Its
script and style sheet are inline and the Content-Security-Policy allows exactly those, by hash, and
pictures; nothing else loads or runs. What the script needs lies in a JSON block.

Format of the JSON block (`#study`): candidates in grid order, cases in study order, addresses in
`pictures` (the first is "no picture"), and
`cells[candidate][case] = [picture, status, reason, [values...], control, map]`, or 0, where
`picture`, `control` and `map` (of SSIM against the control) index `pictures`; a `control` of 0
means that of the case, a `map` of 0 that none was written. `thumbs[i]` is `pictures[i]` as a data
URI, in studies of up to `MOST_THUMBS` pictures: only those can be drawn into one picture to save.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from analysers.argument import Side, argument
from analysers.metrics.metric import declared
from analysers.phrases import GLOSSARY
from analysers.study import (
    NOT_RENDERED,
    Candidate,
    Copy,
    Evidence,
    Interval,
    Score,
    Study,
    Summary,
)
from generation.cells import strength_text
from generation.folder import write_result
from generation.records import plain
from reports import pictures, plots
from reports.tables import interval_text, label, notes, shared_settings, used_loras, write_tables
from reports.votes import people, votes_table

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_PAIRS = 4
MOST_THUMBS = 400
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Chip:
    """One figure of the answer in a few words."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Pair:
    """One of the pick's pictures beside its control; `case` indexes the grid."""

    case: int
    prompt: str
    seed: str
    control: str | None
    picked: str | None


@dataclass(frozen=True)
class Row:
    """One line of the ranked table. `bar` is (low, mean, high) on a scale of 0 to 100."""

    rank: str
    heading: str
    place: str
    n: str
    metric: str
    bar: tuple[float, float, float] | None
    cells: tuple[str, ...]
    p_best: str
    notes: str
    tone: str
    index: int


@dataclass(frozen=True)
class Reasons:
    """What speaks for the answer, say: cautions and sentences that are shown, and `more` of both
    that fold."""

    title: str
    cautions: tuple[str, ...]
    sentences: tuple[str, ...]
    more: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    title: str
    question: str
    headline: str
    reason: str
    argument: tuple[Reasons, ...]
    warnings: int
    chips: tuple[Chip, ...]
    people: str
    hero: plots.Plot | None
    pick: str
    pick_index: int
    pairs: tuple[Pair, ...]
    shape: str
    plots: tuple[plots.Plot, ...]
    equal_effect: tuple[tuple[str, str], ...]
    metric: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str, str], ...]
    more_failures: int
    evidence: tuple[tuple[str, str, Any], ...]
    copies: tuple[Copy, ...]
    votes: Any
    run: Any
    counts: str
    glossary: Mapping[str, str]
    data: str
    policy: str = ""
    style: str = ""
    script: str = ""


def write_report(
    study: Study,
    folder: Path,
    *,
    single_file: bool = False,
    announce: Callable[[str], object] | None = None,
    name: str = "report.html",
    also: Sequence[Path] = (),
) -> Path:
    """Write the report of `study` to `folder/name`, whole or not at all, and return its path.

    Only pictures inside `folder`, or in the folders and files of `also`, are shown.
    They stay beside the page; with `single_file` thumbnails of them go inside, and `announce`
    is told the size beforehand when it will pass 50 MB.
    """
    folder = Path(folder)
    study = pictures.only_inside(study, folder, also)
    if single_file:
        size = pictures.estimate_single_file(study, folder)
        if size > pictures.ANNOUNCE_ABOVE and announce:
            announce(
                f"The single-file report will take about {size / 1e6:.0f} MB; "
                "pictures kept beside the page would leave it small."
            )
    path = folder / name
    text = render(build(study, folder, single_file=single_file))
    write_result(path, text.encode("utf-8", "backslashreplace"))
    return path


def publish(
    study: Study,
    folder: Path,
    *,
    single_file: bool = False,
    announce: Callable[[str], object] | None = None,
    also: Sequence[Path] = (),
) -> Path:
    """Write the tables and the report into the run folder; return the report's path."""
    write_tables(study, folder)
    return write_report(study, folder, single_file=single_file, announce=announce, also=also)


def render(page: Page) -> str:
    """The page as HTML."""
    return fill("report.html.j2", page=page)


def style_sheet() -> tuple[str, str]:
    """The report's style sheet, and what the Content-Security-Policy says of it."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return style, f"style-src '{_digest(style)}'"


def fill(template: str, **values: Any) -> str:
    """A template with its values, as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["figure"] = _figure
    environment.filters["terms"] = terms
    environment.filters["typed"] = lambda words: visible(shlex.join(map(str, words)))
    environment.filters["columns"] = _columns
    environment.filters["words"] = _key
    return environment.get_template(template).render(**values)


def build(study: Study, folder: Path, *, single_file: bool = False, new_maps: bool = True) -> Page:
    """The study as page data; reads the pictures only when they go inside.

    Writes SSIM maps into the folder, but for a single file and without `new_maps`.
    """
    table = pictures.arrange(study)
    addresses = _addresses(study, folder, single_file)
    maps: dict[tuple[str, str], str] = {}
    thumbs: dict[str, str] = {}
    if not single_file:
        small = addresses if len(addresses) <= MOST_THUMBS else ()
        maps, thumbs = pictures.write_views(study, table, folder, small, new=new_maps)
    style, style_source = style_sheet()
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    best = study.verdict.pick
    index = {c: i for i, c in enumerate(table.candidates)}
    width, height = _size(table, folder)
    failed = [
        s for s in study.scores if (s.status != "ok" or s.reason) and s.reason != NOT_RENDERED
    ]
    columns = _shown_metrics(study)
    return Page(
        title=study.title or "LoRA study",
        question={
            "strength": "Which strength?",
            "epochs": "Which checkpoint?",
            "plane": "Which checkpoint, at which strength?",
        }[study.kind],
        headline=_headline(study),
        reason=_reason(study),
        argument=tuple(_argument(study)),
        warnings=len(study.verdict.warnings),
        chips=tuple(_chips(study)),
        people=people(study),
        hero=plots.hero(study),
        pick=best.heading(study.kind) if best else "",
        pick_index=index.get(best, -1) if best else -1,
        pairs=tuple(_pairs(study, table, folder, single_file)) if best else (),
        shape="broad" if width > 1.8 * height else "tall" if height > 1.6 * width else "",
        plots=tuple(plots.draw_all(study)),
        equal_effect=tuple(plots.equal_effect(study)),
        metric=label(study.rank_by),
        columns=tuple(map(label, columns)),
        rows=tuple(_rows(study, columns, index)),
        failures=tuple(
            (
                "control" if s.candidate is None else s.candidate.heading(study.kind),
                _short(s.prompt, 120) + ("" if s.seed is None else f" · seed {s.seed}"),
                s.reason or s.status,
            )
            for s in failed[:200]
        ),
        more_failures=max(0, len(failed) - 200),
        evidence=tuple(_evidence(study.evidence)),
        copies=tuple(_copies(study.evidence)),
        votes=votes_table(study),
        run={k: v for k, v in plain(study.run).items() if k not in ("request", "format")},
        counts=_counts(table),
        glossary=GLOSSARY,
        data=_json(_data(study, table, addresses, width / height, maps, thumbs, folder)),
        policy=(
            "default-src 'none'; base-uri 'none'; form-action 'none'; "
            + ("img-src data:" if single_file else "img-src 'self' file: data:")
            + f"; script-src '{_digest(script)}'; {style_source}"
        ),
        style=style,
        script=script,
    )


def _shown_metrics(study: Study) -> list[str]:
    """The columns of the ranked table beside the ranked metric; the signs have curves."""
    shown: list[str] = [m for m in ("brisque", "ssim") if m in study.metrics and m != study.rank_by]
    if any("colour_difference" in s.metrics for s in study.summaries):
        shown.append("colour_difference")
    rest = [m for m in study.metrics if m not in (study.rank_by, *shown)]
    summaries = [declared(m).summary for m in rest]
    return [*shown, *(name for name in summaries if name not in plots.SIGNS)]


def visible(text: object) -> str:
    """Text for display: controls, and marks that re-order a line, become visible names."""
    return _HIDDEN.sub(lambda m: f"⟨U+{ord(m.group()):04X}⟩", str(text))


_TERMS = {
    "ties?|tied": "tied",
    "clean": "clean",
    "broken": "broken",
    "breaks|breakdown": "breakdown",
    "unsure": "unsure",
    "controls?": "control",
    "cases?": "case",
    "settings?": "setting",
    "effect": "effect",
    "confidence": "confidence",
    "interval": "interval",
    **{word: word for word in ("BRISQUE", "SSIM", "signs of over-cooking", "Goldilocks zone")},
}
_TERM = re.compile(
    r"(?<![\w&#])(" + "|".join(f"(?:{words})" for words in _TERMS) + r")(&#39;s)?(?![\w;])"
)


def terms(text: object) -> Markup:
    """Text for display in which the first of each word of the glossary shows its meaning."""
    from markupsafe import Markup, escape

    seen = set()

    def marked(match: re.Match[str]) -> str:
        found = match.group()
        term = next(term for words, term in _TERMS.items() if re.fullmatch(words, match[1]))
        if term in seen:
            return found
        seen.add(term)
        return f'<button type="button" class="term" data-term="{term}">{found}</button>'

    return Markup(_TERM.sub(marked, str(escape(visible(text)))))


def _json(value: Any) -> str:
    """JSON that cannot end its script element, whatever the texts in it say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _addresses(study: Study, folder: Path, single_file: bool) -> dict[str, str]:
    """Each picture's path in the study -> what the page's `src` says ("" when unreadable)."""
    paths = list(dict.fromkeys(p for s in study.scores for p in (s.image, s.control) if p))
    if not single_file:
        return {p: pictures.address(p, folder) for p in paths}
    uris = pictures.data_uris([pictures.locate(p, folder) for p in paths])
    return {p: u or "" for p, u in zip(paths, uris, strict=True)}


def _size(table: pictures.Table, folder: Path) -> tuple[int, int]:
    for score in (*table.controls.values(), *table.cells.values()):
        size = pictures.size_of(pictures.locate(score.image, folder)) if score.image else None
        if size:
            return size
    return 1, 1


def _counts(table: pictures.Table) -> str:
    made = sum(bool(s.image) for s in table.cells.values())
    settings, cases = len(table.candidates), len(table.cases)
    return (
        f"{settings} setting{'s' * (settings != 1)} × {cases} case{'s' * (cases != 1)}, "
        f"{made} picture{'s' * (made != 1)}"
    )


def _headline(study: Study) -> str:
    """The answer, and of a run that goes on by how many pictures."""
    share = study.evidence.so_far
    if share is None:
        return study.verdict.headline
    return f"{share.words}: {study.verdict.headline}"


def _reason(study: Study) -> str:
    """The sentence after the headline; where nothing could be ranked, why most pictures failed."""
    if study.verdict.best is not None or not (
        failed := Counter(s.reason for s in study.scores if s.status == "failed" and s.reason)
    ):
        return "".join(study.verdict.texts("answer")[1:2])
    [(why, number)] = failed.most_common(1)
    many = "All pictures" if number == len(study.scores) else f"{number} of the pictures"
    if number == sum(s.candidate is not None for s in study.scores):
        many = "All pictures with the LoRA"
    return f"{many} failed: {_short(why.rstrip('.'), 200)}."


_SIDES: Mapping[Side, tuple[str, int]] = {
    "for": ("For it", 2),
    "against": ("Against it", 2),
    "unknown": ("Not known", 1),
    "how": ("How it was judged", 0),
}
"""Each side's title, and how many of its sentences are shown: cautions first, at least three."""

_MOST_CAUTIONS = 3


def _argument(study: Study) -> Iterator[Reasons]:
    """The sentences by side, few of each at once."""
    for part in argument(study.verdict):
        title, most = _SIDES[part.side]
        if study.verdict.recommended is None:  # then there is nothing to be for or against
            title = {"for": "What was found", "against": "Beware"}.get(part.side, title)
        cautions = part.cautions[:_MOST_CAUTIONS]
        shown = part.others[: max(0, most - len(cautions))]
        more = (*part.cautions[len(cautions) :], *part.others[len(shown) :])
        yield Reasons(title, cautions, shown, more)


def _chips(study: Study) -> list[Chip]:
    verdict, chips = study.verdict, []
    if verdict.strongest_clean:
        word = "latest" if study.kind == "epochs" else "strongest"
        where = verdict.strongest_clean.heading(study.kind)
        chips.append(Chip(f"{word} clean: {where}", "clean"))
    if verdict.breakdown:
        chips.append(Chip(f"breaks at {verdict.breakdown.heading(study.kind)}", "breaks"))
    if verdict.confidence != "none":
        chips.append(Chip(f"{verdict.confidence} confidence"))
    return chips


def _pairs(study: Study, table: pictures.Table, folder: Path, single_file: bool) -> list[Pair]:
    best = study.verdict.pick
    assert best is not None
    found = []
    # One case of each prompt before a second seed of any.
    seen: dict[str, int] = {}
    cases = []
    for i, case in enumerate(table.cases):
        cell = table.cells.get((best, case))
        if cell and cell.image:
            seen[cell.prompt] = seen.get(cell.prompt, 0) + 1
            cases.append((seen[cell.prompt], i, case, cell))
    for _, i, case, cell in sorted(cases, key=lambda c: c[:2])[:_MOST_PAIRS]:
        control = table.controls[case].image if case in table.controls else cell.control

        def show(path: str) -> str | None:
            if not path:
                return None
            if single_file:
                return pictures.data_uri(
                    pictures.locate(path, folder), pictures.LARGE_EDGE, quality=86
                )
            return pictures.address(path, folder)

        seed = "" if cell.seed is None else str(cell.seed)
        found.append(Pair(i, _short(cell.prompt, 300), seed, show(control), show(cell.image)))
    return found


def _rows(study: Study, columns: Sequence[str], index: Mapping[Candidate, int]) -> list[Row]:
    bounds = [
        value
        for s in study.summaries
        for i in [s.metrics.get(study.rank_by, Interval(math.nan))]
        for value in (i.low, i.mean, i.high)
        if math.isfinite(value)
    ]
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    room = (high - low) or 1.0
    rows = []
    for summary in study.summaries:
        interval = summary.metrics.get(study.rank_by, Interval(math.nan))
        bar = None
        if math.isfinite(interval.mean):
            ends = [v if math.isfinite(v) else interval.mean for v in (interval.low, interval.high)]
            scaled = [100 * (v - low) / room for v in (ends[0], interval.mean, ends[1])]
            bar = (round(scaled[0], 2), round(scaled[1], 2), round(scaled[2], 2))
        candidate = summary.candidate
        rows.append(
            Row(
                rank="–" if summary.rank is None else str(summary.rank),
                heading=candidate.heading(study.kind),
                place=candidate.checkpoint,
                n=str(summary.n),
                metric=interval_text(interval),
                bar=bar,
                cells=tuple(
                    interval_text(Interval(summary.metrics[m].mean), 3)
                    if m in summary.metrics
                    else ""
                    for m in columns
                ),
                p_best="" if not math.isfinite(summary.p_best) else f"{summary.p_best:.0%}",
                notes=", ".join(notes(study, summary)),
                tone="best"
                if candidate == study.verdict.pick
                else "breaks"
                if summary.beyond or summary.rank is None
                else "",
                index=index.get(candidate, -1),
            )
        )
    return rows


def _data(
    study: Study,
    table: pictures.Table,
    addresses: Mapping[str, str],
    ratio: float,
    maps: Mapping[tuple[str, str], str],
    thumbs: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    """The JSON block that the page's script reads."""
    metrics = list(dict.fromkeys([*study.metrics, *(m for s in study.scores for m in s.values)]))
    by_candidate = {s.candidate: s for s in study.summaries}
    known = ["", *addresses.values(), *maps.values()]
    number = {path: i for i, path in enumerate(addresses, 1)}
    number[""] = 0
    mapped: dict[Any, int] = {pair: i for i, pair in enumerate(maps, 1 + len(addresses))}
    prompts: dict[str, int] = {}
    cases = _cases(study, table, number, prompts, metrics, folder)
    controls = {case: c["path"] for case, c in zip(table.cases, cases, strict=True)}
    cells = [
        [
            _cell(table.cells.get((c, case)), controls[case], number, mapped, metrics)
            for case in table.cases
        ]
        for c in table.candidates
    ]
    return {
        "format": 1,
        "kind": study.kind,
        "title": study.title,
        "rankBy": study.rank_by,
        "better": study.better,
        "ratio": round(ratio, 4),
        "metrics": [[m, label(m)] for m in metrics],
        "pictures": known,
        "prompts": list(prompts),
        "candidates": [_candidate(study, c, by_candidate.get(c)) for c in table.candidates],
        "cases": cases,
        "cells": cells,
        "settings": shared_settings(study.run),
        "loras": used_loras(study.run),
        "command": shlex.join(study.run.command or ()),
        "thumbs": [thumbs.get(path, "") for path in ("", *addresses)] if thumbs else [],
        "glossary": dict(GLOSSARY),
        "answer": study.verdict.answer,
        "recommended": study.verdict.recommended is not None,
    }


def _cases(
    study: Study,
    table: pictures.Table,
    number: Mapping[str, int],
    prompts: dict[str, int],
    metrics: Sequence[str],
    folder: Path,
) -> list[dict[str, Any]]:
    """A record per case; `prompts` takes each prompt's place in the list of all."""
    cases = []
    for case in table.cases:
        control = table.controls.get(case)
        row = control or next(s for s in study.scores if s.case == case)
        picture = control.image if control else row.control
        cases.append(
            {
                "name": case,
                "prompt": prompts.setdefault(row.prompt, len(prompts)),
                "seed": row.seed,
                "control": number[picture],
                "path": picture,
                "reason": control.reason if control else "",
                "values": _values(control, metrics),
            }
        )
    # What else belongs to the case: run.json knows it where the pictures were rendered.
    for one in study.run.cases or ():
        if one.name not in table.cases:
            continue
        of = cases[table.cases.index(one.name)]
        if one.negative:
            of["negative"] = one.negative
        if edited := pictures.edited(one, folder):
            of["edited"] = edited
    return cases


def _cell(
    score: Score | None,
    control: str,
    number: Mapping[str, int],
    mapped: Mapping[tuple[str, str], int],
    metrics: Sequence[str],
) -> Any:
    """A cell of the grid, whose case has that control; 0 where there is no picture."""
    if score is None:
        return 0
    return [
        number[score.image],
        score.status,
        score.reason,
        _values(score, metrics),
        number[score.control] if score.control and score.control != control else 0,
        mapped.get((score.image, score.control or control or ""), 0),
    ]


def _candidate(study: Study, candidate: Candidate, summary: Summary | None) -> dict[str, Any]:
    mean = summary.metrics.get(study.rank_by, Interval(math.nan)).mean if summary else math.nan
    return {
        "heading": candidate.heading(study.kind),
        "checkpoint": candidate.checkpoint,
        "where": candidate.where,
        "lora": PurePosixPath(candidate.checkpoint.replace("\\", "/")).stem,
        "epoch": candidate.epoch,
        "step": candidate.step,
        "strength": None if candidate.strength is None else strength_text(candidate.strength),
        "place": candidate.place,
        "rank": summary.rank if summary else None,
        "mean": _finite(mean),
        "effect": _finite(summary.effect if summary else math.nan),
        "recommended": candidate == study.verdict.pick,
        "tied": bool(summary and (summary.contender or summary.best) and not summary.beyond),
        "clean": bool(summary and summary.safe),
        "hash": candidate.tensor_hash,
        "broken": bool(summary and summary.beyond),
        "settled": any(
            sentence.code == "settled" and candidate in sentence.candidates
            for sentence in study.verdict.sentences
        ),
        "notes": ", ".join(notes(study, summary)) if summary else "",
    }


def _evidence(evidence: Evidence) -> list[tuple[str, str, Any]]:
    """The evidence sections as (name, sentence, the rest), without what only a program reads."""
    sections = []
    for name, value in plain(evidence).items():
        # Votes have a place of their own; of the weights the curves show the rest.
        if name in ("votes", "so_far"):
            continue
        if name == "weights":
            value.pop("rows")
        if name == "noise":
            value = value["floor"] and {**value["floor"], "sentence": _NOISE}
        if not value:
            continue
        for part in ("rows", "pictures"):  # the candidates' headings say enough
            if isinstance(value.get(part), list):
                value[part] = [_without(row, "candidate", "side_by_side") for row in value[part]]
        sentence = str(value.pop("sentence", "") or value.pop("reason", ""))
        sections.append((name, sentence.replace("(tau ", "(agreement "), value))  # as in 0.1.0
    return sections


_NOISE = (
    "Controls rendered a second time: by how much two renders of the same picture differ. Smaller "
    "differences than these mean nothing."
)


def _copies(evidence: Evidence) -> list[Copy]:
    """The copies that are shown; a source that is none of ours is left out."""
    ours = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
    found = evidence.copies.pictures if evidence.copies else ()
    return [copy for copy in found if ours.fullmatch(copy.side_by_side)]


def _without(row: Any, *names: str) -> Any:
    return {k: v for k, v in row.items() if k not in names} if isinstance(row, Mapping) else row


def _values(score: Score | None, metrics: Sequence[str]) -> list[float | None]:
    if score is None:
        return []
    return [_finite(score.values.get(m, math.nan)) for m in metrics]


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _figure(value: Any) -> str:
    """A value of an evidence section as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plots.figure_text(value, 3) or "–"
    return visible(value)


_KEYS = {
    "tau": "agreement",
    "kendall_tau": "agreement",
    "ladders": "damaged copies, by kind",
    "decides": "counts",
    "brisque": "BRISQUE",
    "ssim": "SSIM",
}


def _key(text: object) -> str:
    """A key of an evidence section as people read it."""
    return _KEYS.get(str(text)) or visible(str(text).replace("_", " "))


_EMPTY: tuple[Any, ...] = (None, "", [], ())


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of the rows that any of them has something under."""
    return list(dict.fromkeys(k for row in rows for k, value in row.items() if value not in _EMPTY))
