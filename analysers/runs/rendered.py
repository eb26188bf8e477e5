"""Pictures that are rendered for the study: cells are the renderer's cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

from analysers.intake.cases import without_triggers
from analysers.metrics.adherence import rivals
from analysers.runs.evidence import TRUST_CONTROLS, noise_floor, weights
from analysers.runs.source import Shot, Tell
from analysers.study import (
    Candidate,
    CaseRecord,
    Evidence,
    InputRecord,
    LoraRecord,
    Rendered,
    RunRecord,
    Score,
)
from generation.cells import Case, Cell, RenderSettings
from generation.folder import write_result
from generation.loras.inspection import LoraInfo, sha256
from generation.pictures.inputs import read_input
from generation.pictures.pixels import encode_png
from generation.pictures.store import Store, place
from generation.renderers.renderer import land

if TYPE_CHECKING:
    from analysers.runs.plan import Plan


class RenderedPictures:
    """A source of pictures: what lies in the run folder already, and what is painted now.

    Without `resume` everything is painted anew, and earlier pictures are kept aside.
    """

    rendering = True

    def __init__(self, plan: Plan, *, resume: bool = True) -> None:
        self.plan, self._resume = plan, resume
        self.kind, self.title, self.out = plan.kind, plan.title, plan.out
        self.cells: Sequence[Cell] = plan.cells
        self.probes: Sequence[Cell] = plan.probes
        self.references, self.warnings = plan.references, plan.warnings
        self._places = {checkpoint.path: i for i, checkpoint in enumerate(plan.checkpoints)}
        self._degraded = {Cell(case) for case in plan.cases[:TRUST_CONTROLS]}
        contents = {
            case.prompt: without_triggers(case.prompt, plan.trigger_words) for case in plan.cases
        }
        bare = {cell.case.prompt: ("", ()) for cell in plan.probes}
        self._asks: dict[str, tuple[str, tuple[str, ...]]] = bare | {
            prompt: (content, rivals(content, [*contents.values()]))
            for prompt, content in contents.items()
        }
        self._painted: list[Cell] = []
        self._kept, self._seconds = 0, 0.0

    @cached_property
    def renderer(self) -> Any:
        """The plan's renderer with everything decided; may load the model."""
        return self.plan.renderer.begin(self.plan.usable, self.out)

    @cached_property
    def store(self) -> Store:
        """The run folder."""
        return Store(self.out, self.renderer)

    @property
    def warm_up(self) -> int:
        return int(self.renderer.warm_up)

    @property
    def busy(self) -> bool:
        return bool(self.renderer.busy)

    def row(self, cell: Cell) -> Score:
        """The cell's row, without values."""
        checkpoint = cell.checkpoint
        candidate = None
        if checkpoint is not None:
            candidate = Candidate(
                checkpoint.file,
                checkpoint.epoch,
                checkpoint.step,
                cell.strength,
                self._places[checkpoint.path],
                checkpoint.label,
                checkpoint.tensor_hash,
            )
        control = "" if cell.is_control else place(Cell(cell.case)).as_posix()
        image = place(cell).as_posix()
        case = cell.case
        return Score(candidate, case.name, case.prompt, case.seed, image, control, {})

    def pictures(self, cells: Sequence[Cell], stopped: Callable[[], bool]) -> Iterator[Shot[Cell]]:
        """Each cell's picture as it lands; one whose control is still to come waits for it. Raises
        UserError where the disk is too small for those that are missing."""
        refused, settings = self.plan.refused, self.plan.settings
        good = []
        for cell in cells:
            if cell.checkpoint is not None and cell.checkpoint.name in refused:
                yield Shot(cell, reason=refused[cell.checkpoint.name])
            else:
                good.append(cell)
        self.store.check_space(good, settings.width * settings.height)
        early: list[Shot[Cell]] = []
        begin = perf_counter()
        before = self._seconds
        for done in land(good, self.renderer, self.store, resume=self._resume, stopped=stopped):
            self._seconds = before + perf_counter() - begin
            if done.path is None:
                yield Shot(done.cell, reason=done.reason)
                continue
            if done.fresh:
                self._painted.append(done.cell)
            else:
                self._kept += 1
            control = None if done.cell.is_control else self.store.path(Cell(done.cell.case))
            prompt, degrade = done.cell.case.prompt, done.cell in self._degraded
            content, others = self._asks[prompt]
            shot = Shot(
                done.cell, done.path, control, prompt, "", done.fresh, degrade, content, others
            )
            if control is None or control.is_file():
                yield shot
            else:  # a kill can leave a picture whose control is rendered only now
                early.append(shot)
        yield from early

    def evidence(self, tell: Tell) -> Evidence:
        """The noise floor, and for several checkpoints what their weights say."""
        noise = noise_floor(self.plan.cases, self.renderer, self.store, tell)
        usable = [c for c in self.plan.checkpoints if c.name not in self.plan.refused]
        return Evidence(noise=noise, weights=weights(usable) if self.kind != "strength" else None)

    def record(self) -> RunRecord:
        """What was painted, by what, from which files and cases."""
        plan, used = self.plan, self.renderer.record()
        controls = sum(cell.is_control for cell in self._painted)
        return RunRecord(
            rendered=Rendered(
                len(self._painted) - controls, controls, self._kept, round(self._seconds, 2)
            ),
            model=used.model,
            settings=used.settings or _known(plan.settings),
            renderer=used.renderer,
            loras=tuple(map(_lora_record, plan.loras)),
            cases=tuple(map(self._case_record, plan.cases)),
            strengths=tuple(map(str, plan.strengths)),
        )

    def _case_record(self, case: Case) -> CaseRecord:
        """The case; a copy of the picture that it edits lies beside run.json."""
        picture = None
        if case.picture is not None:
            copy = f"input_{case.picture.sha256[:12]}.png"
            write_result(self.out / copy, encode_png(read_input(case.picture), {}))
            picture = InputRecord(case.picture.sha256, str(case.picture.path), copy)
        return CaseRecord(case.prompt, case.seed, case.negative, case.name, picture)


def _known(settings: RenderSettings) -> dict[str, Any]:
    """What is known of another program's settings, under the engine's names."""
    names = ("model", "model_hash", "width", "height", "steps", "guidance_scale", "sampler",
             "clip_skip")  # fmt: skip
    return {name: value for name in names if (value := getattr(settings, name))}


def _lora_record(info: LoraInfo) -> LoraRecord:
    return LoraRecord(
        info.path.name,
        sha256(info.path),
        info.format,
        info.family,
        info.rank,
        info.epoch,
        info.step,
    )
