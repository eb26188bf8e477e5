"""One loop for every study: plan, ask, render, measure, decide; told as events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from analysers import leak
from analysers.measure import Measured, Task, measure
from analysers.metrics.metric import declared
from analysers.runs import events
from analysers.runs.chooser import Chooser, FullGrid
from analysers.runs.conclude import decide, write
from analysers.runs.control import Control, CtrlC
from analysers.runs.events import Event, Observer
from analysers.runs.likeness import known_values, likeness_evidence, with_references
from analysers.runs.request import Judging, StudyRequest
from analysers.runs.source import Shot, Source, versions
from analysers.study import NOT_RENDERED, RUN_FORMAT, Evidence, RunRecord, Score, Share, Study
from analysers.views import MOST
from generation.errors import UserError
from generation.executors import Executor, InProcess, ProcessPool, ThreadPool, default_workers
from generation.folder import open_run_folder

if TYPE_CHECKING:
    from analysers.runs.plan import Plan

C = TypeVar("C")

MEASURED_TOGETHER = 8
"""Pictures that a node of a cluster measures for one journey there and back."""

IN_THREADS = 100
"""So few pictures are measured before other processes would have started."""


class Run(Generic[C]):
    """A study on its way.

    `go` runs it to its end; from other threads `control` pauses and stops it, and `so_far` answers
    from what is scored by then. Running the same again completes it: nothing is rendered or
    measured twice, and a kill loses at most the pictures in flight.
    """

    def __init__(
        self,
        source: Source[C],
        request: StudyRequest | Judging | None = None,
        *,
        chooser: Chooser[C] | None = None,
        observers: Sequence[Observer] = (),
        executor: Executor | None = None,
        control: Control | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.source = source
        asked = request if isinstance(request, StudyRequest) else None
        self.judging = Judging()
        if request is not None:
            self.judging = request.judging if isinstance(request, StudyRequest) else request
        self._references, self._held_out = source.references
        if self._references.pictures:
            self.judging = with_references(self.judging, source.rendering)
        self.control = control or Control()
        self._chooser = chooser or FullGrid(source.cells)
        self._observers = tuple(observers)
        self._executor = executor
        self._command = tuple(command)
        self._request = None if asked is None else json.loads(asked.to_json())
        self._cluster = asked.rendering.cluster if asked is not None else ""
        self._others = asked is not None and asked.output.allow_non_empty
        self._lock = threading.Lock()
        self._asked: dict[C, None] = {}
        self._scores: dict[C, Score] = {}
        self._measured: dict[C, Measured] = {}
        self._made: dict[Hashable, Any] = {}  # of reference pictures, by metrics
        self._ctrl_c = CtrlC(self.control)

    def go(self) -> Study:
        """The finished study, also written to its folder.

        After `control.stop` it is the answer so far, rows that were asked for and did not come
        being failed; after Ctrl-C, KeyboardInterrupt once the pictures in flight are saved.
        """
        with open_run_folder(self.source.out, others=self._others):
            return self._go()

    def _go(self) -> Study:
        source = self.source
        begin = perf_counter()
        pictures = len(source.cells)
        self._tell(events.Planned(source.kind, source.title, source.out, pictures, self.so_far))
        while not self.control.stopped():
            cells = [c for c in self._chooser.ask(dict(self._scores)) if c not in self._scores]
            if not cells:
                break
            if self._scores and self._observers:
                self._tell(events.SoFar(self.so_far(), tuple(map(source.row, cells))))
            self._score(cells)
        if self.control.interrupted:
            raise KeyboardInterrupt
        evidence = self._beside(source.evidence(self._tell))
        seconds = round(perf_counter() - begin, 1) if source.rendering else None
        study = self._decide(evidence, replace(source.record(), seconds=seconds))
        self._tell(events.Decided(study))
        self._tell(events.Written(write(study, source.out)))
        return study

    def so_far(self) -> Study:
        """The answer from what is scored by now; nothing is written. ValueError before any is."""
        with self._lock:
            if not self._measured:
                raise ValueError("nothing is scored yet")
            scored = sum(cell in self._scores for cell in self.source.cells)
        evidence = Evidence(so_far=Share(scored, len(self.source.cells)))
        return self._decide(evidence, RunRecord())

    def _beside(self, found: Evidence) -> Evidence:
        """With what references and pictures without the trigger say; asked once, at the end."""
        source = self.source
        rows = [self._scores[cell] for cell in self._asked if cell in self._scores]
        if source.probes and not self.control.stopped():
            wanted = leak.wanted(rows, {cell: source.row(cell) for cell in source.probes})
            self._measure(wanted, "leak test")
            probes = [self._scores[cell] for cell in wanted if cell in self._scores]
            leaks = leak.leaks(rows, probes)
            found = replace(found, leak=leak.record(leaks, source.kind, self.judging.class_word))
        if self._references.pictures:
            known = known_values(
                self._references,
                self._held_out,
                next((one for one in self._measured.values() if one.pixels), None),
                self.judging,
                source.out / "measured.jsonl",
                self._engine,
                self._made,
            )
            told = likeness_evidence(rows, source.kind, known, self._references, source.out)
            found = replace(found, **told)
        return found

    @property
    def _engine(self) -> Callable[[], Any] | None:
        """Opens the base model for metrics that ask it; None where nothing renders."""
        return (lambda: self.source.renderer.engine) if self.source.rendering else None

    def _score(self, cells: Sequence[C]) -> None:
        """Render and measure these cells of the study."""
        with self._lock:
            self._asked |= dict.fromkeys(cells)
        self._measure(cells)

    def _measure(self, cells: Sequence[C], beside: str = "") -> None:
        """Render and measure these cells; a measurement begins when its picture lands.
        `beside` names what they are, where they are no part of the comparison."""
        source = self.source
        rows = {cell: source.row(cell) for cell in cells}
        order = list(rows)
        warm_up = source.warm_up if source.rendering else 1
        self._tell(events.Asked(tuple(rows.values()), source.rendering, warm_up, beside))
        with self._ctrl_c.held_back() if source.rendering else nullcontext():
            try:
                for result in measure(
                    self._tasks(rows),
                    self.judging.all_metrics,
                    self._executor or _executor(self.judging, source, self._cluster),
                    source.out / "measured.jsonl",
                    self._engine,
                    self._made,
                ):
                    cell = order[result.task.tag]
                    self._keep(cell, _scored(rows[cell], result), result)
            finally:
                self._ctrl_c.flying = False
                self._tell(events.Ended())

    def _tasks(self, rows: Mapping[C, Score]) -> Iterator[Task]:
        numbers = {cell: number for number, cell in enumerate(rows)}
        for shot in self.source.pictures(list(rows), self.control.stopped):
            self._ctrl_c.flying = self._ctrl_c.flying or shot.fresh
            row = rows[shot.cell]
            if shot.image is None:
                row = _failed(row, shot.reason)
                self._tell(events.Rendered(row, fresh=False))
                self._keep(shot.cell, row, None)
            else:
                self._tell(events.Rendered(row, shot.fresh))
                yield self._task(shot, numbers[shot.cell])

    def _task(self, shot: Shot[C], number: int) -> Task:
        assert shot.image is not None
        ladders = self.judging.ladders if shot.degrade else ""
        return Task(
            shot.image,
            shot.control,
            shot.prompt,
            number,
            ladders=ladders,
            content=shot.content,
            others=shot.others,
            references=self._references.pictures,
            held_out=self._held_out.pictures,
            views=shot.cell in self._asked and len(self.source.cells) <= MOST,
        )

    def _keep(self, cell: C, score: Score, result: Measured | None) -> None:
        with self._lock:
            self._scores[cell] = score
            if result is not None:
                self._measured[cell] = result
        self._tell(events.Measured(score))

    def _decide(self, evidence: Evidence, made: RunRecord) -> Study:
        source = self.source
        record = replace(
            made,
            format=RUN_FORMAT,
            command=self._command,
            request=self._request,
            versions=versions(),
        )
        with self._lock:
            scores, measured = dict(self._scores), dict(self._measured)
            order = [cell for cell in source.cells if cell in self._asked]
            known = set(order)
            order += [cell for cell in self._asked if cell not in known]
        rows = [scores.get(c) or _failed(source.row(c), NOT_RENDERED) for c in order]
        return decide(
            source.kind, source.title, rows, measured.values(), self.judging, source.out,
            evidence, record, (*self._references.warnings, *source.warnings),
            self._chooser.record(),
        )  # fmt: skip

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def run_study(
    plan: Plan,
    request: StudyRequest | Judging | None = None,
    *,
    observers: Sequence[Observer] = (),
    command: Sequence[str] = (),
) -> Study:
    """Render what is missing, measure as pictures land, decide, and write the study."""
    from analysers.runs.rendered import RenderedPictures

    resume = request.output.resume if isinstance(request, StudyRequest) else True
    source = RenderedPictures(plan, resume=resume)
    judging = request.judging if isinstance(request, StudyRequest) else request or Judging()
    chooser = thrifty(source, judging) if judging.thrifty else None
    return Run(source, request, chooser=chooser, observers=observers, command=command).go()


def thrifty(source: Source[C], judging: Judging) -> Chooser[C]:
    """The chooser that makes no more pictures than the answer needs. Raises UserError for a budget
    that is spent before any can be made."""
    from analysers.racing import Asked
    from analysers.runs.race import Race
    from analysers.runs.refine import Refine

    asked = Asked(
        source.kind,
        judging.rank_by,
        declared(judging.rank_by).better or "lower",
        judging.tie_tolerance,
        judging.margin,
    )
    rows = {cell: source.row(cell) for cell in source.cells}

    def chooser(budget: int | None) -> Chooser[C]:
        if judging.refine:
            return Refine(rows, asked, judging.races, budget)
        return Race(rows, asked, budget)

    found = chooser(judging.budget)
    if judging.budget is not None and rows and not found.ask({}):
        cases = [rows[cell].case for cell in chooser(None).ask({})]
        raise UserError(
            f"{judging.budget} cannot pay for the first prompt at each setting that is looked at; "
            f"give at least {cases.count(cases[0])}.",
            "budget",
        )
    return found


def _scored(row: Score, result: Measured) -> Score:
    """The row with its values. What it said before (no control) stands unless more went wrong."""
    if result.status == "ok" and row.status != "ok":
        return replace(row, values=result.values)
    return replace(row, values=result.values, status=result.status, reason=result.reason)


def _failed(row: Score, reason: str) -> Score:
    return replace(row, image="", status="failed", reason=reason)


def _executor(judging: Judging, source: Source[C], cluster: str) -> Executor:
    """Where pictures are measured: on the cluster, if there is one and it is not said how many
    processes here do it. Rendering that keeps the cores busy goes on beside it."""
    workers = judging.workers
    if cluster and workers is None:
        from generation.clusters import RayCluster

        return RayCluster(cluster, cpus=0, piece=MEASURED_TOGETHER)
    if workers is None:
        workers = 0 if source.busy else default_workers(beside=source.rendering)
        if workers and not source.rendering and len(source.cells) <= IN_THREADS:
            return ThreadPool(workers)
    return ProcessPool(workers) if workers else InProcess()
