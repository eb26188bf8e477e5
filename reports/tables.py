"""A study as tables: CSV and pandas frames, Markdown for a model card, plain text for a terminal.

The CSV dialect: UTF-8, commas, `\\n` line ends, fields quoted where RFC 4180 asks for it. Floats
are written with the fewest significant digits that read back as the same double, so a file is the
same on every machine and survives a round trip. A missing number is an empty field.

Prompts, file names and reasons may come from other people's files, and spreadsheets run a cell that
starts with `=`, `+`, `-` or `@` as a formula. Such a *text* cell gets one leading apostrophe, which
`read_scores` and `read_summary` take off again; numbers are never touched.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysers.metrics.metric import declared, declared_by_summary
from analysers.phrases import GLOSSARY, listed
from analysers.study import Candidate, Interval, RunRecord, Study, Summary
from generation.cells import strength_text
from generation.folder import write_result
from generation.samplers import shown_sampler
from reports.votes import people

if TYPE_CHECKING:
    import pandas as pd

SCORES_FIRST = (
    "checkpoint",
    "epoch",
    "step",
    "strength",
    "prompt",
    "seed",
    "image",
    "control",
    "ssim",
    "brisque",
    "status",
    "reason",
    "role",
    "case",
)
SUMMARY_FIRST = (
    "rank",
    "checkpoint",
    "epoch",
    "step",
    "strength",
    "n",
    "brisque_mean",
    "brisque_low",
    "brisque_high",
    "ssim_mean",
    "tied",
    "best",
    "diff_best_low",
    "diff_best_high",
    "diff_control_low",
    "diff_control_high",
    "p_best",
    "safe",
    "contender",
    "recommended",
)
INTEGERS = ("epoch", "step", "seed", "rank", "n")
TEXTS = ("checkpoint", "prompt", "image", "control", "status", "reason", "role", "case", "state")
BOOLEANS = ("tied", "best", "safe", "contender", "recommended")

_FORMULA = re.compile(r"^'*[=+\-@\t\r]")
_GUARDED = re.compile(r"^'+[=+\-@\t\r]")


def label(metric: str) -> str:
    """A metric's or a summary's name as people write it: "brisque" -> "BRISQUE"."""
    declaration = declared_by_summary(metric)
    return declaration.summary_label if metric == declaration.summary else declaration.label


@dataclass(frozen=True)
class Rows:
    """A table: rows with a value for each of `columns`, None or NaN where there is none."""

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        return _typed(pd.DataFrame(list(self.rows), columns=list(self.columns), dtype=object))

    def csv_text(self) -> str:
        """The table in the dialect described above."""
        lines = [",".join(map(_quoted, self.columns))]
        texts = [(name, _writer(name)) for name in self.columns]
        lines += (",".join(text(row[name]) for name, text in texts) for row in self.rows)
        return "\n".join(lines) + "\n"


def scores_frame(study: Study) -> pd.DataFrame:
    """One row per picture, controls included (`role` says which), in the study's order."""
    return scores_rows(study).frame()


def summary_frame(study: Study) -> pd.DataFrame:
    """One row per candidate, in rank order, those that could not be ranked last."""
    return summary_rows(study).frame()


def scores_rows(study: Study) -> Rows:
    """What `scores_frame` holds, without pandas."""
    names = dict.fromkeys((*study.metrics, *(m for s in study.scores for m in s.values)))
    extra = [m for m in names if m not in SCORES_FIRST]
    rows = []
    for score in study.scores:
        row = {
            **_place(score.candidate),
            "prompt": score.prompt,
            "seed": score.seed,
            "image": score.image,
            "control": score.control,
            "status": score.status,
            "reason": score.reason,
            "role": "control" if score.candidate is None else "candidate",
            "case": score.case,
        }
        for metric in ("ssim", "brisque", *extra):
            row[metric] = score.values.get(metric, math.nan)
        rows.append(row)
    return Rows((*SCORES_FIRST, *extra), rows)


def summary_rows(study: Study) -> Rows:
    """What `summary_frame` holds, without pandas."""
    known = dict.fromkeys(
        (
            *(declared(m).summary for m in study.metrics),
            *(m for s in study.summaries for m in s.metrics),
        )
    )
    others = [m for m in known if m not in ("brisque", "ssim")]
    more = ["ssim_low", "ssim_high"]
    more += [column for m in others for column in _columns(m)]
    rows = []
    for summary in study.summaries:
        row: dict[str, Any] = {
            **_place(summary.candidate),
            "rank": summary.rank,
            "n": summary.n,
            "tied": summary.tied,
            "best": summary.best,
            "recommended": summary.candidate == study.verdict.recommended,
            "diff_best_low": summary.diff_best.low,
            "diff_best_high": summary.diff_best.high,
            "diff_control_low": summary.diff_control.low,
            "diff_control_high": summary.diff_control.high,
            "p_best": summary.p_best,
            "safe": summary.safe,
            "contender": summary.contender,
            "reason": summary.reason,
            "state": summary.state,
        }
        for metric in ("brisque", "ssim", *others):
            interval = summary.metrics.get(metric, Interval(math.nan))
            row |= zip(_columns(metric), (interval.mean, interval.low, interval.high), strict=True)
        rows.append(row)
    return Rows((*SUMMARY_FIRST, *more, "reason", "state"), rows)


def write_tables(study: Study, folder: Path) -> tuple[Path, Path]:
    """Write `scores.csv` and `summary.csv` into `folder`, each whole or not at all."""
    folder = Path(folder)
    paths = (folder / "scores.csv", folder / "summary.csv")
    for path, table in zip(paths, (scores_rows(study), summary_rows(study)), strict=True):
        write_result(path, table.csv_text().encode("utf-8", "backslashreplace"))
    return paths


def read_scores(path: Path) -> pd.DataFrame:
    """`scores.csv` as `scores_frame` made it: same columns, types and text."""
    return _read(path)


def read_summary(path: Path) -> pd.DataFrame:
    """`summary.csv` as `summary_frame` made it: same columns, types and text."""
    return _read(path)


def markdown(study: Study) -> str:
    """A summary to paste into a model card: the answer, its evidence, the ranked table."""
    lines = [f"## {_md(study.title) or 'LoRA study'}", "", f"**{_md(study.verdict.answer)}**", ""]
    if study.verdict.arguments:
        lines += [" ".join(_md(s) for s in study.verdict.arguments), ""]
    if people(study):
        lines += [_md(people(study)), ""]
    lines += [f"> ⚠ {_md(w)}\n" for w in study.verdict.warnings]
    heads, rows = ranked(study)
    lines += ["| " + " | ".join(heads) + " |", "|" + " ---: |" * (len(heads) - 1) + " --- |"]
    for summary, row in zip(study.summaries, rows, strict=True):
        cells = [_md(cell) if i in (1, len(row) - 1) else cell for i, cell in enumerate(row)]
        if summary.candidate == study.verdict.pick:
            cells = [f"**{cell}**" if cell else cell for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    direction = "lower" if study.better == "lower" else "higher"
    lines += ["", f"_{label(study.rank_by)}: {direction} is better. SSIM: likeness to the picture"]
    lines[-1] += " without the LoRA; 1 is identical._"
    return "\n".join(lines) + "\n"


def ranked(study: Study) -> tuple[list[str], list[list[str]]]:
    """The ranked table in short, as texts: its headings, and a row per summary."""
    metric = study.rank_by
    shown = [metric] + [m for m in ("brisque", "ssim") if m != metric and m in study.metrics]
    heads = ["rank", _axis_name(study), "pictures"]
    heads += [label(metric) + " (95 % interval)", *(label(m) for m in shown[1:]), "notes"]
    rows = []
    for summary in study.summaries:
        others = (summary.metrics.get(m) for m in shown[1:])
        rows.append(
            [
                "–" if summary.rank is None else str(summary.rank),
                summary.candidate.heading(study.kind),
                str(summary.n),
                interval_text(summary.metrics.get(metric)),
                *(_number(None if one is None else one.mean) for one in others),
                "; ".join(notes(study, summary)),
            ]
        )
    return heads, rows


def terminal_table(study: Study, width: int = 80) -> str:
    """The ranked table as aligned plain text of at most `width` columns, then what its words mean.

    On the plane checkpoint and strength have a column each. Notes are wrapped under their own
    column rather than cut, so a reason is always whole; below `NARROW` columns intervals are left
    out.
    """
    metric = study.rank_by
    second = "brisque" if metric == "ssim" else "ssim"
    plane = study.kind == "plane"
    names = ["checkpoint", "strength"] if plane else [_axis_name(study)]
    heads = ["rank", *names, label(metric), "95 % interval", label(second)]
    rows = []
    for summary in study.summaries:
        interval = summary.metrics.get(metric, Interval(math.nan))
        other = summary.metrics.get(second)
        rows.append(
            (
                [
                    "-" if summary.rank is None else str(summary.rank),
                    *map(one_line, _named(summary.candidate, study)),
                    _number(interval.mean) or "-",
                    f"{_number(interval.low)} to {_number(interval.high)}"
                    if math.isfinite(interval.low) and math.isfinite(interval.high)
                    else "-",
                    (_number(other.mean, 3) if other else "") or "-",
                ],
                [one_line(note) for note in notes(study, summary)],
            )
        )
    # A column that says nothing (no interval with one case, no SSIM) is left out.
    fixed = 2 + len(names)
    keep = [i for i in range(len(heads)) if i < fixed or any(c[i] != "-" for c, _ in rows)]
    if width < NARROW:
        keep = [i for i in keep if i != fixed]
    setting_room = max(8, width - 48)
    lines = []
    sizes = []
    for i in keep:
        size = max([_wide(heads[i]), *(_wide(cells[i]) for cells, _ in rows)])
        sizes.append(min(size, setting_room) if i == 1 else size)
    indent = sum(sizes) + 2 * len(sizes)
    room = max(12, width - indent)
    for cells, remarks in [(heads, ["notes"]), *rows]:
        text = "  ".join(
            _fit(cells[i], size, left=i == 1) for i, size in zip(keep, sizes, strict=True)
        )
        wrapped = _wrap(", ".join(remarks), room)
        lines.append((text + "  " + wrapped[0]).rstrip())
        lines += [" " * indent + more for more in wrapped[1:]]
    lines.insert(1, "-" * min(width, max(map(_wide, lines))))
    better = "Lower" if study.better == "lower" else "Higher"
    key = f"{better} {label(metric)} is better."
    if any(c[-1] != "-" for c, _ in rows):
        key += (
            " SSIM compares with the picture without the LoRA: 1 is identical, less is more effect."
            if second == "ssim"
            else ""
        )
    said = {remark for _, remarks in rows for remark in remarks}
    key += "".join(f" {word.capitalize()}: {GLOSSARY[word]}" for word in _KEY if word in said)
    return "\n".join([*lines, "", *_wrap(key, width)]) + "\n"


NARROW = 70

_KEY = ("tied", "unsure")


def _named(candidate: Candidate, study: Study) -> tuple[str, ...]:
    """The candidate's heading, on the plane as checkpoint and strength."""
    if study.kind != "plane":
        return (candidate.heading(study.kind),)
    strength = "-" if candidate.strength is None else strength_text(candidate.strength)
    return candidate.heading("epochs"), strength


def notes(study: Study, summary: Summary) -> list[str]:
    """What is to be said about a candidate, most important first: "recommended", "clean" ..."""
    verdict = study.verdict
    found = []
    extreme = "lowest" if study.better == "lower" else "highest"
    if verdict.recommended == summary.candidate:
        found.append("recommended")
    if summary.best:
        found.append(f"{extreme} {label(study.rank_by)}")
    elif summary.tied or (
        summary.contender and not summary.beyond and verdict.confidence != "none"
    ):
        found.append("tied")
    if verdict.strongest_clean == summary.candidate and study.kind == "strength":
        found.append("strongest clean")
    elif verdict.breakdown == summary.candidate:
        found.append("breakdown")
    elif summary.safe is True:
        found.append("clean")
    elif summary.unscored:
        pass  # its reason says it
    elif summary.state == "broken":
        found.append("broken")
    elif summary.beyond:
        found.append("beyond the breakdown")
    elif summary.state == "unsure" and "one_case" not in verdict.why:
        found.append("unsure")
    found += _doubts(study, summary.candidate)
    if verdict.plateau == summary.candidate and study.kind == "epochs":
        found.append("effect has levelled off")
    if summary.reason:
        found.append(summary.reason)
    if study.evidence.race and summary.n < max(one.n for one in study.summaries):
        found.append(f"{summary.n} case{'s' * (summary.n != 1)}")
    return found


def _doubts(study: Study, candidate: Candidate) -> list[str]:
    """What the other metrics say against a candidate: those that a sentence only counts are told
    here."""
    verdict = study.verdict
    signs = [s for s in verdict.sentences if s.code == "second_opinion"]
    found = ["signs of over-cooking"] if any(candidate in s.candidates for s in signs) else []
    out = [
        label(one.name)
        for one in verdict.criteria
        if one.name != study.rank_by and candidate not in one.inside and candidate.strength != 0
    ]
    found += [f"out of range in {listed(out)}"] if out else []
    found += ["surpassed by none in all"] if candidate in verdict.front else []
    return found


def shared_settings(run: RunRecord) -> list[tuple[str, str]]:
    """What the pictures share, named as A1111 names it, for the text that reproduces one."""
    given = (run.settings or {}).items()
    found: dict[str, Any] = {k: v for k, v in given if isinstance(v, (str, int, float))}
    if isinstance(found.get("sampler"), str):
        found["sampler"] = shown_sampler(found["sampler"])
    if "width" in found and "height" in found:
        found["size"] = f"{found['width']}x{found['height']}"
    # A1111 shows ten digits of a checkpoint's hash, and counts CLIP's layers from 1.
    found["model_hash"] = str(found.get("model_hash") or "")[:10]
    skipped = found.get("clip_skip")
    found["clip_skip"] = skipped + 1 if skipped and isinstance(skipped, int) else ""
    return [
        (title, f"{found[key]:g}" if isinstance(found[key], float) else str(found[key]))
        for key, title in _A1111.items()
        if found.get(key, "") not in ("", None)
    ]


_A1111 = {
    "steps": "Steps",
    "sampler": "Sampler",
    "guidance_scale": "CFG scale",
    "size": "Size",
    "model_hash": "Model hash",
    "model": "Model",
    "clip_skip": "Clip skip",
}


def used_loras(run: RunRecord) -> list[str]:
    """The file names of the LoRAs under study."""
    return [lora.file for lora in run.loras or ()]


def about(study: Study) -> str:
    """What the pictures were made with, in a line: LoRA, base model, settings."""
    loras = used_loras(study.run)
    said = [f"{loras[0]} and {len(loras) - 1} more" if len(loras) > 2 else ", ".join(loras)]
    said += [f"{key}: {value}" for key, value in shared_settings(study.run)]
    return one_line(" · ".join(text for text in said if text))


def interval_text(interval: Interval | None, digits: int = 2) -> str:
    """ "23.41 [21.90, 24.80]", without the bracket where there are no bounds, "" for NaN."""
    if interval is None or not math.isfinite(interval.mean):
        return ""
    text = _number(interval.mean, digits)
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        text += f" [{_number(interval.low, digits)}, {_number(interval.high, digits)}]"
    return text


def _place(candidate: Candidate | None) -> dict[str, Any]:
    if candidate is None:
        return {"checkpoint": "", "epoch": None, "step": None, "strength": None}
    strength = candidate.strength
    return {
        "checkpoint": candidate.checkpoint,
        "epoch": candidate.epoch,
        "step": candidate.step,
        "strength": None if strength is None else float(strength_text(strength)),
    }


def _columns(summary: str) -> tuple[str, str, str]:
    """The columns of a summary and its bounds; a ratio or a change is not called a mean."""
    plain = declared_by_summary(summary).aggregate == "mean"
    return (f"{summary}_mean" if plain else summary, f"{summary}_low", f"{summary}_high")


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    typed: pd.DataFrame = frame.astype({name: _dtype(name) for name in frame.columns})
    return typed


def _dtype(column: str) -> str:
    if column in TEXTS:
        return "object"
    if column in INTEGERS:
        return "Int64"
    return "boolean" if column in BOOLEANS else "float64"


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    # keep_default_na would turn the prompts "NA" and "null" into missing values.
    frame = pd.read_csv(
        path,
        dtype=str,
        keep_default_na=False,
        na_filter=False,
        encoding="utf-8",
        lineterminator="\n",
        engine="c",
    )
    columns: dict[str, list[object]] = {}
    for name in frame.columns:
        texts = frame[name].tolist()
        if name in TEXTS:
            columns[name] = [t[1:] if _GUARDED.match(t) else t for t in texts]
        elif name in BOOLEANS:
            columns[name] = [None if t == "" else t == "True" for t in texts]
        elif name in INTEGERS:
            columns[name] = [None if t == "" else int(t) for t in texts]
        else:
            columns[name] = [math.nan if t == "" else float(t) for t in texts]
    return _typed(pd.DataFrame(columns, columns=list(frame.columns), dtype=object))


def _writer(column: str) -> Callable[[Any], str]:
    """How the column's values are written."""
    if column in TEXTS:
        return _guarded
    if column in INTEGERS:
        return lambda value: "" if value is None else str(int(value))
    if column in BOOLEANS:
        return lambda value: "" if value is None else str(bool(value))
    return _shortest


def _guarded(value: str) -> str:
    return _quoted("'" + value if _FORMULA.match(value) else value)


def _shortest(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _quoted(text: str) -> str:
    if any(mark in text for mark in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _axis_name(study: Study) -> str:
    return "strength" if study.kind == "strength" else "setting"


def _md(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no table cell ended early."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", one_line(text))


def one_line(text: str) -> str:
    """Text without line breaks, escape sequences or controls that could re-order a terminal."""
    return "".join(
        " " if c.isspace() else f"<U+{ord(c):04X}>" if _hidden(c) else c for c in text
    ).strip()


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI


_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _wide(text: str) -> int:
    """Columns that a terminal uses: East Asian wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _fit(text: str, size: int, *, left: bool) -> str:
    if _wide(text) > size:
        while text and _wide(text) > size - 1:
            text = text[:-1]
        text += "…"
    pad = " " * (size - _wide(text))
    return text + pad if left else pad + text


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]
