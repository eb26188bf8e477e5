"""The progress bar: an observer of a run."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from analysers.runs.events import Event
    from analysers.study import Score


class Bar:
    """Progress on stderr: how many of how many, measured pictures per second, time to go.

    On a terminal it is a bar; elsewhere a line every half minute, rarer as time passes.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._rendering = False
        self._fresh = self._warm_up = self._seen = 0

    def __call__(self, event: Event) -> None:
        """Show what the event tells."""
        from analysers.runs import events

        if isinstance(event, events.Asked):
            self._rendering, self._warm_up = event.rendering, event.warm_up
            self._fresh = self._seen = 0
            self.start("Rendering" if event.rendering else "Measuring", len(event.rows))
        elif isinstance(event, events.Rendered) and self._rendering:
            self._fresh += event.fresh
            self.advance(timed=event.fresh and self._fresh > self._warm_up)
        elif isinstance(event, events.Measured) and not self._rendering:
            self._seen += 1
            self.advance(timed=self._seen > 1)  # the first one waits for the processes to start
        elif isinstance(event, events.Repeated):
            if event.done:
                self.advance()
            else:
                self.start("Noise floor", event.total)
        elif isinstance(event, events.Ended):
            self.finish()
        elif isinstance(event, events.SoFar):
            pictures, verdict = len(event.study.scores), event.study.verdict
            sure = "" if verdict.confidence == "none" else f" ({verdict.confidence} confidence)"
            click.echo(f"After {pictures} pictures{sure}: {verdict.headline}", err=True)
            if told := _ahead(event.study.scores, event.more):
                click.echo(f"  {told}", err=True)

    def start(self, label: str, total: int) -> None:
        """Show that nothing is done yet."""
        self._label, self._total = label, total
        self._done = self._timed = 0
        self._begin = self._since = self._shown = monotonic()
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=total, label=label, width=16, show_pos=True, show_percent=False,
                show_eta=False, item_show_func=lambda text: text, file=sys.stderr,
            )  # fmt: skip
            self._bar.current_item = "loading ..."
            self._bar.__enter__()

    def advance(self, *, timed: bool = True) -> None:
        """One more is done; `timed` says that it took as long as those still to come will.

        The clock starts with the last one before the first timed one.
        """
        now = monotonic()
        self._done += 1
        if timed:
            self._timed += 1
        elif not self._timed:
            self._since = now
        if self._bar is not None:
            self._bar.update(1, self._pace(now) or "timing ...")
        elif now - self._shown >= max(30, (now - self._begin) / 10):
            self._shown = now
            told = ", ".join(filter(None, (f"{self._done} of {self._total}", self._pace(now))))
            click.echo(f"{self._label}: {told}", err=True)

    def finish(self) -> None:
        """Leave the line as it is, also when the work was interrupted."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def _pace(self, now: float) -> str:
        """Pictures per second and the time they mean for the rest; "" while nothing is known.

        Pictures come in batches: what less than a second shows is no pace.
        """
        if not self._timed or now - self._since < 1:
            return ""
        pace = self._timed / (now - self._since)
        left = (self._total - self._done) / pace
        return f"{rate(pace)}, {duration(left)} to go" if left else rate(pace)


def _ahead(seen: Sequence[Score], more: Sequence[Score]) -> str:
    """What the next block adds: settings, or cases, and by how much these narrow the intervals."""
    known = {row.candidate for row in seen}
    new = {row.candidate for row in more} - known
    if new:
        return f"Next: {count(len(more), 'picture')}, of {count(len(new), 'more setting')}."
    before, cases = ({row.case for row in rows} for rows in (seen, more))
    added, running = len(cases - before), len({row.candidate for row in more} - {None})
    if not before or not added or not running:
        return ""
    narrower = 1 - math.sqrt(len(before) / (len(before) + added))
    return (
        f"Next: {count(len(more), 'picture')}, {count(added, 'more case')} of "
        f"{count(running, 'setting')}; their intervals will be about {narrower:.0%} narrower."
    )


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rate(pictures_per_second: float) -> str:
    digits = 1 if pictures_per_second >= 1 else 2 if pictures_per_second >= 0.1 else 3
    return f"{pictures_per_second:.{digits}f} pictures/s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
