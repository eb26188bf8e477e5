"""`analyse-strength` and `analyse-epochs`: options -> a request -> a run -> what is told of it."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysers.commands.bar import Bar, count
from analysers.commands.early import EarlyReport
from analysers.commands.options import (
    DIFFERENT,
    DONE,
    FOLDER,
    NOTHING_RANKED,
    Printing,
    Whole,
    one_sentence_errors,
    program,
    request,
    shared_options,
)
from analysers.commands.panels import Command
from analysers.commands.tell import (
    announce,
    describe,
    describe_files,
    finish,
    followed,
    metric_list,
    publish,
    rendered,
    spared,
)
from generation.errors import UserError, named

if TYPE_CHECKING:
    from analysers.runs.events import Observer
    from analysers.runs.plan import Plan
    from analysers.runs.request import StudyRequest
    from analysers.study import Kind, Study


finest_step = click.option(
    "--resolution",
    metavar="STEP",
    help="The finest step of --strengths auto [default: 0.05].",
)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.option(
    "--strengths",
    "--strength",
    default="0.2:1.4:0.2",
    show_default=True,
    help="Such as 0.2:1.4:0.2 (both ends included) or 0.6,0.8,1; auto: from coarse to fine.",
)
@finest_step
@click.option(
    "--compare-renderers",
    metavar="MODEL",
    help="Paint the cells here too, with this base model: does the server of --renderer apply as "
    "much of the LoRA?",
)
@one_sentence_errors
def analyse_strength(**options: Any) -> None:
    """Which strength of a LoRA? Renders a strength sweep, scores and ranks it.

    \b
    analyse-strength --demo
    analyse-strength my.safetensors --model SDXL/ --prompts prompts.txt --seeds 1:4
    analyse-strength --images renders/ --control base.png
    """
    model = options.pop("compare_renderers")
    sys.exit(_run("strength", options, compared=model))


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.option(
    "--strengths",
    "--strength",
    default="1.0",
    show_default=True,
    help="One strength for all epochs, or several for epoch x strength; auto: that plane by few "
    "pictures.",
)
@finest_step
@click.option(
    "--watch",
    is_flag=True,
    help="Judge checkpoints as a training writes them, until its final file has come.",
)
@click.option(
    "--patience",
    type=Whole(1),
    metavar="CHECKPOINTS",
    help="End --watch when so many checkpoints lie beyond the breakdown.",
)
@click.option(
    "--keep-best",
    type=FOLDER,
    metavar="FOLDER",
    help="Keep every checkpoint there before the trainer prunes it, in the end the best, the clean "
    "ones and the last [default with --watch: checkpoints/ in the run folder].",
)
@one_sentence_errors
def analyse_epochs(**options: Any) -> None:
    """Which epoch of a training? Renders every checkpoint, scores and ranks them.

    \b
    analyse-epochs --demo
    analyse-epochs train_output/ --model sd15/ --strength 0.8
    analyse-epochs train_output/ --model sd15/ --strengths 0.6,0.8,1
    analyse-epochs --images samples/ --controls controls/
    """
    following = {name: options.pop(name) for name in ("watch", "patience", "keep_best")}
    sys.exit(_run("epochs", options, **following))


def _run(
    kind: Kind,
    options: Mapping[str, Any],
    watch: bool = False,
    patience: int | None = None,
    keep_best: Path | None = None,
    compared: str | None = None,
) -> int:
    """What the typed command asks for; the exit code."""
    # Python looks for cycles once more when it ends, a quarter of a second that frees nothing.
    atexit.register(gc.freeze)
    if options["serve"]:
        return _serve(kind, options)
    printing = Printing.of(options)
    if options["metrics"].strip() == "list":
        click.echo(metric_list())
        return DONE
    if printing.votes and not (options["loras"] or printing.images or options["demo"]):
        from reports.votes import run_of

        printing = replace(printing, report_only=printing.report_only or run_of(printing.votes))
    if printing.report_only:
        from analysers.runs.conclude import load_study
        from generation.folder import open_run_folder

        study = load_study(printing.report_only)
        if printing.dry_run:
            click.echo(f"The report of {study.title or 'the study'} can be written. Nothing was.")
            return DONE
        with open_run_folder(printing.report_only):  # a run may have just ended there
            return finish(load_study(printing.report_only), printing.report_only, printing)
    asked = request(kind, options)
    if patience and not watch:
        raise UserError(f"it belongs to {named('watch')}.", "patience")
    if (watch or keep_best) and asked.subject.images:
        raise UserError(
            f"nothing is trained in {named('images')}; name the folder of the checkpoints instead.",
            "watch" if watch else "keep_best",
        )
    early = EarlyReport(printing.named)
    observers: tuple[Observer, ...] = (early,) if printing.silent else (Bar(), early)
    if asked.subject.images:
        return _judge_pictures(asked, observers, printing)
    if (watch or keep_best) and not printing.dry_run:
        return _follow(asked, observers, printing, watch, patience, keep_best)
    if compared is not None:
        return _compare(asked, observers, printing, compared)
    return _render(asked, observers, printing)


def _compare(
    asked: StudyRequest, observers: Sequence[Observer], printing: Printing, model: str
) -> int:
    """The same cells by the server and here; whether the server applies as much of the LoRA."""
    from analysers.runs.comparing import compare, plan_comparison
    from analysers.runs.loop import run_study
    from analysers.translation import rows
    from generation.folder import check_folder, open_run_folder
    from reports.comparison import HEAD, Side, write_comparison

    others = asked.output.allow_non_empty
    plans = plan_comparison(asked, model)
    out = plans[0].out.parent
    check_folder(out, others=others)
    if printing.dry_run:
        for plan in plans:
            describe(plan)
        return DONE
    studies = []
    with open_run_folder(out, others=others):
        for plan in plans:
            with open_run_folder(plan.out, others=others):
                if not printing.silent:
                    announce(plan, prompts_given=bool(asked.prompts.prompts))
                study = run_study(plan, asked, observers=observers, command=_command())
                publish(study, plan.out, printing)
                studies.append(study)
        found = compare(studies[0], studies[1], out)
        record = {"renderer": asked.rendering.renderer, "model": model, **found.record()}
        there = str((studies[0].run.renderer or {}).get("name"))
        page = write_comparison(
            out,
            f"{plans[0].title}: {there} and this suite",
            found.headline,
            [found.answer, found.likeness],
            found.rows,
            (
                Side(there, plans[0].out.name, studies[0]),
                Side("this suite", plans[1].out.name, studies[1]),
            ),
            record,
        )
    if printing.as_json:
        click.echo(json.dumps(record, indent=1))
    elif printing.silent:
        click.echo(str(page))
    else:
        click.echo()
        for row in (HEAD, *rows(found.rows)):
            click.echo("  ".join(f"{cell:>19}" for cell in row))
        click.echo(f"\n{click.style(found.answer, bold=True)}\n{found.likeness}\n{page}")
    return DIFFERENT if found.differs else DONE if found.told else NOTHING_RANKED


def _serve(kind: Kind, options: Mapping[str, Any]) -> int:
    """The live page, until Ctrl-C."""
    from analysers.serve.server import Server

    runs = options["out"] or Path("runs")
    server = Server(kind, options["loras"], runs, options["host"], options["port"])
    click.echo(f"Open {server.address}\nCtrl-C ends it; a study under way can be continued.")
    server.run()
    return DONE


def _follow(
    asked: StudyRequest,
    observers: Sequence[Observer],
    printing: Printing,
    watching: bool,
    patience: int | None,
    keep_best: Path | None,
) -> int:
    """Keep the checkpoints of a training, and judge them: once, or as they come."""
    from analysers.runs import watch
    from analysers.runs.loop import run_study
    from generation.folder import open_run_folder
    from generation.loras.keeping import Keeper, Taken

    source = watch.folder_of(asked)
    out = asked.folder
    with open_run_folder(out, others=asked.output.allow_non_empty):
        keeper = Keeper(source, keep_best or out / "checkpoints", asked.subject.ema)
        last: list[watch.Judged] = []

        def judge(plan: Plan) -> Study:
            return run_study(plan, asked, observers=observers, command=_command())

        def tell(what: Taken | watch.Judged | watch.Waiting) -> None:
            if isinstance(what, watch.Judged):
                last[:] = [what]
                if not what.end:
                    publish(what.study, out, printing)
            if not printing.silent:
                click.echo(followed(what), err=True)

        if watching:
            if not printing.silent:
                click.echo(f"Watching {source}; Ctrl-C ends it with the answer so far.", err=True)
            try:
                end = watch.watch(asked, keeper, judge, patience=patience, tell=tell)
            except KeyboardInterrupt:
                if not last:
                    raise
                end = last[0]
        else:
            end = watch.judge_once(asked, keeper, judge, tell)
        code = finish(end.study, out, printing)
        if end.end:
            gone = keeper.release(watch.worth_keeping(end.plan, end.study))
            if not printing.silent:
                left = count(len(keeper.kept), "checkpoint")
                click.echo(f"{keeper.folder} keeps {left}; {len(gone)} let go there.", err=True)
    if printing.write_weight:
        _write_weight(end.study, end.plan)
    return code


def _render(asked: StudyRequest, observers: Sequence[Observer], printing: Printing) -> int:
    from analysers.runs.plan import plan_study
    from generation.folder import check_folder, open_run_folder
    from generation.loras.checkpoints import find_checkpoints

    subject = asked.subject
    here = asked.rendering.renderer == "diffusers"
    if printing.dry_run and subject.loras and here and not asked.rendering.model:
        describe_files(find_checkpoints(subject.loras, name=subject.name, ema=subject.ema))
        return DONE
    others = asked.output.allow_non_empty
    if asked.output.out:
        check_folder(asked.output.out, others=others)  # before anything is loaded
    with _kept():
        plan = plan_study(asked)
    if printing.dry_run:
        check_folder(plan.out, others=others)
        if asked.judging.thrifty:
            from analysers.runs import loop
            from analysers.runs.rendered import RenderedPictures

            loop.thrifty(RenderedPictures(plan), asked.judging)  # may refuse the budget
        describe(plan, thrifty=asked.judging.thrifty)
        return DONE
    with open_run_folder(plan.out, others=others):
        if not printing.silent:
            given, thrifty = bool(asked.prompts.prompts), asked.judging.thrifty
            announce(plan, prompts_given=given, thrifty=thrifty)
        from analysers.runs.loop import run_study

        study = run_study(plan, asked, observers=observers, command=_command())
        if not printing.silent:
            click.echo(rendered(study.run.rendered) + spared(study))
        code = finish(study, plan.out, printing)
    if printing.write_weight:
        _write_weight(study, plan)
    return code


@contextmanager
def _kept() -> Iterator[None]:
    """What is made inside is not looked at by the garbage collector: torch, diffusers and
    transformers are half a million objects that stay, and its rounds over them took a third of the
    time that importing them does."""
    if "torch" in sys.modules or not gc.isenabled():  # we are a guest in this process
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _judge_pictures(asked: StudyRequest, observers: Sequence[Observer], printing: Printing) -> int:
    """Score the pictures of --images, each LoRA and setting found there as a study of its own."""
    from analysers.runs.found import found_studies
    from analysers.runs.loop import Run

    with found_studies(asked, writes=not printing.dry_run) as sources:
        if printing.dry_run:
            for source in sources:
                click.echo(f"{source.label}: {count(source.with_lora, 'picture')} to measure.")
            click.echo("Nothing was written.")
            return DONE
        codes = []
        for number, source in enumerate(sources, 1):
            study = Run(source, asked, observers=observers, command=_command()).go()
            if len(sources) > 1 and not printing.silent:
                label = source.label.rstrip(": ")
                click.echo(f"\nStudy {number} of {len(sources)}: {label}")
            codes.append(finish(study, source.out, printing))
        return max(codes)


def _command() -> list[str]:
    return [*program(), *sys.argv[1:]]


def _write_weight(study: Study, plan: Plan) -> None:
    from generation.loras.card import write_recommended_weight

    pick = study.verdict.recommended
    if pick is None or pick.strength is None:
        raise UserError(
            f"no weight was written. {study.verdict.headline} Give more {named('prompts')}, or "
            f"other {named('strengths')}.",
            field="write_weight",
        )
    path = next(c.path for c in plan.checkpoints if c.tensor_hash == pick.tensor_hash)
    written = write_recommended_weight(path, pick.strength)
    click.echo(f"Recommended weight {pick.strength} written to {written}", err=True)
