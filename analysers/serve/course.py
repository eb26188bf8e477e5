"""One study on its way, told as a log that only grows: every page is a fold of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from analysers.runs import events
from analysers.runs.control import Control
from analysers.runs.events import Event
from analysers.runs.loop import Run, thrifty
from analysers.runs.plan import Plan
from analysers.runs.rendered import RenderedPictures
from analysers.runs.request import StudyRequest
from analysers.study import Candidate, Score, Study
from generation.errors import UserError, first_line
from generation.folder import open_run_folder, write_result
from reports import html

ASKED = "request.json"
"""What was asked, written before anything is rendered: a run that was cut short goes on from it."""


class Log:
    """Entries as JSON texts, in order. Appending is one thread's; anybody may read."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, **entry: Any) -> None:
        self._lines.append(json.dumps(entry, separators=(",", ":")))

    def after(self, number: int, most: int = 500) -> tuple[int, list[str]]:
        """Up to `most` entries from `number` on, and the number that comes after them."""
        found = self._lines[number : number + most]
        return number + len(found), found


class Board(Log):
    """An observer that turns events into entries.

    `map` lays out a table: settings by cases, the first setting being the control; `cell` fills one
    of its places (`at` = setting + settings · case) with a `state`; `beside` tells how far it is
    with what is no part of the table (`name`: leak test, noise floor); `state` is the run's.
    """

    def __init__(self, rows: Sequence[Score], title: str, kind: Any) -> None:
        super().__init__()
        self._begin = monotonic()
        candidates = dict.fromkeys(row.candidate for row in rows)
        columns = sorted(candidates, key=_order)
        self._column: Mapping[Candidate | None, int] = {c: i for i, c in enumerate(columns)}
        cases = {row.case: row for row in rows}
        self._row = {case: i for i, case in enumerate(cases)}
        self._beside, self._asked, self._done = "", 0, 0
        self.add(
            tells="map",
            title=title,
            columns=["control" if c is None else c.heading(kind) for c in columns],
            rows=[_words(row) for row in cases.values()],
        )

    def __call__(self, event: Event) -> None:
        """Note what the event tells."""
        if isinstance(event, events.Asked):
            self._beside, self._asked, self._done = event.beside, len(event.rows), 0
        elif isinstance(event, events.Rendered) and self._beside:
            self._done += 1
            self.add(tells="beside", name=self._beside, done=self._done, total=self._asked)
        elif isinstance(event, events.Rendered):
            fresh = {"fresh": round(monotonic() - self._begin, 1)} if event.fresh else {}
            self._cell(event.row, "failed" if event.row.status == "failed" else "seen", fresh)
        elif isinstance(event, events.Measured):
            score = event.score
            self._cell(score, "failed" if score.status == "failed" else "scored", {})
        elif isinstance(event, events.Repeated):
            self.add(tells="beside", name="noise floor", done=event.done, total=event.total)

    def _cell(self, row: Score, state: str, more: Mapping[str, Any]) -> None:
        column, line = self._column.get(row.candidate), self._row.get(row.case)
        if column is not None and line is not None:
            at = column + len(self._column) * line
            self.add(tells="cell", at=at, state=state, image=row.image, **more)


class Course:
    """The run in a thread of its own: `state` is running, paused, stopping, stopped, finished or
    failed, and `sentence` says why it failed."""

    def __init__(self, plan: Plan, request: StudyRequest, command: Sequence[str] = ()) -> None:
        self.out = plan.out
        self._request = request
        self._control = Control()
        source = RenderedPictures(plan, resume=request.output.resume)
        rows = [source.row(cell) for cell in source.cells]
        self.log = Board(rows, plan.title, plan.kind)
        self._run = Run(
            source,
            request,
            chooser=thrifty(source, request.judging) if request.judging.thrifty else None,
            observers=(self.log, self._count),
            control=self._control,
            command=command,
        )
        self._measured = 0
        self._answer: tuple[int, Study] | None = None
        self._answering = threading.Lock()
        self.study: Study | None = None
        self.state = ""
        self._thread = threading.Thread(target=self._go, name="course", daemon=True)

    def start(self) -> None:
        self._say("running")
        self._thread.start()

    @property
    def going(self) -> bool:
        return self.state in ("running", "paused", "stopping")

    def pause(self) -> None:
        """Begin nothing new."""
        if self.state == "running":
            self._control.pause()
            self._say("paused")

    def resume(self) -> None:
        """Go on after a pause."""
        if self.state == "paused":
            self._control.resume()
            self._say("running")

    def stop(self) -> None:
        """End when what is in flight has landed; the answer so far is written."""
        if self.going:
            self._say("stopping")
            self._control.stop()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join()

    def so_far(self) -> Study:
        """The answer by now, computed once for all who ask. ValueError before any is scored."""
        if self.study is not None:
            return self.study
        with self._answering:
            if self._answer is None or self._answer[0] != self._measured:
                self._answer = self._measured, self._run.so_far()
            return self._answer[1]

    def _count(self, event: Event) -> None:
        if isinstance(event, events.Measured):
            self._measured += 1

    def _go(self) -> None:
        try:
            with open_run_folder(self.out):
                write_result(self.out / ASKED, self._request.to_json())
                study = self._run.go()
                html.publish(study, self.out)
            self.study = study
        except UserError as error:
            self._say("failed", str(error))
        except Exception as error:
            self._say("failed", f"{first_line(error)}. What was rendered is kept.")
        else:
            self._say("stopped" if self._control.stopping else "finished")

    def _say(self, state: str, sentence: str = "") -> None:
        self.state = state
        self.log.add(tells="state", state=state, sentence=sentence)


def _order(candidate: Candidate | None) -> tuple[Any, ...]:
    if candidate is None:
        return (0,)
    return 1, candidate.place, candidate.strength or 0


def _words(row: Score) -> str:
    return row.prompt[:120] + ("" if row.seed is None else f" · seed {row.seed}")
