"""The report as a run goes on: an observer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from generation.errors import UserError

if TYPE_CHECKING:
    from analysers.runs.events import Event
    from analysers.study import Study

FIRST = 60.0
"""Seconds until the first early report, and at least between two: one takes about a second."""

SHARE = 0.02
"""Of the run's time that early reports may take: the next waits until the last was so little."""


class EarlyReport:
    """Rewrites the report by what is scored so far, now and then, whole or not at all.

    Pictures that are still missing are shown as such. The page of an earlier run that ended stays
    until the answer rests on as many pictures. What keeps the page from being written (a full disk)
    does not end the run. `named` are folders outside whose pictures may be shown.
    """

    def __init__(
        self,
        named: Sequence[Path] = (),
        *,
        clock: Callable[[], float] = monotonic,
        write: Callable[..., Any] | None = None,
    ) -> None:
        self._named, self._clock, self._write = named, clock, write
        self._due = math.inf

    def __call__(self, event: Event) -> None:
        """Write the page if it is due."""
        from analysers.runs import events

        if isinstance(event, events.Planned):
            self._out, self._so_far, self._most = event.out, event.so_far, event.pictures
            self._before: int | None = None
            self._due = self._clock() + FIRST
        elif isinstance(event, events.Decided):
            self._due = math.inf
        elif isinstance(event, events.Measured):
            begin = self._clock()
            if begin >= self._due:
                self._publish()
                end = self._clock()
                self._due = end + max(FIRST, (end - begin) / SHARE)

    def _publish(self) -> None:
        from reports import html

        try:
            study: Study = self._so_far()
        except ValueError:  # what has come so far failed
            return
        if self._before is None:
            self._before = _pictures_before(self._out)
        if _pictures(study) < min(self._before, self._most):
            return
        try:
            (self._write or html.write_report)(study, self._out, also=self._named)
        except UserError:
            return


def _pictures(study: Study) -> int:
    return sum(bool(score.values) for score in study.scores)


def _pictures_before(out: Path) -> int:
    """On how many pictures the answer rests that an earlier run left there; 0 without one."""
    from analysers.runs.conclude import load_study

    try:
        return _pictures(load_study(out))
    except UserError:
        return 0
