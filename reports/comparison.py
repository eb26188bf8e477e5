"""Two renderers held against each other, as one page that loads nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from analysers.translation import Translation, rows, svg
from generation.folder import write_result
from reports.html import visible

HEAD = ("strength there", "effect", "same effect here at", "low", "high")

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.55 system-ui,sans-serif;max-width:46rem;margin:0 auto;padding:1.5rem 1.25rem;"
    "background:Canvas;color:CanvasText}"
    "h1{font-size:1rem;font-weight:400;margin:0}"
    ".lead{font-size:clamp(1.3rem,4.5vw,1.9rem);line-height:1.25;"
    "font-weight:650;margin:.6rem 0 1rem}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{text-align:right;font-weight:400;padding:.4rem 1.2rem .4rem 0}"
    "tr{border-bottom:1px solid #8886}"
    "th{vertical-align:bottom}"
    "svg{display:block;width:100%;max-width:24rem;background:#fff;"
    "border-radius:8px;margin:1.5rem 0}"
)


def write_comparison(
    folder: Path,
    title: str,
    sentences: Sequence[str],
    found: Sequence[Translation],
    pages: Sequence[tuple[str, str]],
) -> Path:
    """Write comparison.html and comparison.csv into the folder; return the page's path.

    `pages` are (words, address) of the reports of both.
    """

    def text(words: object) -> str:
        return escape(visible(words))

    table = rows(found)
    lines = ["".join(f"<td>{text(cell)}</td>" for cell in row) for row in table]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
        f'<main><h1>{text(title)}</h1><p class="lead">'
        + "</p><p>".join(map(text, sentences))
        + '</p><div class="scroll" tabindex="0" role="region" aria-label="Strengths"><table><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in HEAD)
        + "</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + f"</table></div>{svg(found)}<p>"
        + " · ".join(f'<a href="{escape(to)}">{text(words)}</a>' for words, to in pages)
        + "</p></main></html>\n"
    )
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([HEAD, *table])
    write_result(folder / "comparison.csv", written.getvalue())
    write_result(folder / "comparison.html", page)
    return folder / "comparison.html"
