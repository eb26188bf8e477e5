"""Pictures that were made elsewhere: cells are numbers of rows, controls first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysers.intake.references import NO_REFERENCES, References, find_both
from analysers.runs.evidence import TRUST_CONTROLS
from analysers.runs.request import StudyRequest, Subject
from analysers.runs.source import Shot, Tell, relative
from analysers.study import Candidate, Evidence, Kind, RunRecord, Score
from generation.cells import Checkpoint
from generation.errors import UserError
from generation.folder import check_folder, open_run_folder

if TYPE_CHECKING:
    from generation.pictures.readers.picture import PictureSet


@dataclass(frozen=True)
class _Found:
    row: Score
    image: Path
    control: Path | None = None
    degrade: bool = False


class FoundPictures:
    """A source of pictures that lie somewhere already; torch is not needed.

    Pictures that cannot be read or have no control are listed with their reason.
    """

    rendering = False
    renderer = None
    warm_up = 1
    busy = False

    def __init__(
        self,
        kind: Kind,
        pictures: PictureSet,
        *,
        out: Path,
        title: str = "",
        label: str = "",
        references: tuple[References, References] = NO_REFERENCES,
    ) -> None:
        self.kind, self.out, self.title = kind, out, title or out.name
        self.label, self.references = label or self.title, references
        self._found = [*_controls(pictures, out), *_with_lora(pictures, out)]
        self._paths = tuple(str(pair.picture.path) for pair in pictures.pairs)
        self.with_lora = len(pictures.pairs)
        self.cells: Sequence[int] = range(len(self._found))
        self.probes: Sequence[int] = ()
        self.warnings = (
            *pictures.warnings,
            *(f"{one.path.name} was left out: {one.reason}" for one in pictures.rejected),
        )

    def row(self, cell: int) -> Score:
        """The picture's row, without values."""
        return self._found[cell].row

    def pictures(self, cells: Sequence[int], stopped: Callable[[], bool]) -> Iterator[Shot[int]]:
        """All of them; nothing is waited for. Those with one control come together, so that what is
        computed of it is computed once."""
        for cell in sorted(cells, key=lambda cell: str(self._found[cell].control or "")):
            if stopped():
                return
            found = self._found[cell]
            row = found.row
            yield Shot(cell, found.image, found.control, row.prompt, degrade=found.degrade)

    def evidence(self, tell: Tell) -> Evidence:
        """None: nothing can be rendered again."""
        return Evidence()

    def record(self) -> RunRecord:
        """The pictures' paths."""
        return RunRecord(pictures=self._paths)


@contextmanager
def found_studies(request: StudyRequest, *, writes: bool = True) -> Iterator[list[FoundPictures]]:
    """What `find_studies` finds, while the run folder is held for writing."""
    out, others = request.folder, request.output.allow_non_empty
    check_folder(out, others=others)
    assert request.subject.images is not None
    writes = writes and request.subject.images.is_dir()  # else it says so, and makes no folder
    with open_run_folder(out, others=others) if writes else nullcontext():
        yield find_studies(request, writes=writes)


def find_studies(request: StudyRequest, *, writes: bool = True) -> list[FoundPictures]:
    """The pictures that the request names, each LoRA and setting found there as a study of its own.

    `name` (patterns are possible) chooses among several. A1111's grids are cut into a folder
    `cells` of the run folder, if anything may be written.
    """
    from analysers.intake.pairing import find_pictures
    from analysers.intake.studies import join_checkpoints, split_studies

    subject, out = request.subject, request.folder
    if request.judging.thrifty:
        judging = request.judging
        asked = "refine" if judging.refine else "budget" if judging.budget else "until_decided"
        raise UserError("these pictures exist already, none can be saved; leave it out.", asked)
    loras, triggers = _loras(subject)
    if request.judging.leak_test:
        raise UserError(
            "these pictures exist already, none can be made without the trigger; leave it out.",
            "leak_test",
        )
    assert subject.images is not None
    found = find_pictures(
        subject.images,
        axis="strength" if subject.kind == "strength" else "epoch",
        control=subject.control,
        controls=subject.controls,
        triggers=triggers,
        cells=out / "cells" if writes else None,
    )
    parts = split_studies(join_checkpoints(found, loras))
    title = subject.images.resolve().name
    references = find_both(request.judging.references, request.judging.held_out)
    if len(parts) == 1:
        kind = _kind(subject, parts[0])
        return [FoundPictures(kind, parts[0], out=out, title=title, references=references)]
    studies = [
        FoundPictures(
            _kind(subject, part),
            part if index == 0 else replace(part, rejected=(), warnings=()),
            out=out / folder_name(part.label, index),
            title=f"{title}: {part.label}",
            label=part.label,
            references=references,
        )
        for index, part in enumerate(parts)
    ]
    name = subject.name
    if name is None or subject.loras:  # then it chose among those
        return studies
    chosen = [one for one in studies if name == one.label or fnmatch(one.label, name)]
    if not chosen:
        labels = ", ".join(repr(one.label) for one in studies)
        raise UserError(f"no study here is called {name!r}; there are {labels}.", "name")
    return chosen


def _loras(subject: Subject) -> tuple[Sequence[Checkpoint], tuple[str, ...]]:
    """The LoRA files named beside the pictures, and their trigger words."""
    if not subject.loras:
        return (), ()
    from analysers.runs.plan import trigger_words
    from generation.loras.checkpoints import find_checkpoints

    found = find_checkpoints(subject.loras, name=subject.name).checkpoints
    return found, trigger_words(found)


def _kind(subject: Subject, part: PictureSet) -> Kind:
    return "plane" if part.axis == "both" else subject.kind


def _controls(pictures: PictureSet, out: Path) -> Iterator[_Found]:
    controls = {pair.control: pair for pair in pictures.pairs if pair.control is not None}
    for number, (path, pair) in enumerate(controls.items()):
        picture = pair.picture
        image = relative(path, out)
        row = Score(None, pair.case, picture.prompt, picture.seed, image, "", {})
        yield _Found(row, path, degrade=number < TRUST_CONTROLS)


def _with_lora(pictures: PictureSet, out: Path) -> Iterator[_Found]:
    places: dict[tuple[Any, ...], int] = {}
    for pair in pictures.pairs:
        picture = pair.picture
        # the pairs come in order of training, a final checkpoint without a number last
        place = places.setdefault((picture.step, picture.epoch), len(places))
        label = f"epoch {picture.epoch}" if picture.epoch is not None else ""
        label = label or (f"step {picture.step}" if picture.step is not None else "")
        candidate = Candidate(
            picture.lora, picture.epoch, picture.step, picture.strength, place, label
        )
        image, control = relative(picture.path, out), relative(pair.control, out)
        row = Score(candidate, pair.case, picture.prompt, picture.seed, image, control, {})
        if pair.control is None:
            row = replace(row, status="flagged", reason="no control found, so no SSIM")
        yield _Found(row, picture.path, pair.control)


def folder_name(label: str, index: int) -> str:
    """A label as a folder's name, unique by its number."""
    words = re.sub(r"[^\w.-]+", "_", label).strip("._")[:60]
    return f"{index + 1:02d}_{words}" if words else f"{index + 1:02d}"
