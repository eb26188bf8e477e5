"""The progress bar: an observer of a run."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from analysers.runs.events import Event
    from analysers.study import Score, Study


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
            label = "Rendering" if event.rendering else "Measuring"
            self.start(event.beside.capitalize() or label, len(event.rows))
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
            click.echo(_so_far(event.study), err=True)
            if told := _ahead(event.study, event.more):
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


def _so_far(study: Study) -> str:
    """The answer so far, and how likely all pictures give the same."""
    verdict, race, scored = study.verdict, study.evidence.race, len(study.scores)
    if race is None or race.sure is None or verdict.recommended is None:
        sure = "" if verdict.confidence == "none" else f" ({verdict.confidence} confidence)"
        return f"After {count(scored, 'picture')}{sure}: {verdict.headline}"
    which = "All of the settings looked at" if race.unseen else f"All {race.cells}"
    chance = f"{race.sure:.0%}".replace("%", " %")
    told = f"{which} would say so with a chance of about {chance}."
    return f"After {count(scored, 'picture')}: {verdict.headline} {told}"


def _ahead(study: Study, more: Sequence[Score]) -> str:
    """What the next block adds: settings not looked at yet, or cases of those on which the answer
    turns, and by how much these narrow the intervals."""
    from analysers.phrases import span

    had = Counter(row.candidate for row in study.scores)
    adds = Counter(row.candidate for row in more if row.candidate is not None)
    pictures = count(len(more), "picture")
    new = adds.keys() - had.keys()
    if new:
        return f"Next: {pictures}, of {count(len(new), 'more setting')}."
    if not adds:
        return ""
    which = span(adds, [one.candidate for one in study.summaries], study.kind)
    narrower = [1 - math.sqrt(had[one] / (had[one] + adds[one])) for one in adds]
    about = f"{sum(narrower) / len(narrower):.0%}".replace("%", " %")
    whose = "its interval" if len(adds) == 1 else "their intervals"
    return (
        f"Next: {pictures} of {which}, on which the answer turns; {whose} will be about {about} "
        "narrower."
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
