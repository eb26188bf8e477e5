"""From what was asked to cells: everything decided before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sample_data
from analysers.study import Kind
from generation import plan as grid
from generation.cells import Case, Cell, Checkpoint, RenderSettings
from generation.errors import UserError, named
from generation.families import words
from generation.loras import blocks
from generation.loras.checkpoints import find_checkpoints
from generation.loras.deltas import Targets
from generation.loras.inspection import LoraInfo, inspect, tensor_hash
from generation.loras.suitability import check_allowed, findings, fit, judged
from generation.pictures.store import Layout, Store
from generation.prompts import PromptLine, unused_options
from generation.renderers.diffusers.models import check_name
from generation.renderers.diffusers.prompts import check as check_prompts
from generation.samplers import sampler_key

if TYPE_CHECKING:
    from generation.renderers.diffusers.engine import Engine
    from generation.renderers.diffusers.models import BaseModel

DEMO_MODEL = "demo"
"""The name that `--model` knows the embedded model by."""

PIP_RENDER = "pip install 'lora-analysers[render]'"


@dataclass(frozen=True)
class RenderPlan:
    """Everything decided before the model is loaded."""

    kind: Kind
    title: str
    out: Path
    model: BaseModel
    settings: RenderSettings
    cells: tuple[Cell, ...]
    checkpoints: tuple[Checkpoint, ...]
    loras: tuple[LoraInfo, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[tuple[Checkpoint, Decimal], ...] = ()
    low_vram: bool = False

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(cell.case for cell in self.cells if cell.is_control)

    @property
    def strengths(self) -> tuple[Decimal, ...]:
        return tuple(sorted({cell.strength for cell in self.cells if not cell.is_control}))

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The words that the LoRAs under study say wake them, each once."""
        return _each_once(self.loras)

    def store(self) -> Store:
        """The run folder of this plan."""
        return Store(self.out, self.settings, Layout.of(self.cells), self.fixed)

    def open_engine(self, device: str = "") -> Engine:
        """Load the model (on `device`, if given); this is where torch is imported."""
        engine = import_engine()
        s = self.settings
        return engine.Engine(
            self.model,
            device=device or s.device,
            dtype=s.dtype,
            sampler=s.sampler,
            steps=s.steps,
            guidance_scale=s.guidance_scale,
            width=s.width,
            height=s.height,
            clip_skip=s.clip_skip,
            batch_size=s.batch_size,
            fixed=self.fixed,
            part_strengths={part: Decimal(value) for part, value in s.part_strengths},
            block_weights=blocks.parse(s.block_weights, self.model.family)
            if s.block_weights
            else None,
            compiled=s.compiled,
            low_vram=self.low_vram,
            mixed=s.mixed,
        )


def import_engine() -> Any:
    """The engine module; UserError with the pip command when its libraries are missing."""
    try:
        from generation.renderers.diffusers import engine
    except ModuleNotFoundError as error:
        raise UserError(f"Rendering needs {error.name}, which is missing: {PIP_RENDER}") from error
    return engine


def plan_study(
    kind: Kind,
    loras: Sequence[Path],
    *,
    model: str,
    out: Path,
    strengths: Sequence[Decimal],
    prompts: Sequence[PromptLine] = (),
    seeds: Sequence[int] = (1, 2),
    negative: str = "",
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    clip_skip: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 0,
    name: str | None = None,
    ema: bool = False,
    model_config: Path | None = None,
    prediction_type: str | None = None,
    fixed_loras: Sequence[tuple[Path, Decimal]] = (),
    part_strengths: Mapping[str, Decimal] | None = None,
    block_weights: str = "",
    compiled: bool = False,
    low_vram: bool = False,
    allow: Sequence[str] = (),
) -> RenderPlan:
    """Decide everything about a study that renders; nothing is loaded and nothing written.

    `fixed_loras` (file, weight) are merged under every picture, controls included;
    `part_strengths` multiply the strength of the LoRA under study in "unet" (the denoiser), "text"
    (all text encoders), or "te", "te2", "te3" (each of them), `block_weights` (as
    `generation.loras.blocks.parse` reads them) in its blocks. `allow` are checks of
    `generation.loras.suitability` whose refusals become warnings.
    Where an option is None, the prompt file's flags decide, then the LoRA's metadata, then the
    model. Raises UserError for anything that would only fail later.
    """
    found = find_checkpoints(loras, name=name, ema=ema)
    broken = tuple(checkpoint for checkpoint, _ in found.unreadable)
    checkpoints = (*found.checkpoints, *broken)
    check_allowed(allow)
    infos, refused = inspect_all(found.checkpoints)
    refused.update((checkpoint.name, reason) for checkpoint, reason in found.unreadable)
    if not infos:
        raise UserError(next(iter(refused.values())))
    if kind == "strength" and len(found.checkpoints) > 1:
        raise UserError(
            f"analyse-strength takes one LoRA, got {len(found.checkpoints)}; "
            f"use analyse-epochs with {named('strengths')} to compare checkpoints."
        )
    if kind == "epochs" and len(strengths) > 1:
        kind = "plane"
    first = next(iter(infos.values()))
    if not model:
        asks = f"it asks for {first.family_words or 'a base model that its metadata does not name'}"
        raise UserError(
            f"{named('model')} is missing: name the base model of {first.path.name}; {asks}."
        )
    if model != DEMO_MODEL:
        check_name(model)
    engine = import_engine()
    base: BaseModel = engine.find_model(
        str(sample_data.PATH / "model") if model == DEMO_MODEL else model,
        config=model_config,
        prediction_type=prediction_type,
    )
    traits = base.traits
    fixed = tuple((_fixed(path), weight) for path, weight in fixed_loras)
    structure = engine.structure(base)
    objections = _objections(infos, refused, fixed, base, structure, allow)
    if not traits.negative and (negative or any(line.negative for line in prompts)):
        raise UserError(
            f"{words(base.family)} takes no negative prompt; leave it out.", field="negative"
        )
    if clip_skip and not traits.clip_skip:
        raise UserError(
            f"{words(base.family)} reads no layer that could be skipped; leave it out.",
            field="clip_skip",
        )
    if extra := (part_strengths or {}).keys() - {"unet", "text", *traits.encoders}:
        raise UserError(
            f"{words(base.family)} has {len(traits.encoders)} text encoder(s), not "
            f"{', '.join(sorted(extra))}; give one factor for all, or one for each.",
            field="te_strength",
        )
    lines = tuple(prompts) or _default_prompts(first)
    natural = first.resolution or (base.width, base.height)
    chosen_device = engine.choose_device(device)
    chosen_sampler = _first(sampler, _agreed(lines, "sampler"), traits.sampler)
    # One sampler, one name: however it is spelled, the pictures' content keys are the same.
    chosen_sampler = sampler_key(chosen_sampler) or chosen_sampler
    settings = RenderSettings(
        model=model,
        model_hash=base.digest,
        width=width or _agreed(lines, "width") or natural[0],
        height=height or _agreed(lines, "height") or natural[1],
        steps=steps or _agreed(lines, "steps") or traits.steps,
        guidance_scale=_first(
            guidance_scale, _agreed(lines, "guidance_scale"), traits.guidance_scale
        ),
        sampler=chosen_sampler,
        clip_skip=clip_skip,
        dtype=engine.choose_dtype(chosen_device, dtype, base.family),
        device=chosen_device,
        batch_size=batch_size,
        versions=engine.versions(),
        fixed_loras=tuple((checkpoint.tensor_hash, str(weight)) for checkpoint, weight in fixed),
        part_strengths=tuple(
            (part, str(value)) for part, value in sorted((part_strengths or {}).items())
        ),
        block_weights=_block_weights(block_weights, base.family, structure),
        scheduler=engine.scheduler_record(base, chosen_sampler),
        compiled=compiled,
    )
    sides = settings.width, settings.height
    if any(side % traits.multiple for side in sides) or min(sides) < 64:
        raise UserError(
            f"{settings.width}x{settings.height} cannot be rendered; "
            f"both sides must be multiples of {traits.multiple} and at least 64.",
            field="size",
        )
    cases = grid.cases(lines, seeds, negative)
    texts = [text for case in cases for text in (case.prompt, case.negative)]
    return RenderPlan(
        kind=kind,
        title=first.metadata.get("ss_output_name") or found.checkpoints[0].name,
        out=out,
        model=base,
        settings=settings,
        cells=grid.cells(cases, checkpoints, strengths),
        checkpoints=checkpoints,
        loras=tuple(infos.values()),
        warnings=(
            *found.warnings,
            *objections,
            *unused_options(lines),
            *check_prompts(texts, base.family),
        ),
        refused=refused,
        fixed=fixed,
        low_vram=low_vram,
    )


def trigger_words(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The words that the files say wake them, each once; a file that cannot be read says none."""
    infos, _ = inspect_all(checkpoints)
    return _each_once(infos.values())


def _each_once(infos: Iterable[LoraInfo]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for info in infos for word in info.trigger_words))


def inspect_all(checkpoints: Sequence[Checkpoint]) -> tuple[dict[str, LoraInfo], dict[str, str]]:
    """What each file says of itself, and why files that cannot be used cannot."""
    infos: dict[str, LoraInfo] = {}
    refused: dict[str, str] = {}
    for checkpoint in checkpoints:
        try:
            info = inspect(checkpoint.path)
        except UserError as error:
            refused[checkpoint.name] = str(error)
            continue
        if info.unsupported:
            refused[checkpoint.name] = (
                f"{checkpoint.file} cannot be applied: it holds {', '.join(info.unsupported)}."
            )
            continue
        infos[checkpoint.name] = info
    return infos, refused


def _objections(
    infos: dict[str, LoraInfo],
    refused: dict[str, str],
    fixed: Sequence[tuple[Checkpoint, Decimal]],
    base: BaseModel,
    structure: Targets,
    allow: Sequence[str],
) -> tuple[str, ...]:
    """What speaks against the LoRAs under this model, in words; those that do not fit are moved
    from `infos` to `refused`. Raises UserError if none is left, or one of --with does not fit."""
    flow = base.traits.flow
    predicts = None if flow else str(base.scheduler.get("prediction_type") or "epsilon")

    def examine(info: LoraInfo) -> tuple[str, ...]:
        said = judged(findings(info, base.family, base.name, predicts), allow)
        fit(info, structure)
        return said

    warnings = [line for one, _ in fixed for line in examine(inspect(one.path))]
    for name, info in [*infos.items()]:
        try:
            warnings += examine(info)
        except UserError as error:
            refused[name] = str(error)
            del infos[name]
            if not infos:
                raise
    return tuple(dict.fromkeys(warnings))


def _block_weights(text: str, family: str, structure: Targets) -> str:
    """The block weights in their one spelling. Raises UserError where they do not fit the model."""
    if not text:
        return ""
    weights = blocks.parse(text, family)
    weights.of_weights((part, name) for part in structure for name in structure[part])
    return weights.text


def _fixed(path: Path) -> Checkpoint:
    """A LoRA of --with. Raises UserError if it cannot be applied."""
    info = inspect(path)
    if info.unsupported:
        raise UserError(
            f"{path.name} cannot be applied: it holds {', '.join(info.unsupported)}.", field="fixed"
        )
    return Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))


def _default_prompts(info: LoraInfo) -> tuple[PromptLine, ...]:
    """Six prompts around the trigger word that the training metadata tells."""
    if not info.trigger_words:
        raise UserError(
            f"{named('prompts')} is missing, and the LoRA's metadata names no trigger word to make "
            "prompts from; write one prompt a line into a text file."
        )
    word = info.trigger_words[0]
    scenes = (
        "portrait, soft window light",
        "full body, standing in a city street",
        "in a forest, morning light",
        "close-up, studio lighting",
        "on a beach at sunset",
        "indoors, detailed background",
    )
    return tuple(PromptLine(f"{word}, {scene}") for scene in scenes)


def _agreed(lines: Sequence[PromptLine], field_name: str) -> Any:
    """The one value that the prompt file's lines give, or None; they must agree."""
    values = {getattr(line, field_name) for line in lines} - {None}
    if len(values) > 1:
        raise UserError(
            f"the lines disagree on {field_name} ({', '.join(map(str, values))}); "
            "a study needs one for all.",
            field="prompts",
        )
    return next(iter(values), None)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
