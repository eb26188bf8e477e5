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
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "td,th{text-align:right;padding:.2rem .8rem;border-bottom:1px solid #ddd}svg{max-width:24rem}"
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
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
        f"<h1>{text(title)}</h1>"
        + "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
        + f"<table><tr>{''.join(f'<th>{head}</th>' for head in HEAD)}</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + f"</table>{svg(found)}<p>"
        + " ".join(f'<a href="{escape(to)}">{text(words)}</a>' for words, to in pages)
        + "</p></html>\n"
    )
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([HEAD, *table])
    write_result(folder / "comparison.csv", written.getvalue())
    write_result(folder / "comparison.html", page)
    return folder / "comparison.html"
