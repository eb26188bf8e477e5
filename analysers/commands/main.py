"""`analyse-strength` and `analyse-epochs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysers.commands.bar import Bar
from analysers.commands.options import (
    one_sentence_errors,
    part_strengths,
    shared_options,
    size,
    typed,
    weighted,
)
from analysers.commands.tell import count, describe, describe_files, finish, list_prompts, rendered
from generation.errors import UserError, named

if TYPE_CHECKING:
    from analysers.runs.events import Progress
    from analysers.runs.plan import RenderPlan
    from analysers.runs.request import Options
    from analysers.study import Kind, Study
    from generation.cells import Checkpoint


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.option(
    "--strengths",
    "--strength",
    default="0.2:1.4:0.2",
    show_default=True,
    help="Such as 0.2:1.4:0.2 (both ends included) or 0.6,0.8,1.",
)
@one_sentence_errors
def analyse_strength(**options: Any) -> None:
    """Which strength of a LoRA? Renders a strength sweep, scores and ranks it.

    \b
    analyse-strength --demo
    analyse-strength my.safetensors --model SDXL/ --prompts prompts.txt --seeds 1:4
    analyse-strength --images renders/ --control base.png
    """
    _run("strength", **options)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.option(
    "--strengths",
    "--strength",
    default="1.0",
    show_default=True,
    help="One strength for all epochs, or several for epoch x strength.",
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
    _run("epochs", **options)


def _run(kind: Kind, **o: Any) -> None:
    from analysers.runs.conclude import load_study
    from analysers.runs.events import Silent
    from analysers.runs.request import Options
    from generation.folder import check_folder, open_run_folder
    from generation.loras.checkpoints import find_checkpoints

    if o["report_only"] and o["dry_run"]:
        study = load_study(o["report_only"])
        click.echo(f"The report of {study.title or 'the study'} can be written. Nothing was.")
        return
    if o["report_only"]:
        sys.exit(finish(load_study(o["report_only"]), o["report_only"], o))
    options = Options(
        metrics=tuple(name.strip() for name in o["metrics"].split(",") if name.strip()),
        rank_by=o["rank_by"],
        tie_tolerance=o["tie_tolerance"],
        margin=o["margin"],
        workers=o["jobs"],
    )
    bar = Silent() if o["quiet"] or o["as_json"] else Bar()
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    if o["images"]:
        sys.exit(_judge_pictures(kind, o, options, bar, command))
    if kind == "epochs" and o["dry_run"] and o["loras"] and not o["model"] and not o["demo"]:
        describe_files(find_checkpoints(o["loras"], name=o["name"], ema=o["ema"]))
        return
    plan = _plan(kind, o)
    if o["dry_run"]:
        check_folder(plan.out, others=o["allow_non_empty"])
        describe(plan)
        return
    with open_run_folder(plan.out, others=o["allow_non_empty"]):
        sys.exit(_render(plan, options, bar, command, o))


def _render(
    plan: RenderPlan,
    options: Options,
    bar: Progress,
    command: Sequence[str],
    o: dict[str, Any],
) -> int:
    from analysers.runs.loop import run_study

    if not o["quiet"] and not o["as_json"]:
        controls = len(plan.cases)
        click.echo(
            f"{plan.title}: {count(len(plan.cells) - controls, 'picture')} and "
            f"{count(controls, 'control')} at {plan.settings.width}x{plan.settings.height} "
            f"on {plan.settings.device}."
        )
        if not o["prompt"] and not o["prompts"] and not o["demo"]:
            click.echo("No prompts given: these were made from the LoRA's trigger word:")
            list_prompts(plan)
    study = run_study(plan, options, progress=bar, command=command, resume=o["resume"])
    if not o["quiet"] and not o["as_json"]:
        click.echo(rendered(study.run["rendered"]))
    code = finish(study, plan.out, o)
    if o["write_weight"]:
        _write_weight(study, plan)
    return code


def _judge_pictures(
    kind: Kind, o: dict[str, Any], options: Options, bar: Progress, command: Sequence[str]
) -> int:
    """Score the pictures of --images, each LoRA and setting found there as a study of its own."""
    from contextlib import nullcontext

    from generation.folder import check_folder, open_run_folder
    from generation.loras.checkpoints import find_checkpoints

    loras: Sequence[Checkpoint] = ()
    if o["loras"]:
        loras = find_checkpoints(o["loras"], name=o["name"]).checkpoints
    title = o["images"].resolve().name
    out = o["out"] or Path("runs", f"{title}-{kind}")
    check_folder(out, others=o["allow_non_empty"])
    reads = o["dry_run"] or not o["images"].is_dir()
    with nullcontext() if reads else open_run_folder(out, others=o["allow_non_empty"]):
        return _judge(kind, o, options, bar, command, loras, title, out)


def _judge(
    kind: Kind,
    o: dict[str, Any],
    options: Options,
    bar: Progress,
    command: Sequence[str],
    loras: Sequence[Checkpoint],
    title: str,
    out: Path,
) -> int:
    from dataclasses import replace

    from analysers import intake as foreign
    from analysers.runs.loop import folder_name, score_pictures
    from analysers.runs.plan import trigger_words

    found = foreign.find_pictures(
        o["images"],
        axis="strength" if kind == "strength" else "epoch",
        control=o["control"],
        controls=o["controls"],
        triggers=trigger_words(loras),
        cells=None if o["dry_run"] else out / "cells",
    )
    found = foreign.join_checkpoints(found, loras)
    parts = foreign.split_studies(found)
    if o["dry_run"]:
        for part in parts:
            click.echo(f"{part.label or title}: {count(len(part.pairs), 'picture')} to measure.")
        click.echo("Nothing was written.")
        return 0
    codes = []
    for index, part in enumerate(parts):
        alone = len(parts) == 1
        folder = out if alone else out / folder_name(part.label, index)
        study = score_pictures(
            "plane" if part.axis == "both" else kind,
            part if index == 0 else replace(part, rejected=(), warnings=()),
            out=folder,
            options=options,
            title=title if alone else f"{title}: {part.label}",
            progress=bar,
            command=command,
        )
        if not alone and not o["quiet"] and not o["as_json"]:
            click.echo(f"\nStudy {index + 1} of {len(parts)}: {part.label}")
        codes.append(finish(study, folder, o))
    return max(codes)


def _write_weight(study: Study, plan: RenderPlan) -> None:
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


def _plan(kind: Kind, o: dict[str, Any]) -> Any:
    """The plan that the options ask for; with --demo, the embedded model's own."""
    import sample_data
    from analysers.runs.plan import DEMO_MODEL, plan_study
    from generation import plan as grid
    from generation.prompts import parse_prompt, read_prompts

    loras: Sequence[Path] = o["loras"]
    settings: dict[str, Any] = {}
    prompt_file = o["prompts"]
    if o["demo"]:
        settings = json.loads((sample_data.PATH / "settings.json").read_text())
        demo = sample_data.DEMOS[kind]
        o = {**o, "model": o["model"] or DEMO_MODEL}
        o["seeds"] = typed("seeds") or demo["seeds"]
        o["strengths"] = typed("strengths") or demo["strengths"]
        loras = loras or [sample_data.PATH / demo["loras"]]
        prompt_file = prompt_file or (None if o["prompt"] else sample_data.PATH / "prompts.txt")
    if not loras:
        raise UserError(
            "There is nothing to analyse: name a LoRA file (or a folder of checkpoints), "
            "--images FOLDER, or try --demo."
        )
    width, height = size(o["size"])
    lines = [parse_prompt(text) for text in o["prompt"]]
    if prompt_file:
        lines += read_prompts(prompt_file, o["max_prompts"])
    given = {
        "width": width,
        "height": height,
        "steps": o["steps"],
        "guidance_scale": o["guidance_scale"],
        "sampler": o["sampler"],
    }
    settings.update({name: value for name, value in given.items() if value is not None})
    stem = "demo" if o["demo"] else Path(loras[0]).resolve().stem
    return plan_study(
        kind,
        loras,
        model=o["model"],
        out=o["out"] or Path("runs", f"{stem}-{kind}"),
        strengths=grid.parse_strengths(o["strengths"]),
        prompts=lines,
        seeds=grid.parse_seeds(o["seeds"]),
        negative=o["negative"],
        clip_skip=o["clip_skip"],
        device=o["device"],
        dtype=o["dtype"],
        batch_size=o["batch_size"],
        name=o["name"],
        ema=o["ema"],
        model_config=o["model_config"],
        prediction_type=o["prediction_type"],
        fixed_loras=[weighted(text) for text in o["fixed"]],
        part_strengths=part_strengths(o["unet_strength"], o["te_strength"]),
        block_weights=o["block_weights"],
        allow=o["allow"],
        compiled=o["compiled"],
        low_vram=o["low_vram"],
        **settings,
    )
