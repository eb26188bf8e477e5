"""matplotlib's drawings as SVG that takes its colours from the page.

matplotlib draws with marker colours, which `_themed` turns into the classes of the page's style
sheet: one drawing serves light, dark and print, and nothing in it needs an inline style (the page's
Content-Security-Policy forbids those). Text stays text. The same study gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Marker colours; `_themed` replaces each by a class that the style sheet colours.
INK, MUTED, ACCENT, CLEAN, BREAKS, RULE, PAPER, SECOND = (f"#00000{i}" for i in range(1, 9))
_CLASSES = {
    INK: "ink",
    MUTED: "muted",
    ACCENT: "accent",
    CLEAN: "clean",
    BREAKS: "breaks",
    RULE: "rule",
    PAPER: "paper",
    SECOND: "second",
}
# Inches at 72 units, so that text comes out at 10 to 13 px: across the page, beside the answer, and
# a column, which is also a phone's width.
WIDE, BESIDE, HALF = 11.6, 7.2, 5.0


def style() -> Any:
    """matplotlib's settings for one drawing: nothing of the user's own configuration leaks in."""
    import matplotlib

    return matplotlib.rc_context(
        {
            **{
                key: value
                for key, value in matplotlib.rcParamsDefault.items()
                if not key.startswith(("backend", "animation", "date", "webagg", "toolbar"))
            },
            "svg.hashsalt": "lora-analysers",
            "svg.fonttype": "none",
            "text.parse_math": False,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "axes.edgecolor": RULE,
            "axes.labelcolor": MUTED,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "text.color": INK,
            "xtick.color": RULE,
            "ytick.color": RULE,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": RULE,
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "lines.solid_capstyle": "round",
        }
    )


def figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure, name: str) -> str:
    """The figure laid out and drawn, once each: `savefig` would do both on trial first."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas: Any = FigureCanvasSVG(drawn)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser has glyphs that matplotlib's font lacks; the SVG keeps text as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.print_svg(buffer, metadata=nothing)
    return _themed(buffer.getvalue(), name)


def _themed(text: str, name: str) -> str:
    """matplotlib's SVG made fit for the page: themed classes, no inline style, ids of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(\s)id="([^"]+)"', rf'\1id="{name}-\2"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{name}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'\sstyle="([^"]*)"', _attributes, text)
    text = re.sub(r'\s(fill|stroke)="(#00000[1-8])"', _class_of, text)
    # An element may now have two classes: one for its fill, one for its stroke.
    text = re.sub(
        r'(<[^<>]*?)\sclass="([^"]*)"([^<>]*?)\sclass="([^"]*)"', r'\1 class="\2 \4"\3', text
    )
    text = re.sub(
        r"<svg[^>]*?viewBox=\"([^\"]*)\"[^>]*>",
        r'<svg viewBox="\1" xmlns="http://www.w3.org/2000/svg" aria-hidden="true">',
        text,
        count=1,
    )
    return re.sub(r"\n\s*", "\n", text).strip()


def _attributes(match: re.Match[str]) -> str:
    """An inline style as presentation attributes; font families are the page's own."""
    kept = []
    for part in match.group(1).replace("&quot;", "'").split(";"):
        key, _, value = part.partition(":")
        key, value = key.strip(), value.strip()
        if key == "font":
            words = re.match(r"(?:(bold|\d{3})\s+)?([\d.]+px)", value)
            if words:
                kept.append(("font-size", words.group(2)))
                if words.group(1):
                    kept.append(("font-weight", words.group(1)))
        elif key and value and key != "font-family":
            kept.append((key, value))
    return "".join(f' {key}="{value}"' for key, value in kept)


def _class_of(match: re.Match[str]) -> str:
    return f' class="{match.group(1)[0]}-{_CLASSES[match.group(2)]}"'


def standalone(text: str) -> str:
    """A drawing as a file of its own, in the page's light colours."""
    sheet = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w+);", sheet[: sheet.index("}")]))
    rules = "".join(
        f".f-{name}{{fill:{colours[name]}}}.s-{name}{{stroke:{colours[name]}}}"
        for name in _CLASSES.values()
    )
    ground = f'<style>{rules}</style><rect width="100%" height="100%" class="f-paper"/>'
    text = re.sub(r"<svg[^>]*>", rf'\g<0><g font-family="sans-serif">{ground}', text, count=1)
    return text.replace("</svg>", "</g></svg>")
