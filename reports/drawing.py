"""matplotlib's drawings as SVG that takes its colours from the page.

matplotlib draws with marker colours, which `_themed` turns into the classes of the page's style
sheet: one drawing serves light, dark and print, and nothing in it needs an inline style (the page's
Content-Security-Policy forbids those). Text stays text. The same study gives the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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

    return Figure(figsize=(width, height))


Room = tuple[float, float, float, float]

_LETTER, _LINE, _GAP = 6.0, 16.0, 4.0
"""Points: the mean width of a letter, the height of a line with its space, what is left around."""


def settle(drawn: Figure) -> None:
    """Give every axes the room that its texts need. Their widths are estimated by their letters: a
    page draws them in a font of its own, and to measure them takes half as long as to draw.
    """
    rooms: dict[tuple[int, int], list[Room]] = {}
    rows = columns = 1
    for axes in drawn.axes:
        spec = axes.get_subplotspec()
        assert spec is not None
        place = spec.get_topmost_subplotspec()
        rows, columns = place.get_gridspec().get_geometry()
        rooms.setdefault((place.rowspan.start, place.colspan.start), []).append(_room(axes))

    def along(axis: int, count: int, size: float) -> tuple[float, float, float]:
        """Where the first axes begins and the last ends, as shares of the figure's `size`, and the
        gaps between them, as a share of their mean size."""
        before, after = (
            [
                max(room[2 * axis + side] for at in rooms if at[axis] == k for room in rooms[at])
                for k in range(count)
            ]
            for side in (0, 1)
        )
        gap = max((after[k] + before[k + 1] for k in range(count - 1)), default=0.0)
        mean = (size - before[0] - after[-1] - gap * (count - 1)) / count
        return before[0] / size, 1 - after[-1] / size, gap / mean

    width, height = (72 * inches for inches in drawn.get_size_inches())
    top, bottom, down = along(0, rows, height)
    left, right, across = along(1, columns, width)
    drawn.subplots_adjust(left, 1 - bottom, right, 1 - top, across, down)


def _room(axes: Axes) -> Room:
    """Above, below, left and right of one axes, in points."""
    beside, below = (
        [text for text in axis.get_majorticklabels() if text.get_visible()]
        for axis in (axes.yaxis, axes.xaxis)
    )
    longest = max((len(text.get_text()) for text in beside), default=0)
    side = _GAP + (_LETTER * longest + 6 if longest else 0) + (_LINE if axes.get_ylabel() else 0)
    left, right = side, _GAP + 6
    if axes.yaxis.get_ticks_position() == "right":  # a colour bar
        left, right = _GAP, side
    top = _GAP + (_LINE if axes.get_title("left") else 0)
    bottom = _GAP + (_LINE if axes.get_xlabel() else 0)
    if below:
        turn = math.radians(below[0].get_rotation())
        wide = [_LETTER * len(text.get_text()) for text in below]
        bottom += 6 + 10 * math.cos(turn) + max(wide) * math.sin(turn)
        if turn:  # turned ones end at their ticks, others have them in the middle
            left = max(left, wide[0] * math.cos(turn))
        else:
            right = max(right, wide[-1] / 2)
    for text in axes.texts:
        coordinates = getattr(text, "xycoords", "data")
        if coordinates == "axes fraction":  # above
            top = max(top, _GAP + _LINE)
        elif coordinates == ("axes fraction", "data"):  # on the right
            right = max(right, 2 * _GAP + _LETTER * len(text.get_text()))
    return top, bottom, left, right


def svg(drawn: Figure, name: str) -> str:
    """The figure laid out and drawn, once each: `savefig` would do both on trial first."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    settle(drawn)
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
