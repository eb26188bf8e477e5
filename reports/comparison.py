"""Two renderers held against each other: a page in the report's dress, a table, and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysers.study import Score, Study
from analysers.translation import Translation, rows
from generation.cells import strength_text
from generation.folder import write_result
from reports import drawing, pictures
from reports.drawing import ACCENT, BESIDE, HALF, MUTED, SECOND
from reports.html import fill, style_sheet

HEAD = ("strength there", "effect", "same effect here at", "low", "high")

CAPTION = "Dashed: as strongly. Bars: 95 % intervals."

_MOST_CASES = 2


@dataclass(frozen=True)
class Side:
    """One of the two: what it is called, its run folder's name and its study."""

    name: str
    folder: str
    study: Study


@dataclass(frozen=True)
class Pair:
    """One cell as both painted it: addresses of the pictures, and what they show."""

    setting: str
    case: str
    addresses: tuple[str, str]


def write_comparison(
    folder: Path,
    title: str,
    headline: str,
    sentences: Sequence[str],
    found: Sequence[Translation],
    sides: tuple[Side, Side],
    record: Mapping[str, Any],
) -> Path:
    """Write comparison.html, .csv and .json into the folder; return the page's path.

    `record` is what the JSON holds.
    """
    style, policy = style_sheet()
    page = fill(
        "comparison.html.j2",
        title=title,
        headline=headline,
        sentences=sentences,
        heads=HEAD,
        rows=rows(found),
        wide=draw(found, BESIDE, "wide"),
        narrow=draw(found, HALF, "narrow"),
        caption=CAPTION,
        sides=sides,
        pairs=_pairs(sides, folder),
        style=style,
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file:; "
        + policy,
    )
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([HEAD, *rows(found)])
    write_result(folder / "comparison.csv", written.getvalue())
    write_result(folder / "comparison.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_result(folder / "comparison.html", page)
    return folder / "comparison.html"


def draw(
    found: Sequence[Translation],
    width: float = HALF,
    name: str = "translation",
    axes: tuple[str, str] = HEAD[::2][:2],
) -> str:
    """The second's strength over the first's, with bounds and the line of equal strengths, as
    themed SVG; what lies beyond the second's strongest is left out."""
    known = [one for one in found if math.isfinite(one.other.mean)]
    bounds = [x for one in known for x in (one.other.mean, one.other.high) if math.isfinite(x)]
    most = max([*(one.strength for one in found), *bounds])
    with drawing.style():
        figure = drawing.figure(width, 0.6 * width + 0.6)
        axis = figure.subplots()
        axis.plot([0, most], [0, most], color=SECOND, lw=1.2, ls=(0, (5, 3)))
        for one in known:
            high = one.other.high if math.isfinite(one.other.high) else 1.04 * most
            axis.plot([one.strength] * 2, [one.other.low, high], color=MUTED, lw=1.4, alpha=0.6)
        line = [(0.0, 0.0), *((one.strength, one.other.mean) for one in known)]
        axis.plot(*zip(*line, strict=True), color=ACCENT, lw=2, marker="o", ms=5)
        axis.set_xlim(0, 1.04 * most)
        axis.set_ylim(0, 1.04 * most)
        axis.set_xlabel(axes[0])
        axis.set_ylabel(axes[1])
        return drawing.svg(figure, name)


def _pairs(sides: tuple[Side, Side], folder: Path) -> list[Pair]:
    """The first cases, without the LoRA and at the strongest strength that both painted."""
    cells: list[dict[tuple[Any, str], Score]] = [
        {(s.candidate and s.candidate.strength, s.case): s for s in side.study.scores if s.image}
        for side in sides
    ]
    both = [at for at in cells[0] if at in cells[1]]
    strengths = [strength for strength, _ in both if strength]
    shown: dict[str, str] = {}  # a case of each prompt
    for _, case in both:
        shown.setdefault(cells[0][(None, case)].prompt if (None, case) in both else case, case)
    found = []
    for prompt, case in [*shown.items()][:_MOST_CASES]:
        for strength in (None, max(strengths, default=None)):
            if (strength, case) in both:
                one, other = (
                    pictures.address(f"{side.folder}/{of[strength, case].image}", folder)
                    for side, of in zip(sides, cells, strict=True)
                )
                setting = "control" if strength is None else strength_text(strength)
                found.append(Pair(setting, prompt, (one, other)))
    return list(dict.fromkeys(found))
