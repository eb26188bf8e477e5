"""The Python calls: fields -> a request -> a run -> a result that a notebook can show."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysers.commands.bar import Bar
from analysers.runs.conclude import load_study
from analysers.runs.found import found_studies
from analysers.runs.loop import Run, run_study
from analysers.runs.plan import plan_study
from analysers.runs.request import StudyRequest
from generation.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analysers.runs.events import Observer
    from analysers.study import Candidate, Kind, Study


@dataclass(frozen=True)
class Result:
    """A finished study and the folder that it lies in.

    `outside` are folders and files beyond the run folder whose pictures a report may show.
    """

    study: Study
    folder: Path
    outside: tuple[Path, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The setting with the best mean of the ranked metric; None if nothing could be ranked."""
        return self.study.verdict.best

    @property
    def recommended(self) -> Candidate | None:
        """What to use: never beyond a breakdown; None where nothing can be recommended."""
        return self.study.verdict.recommended

    @property
    def answer(self) -> str:
        """The answer in words."""
        return self.study.verdict.answer

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the answer less certain, most serious first."""
        return self.study.verdict.warnings

    @property
    def table(self) -> pd.DataFrame:
        """One row per setting in rank order, as in summary.csv."""
        from reports.tables import summary_frame

        return summary_frame(self.study)

    @property
    def scores(self) -> pd.DataFrame:
        """One row per picture, as in scores.csv."""
        from reports.tables import scores_frame

        return scores_frame(self.study)

    def report(self, *, single_file: bool = False) -> Path:
        """Write scores.csv, summary.csv and report.html into the folder; return the page's path.

        With `single_file` thumbnails of the pictures go inside the page.
        """
        from reports import html, tables

        tables.write_tables(self.study, self.folder)
        return html.write_report(
            self.study, self.folder, single_file=single_file, also=self.outside
        )

    def __repr__(self) -> str:
        return f"<{self.study.title or 'study'} in {self.folder}: {self.answer}>"

    def _repr_html_(self) -> str:
        from reports.html import visible
        from reports.tables import ranked

        def text(words: object) -> str:
            return escape(visible(words))

        verdict = self.study.verdict
        heads, rows = ranked(self.study)
        cautions = "".join(f"<li>{text(one)}</li>" for one in verdict.warnings)
        lines = ["".join(f"<td>{text(cell)}</td>" for cell in row) for row in rows]
        return (
            f"<p><b>{text(verdict.answer)}</b></p><p>{text(' '.join(verdict.arguments))}</p>"
            + (f"<ul>{cautions}</ul>" if cautions else "")
            + f"<table><tr>{''.join(f'<th>{text(head)}</th>' for head in heads)}</tr>"
            + "".join(f"<tr>{line}</tr>" for line in lines)
            + f"</table><p>{text(self.folder)}</p>"
        )


def strength(
    loras: str | Path | Iterable[str | Path],
    *,
    model: str | Path | None = None,
    prompts: str | Path | Iterable[str] | None = None,
    strengths: str | float | Iterable[float | str] | None = None,
    seeds: str | int | Iterable[int] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    observers: Sequence[Observer] = (),
    **fields: Any,
) -> Result:
    """Which strength of this LoRA? Renders, scores and ranks what `analyse-strength` would.

    `model` is a diffusers folder, a .safetensors checkpoint, a hub id or "demo"; `prompts` are
    texts, or a file's path; `fields` are any others of `analysers.runs.request.StudyRequest`
    (`steps=20`, `size=(768, 512)`, `metrics=["lpips"]`, ...). What is left out is as on the command
    line. What the run folder holds already is not rendered again. `quiet` hides the progress;
    `observers` are told the run's events. Raises UserError for what cannot be done.
    """
    return _render(
        "strength", quiet, observers, loras=loras, model=model, prompts=prompts,
        strengths=strengths, seeds=seeds, out=out, **fields,
    )  # fmt: skip


def epochs(
    loras: str | Path | Iterable[str | Path],
    *,
    model: str | Path | None = None,
    prompts: str | Path | Iterable[str] | None = None,
    strengths: str | float | Iterable[float | str] | None = None,
    seeds: str | int | Iterable[int] | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    observers: Sequence[Observer] = (),
    **fields: Any,
) -> Result:
    """Which checkpoint of a training (a folder, or files)? With several strengths, at which too?

    Otherwise as `strength`.
    """
    return _render(
        "epochs", quiet, observers, loras=loras, model=model, prompts=prompts,
        strengths=strengths, seeds=seeds, out=out, **fields,
    )  # fmt: skip


def pictures(
    images: str | Path,
    *,
    kind: Kind = "strength",
    control: str | Path | None = None,
    controls: str | Path | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    observers: Sequence[Observer] = (),
    **fields: Any,
) -> Result:
    """Judge the pictures in a folder; torch is not needed.

    `kind` is what differs between them, "strength" or "epochs"; `control` is the one picture
    without the LoRA, `controls` a folder of several. Where the folder holds several studies, `name`
    chooses one. Otherwise as `strength`.
    """
    request = _request(kind, images=images, control=control, controls=controls, out=out, **fields)
    with found_studies(request) as sources:
        if len(sources) > 1:
            labels = ", ".join(repr(source.label) for source in sources)
            raise UserError(
                f"{images} holds {len(sources)} studies; choose one of {labels}.", field="name"
            )
        source = sources[0]
        study = Run(source, request, observers=_watched(quiet, observers)).go()
    subject = request.subject
    outside = (subject.images, subject.control, subject.controls)
    return Result(study, source.out, tuple(path for path in outside if path))


def load(folder: str | Path) -> Result:
    """The finished study in a run folder."""
    try:
        return Result(load_study(Path(folder)), Path(folder))
    except UserError as error:
        raise UserError(error.args[0], field="folder") from error


def _render(kind: Kind, quiet: bool, observers: Sequence[Observer], **fields: Any) -> Result:
    request = _request(kind, **fields)
    plan = plan_study(request)
    return Result(run_study(plan, request, observers=_watched(quiet, observers)), plan.out)


def _request(kind: Kind, **fields: Any) -> StudyRequest:
    """The request. A script measures in its own process, unless `workers` are asked for: new ones
    import the script, and would run it again where `if __name__ == "__main__"` is missing."""
    if hasattr(sys.modules["__main__"], "__file__") and fields.get("workers") is None:
        fields["workers"] = 0
    return StudyRequest.of(kind, **fields)


def _watched(quiet: bool, observers: Sequence[Observer]) -> Sequence[Observer]:
    return observers if quiet else (Bar(), *observers)
