"""What can be typed, and what it means: options, values, errors in one sentence."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysers.commands.output import forgiving, full
from analysers.commands.panels import examples
from analysers.runs.limits import CHOICES, REAL, WHOLE
from generation.errors import UserError, named

if TYPE_CHECKING:
    from analysers.runs.request import StudyRequest
    from analysers.study import Kind

DONE, NOTHING_RANKED, USAGE, SOME_FAILED, DIFFERENT, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes."""

FOLDER = click.Path(file_okay=False, path_type=Path)

FILE = click.Path(dir_okay=False, path_type=Path)


class Whole(click.IntRange):
    """A whole number within limits that are said as people say them."""

    def _describe_range(self) -> str:
        return f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"


class Real(click.FloatRange):
    """A number within limits that are said as people say them."""

    _describe_range = Whole._describe_range


def limited(field: str) -> Whole | Real:
    """A number within the limits of the request's field."""
    return Whole(*WHOLE[field]) if field in WHOLE else Real(*REAL[field])


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have, in the order that --help shows them."""
    options = (
        click.argument("loras", nargs=-1, type=click.Path(path_type=Path), metavar="[LORA]..."),
        click.option("--model", default="", metavar="MODEL",
                     help="Base model: a diffusers folder, a .safetensors checkpoint, a hub id, "
                          "or 'demo' (embedded)."),
        click.option("--renderer", default="diffusers", show_default=True,
                     type=click.Choice(CHOICES["renderer"]),
                     help="What renders: this suite, or the server at --url."),
        click.option("--url", "urls", multiple=True, metavar="URL",
                     help="A server, such as http://127.0.0.1:8188; several share the work."),
        click.option("--workflow", type=FILE,
                     help="A ComfyUI workflow in API format [default: a built-in one]."),
        click.option("--set", "sets", multiple=True, metavar="NODE.INPUT=VALUE",
                     help="A value in the workflow, or @prompt, @seed, @lora, @strength, ... for "
                          "what belongs there."),
        click.option("--model-config", type=FOLDER, metavar="FOLDER",
                     help="A diffusers folder that describes a single checkpoint and has the "
                          "parts it lacks."),
        click.option("--prediction-type", type=click.Choice(CHOICES["prediction_type"]),
                     help="What the model predicts, where it does not say so itself."),
        click.option("--with", "fixed", multiple=True, metavar="LORA[:WEIGHT]",
                     help="Another LoRA, under every picture and control."),
        click.option("--unet-strength", type=limited("unet_strength"), metavar="FACTOR",
                     help="Multiplies the strength in the UNet (or transformer)."),
        click.option("--te-strength", default="", metavar="FACTOR[,FACTOR]...",
                     help="Multiplies the strength in all text encoders, or in each."),
        click.option("--block-weights", default="", metavar="WEIGHTS",
                     help="Multiplies the strength in each block: LoRA Block Weight's list or its "
                          "name (OUTALL), or blocks by name (IN04=0,OUT=0.5)."),
        click.option("--allow", multiple=True, metavar="CHECK",
                     help="Apply a LoRA in spite of what its metadata say: base, prediction."),
        click.option("--prompts", type=FILE,
                     help="Text file, one prompt a line; or kohya's TOML or JSON."),
        click.option("--max-prompts", type=limited("max_prompts"), metavar="N",
                     default=1000, show_default=True,
                     help="Refuse files that hold more, as they are likely no prompts."),
        click.option("--prompt", multiple=True, help="A prompt; may be given several times."),
        click.option("--negative", default="", help="Negative prompt for all prompts."),
        click.option("--input-picture", type=FILE,
                     help="The picture to edit (FLUX.1 Kontext, Qwen-Image-Edit), where a prompt "
                          "names none by --ci."),
        click.option("--seeds", default="1,2", show_default=True, help="Such as 1:4 or 7,11."),
        click.option("--size", default="", metavar="WxH",
                     help="Pixels, such as 768x768 [default: what the LoRA was trained at]."),
        click.option("--steps", type=limited("steps"), metavar="N",
                     help="Sampling steps [default: the model's]."),
        click.option("--guidance-scale", "--cfg", "guidance_scale",
                     type=limited("guidance_scale"), metavar="NUMBER",
                     help="Guidance scale [default: the model's, such as 7]."),
        click.option("--guidance-rescale", type=limited("guidance_rescale"), default=0.0,
                     metavar="NUMBER",
                     help="For v-prediction models with zero terminal SNR, such as 0.7."),
        click.option("--sampler", help="Such as 'Euler a' [default: DPM++ 2M Karras]."),
        click.option("--clip-skip", type=limited("clip_skip"), default=0, metavar="N",
                     help="Text encoder layers to skip at the end."),
        click.option("--device", default="auto", show_default=True,
                     help="cuda, mps, xpu or cpu."),
        click.option("--dtype", default="auto", show_default=True,
                     type=click.Choice(CHOICES["dtype"]), help="The model's precision."),
        click.option("--batch-size", type=limited("batch_size"), default=0, metavar="N",
                     help="Pictures rendered at once [default: as many as fit]."),
        click.option("--compile", "compiled", is_flag=True,
                     help="Compile the model: minutes at the start, faster afterwards."),
        click.option("--cluster", default="", metavar="auto|ADDRESS",
                     help="Render and measure on the nodes of a Ray cluster."),
        click.option("--low-vram", is_flag=True,
                     help="Keep in the GPU's memory only what is needed at the moment."),
        click.option("--name", help="Which LoRA, where a folder holds several."),
        click.option("--ema", is_flag=True,
                     help="Take SimpleTuner's averaged (EMA) weights where there are any."),
        click.option("--images", type=FOLDER, metavar="FOLDER",
                     help="Judge the pictures in this folder; nothing is rendered."),
        click.option("--control", type=FILE, help="The one control picture of --images."),
        click.option("--controls", type=FOLDER, metavar="FOLDER",
                     help="Folder with the controls of --images."),
        click.option("--out", type=FOLDER, metavar="FOLDER",
                     help="Run folder [default: runs/NAME]."),
        click.option("--allow-non-empty", is_flag=True,
                     help="Let --out hold other files; those in a result's place are kept in "
                          "previous/."),
        click.option("--metrics", default="", metavar="NAMES",
                     help="More metrics, such as lpips,gmsd; list: which there are."),
        click.option("--references", type=FOLDER, metavar="FOLDER",
                     help="What was trained on: tells likeness, and which pictures are copies."),
        click.option("--held-out", type=FOLDER, metavar="FOLDER",
                     help="Pictures of that kind that were not trained on: tells what is "
                          "known by heart."),
        click.option("--leak-test", is_flag=True,
                     help="Also render without the trigger word: does the LoRA act uncalled?"),
        click.option("--class-word", default="", metavar="WORD",
                     help="In the leak test also with this instead, such as woman: is the class "
                          "changed as well?"),
        click.option("--trigger", default="", metavar="WORDS",
                     help="The trigger word [default: what the LoRA's metadata say]."),
        click.option("--rank-by", default="brisque", show_default=True, metavar="NAME",
                     help="The metric that decides."),
        click.option("--tie-tolerance", type=limited("tie_tolerance"), default=0.01,
                     show_default=True, metavar="NUMBER", help="Means closer than this are tied."),
        click.option("--margin", type=limited("margin"), default=None, metavar="NUMBER",
                     help="How much worse than the control still counts as clean "
                     "[default: 5 for BRISQUE]."),
        click.option("--until-decided", is_flag=True,
                     help="Render block by block, and no more of what is settled already."),
        click.option("--refine", is_flag=True,
                     help="Begin with every few settings, then look between those that decide."),
        click.option("--budget", type=limited("budget"), metavar="PICTURES",
                     help="Like --until-decided, with at most so many pictures."),
        click.option("--jobs", "workers", type=limited("workers"), default=None, metavar="N",
                     help="Measuring processes [default: one a core, less one; none while the "
                          "CPU renders]."),
        click.option("--demo", is_flag=True, help="The embedded model and LoRA; no network."),
        click.option("--serve", is_flag=True,
                     help="Open a page on this machine to plan, start and watch studies; the LORAs "
                          "are the folders that it may browse."),
        click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
                     help="Where the page of --serve listens."),
        click.option("--port", type=Whole(0, 65535), default=0, metavar="N",
                     help="Its port [default: a free one]."),
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
        with forgiving() as out:
            try:
                guarded(**options)
            finally:
                out.flush()
                if why := full(out):
                    click.echo(
                        f"The output could not be written ({why}); what was found lies in the "
                        "run folder.",
                        err=True,
                    )
                    if options["as_json"]:
                        sys.exit(USAGE)

    def guarded(**options: Any) -> None:
        try:
            command(**{name: _text(name, value) for name, value in options.items()})
        except UserError as error:
            if options["debug"]:
                raise
            click.echo(f"Error: {error.told(flag)}", err=True)
            sys.exit(USAGE)
        except KeyboardInterrupt:
            if options["debug"]:
                raise
            # --no-resume would render everything anew
            words = [*program(), *(w for w in sys.argv[1:] if w != "--no-resume")]
            again = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
            click.echo(
                f"\nInterrupted. What was rendered is kept; go on with:\n  {again}", err=True
            )
            sys.exit(INTERRUPTED)
        except click.exceptions.Exit:
            raise
        except OSError as error:
            if options["debug"]:
                raise
            where = f"{error.filename}: " if error.filename else ""
            kept = "What was rendered and measured is kept; run the same command again."
            click.echo(f"Error: {where}{error.strerror or error}. {kept}", err=True)
            sys.exit(NOTHING_RANKED)
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


def _text(name: str, value: Any) -> Any:
    """The option's value with its texts as UTF-8, whatever the locale took their bytes for."""
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return tuple(_text(name, one) for one in value)
    if not isinstance(value, str) or not any("\ud800" <= mark <= "\udfff" for mark in value):
        return value
    try:
        return os.fsencode(value).decode("utf-8")
    except ValueError:
        raise UserError("this is no UTF-8 text; write it into a UTF-8 file.", name) from None


def program() -> list[str]:
    """The words that start this program again: a script's name, its path where the shell would not
    find it by name, or `python -m analysers`."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return ["python", "-m", path.parent.name]
    elsewhere = path.is_file() and shutil.which(path.name) is None
    return [str(path) if elsewhere else path.name]


def flag(field: str) -> str:
    """How the running command spells a field of the request: "low_vram" -> "--low-vram"."""
    for one in click.get_current_context().command.params:
        if one.name == field and isinstance(one, click.Option):
            return one.opts[0]
        if one.name == field:
            return one.human_readable_name.strip("[].")
    return "--" + field.replace("_", "-")


@dataclass(frozen=True)
class Printing:
    """What the command line asks for beside the study: what is written and told."""

    report_only: Path | None = None
    dry_run: bool = False
    quiet: bool = False
    as_json: bool = False
    single_file: bool = False
    share: bool = False
    votes: Path | None = None
    images: Path | None = None
    control: Path | None = None
    controls: Path | None = None
    write_weight: bool = False

    @staticmethod
    def of(options: Mapping[str, Any]) -> Printing:
        return Printing(**{field.name: options[field.name] for field in fields(Printing)})

    @property
    def named(self) -> list[Path]:
        """Files and folders outside of the run folder whose pictures a page may show."""
        return [path for path in (self.images, self.control, self.controls) if path]

    @property
    def silent(self) -> bool:
        """Whether only the result is told."""
        return self.quiet or self.as_json


def request(kind: Kind, options: Mapping[str, Any]) -> StudyRequest:
    """The request that was typed; what was not typed is the request's own default."""
    from analysers.runs.request import StudyRequest, is_field
    from generation.prompts import parse_prompt, read_prompts

    context = click.get_current_context()
    typed = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    given = {name: value for name, value in typed.items() if is_field(name)}
    if texts := typed.get("prompt"):
        most = options["max_prompts"]
        lines = read_prompts(typed["prompts"], most) if "prompts" in typed else ()
        given["prompts"] = [*map(parse_prompt, texts), *lines]
    if options["demo"]:
        return StudyRequest.demo(kind, **given)
    if not {"loras", "images"} & given.keys():
        click.echo(f"For example:\n{examples(context.command)}\n", err=True)
        raise UserError(
            "There is nothing to analyse: name a LoRA file (or a folder of checkpoints), "
            f"{named('images')} FOLDER, or try {named('demo')}."
        )
    return StudyRequest.of(kind, **given)
