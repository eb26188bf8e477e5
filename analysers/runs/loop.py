"""A study from its first picture to its decision: render, measure, decide, write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from analysers.intake.cases import without_triggers
from analysers.measure import Measured, Task, measure
from analysers.metrics.adherence import rivals
from analysers.runs.conclude import conclude, lora_record, relative, score_row, versions
from analysers.runs.events import Progress, Silent
from analysers.runs.evidence import TRUST_CONTROLS, noise_floor, weights
from analysers.runs.pacing import batch_key, with_batch_size
from analysers.runs.plan import RenderPlan, import_engine
from analysers.runs.request import Options
from analysers.study import Candidate, Kind, Study
from generation.cells import Cell
from generation.executors import Executor, InProcess, ProcessPool, default_workers
from generation.folder import open_run_folder
from generation.renderers.diffusers import batches
from generation.renderers.diffusers.render import BATCHES_A_TASK, render

if TYPE_CHECKING:
    from analysers.intake import PictureSet
    from generation.renderers.diffusers.engine import Engine


def run_study(
    plan: RenderPlan,
    options: Options,
    *,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    resume: bool = True,
) -> Study:
    """Render what is missing, measure as pictures land, decide, and write study.json.

    Running the same plan again completes it: nothing is rendered or measured twice. Without
    `resume` everything is rendered anew, and earlier pictures are kept aside.
    """
    with open_run_folder(plan.out):
        return _run(plan, options, progress or Silent(), command, resume)


def _run(
    plan: RenderPlan, options: Options, bar: Progress, command: Sequence[str], resume: bool
) -> Study:
    asked = batch_key(plan)
    plan, probed = with_batch_size(plan)
    settings = plan.settings
    batches.keep(plan.out, asked, batches.Batching(settings.batch_size, settings.mixed))
    store = plan.store()
    store.check_space(plan.cells)
    rendered: dict[Cell, str] = {}
    opened: list[Engine] = [probed] if probed else []
    devices = import_engine().devices(plan.settings.device)
    if len(devices) > 1:
        del probed
        opened.clear()  # each device's process loads its own
        import_engine().free_memory()

    def open_engine() -> Engine:
        if not opened:
            opened.append(plan.open_engine(devices[0]))
        return opened[0]

    good = [c for c in plan.cells if c.checkpoint is None or c.checkpoint.name not in plan.refused]

    degraded = {Cell(case) for case in plan.cases[:TRUST_CONTROLS]}
    triggers = plan.trigger_words
    contents = {case.prompt: without_triggers(case.prompt, triggers) for case in plan.cases}
    others = {content: rivals(content, [*contents.values()]) for content in contents.values()}
    painted: list[Cell] = []
    rendering = 0.0

    def tasks() -> Iterator[Task]:
        nonlocal rendering
        early: list[Task] = []
        opener = plan.open_engine if len(devices) > 1 else open_engine
        begin = perf_counter()
        for done in render(good, store, opener, resume=resume, devices=devices):
            fresh = done.fresh and done.path is not None
            if fresh:
                painted.append(done.cell)
            bar.advance(timed=fresh and len(painted) > _warm_up(plan, len(devices)))
            rendering = perf_counter() - begin
            if done.path is None:
                rendered[done.cell] = done.reason
            else:
                control = None if done.cell.is_control else store.path(Cell(done.cell.case))
                ladders = options.ladders if done.cell in degraded else ""
                prompt = done.cell.case.prompt
                content = contents[prompt]
                task = Task(
                    done.path, control, prompt, done.cell, (), ladders, content, others[content]
                )
                if control is None or control.is_file():
                    yield task
                else:  # a kill can leave a picture whose control is rendered only now
                    early.append(task)
        yield from early

    bar.start("Rendering", len(good))
    start = perf_counter()
    try:
        measured = {
            result.task.tag: result
            for result in measure(
                tasks(),
                options.all_metrics,
                _executor(options, plan.settings.device),
                plan.out / "measured.jsonl",
                open_engine,
            )
        }
    finally:
        bar.finish()
    noise = noise_floor(plan, store, open_engine, bar)
    places = {checkpoint.path: i for i, checkpoint in enumerate(plan.checkpoints)}
    scores = []
    for cell in plan.cells:
        reason = rendered.get(cell, "")
        if cell.checkpoint is not None:
            reason = plan.refused.get(cell.checkpoint.name, reason)
        candidate = None if cell.checkpoint is None else _candidate(cell, places)
        image, control = store.layout.place(cell), store.layout.place(Cell(cell.case))
        scores.append(
            score_row(
                measured.get(cell),
                candidate,
                cell.case.name,
                cell.case.prompt,
                cell.case.seed,
                image.as_posix() if not reason else "",
                "" if cell.is_control else control.as_posix(),
                reason,
            )
        )
    run = {
        "format": 1,
        "command": list(command),
        "seconds": round(perf_counter() - start, 1),
        "rendered": {
            "pictures": sum(not cell.is_control for cell in painted),
            "controls": sum(cell.is_control for cell in painted),
            "kept": len(good) - len(painted) - len(rendered),
            "seconds": round(rendering, 2),
        },
        "model": {"name": plan.settings.model, "sha256": plan.settings.model_hash},
        "loras": [lora_record(info) for info in plan.loras],
        "settings": asdict(plan.settings),
        "cases": [asdict(case) for case in plan.cases],
        "strengths": [str(s) for s in plan.strengths],
        "versions": versions(),
    }
    evidence: dict[str, Any] = {"noise": noise} if noise else {}
    if plan.kind != "strength":
        evidence["weights"] = weights(plan)
    return conclude(
        plan.kind, plan.title, scores, measured.values(), options, plan.out, evidence, run,
        plan.warnings,
    )  # fmt: skip


def score_pictures(
    kind: Kind,
    pictures: PictureSet,
    *,
    out: Path,
    options: Options,
    title: str = "",
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> Study:
    """Judge pictures that were rendered elsewhere; torch is not needed.

    Pictures that cannot be read or have no control are listed with their reason.
    """
    with open_run_folder(out):
        return _score(kind, pictures, out, options, title, progress or Silent(), command)


def _score(
    kind: Kind,
    pictures: PictureSet,
    out: Path,
    options: Options,
    title: str,
    bar: Progress,
    command: Sequence[str],
) -> Study:
    places: dict[tuple[Any, ...], int] = {}
    controls = {pair.control: pair for pair in pictures.pairs if pair.control is not None}
    work = [
        *(
            Task(
                path,
                None,
                pair.picture.prompt,
                path,
                ladders=options.ladders if i < TRUST_CONTROLS else "",
            )
            for i, (path, pair) in enumerate(controls.items())
        ),
        *(
            Task(p.picture.path, p.control, p.picture.prompt, i)
            for i, p in enumerate(pictures.pairs)
        ),
    ]
    bar.start("Measuring", len(work))
    measured: dict[Any, Measured] = {}
    cache = out / "measured.jsonl"
    try:
        for result in measure(work, options.all_metrics, _executor(options), cache):
            bar.advance(timed=bool(measured))  # the first one waits for the processes to start
            measured[result.task.tag] = result
    finally:
        bar.finish()
    scores = [
        score_row(
            measured.get(path),
            None,
            pair.case,
            pair.picture.prompt,
            pair.picture.seed,
            relative(path, out),
            "",
            "",
        )  # fmt: skip
        for path, pair in controls.items()
    ]
    for index, pair in enumerate(pictures.pairs):
        picture = pair.picture
        # the pairs come in order of training, a final checkpoint without a number last
        place = places.setdefault((picture.step, picture.epoch), len(places))
        label = f"epoch {picture.epoch}" if picture.epoch is not None else ""
        label = label or (f"step {picture.step}" if picture.step is not None else "")
        candidate = Candidate(
            picture.lora, picture.epoch, picture.step, picture.strength, place, label
        )
        row = score_row(
            measured.get(index), candidate, pair.case, picture.prompt, picture.seed,
            relative(picture.path, out), relative(pair.control, out), "",
        )  # fmt: skip
        if pair.control is None and row.status == "ok":
            row = replace(row, status="flagged", reason="no control found, so no SSIM")
        scores.append(row)
    warnings = [*pictures.warnings]
    warnings += [f"{r.path.name} was left out: {r.reason}" for r in pictures.rejected]
    run = {
        "format": 1,
        "command": list(command),
        "pictures": [str(p.picture.path) for p in pictures.pairs],
        "versions": versions(),
    }
    return conclude(
        kind, title or out.name, scores, measured.values(), options, out, {}, run, warnings
    )


def folder_name(label: str, index: int) -> str:
    """A label as a folder's name, unique by its number."""
    words = re.sub(r"[^\w.-]+", "_", label).strip("._")[:60]
    return f"{index + 1:02d}_{words}" if words else f"{index + 1:02d}"


def _warm_up(plan: RenderPlan, devices: int) -> int:
    """After how many pictures the model is loaded and compiled everywhere: a batch, or a piece
    of work from each device."""
    batch = plan.settings.batch_size
    if devices < 2:
        return batch
    return devices * min(BATCHES_A_TASK * batch, len(plan.cases))


def _candidate(cell: Cell, places: Mapping[Path, int]) -> Candidate:
    checkpoint = cell.checkpoint
    assert checkpoint is not None
    return Candidate(
        checkpoint.file,
        checkpoint.epoch,
        checkpoint.step,
        cell.strength,
        places[checkpoint.path],
        checkpoint.label,
        checkpoint.tensor_hash,
    )


def _executor(options: Options, device: str = "") -> Executor:
    """Where pictures are measured, with rendering going on on `device`."""
    workers = options.workers
    if workers is None:
        workers = 0 if device == "cpu" else default_workers()
    return ProcessPool(workers) if workers else InProcess()
