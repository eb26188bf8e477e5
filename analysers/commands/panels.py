"""--help in panels: what belongs together stands together, what most people need first."""

from __future__ import annotations

import re

import click

PANELS: dict[str, tuple[str, ...]] = {
    "What to test": (
        "model", "strengths", "resolution", "refine", "until_decided", "budget", "watch",
        "patience", "keep_best", "name", "ema", "demo",
    ),
    "Prompts": ("prompts", "prompt", "negative", "input_picture", "seeds", "max_prompts"),
    "Rendering": (
        "size", "steps", "guidance_scale", "guidance_rescale", "sampler", "clip_skip", "fixed",
        "unet_strength", "te_strength", "block_weights", "allow", "model_config", "prediction_type",
    ),
    "Rendering on a server": ("renderer", "urls", "workflow", "sets", "compare_renderers"),
    "Pictures that exist already": ("images", "control", "controls"),
    "Judging": (
        "metrics", "references", "held_out", "leak_test", "class_word", "trigger", "rank_by",
        "margin", "tie_tolerance", "votes",
    ),
    "Run folder, report, sharing": (
        "out", "allow_non_empty", "resume", "report_only", "single_file", "share", "write_weight",
    ),
    "Live page": ("serve", "host", "port"),
    "Speed and memory": ("device", "dtype", "batch_size", "compiled", "low_vram", "workers",
                         "cluster"),
    "What is told": ("dry_run", "as_json", "quiet", "debug", "version"),
}  # fmt: skip
"""Titles and the parameters' names, in the order that --help shows them."""


class Command(click.Command):
    """A command whose --help has panels. An option that no panel names comes last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the panels."""
        options = {
            option.name: (record[0], _bracketed(record[1]))
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            and (record := option.get_help_record(ctx)) is not None
        }
        for title, names in PANELS.items():
            if rows := [options.pop(name) for name in names if name in options]:
                with formatter.section(title):
                    formatter.write_dl(rows)
        with formatter.section("More"):
            formatter.write_dl([*options.values()])  # --help itself, whatever click calls it


def _bracketed(text: str) -> str:
    """The help with our own default and click's limits in one bracket."""
    return re.sub(r" \[(default: [^\]]*)\]\.\s+\[", r".  [\1; ", text)


def examples(command: click.Command) -> str:
    """The lines of the command's description that show how it is used."""
    lines = (line.strip() for line in (command.help or "").splitlines())
    return "\n".join(f"  {line}" for line in lines if line.startswith(f"{command.name} "))
