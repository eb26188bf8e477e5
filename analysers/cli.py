"""The two commands: options in, one call of `analysers.api`, a table and a report out."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from generation.errors import UserError
from generation.values import decimal_within

if TYPE_CHECKING:
    from analysers.api import Options, Progress, RenderPlan
    from analysers.study import Kind, Study
    from generation.cells import Checkpoint

DONE, NOTHING_RANKED, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have, in the order that --help shows them."""
    options = (
        click.argument("loras", nargs=-1, type=click.Path(path_type=Path), metavar="[LORA]..."),
        click.option("--model", default="", metavar="MODEL",
                     help="Base model: a diffusers folder, a .safetensors checkpoint, a hub id, "
                          "or 'demo' (embedded)."),
        click.option("--model-config", type=FOLDER, metavar="FOLDER",
                     help="A diffusers folder that describes a single checkpoint and has the "
                          "parts it lacks."),
        click.option("--prediction-type", type=click.Choice(["epsilon", "v_prediction"]),
                     help="What the model predicts, where it does not say so itself."),
        click.option("--with", "fixed", multiple=True, metavar="LORA[:WEIGHT]",
                     help="Another LoRA, under every picture and control."),
        click.option("--unet-strength", type=click.FloatRange(-10, 10), metavar="FACTOR",
                     help="Multiplies the strength in the UNet (or transformer)."),
        click.option("--te-strength", default="", metavar="FACTOR[,FACTOR]...",
                     help="Multiplies the strength in all text encoders, or in each."),
        click.option("--block-weights", default="", metavar="WEIGHTS",
                     help="Multiplies the strength in each block: LoRA Block Weight's list or its "
                          "name (OUTALL), or blocks by name (IN04=0,OUT=0.5)."),
        click.option("--prompts", type=FILE, help="Text file, one prompt a line."),
        click.option("--prompt", multiple=True, help="A prompt; may be given several times."),
        click.option("--negative", default="", help="Negative prompt for all prompts."),
        click.option("--seeds", default="1,2", show_default=True, help="Such as 1:4 or 7,11."),
        click.option("--size", default="", metavar="WxH",
                     help="Pixels, such as 768x768 [default: what the LoRA was trained at]."),
        click.option("--steps", type=click.IntRange(1, 500),
                     help="Sampling steps [default: 25; FLUX.1 schnell: 4]."),
        click.option("--guidance-scale", "--cfg", "guidance_scale",
                     type=click.FloatRange(0, 100),
                     help="Guidance scale [default: the model's, such as 7]."),
        click.option("--sampler", help="Such as euler_a [default: dpmpp_2m_karras]."),
        click.option("--clip-skip", type=click.IntRange(0, 11), default=0,
                     help="Text encoder layers to skip at the end."),
        click.option("--device", default="auto", show_default=True,
                     help="cuda, mps, xpu or cpu."),
        click.option("--dtype", default="auto", show_default=True,
                     type=click.Choice(["auto", "float32", "float16", "bfloat16"])),
        click.option("--batch-size", type=click.IntRange(0, 64), default=0,
                     help="Pictures rendered at once [default: as many as fit]."),
        click.option("--compile", "compiled", is_flag=True,
                     help="Compile the model: minutes at the start, faster afterwards."),
        click.option("--low-vram", is_flag=True,
                     help="Keep in the GPU's memory only what is needed at the moment."),
        click.option("--name", help="Which LoRA, where a folder holds several."),
        click.option("--ema", is_flag=True,
                     help="Take SimpleTuner's averaged (EMA) weights where there are any."),
        click.option("--images", type=FOLDER, help="Judge the pictures in this folder instead."),
        click.option("--control", type=FILE, help="The one control picture of --images."),
        click.option("--controls", type=FOLDER, help="Folder with the controls of --images."),
        click.option("--out", type=FOLDER, help="Run folder [default: runs/NAME]."),
        click.option("--metrics", default="", metavar="NAMES",
                     help="More metrics, such as lpips,gmsd."),
        click.option("--rank-by", default="brisque", show_default=True, metavar="NAME"),
        click.option("--tie-tolerance", type=click.FloatRange(0), default=0.01, show_default=True,
                     help="Means closer than this are tied."),
        click.option("--margin", type=click.FloatRange(0), default=None,
                     help="How much worse than the control is still clean "
                     "[default: 5 for BRISQUE]."),
        click.option("--jobs", type=click.IntRange(0, 256), default=None,
                     help="Measuring processes [default: one a core, less one; none while the "
                          "CPU renders]."),
        click.option("--demo", is_flag=True, help="The embedded model and LoRA; no network."),
        click.option("--dry-run", is_flag=True,
                     help="Say what would be rendered and how long it would take."),
        click.option("--resume/--no-resume", default=True,
                     help="Keep what the run folder holds already [default: resume]."),
        click.option("--report-only", type=FOLDER, metavar="RUN",
                     help="Write the report of a finished run again."),
        click.option("--single-file", is_flag=True,
                     help="Put the pictures inside the report, as thumbnails."),
        click.option("--share", is_flag=True,
                     help="Also write a contact sheet, an animated sweep and a Markdown summary."),
        click.option("--votes", type=FILE, help="Votes exported by a report's blind A/B mode."),
        click.option("--write-weight", is_flag=True,
                     help="Note the best strength beside the LoRA, where A1111 reads it."),
        click.option("--json", "as_json", is_flag=True, help="Print the study as JSON."),
        click.option("--quiet", is_flag=True, help="Print the report's path only."),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.version_option(package_name="lora-analysers"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def one_sentence_errors(command: Callable[..., None]) -> Callable[..., None]:
    """UserError -> its sentence and exit code 2; Ctrl-C -> how to go on and 130."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except UserError as error:
            if options["debug"]:
                raise
            click.echo(f"Error: {error}", err=True)
            sys.exit(USAGE)
        except KeyboardInterrupt:
            if options["debug"]:
                raise
            # --no-resume would render everything anew
            words = [Path(sys.argv[0]).name, *(w for w in sys.argv[1:] if w != "--no-resume")]
            again = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
            click.echo(
                f"\nInterrupted. What was rendered is kept; go on with:\n  {again}", err=True
            )
            sys.exit(INTERRUPTED)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            if options["debug"]:
                raise
            kind = type(error).__name__
            click.echo(
                f"Error: {kind}: {str(error).strip() or 'no message'}. What was rendered is kept; "
                "run the same command with --debug to see where it happened.",
                err=True,
            )
            sys.exit(NOTHING_RANKED)

    return run


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
    from analysers import api

    if o["report_only"]:
        sys.exit(_finish(api.load_study(o["report_only"]), o["report_only"], o))
    options = api.Options(
        metrics=tuple(name.strip() for name in o["metrics"].split(",") if name.strip()),
        rank_by=o["rank_by"],
        tie_tolerance=o["tie_tolerance"],
        margin=o["margin"],
        workers=o["jobs"],
    )
    bar = api.Silent() if o["quiet"] or o["as_json"] else Bar()
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    if o["images"]:
        sys.exit(_judge_pictures(kind, o, options, bar, command))
    plan = _plan(kind, o)
    if o["dry_run"]:
        _describe(plan)
        return
    if not o["quiet"] and not o["as_json"]:
        controls = len(plan.cases)
        click.echo(
            f"{plan.title}: {_count(len(plan.cells) - controls, 'picture')} and "
            f"{_count(controls, 'control')} at {plan.settings.width}x{plan.settings.height} "
            f"on {plan.settings.device}."
        )
        if not o["prompt"] and not o["prompts"] and not o["demo"]:
            click.echo("No prompts given: these were made from the LoRA's trigger word:")
            _list_prompts(plan)
    study = api.run_study(plan, options, progress=bar, command=command, resume=o["resume"])
    if not o["quiet"] and not o["as_json"]:
        click.echo(_rendered(study.run["rendered"]))
    code = _finish(study, plan.out, o)
    if o["write_weight"]:
        _write_weight(study, plan)
    sys.exit(code)


def _judge_pictures(
    kind: Kind, o: dict[str, Any], options: Options, bar: Progress, command: Sequence[str]
) -> int:
    """Score the pictures of --images, each LoRA and setting found there as a study of its own."""
    from dataclasses import replace

    from analysers import api
    from analysers import intake as foreign
    from generation.loras.checkpoints import find_checkpoints

    loras: Sequence[Checkpoint] = ()
    if o["loras"]:
        loras = find_checkpoints(o["loras"], name=o["name"]).checkpoints
    title = o["images"].resolve().name
    out = o["out"] or Path("runs", f"{title}-{kind}")
    found = foreign.find_pictures(
        o["images"],
        axis="strength" if kind == "strength" else "epoch",
        control=o["control"],
        controls=o["controls"],
        triggers=api.trigger_words(loras),
        cells=out / "cells",
    )
    found = api.join(found, loras)
    parts = foreign.split_studies(found)
    codes = []
    for index, part in enumerate(parts):
        alone = len(parts) == 1
        folder = out if alone else out / api.folder_name(part.label, index)
        study = api.score_pictures(
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
        codes.append(_finish(study, folder, o))
    return max(codes)


def _write_weight(study: Study, plan: RenderPlan) -> None:
    from generation.loras.card import write_recommended_weight

    best = study.verdict.best
    if best is None or best.strength is None:
        raise UserError("--write-weight: no strength came out best, so none was written.")
    path = next(c.path for c in plan.checkpoints if c.tensor_hash == best.tensor_hash)
    written = write_recommended_weight(path, best.strength)
    click.echo(f"Recommended weight {best.strength} written to {written}", err=True)


def _plan(kind: Kind, o: dict[str, Any]) -> Any:
    """The plan that the options ask for; with --demo, the embedded model's own."""
    import sample_data
    from analysers import api
    from generation import plan as grid

    loras: Sequence[Path] = o["loras"]
    settings: dict[str, Any] = {}
    prompt_file = o["prompts"]
    if o["demo"]:
        settings = json.loads((sample_data.PATH / "settings.json").read_text())
        demo = sample_data.DEMOS[kind]
        o = {**o, "model": o["model"] or api.DEMO_MODEL}
        o["seeds"] = _typed("seeds") or demo["seeds"]
        o["strengths"] = _typed("strengths") or demo["strengths"]
        loras = loras or [sample_data.PATH / demo["loras"]]
        prompt_file = prompt_file or (None if o["prompt"] else sample_data.PATH / "prompts.txt")
    if not loras:
        raise UserError(
            "There is nothing to analyse: name a LoRA file (or a folder of checkpoints), "
            "--images FOLDER, or try --demo."
        )
    width, height = _size(o["size"])
    lines = [grid.parse_prompt(text) for text in o["prompt"]]
    if prompt_file:
        lines += grid.read_prompts(prompt_file)
    given = {
        "width": width,
        "height": height,
        "steps": o["steps"],
        "guidance_scale": o["guidance_scale"],
        "sampler": o["sampler"],
    }
    settings.update({name: value for name, value in given.items() if value is not None})
    stem = "demo" if o["demo"] else Path(loras[0]).resolve().stem
    return api.plan_study(
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
        fixed_loras=[_weighted(text) for text in o["fixed"]],
        part_strengths=_part_strengths(o["unet_strength"], o["te_strength"]),
        block_weights=o["block_weights"],
        compiled=o["compiled"],
        low_vram=o["low_vram"],
        **settings,
    )


def _typed(name: str) -> str:
    """The option's value if the user typed it, else ""."""
    context = click.get_current_context()
    source = context.get_parameter_source(name)
    typed = source is click.core.ParameterSource.COMMANDLINE
    return str(context.params[name]) if typed else ""


def _weighted(text: str) -> tuple[Path, Decimal]:
    """A LoRA and its weight from "file.safetensors:0.8"; a weight left out is 1."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), Decimal(1)
    value = decimal_within(weight, 100)
    if value is None:
        raise UserError(f"--with: cannot read {text!r}; write LORA.safetensors:0.8.")
    return Path(path), value


def _part_strengths(unet: float | None, te: str) -> dict[str, Decimal]:
    """Factors by part; `te` is "0.5" for all text encoders, or "1,0.5" for each in order."""
    found = {} if unet is None else {"unet": Decimal(str(unet))}
    factors = [text.strip() for text in te.split(",")] if te else []
    for number, text in enumerate(factors, 1):
        value = decimal_within(text, 10)
        if value is None:
            raise UserError(
                f"--te-strength: cannot read {te!r}; write 0.5 for all text encoders, or 1,0.5 for "
                "the first and the second."
            )
        part = "text" if len(factors) == 1 else f"te{number}" if number > 1 else "te"
        found[part] = value
    return found


def _size(text: str) -> tuple[int | None, int | None]:
    if not text:
        return None, None
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise UserError(f"--size: cannot read {text!r}; write 768x512, or 768 for both.") from None


def _describe(plan: Any) -> None:
    from analysers import api

    used = plan.settings
    click.echo(
        f"{plan.title}: {used.sampler}, {used.steps} steps, guidance {used.guidance_scale:g}, "
        f"{used.width}x{used.height}, {used.dtype} on {used.device}"
    )
    for info in plan.loras[:1]:
        click.echo(f"  {info.path.name}: {info.summary()}")
    click.echo("Checkpoints in order of training:")
    for checkpoint in plan.checkpoints:
        names = ", ".join((checkpoint.file, *checkpoint.aliases))
        click.echo(f"  {checkpoint.label or checkpoint.name:28} {names}"
                   f"  (position from {checkpoint.position_source or 'nowhere'})")  # fmt: skip
    for name, reason in plan.refused.items():
        click.echo(f"  {name} is left out: {reason}")
    for warning in plan.warnings:
        click.echo(f"Warning: {warning}")
    click.echo("Strengths: " + ", ".join(str(strength) for strength in plan.strengths))
    click.echo(f"Cases: {len(plan.cases)} (prompt x seed), from these prompts:")
    _list_prompts(plan)
    missing, seconds = api.estimate(plan)
    told = f"To render: {missing} of {_count(len(plan.cells), 'picture')}"
    if missing:
        told += f", about {_duration(seconds)} (from two measured renders"
        told += "; scoring on the same CPU adds to it)" if used.device == "cpu" else ")"
    click.echo(told + ". Nothing was written.")


def _list_prompts(plan: RenderPlan) -> None:
    for prompt in dict.fromkeys(case.prompt for case in plan.cases):
        click.echo(f"  {prompt[:120]}")


def _finish(study: Study, out: Path, o: dict[str, Any]) -> int:
    """Write tables and report, print what was found; return the exit code that says how it went."""
    from dataclasses import replace

    from generation.files import write_text
    from reports import html, pictures, tables, votes

    if o["votes"]:
        study = replace(study, evidence={**study.evidence, "votes": votes.read_votes(o["votes"])})
    tables.write_tables(study, out)
    report = html.write_report(
        study, out, single_file=o["single_file"], announce=lambda text: click.echo(text, err=True)
    )
    if o["share"]:
        pictures.write_contact_sheet(study, out)
        pictures.write_animation(study, out)
        write_text(out / "summary.md", tables.markdown(study))
    if o["as_json"]:
        click.echo((out / "study.json").read_text(encoding="utf-8"), nl=False)
    elif o["quiet"]:
        click.echo(str(report))
    else:
        _tell(study, report)
    ranked = any(summary.rank is not None for summary in study.summaries)
    failed = any(score.status == "failed" for score in study.scores)
    return NOTHING_RANKED if not ranked else SOME_FAILED if failed else DONE


def _tell(study: Study, report: Path) -> None:
    import shutil

    from reports import tables

    width = shutil.get_terminal_size((100, 24)).columns
    click.echo()
    click.echo(tables.terminal_table(study, width))
    click.echo()
    click.echo(click.style(study.verdict.answer, bold=True))
    for sentence in study.verdict.sentences:
        click.echo(sentence)
    if study.verdict.warnings:
        click.echo()
    for warning in study.verdict.warnings:
        click.echo(click.style("Note: ", fg="yellow") + warning, err=True)
    click.echo(f"\nReport: {report}")


class Bar:
    """A `Progress` on stderr: how many of how many, measured pictures per second, time to go.

    On a terminal it is a bar; elsewhere a line every half minute, rarer as time passes.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, label: str, total: int) -> None:
        """Show that nothing is done yet."""
        self._label, self._total = label, total
        self._done = self._timed = 0
        self._begin = self._since = self._shown = monotonic()
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=total, label=label, width=16, show_pos=True, show_percent=False,
                show_eta=False, item_show_func=lambda text: text, file=sys.stderr,
            )  # fmt: skip
            self._bar.current_item = "loading ..."
            self._bar.__enter__()

    def advance(self, *, timed: bool = True) -> None:
        """One more is done. The clock starts with the last one before the first timed one."""
        now = monotonic()
        self._done += 1
        if timed:
            self._timed += 1
        elif not self._timed:
            self._since = now
        if self._bar is not None:
            self._bar.update(1, self._pace(now) or "timing ...")
        elif now - self._shown >= max(30, (now - self._begin) / 10):
            self._shown = now
            told = ", ".join(filter(None, (f"{self._done} of {self._total}", self._pace(now))))
            click.echo(f"{self._label}: {told}", err=True)

    def finish(self) -> None:
        """Leave the line as it is, also when the work was interrupted."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def _pace(self, now: float) -> str:
        """Pictures per second and the time they mean for the rest; "" while nothing is known.

        Pictures come in batches: what less than a second shows is no pace.
        """
        if not self._timed or now - self._since < 1:
            return ""
        rate = self._timed / (now - self._since)
        left = (self._total - self._done) / rate
        return f"{_rate(rate)}, {_duration(left)} to go" if left else _rate(rate)


def _rendered(record: Mapping[str, Any]) -> str:
    """What was rendered just now: "128 pictures and 16 controls in 37 s (3.9 pictures/s)"."""
    kept = _count(record["kept"], "picture")
    fresh = record["pictures"] + record["controls"]
    if not fresh:
        return f"Nothing to render: {kept} lay there already."
    counts = [
        _count(record[noun + "s"], noun) for noun in ("picture", "control") if record[noun + "s"]
    ]
    told = (
        f"Rendered {' and '.join(counts)} in {_duration(record['seconds'])} "
        f"({_rate(fresh / record['seconds'])}, loading included)"
    )
    return told + (f"; {kept} lay there already." if record["kept"] else ".")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _rate(pictures_per_second: float) -> str:
    digits = 1 if pictures_per_second >= 1 else 2 if pictures_per_second >= 0.1 else 3
    return f"{pictures_per_second:.{digits}f} pictures/s"
