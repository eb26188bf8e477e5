"""Two renderers held against each other: a page in the report's dress, a table, and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysers.translation import Translation, rows, svg
from generation.folder import write_result
from reports.html import fill, style_sheet

HEAD = ("strength there", "effect", "same effect here at", "low", "high")

CAPTION = "Which strength here has the effect of a strength there; the straight line is equality."


def write_comparison(
    folder: Path,
    title: str,
    headline: str,
    sentences: Sequence[str],
    found: Sequence[Translation],
    pages: Sequence[tuple[str, str]],
    record: Mapping[str, Any],
) -> Path:
    """Write comparison.html, .csv and .json into the folder; return the page's path.

    `pages` are (words, address) of the reports of both, `record` is what the JSON holds.
    """
    style, policy = style_sheet()
    page = fill(
        "comparison.html.j2",
        title=title,
        headline=headline,
        sentences=sentences,
        heads=HEAD,
        rows=rows(found),
        drawing=svg(found),
        caption=CAPTION,
        pages=pages,
        style=style,
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; {policy}",
    )
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([HEAD, *rows(found)])
    write_result(folder / "comparison.csv", written.getvalue())
    write_result(folder / "comparison.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_result(folder / "comparison.html", page)
    return folder / "comparison.html"
