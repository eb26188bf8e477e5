"""A training is watched: each new checkpoint is kept, judged with those before it, and told.

The state is what lies in two folders: the kept checkpoints, and the run folder, where nothing is
rendered twice. So watching can be ended anywhere, also by a kill, and begun again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from analysers.runs.plan import Plan, plan_study
from analysers.runs.request import StudyRequest
from analysers.study import Study
from generation.errors import UserError
from generation.files import is_full
from generation.loras.keeping import SETTLED, Keeper, Taken
from generation.loras.training import unfinished

LOOK = 30.0
"""Seconds after which the folder is looked at without being told of a change: network folders tell
of none."""

End = Literal["", "final", "patience"]

_GONE = "{} is not there any more; bring it back, or end this and watch the folder that it is now."
_NOT_YET = "{} is not there yet; it is waited for."


@dataclass(frozen=True)
class Judged:
    """All checkpoints so far are judged; `end` says why no more are waited for, "" if they are."""

    plan: Plan
    study: Study
    end: End = ""


@dataclass(frozen=True)
class Waiting:
    """Judging has to wait, such as for room on a disk; checkpoints are kept meanwhile, unless there
    is no folder to take them from (`gone`)."""

    reason: str
    gone: bool = False


def folder_of(request: StudyRequest) -> Path:
    """The one folder that is watched. Raises UserError for anything else."""
    loras = request.subject.loras
    if len(loras) != 1 or loras[0].suffix.lower() == ".safetensors" or loras[0].is_file():
        raise UserError("name the one folder that the trainer writes checkpoints to.", "watch")
    return loras[0]


def from_kept(request: StudyRequest, keeper: Keeper) -> StudyRequest:
    """The request for what was kept, in the run folder that the training's folder has."""
    return replace(
        request,
        subject=replace(request.subject, loras=(keeper.folder,)),
        output=replace(request.output, out=request.folder),
    )


def watch(
    request: StudyRequest,
    keeper: Keeper,
    judge: Callable[[Plan], Study],
    *,
    patience: int | None = None,
    tell: Callable[[Taken | Judged | Waiting], object] = lambda _: None,
    wait: Callable[[Path, float], object] | None = None,
) -> Judged:
    """Judge what is there, then every new checkpoint, until the final file has come, or `patience`
    checkpoints beyond the breakdown.

    `judge` runs a plan, and checkpoints that come and may go meanwhile are kept beside it. Where
    a disk is full, or where checkpoints could be judged before and cannot be now, it is tried again
    at every look: what is not kept by then is lost. `wait` returns when the folder has changed, or
    after so many seconds. Ctrl-C ends it by KeyboardInterrupt. Raises UserError where the first
    checkpoints cannot be planned.
    """
    wait = wait or changed
    kept = from_kept(request, keeper)
    known: set[Path] | None = None
    meanwhile: list[Taken] = []
    said, judged_before = "", False
    while True:
        taken = [*meanwhile, *keeper.take()]
        for one in taken:
            tell(one)
        there = set(keeper.kept)
        if there and (there != known or any(one.what == "kept" for one in taken)):
            try:
                with keeping_on(keeper) as meanwhile:
                    plan = plan_study(kept)
                    study = judge(plan)
                judged = Judged(plan, study, _end(plan, study, patience))
                tell(judged)
            except (OSError, UserError) as error:
                if not is_full(error) and not judged_before:
                    raise
                if said != str(error):
                    said = str(error)
                    tell(Waiting(said))
                known = None
                wait(keeper.source, LOOK)
                continue
            known, judged_before = there, True
            if judged.end:
                for one in meanwhile:
                    tell(one)
                return judged
            continue  # more may have come meanwhile
        meanwhile = []
        missing = _GONE if judged_before else _NOT_YET
        gone = not keeper.source.is_dir()
        if gone and said != missing:
            tell(Waiting(missing.format(keeper.source), gone=True))
        said = missing if gone else said.replace(missing, "")
        wait(keeper.source, SETTLED if keeper.waiting else LOOK)


@contextmanager
def keeping_on(keeper: Keeper) -> Iterator[list[Taken]]:
    """Keep what comes while the block runs: judging may take longer than a trainer leaves a file.

    What was taken is in the list that it gives, when the block has ended.
    """
    taken: list[Taken] = []
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(SETTLED):
            taken.extend(keeper.take())

    beside = threading.Thread(target=keep, daemon=True)
    beside.start()
    try:
        yield taken
    finally:
        ended.set()
        beside.join()


def judge_once(
    request: StudyRequest,
    keeper: Keeper,
    judge: Callable[[Plan], Study],
    tell: Callable[[Taken], object] = lambda _: None,
) -> Judged:
    """Keep and judge what is there now, and tell what is not wholly written. Raises UserError where
    there is nothing, or what is there cannot be kept."""
    taken = list(keeper.take())
    if keeper.waiting:  # what was written just now, or by a clock that is ahead
        time.sleep(keeper.settled)
        taken += keeper.take()
    for one in taken:
        if one.what == "failed":
            raise UserError(f"{one.path.name} cannot be kept: {one.reason}.", "keep_best")
    if not keeper.kept:
        plan_study(request)  # which says what is wrong with the training's folder
    there = {path.name for path in keeper.kept}
    for one in taken:
        if one.what == "unfinished" and one.path.name not in there:
            tell(one)
    plan = plan_study(from_kept(request, keeper))
    return Judged(plan, judge(plan), "final")


def worth_keeping(plan: Plan, study: Study) -> set[Path]:
    """The files of the recommended and the best checkpoint, of all that are safe, and the last."""
    verdict = study.verdict
    wanted = {c for c in (verdict.recommended, verdict.best) if c is not None}
    wanted |= {summary.candidate for summary in study.summaries if summary.safe}
    hashes = {candidate.tensor_hash for candidate in wanted}
    paths = {c.path for c in plan.checkpoints if c.tensor_hash in hashes}
    return paths | {plan.checkpoints[-1].path}


def changed(folder: Path, seconds: float) -> None:
    """Wait until something in the folder changes, at most so many seconds."""
    try:
        from watchfiles import watch as changes
    except ModuleNotFoundError:
        time.sleep(min(seconds, 5.0))
        return
    if not folder.is_dir():
        time.sleep(min(seconds, 5.0))
        return
    for _ in changes(
        folder, rust_timeout=int(seconds * 1000), yield_on_timeout=True, raise_interrupt=True
    ):
        return


def _end(plan: Plan, study: Study, patience: int | None) -> End:
    last = plan.checkpoints[-1]
    told = [info.metadata for info in plan.loras if info.path == last.path]
    if last.final and not any(map(unfinished, told)):
        return "final"
    breakdown = study.verdict.breakdown
    if patience is not None and breakdown is not None:
        beyond = {s.candidate.place for s in study.summaries if s.candidate.place > breakdown.place}
        if len(beyond) >= patience:
            return "patience"
    return ""
