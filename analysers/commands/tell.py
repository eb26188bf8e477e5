"""What the terminal is told: the plan, the table, the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysers.commands.bar import count, duration, rate
from analysers.commands.options import DONE, NOTHING_RANKED, SOME_FAILED, Printing
from generation.errors import UserError

if TYPE_CHECKING:
    from analysers.runs.plan import Plan
    from analysers.runs.watch import Judged, Waiting
    from analysers.study import Study
    from analysers.study.run import Rendered
    from generation.cells import Checkpoint
    from generation.loras.keeping import Taken
    from generation.loras.order import CheckpointList


def announce(plan: Plan, *, prompts_given: bool, thrifty: bool = False) -> None:
    """What is rendered now."""
    controls = len(plan.cases)
    most = "at most " if thrifty else ""
    beside = f", and {len(plan.probes)} more for the leak test" if plan.probes else ""
    click.echo(
        f"{plan.title}: {most}{count(len(plan.cells) - controls, 'picture')} and "
        f"{count(controls, 'control')} at {plan.settings.width}x{plan.settings.height} "
        f"on {plan.settings.device}{beside}."
    )
    for line in plan.told:
        click.echo(f"  {line}")
    if not prompts_given:
        click.echo("No prompts given: these were made from the LoRA's trigger word:")
        list_prompts(plan)


def describe(plan: Plan, *, thrifty: bool = False) -> None:
    """What would be rendered, and how long it would take."""
    from analysers.runs.plan import estimate
    from generation.samplers import shown_sampler

    used = plan.settings
    click.echo(
        f"{plan.title}: {shown_sampler(used.sampler)}, {used.steps} steps, "
        f"guidance {used.guidance_scale:g}, {used.width}x{used.height}, "
        f"{used.dtype} on {used.device}"
    )
    for line in plan.told:
        click.echo(f"  {line}")
    for info in plan.loras[:1]:
        click.echo(f"  {info.path.name}: {info.summary()}")
    _list_checkpoints(plan.checkpoints)
    for name, reason in plan.refused.items():
        click.echo(f"  {name} is left out: {reason}")
    for warning in plan.warnings:
        click.echo(f"Warning: {warning}")
    click.echo("Strengths: " + ", ".join(str(strength) for strength in plan.strengths))
    click.echo(f"Cases: {len(plan.cases)} (prompt x seed), from these prompts:")
    list_prompts(plan)
    missing, seconds = estimate(plan)
    most = "at most " if thrifty else ""
    told = f"To render: {most}{missing} of {count(len(plan.everything), 'picture')}"
    if plan.probes:
        told += f", {len(plan.probes)} of them for the leak test"
    if missing:
        told += ", how long cannot be told" if seconds is None else _told(seconds, used.device)
    click.echo(told + ". Nothing was written.")


def describe_files(found: CheckpointList) -> None:
    """What a dry run can say of the LoRA files alone, without a model and without torch."""
    from analysers.runs.plan import inspect_all

    infos, refused = inspect_all(found.checkpoints)
    refused.update((checkpoint.name, reason) for checkpoint, reason in found.unreadable)
    if not infos:
        raise UserError(next(iter(refused.values())))
    first = next(iter(infos.values()))
    click.echo(f"{first.path.name}: {first.summary()}")
    if found.trainer:
        click.echo(f"Trained with {found.trainer}.")
    _list_checkpoints(found.checkpoints)
    for name, reason in refused.items():
        click.echo(f"  {name} is left out: {reason}")
    for warning in found.warnings:
        click.echo(f"Warning: {warning}")
    words = dict.fromkeys(word for info in infos.values() for word in info.trigger_words)
    if words:
        click.echo("Trigger words: " + ", ".join(words))
    needed = ["--model (" + (first.family_words or "its base is not named") + ")"]
    needed += [] if words else ["--prompts"]
    click.echo(f"To render: give {' and '.join(needed)}. Nothing was written.")


def _list_checkpoints(checkpoints: Sequence[Checkpoint]) -> None:
    click.echo("Checkpoints in order of training:")
    for checkpoint in checkpoints:
        names = ", ".join((checkpoint.file, *checkpoint.aliases))
        click.echo(f"  {checkpoint.label or checkpoint.name:28} {names}"
                   f"  (position from {checkpoint.position_source or 'nowhere'})")  # fmt: skip


def _told(seconds: float, device: str) -> str:
    told = f", about {duration(seconds)} (from two measured renders"
    return told + ("; scoring on the same CPU adds to it)" if device == "cpu" else ")")


def list_prompts(plan: Plan) -> None:
    for prompt in dict.fromkeys(case.prompt for case in plan.cases):
        click.echo(f"  {prompt.strip()[:120] or '(empty)'}")


def publish(study: Study, out: Path, printing: Printing) -> Path:
    """Write tables, the report and what is to be shared; return the report's path."""
    from generation.folder import write_result
    from reports import html, pictures, tables, votes

    if printing.votes:
        study = votes.with_votes(study, printing.votes)
    report = html.publish(
        study,
        out,
        single_file=printing.single_file,
        announce=lambda text: click.echo(text, err=True),
        also=printing.named,
    )
    if printing.share:
        pictures.write_contact_sheet(study, out, also=printing.named)
        pictures.write_animation(study, out, also=printing.named)
        write_result(out / "summary.md", tables.markdown(study))
    return report


def finish(study: Study, out: Path, printing: Printing) -> int:
    """Write all, print what was found; return the exit code that says how it went."""
    from analysers.runs.conclude import MOST_STUDY
    from generation.files import read_utf8

    report = publish(study, out, printing)
    if printing.as_json:
        click.echo(read_utf8(out / "study.json", MOST_STUDY), nl=False)
    elif printing.quiet:
        click.echo(str(report))
    else:
        _tell(study, report)
    ranked = any(summary.rank is not None for summary in study.summaries)
    failed = any(score.status == "failed" for score in study.scores)
    return NOTHING_RANKED if not ranked else SOME_FAILED if failed else DONE


def _tell(study: Study, report: Path) -> None:
    import shutil

    from analysers.argument import reasons
    from reports import tables, votes

    width = shutil.get_terminal_size((100, 24)).columns

    def wrapped(text: str) -> str:
        return click.wrap_text(text.replace(" %", "\xa0%"), width).replace("\xa0%", " %")

    click.echo()
    click.echo(tables.terminal_table(study, width))
    click.echo(click.style(wrapped(study.verdict.answer), bold=True))
    if votes.people(study):
        click.echo(wrapped(votes.people(study)))
    click.echo()
    shown = reasons(study.verdict, _MOST_REASONS)
    for sentence in shown:
        click.echo(wrapped(sentence))
    if study.verdict.warnings:
        click.echo()
    for warning in study.verdict.warnings:
        click.echo(wrapped("Note: " + warning).replace("Note:", _NOTE, 1), err=True)
    left = len(study.verdict.arguments) - len(shown)
    more = f", with {count(left, 'more reason')}" if left else ""
    click.echo(f"\nReport{more}: {report}")


_MOST_REASONS = 3
"""As many sentences argue the answer on the terminal; the report has all of them."""

_NOTE = click.style("Note:", fg="yellow")


def followed(what: Taken | Judged | Waiting) -> str:
    """What a watched training brought, in a line."""
    from analysers.runs.watch import Judged, Waiting

    if isinstance(what, Waiting) and what.gone:
        return what.reason
    if isinstance(what, Waiting):
        return f"Judging waits; checkpoints are kept meanwhile. {what.reason}"
    if not isinstance(what, Judged):
        told = {"kept": "kept", "unfinished": "still being written", "failed": "cannot be kept"}
        reason = "" if what.what == "kept" else f" ({what.reason.partition(';')[0]})"
        return f"{what.path.name}: {told[what.what]}{reason}"
    verdict = what.study.verdict
    text = f"After {count(len(what.plan.checkpoints), 'checkpoint')}: {verdict.headline}"
    if what.end == "final":
        text += "\nThe training has ended: its final file is there."
    if what.end == "patience" and verdict.breakdown is not None:
        text += (
            f"\nThe training could have been stopped at {verdict.breakdown.heading('epochs')}: "
            "from there on it breaks."
        )
    return text


def metric_list() -> str:
    """The metrics that can be asked for: what they tell, which way is better, what they need."""
    from analysers.metrics.metric import ALWAYS, declared, metric_names

    needed = {
        "content": "the prompt",
        "others": "two more prompts",
        "renderer": "the base model",
        "references": "training pictures (--references)",
        "held_out": "pictures kept back (--held-out)",
    }
    import shutil

    width = min(80, shutil.get_terminal_size((80, 24)).columns)
    rows = []
    for name in metric_names():
        if name in ("ssim", "brisque", *ALWAYS):
            continue
        metric = declared(name)
        better = "only describes" if metric.better is None else f"{metric.better} is better"
        needs = ", ".join(sorted(needed.get(need, f"the {need}") for need in metric.needs))
        about = f"{metric.about[:1].upper()}{metric.about[1:]}; " if metric.about else ""
        rows.append((name, f"{about}{better}; needs {needs or 'the picture alone'}."))
    listing = click.HelpFormatter(width=width)
    listing.write_text("Measured always: ssim, brisque, and what describes the pictures.")
    listing.write_text("More, by name:")
    listing.indent()
    listing.write_dl(rows)
    return listing.getvalue().rstrip()


def rendered(record: Rendered | None) -> str:
    """What was rendered just now: "128 pictures and 16 controls in 37 s (3.9 pictures/s)"."""
    if record is None:
        return ""
    kept = count(record.kept, "picture")
    fresh = record.pictures + record.controls
    if not fresh:
        return f"Nothing to render: {kept} lay there already."
    painted = {"picture": record.pictures, "control": record.controls}
    counts = [count(number, noun) for noun, number in painted.items() if number]
    told = (
        f"Rendered {' and '.join(counts)} in {duration(record.seconds)} "
        f"({rate(fresh / record.seconds)}, loading included)"
    )
    return told + (f"; {kept} lay there already." if record.kept else ".")


def spared(study: Study) -> str:
    """What a race did not render, "" where nothing was left out."""
    race = study.evidence.race
    if race is None or race.cells == race.asked:
        return ""
    why = "the budget ended" if race.over_budget else "they could hardly change the answer"
    if race.sure is not None:
        chance = f"{1 - race.sure:.0%}".replace("%", " %")
        why += f" (with a chance of about {chance})"
    left, all_of_it = race.cells - race.asked, count(race.cells, "picture")
    return f" {left} of the full grid's {all_of_it} were not: {why}."
