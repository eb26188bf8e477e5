"""From a request to cells: everything decided before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import sample_data
from analysers.intake.cases import replace_trigger, without_triggers
from analysers.intake.references import NO_REFERENCES, References, find_both
from analysers.leak import BARE, CLASS, OTHER, UNRELATED
from analysers.runs.request import DEMO_MODEL, Rendering, StudyRequest, Subject
from analysers.runs.sampling import Sampling, sampling
from analysers.runs.source import versions
from analysers.study import Kind, RunRecord
from generation import plan as grid
from generation.cells import Case, Cell, Checkpoint, InputPicture, RenderSettings
from generation.errors import UserError, named
from generation.families import words
from generation.files import read_json
from generation.loras import blocks
from generation.loras.checkpoints import CheckpointList, find_checkpoints
from generation.loras.deltas import Targets
from generation.loras.inspection import LoraInfo, inspect, sha256, tensor_hash
from generation.loras.suitability import check_allowed, findings, fit, judged
from generation.pictures.inputs import find_input
from generation.pictures.readers.values import tidy
from generation.pictures.store import Store
from generation.prompts import PromptLine, doubts
from generation.records import build
from generation.renderers.diffusers.models import check_name
from generation.renderers.diffusers.prompts import check as check_prompts
from generation.renderers.diffusers.prompts import cut as cut_prompts
from generation.renderers.diffusers.quantised import MERGED
from generation.renderers.diffusers.render import DiffusersRenderer
from generation.renderers.diffusers.setup import Setup, import_engine
from generation.renderers.renderer import Renderer

if TYPE_CHECKING:
    from generation.clusters import RayCluster
    from generation.renderers.diffusers.models import BaseModel


@dataclass(frozen=True)
class Plan:
    """What is rendered, and by whom. `refused` are checkpoints that cannot be used, with reasons.

    `settings` is what a person is told of the rendering, `told` what was found in a workflow or of
    a quantised base model.
    `probes` are cells beside those of the study, without the trigger word.
    """

    kind: Kind
    title: str
    out: Path
    renderer: Renderer
    settings: RenderSettings
    cells: tuple[Cell, ...]
    checkpoints: tuple[Checkpoint, ...]
    loras: tuple[LoraInfo, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    trigger: str = ""
    probes: tuple[Cell, ...] = ()
    references: tuple[References, References] = NO_REFERENCES

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(cell.case for cell in self.cells if cell.is_control)

    @property
    def strengths(self) -> tuple[Decimal, ...]:
        return tuple(sorted({cell.strength for cell in self.cells if not cell.is_control}))

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The words that the user or else the LoRAs under study say wake them, each once."""
        return (self.trigger,) if self.trigger else _each_once(self.loras)

    @property
    def usable(self) -> tuple[Cell, ...]:
        """The cells that can be rendered."""
        return self._usable(self.cells)

    @property
    def everything(self) -> tuple[Cell, ...]:
        """All that is rendered, each once: what can be of the cells and of the probes."""
        return tuple(dict.fromkeys((*self.usable, *self._usable(self.probes))))

    def _usable(self, cells: Sequence[Cell]) -> tuple[Cell, ...]:
        return tuple(
            cell
            for cell in cells
            if cell.checkpoint is None or cell.checkpoint.name not in self.refused
        )


def estimate(plan: Plan) -> tuple[int, float | None]:
    """Pictures still to render, and seconds for them where they can be told; writes nothing."""
    renderer = plan.renderer.begin(plan.usable, plan.out)
    missing = Store(plan.out, renderer).missing(plan.everything)
    return len(missing), renderer.seconds(missing) if missing else 0.0


def plan_study(request: StudyRequest) -> Plan:
    """Decide everything about a study that renders; nothing is loaded and nothing written.

    Raises UserError for anything that would only fail later.
    """
    subject, rendering = request.subject, request.rendering
    if not subject.loras:
        raise UserError("name a LoRA file, or a folder of checkpoints.", field="loras")
    references = find_both(request.judging.references, request.judging.held_out)
    found = find_checkpoints(subject.loras, name=subject.name, ema=subject.ema)
    checkpoints = (*found.checkpoints, *(checkpoint for checkpoint, _ in found.unreadable))
    check_allowed(subject.allow)
    infos, refused = inspect_all(found.checkpoints)
    refused.update((checkpoint.name, reason) for checkpoint, reason in found.unreadable)
    if not infos:
        raise UserError(next(iter(refused.values())))
    kind = _kind(subject, len(found.checkpoints))
    first = next(iter(infos.values()))
    if rendering.renderer != "diffusers":
        return _elsewhere(request, found, checkpoints, infos, refused, kind, references)
    base = _base_model(rendering, first)
    fixed = tuple((_fixed(one.path), one.weight) for one in subject.fixed)
    structure = cache(partial(import_engine().structure, base))
    fitted = known_to_fit(request.folder, base)
    objections = _objections(
        infos, refused, fixed, base, structure, fitted, subject.allow, request.rendering.clip_skip
    )
    _refuse_what_it_has_not(request, base)
    lines = request.prompts.prompts or default_prompts(first)
    edited = _edited(lines, request.prompts.input_picture) if base.edits else {}
    settings = _settings(request, base, structure, lines, first.resolution, fixed)
    cases = grid.cases(lines, request.prompts.seeds, request.prompts.negative, edited)
    texts = [text for case in cases for text in (case.prompt, case.negative)]
    return Plan(
        kind=kind,
        title=first.metadata.get("ss_output_name") or found.checkpoints[0].name,
        out=request.folder,
        renderer=DiffusersRenderer(
            settings,
            Setup(base, fixed, rendering.low_vram),
            devices=import_engine().devices(settings.device),
            fixed=fixed,
            cluster=_cluster(rendering.cluster, settings.device),
            stored=base.stored,
        ),
        settings=settings,
        cells=grid.cells(cases, checkpoints, subject.strengths),
        checkpoints=checkpoints,
        loras=tuple(infos.values()),
        warnings=(
            *found.warnings,
            *objections,
            *doubts(lines, edits=bool(base.edits)),
            *check_prompts(texts, base.family),
            *cut_prompts(texts, base),
        ),
        refused=refused,
        told=(f"The base model is {base.stored}: {MERGED}.",) if base.stored else (),
        trigger=request.prompts.trigger,
        probes=_probes(request, cases, checkpoints, infos.values()),
        references=references,
    )


def _probes(
    request: StudyRequest,
    cases: Sequence[Case],
    checkpoints: Sequence[Checkpoint],
    infos: Iterable[LoraInfo],
) -> tuple[Cell, ...]:
    """The cells of a leak test: each prompt once more without its trigger words, with the class
    word in their place where one is given, and prompts that have nothing to do with the LoRA.
    Raises UserError where no prompt holds a trigger word, or the class word does."""
    if not request.judging.leak_test:
        return ()
    said = request.prompts.trigger
    triggers = (said,) if said else _each_once(infos)
    bare = [
        replace(case, prompt=plain, name=f"{case.name}_{BARE}")
        for case in cases
        if (plain := without_triggers(case.prompt, triggers)) != tidy(case.prompt)
    ]
    if not bare:
        words_ = f'none of the prompts holds "{", ".join(triggers)}"'
        raise UserError(
            f"{words_ if triggers else 'the LoRA names no trigger word'}; name the word that the "
            f"prompts hold by {named('trigger')}.",
            field="leak_test",
        )
    word = request.judging.class_word
    if word and without_triggers(word, triggers) != tidy(word):
        raise UserError(
            f"it holds the trigger word ({word!r}); name what the trained thing is one of, such as "
            "woman.",
            field="class_word",
        )
    if word:
        bare = [probe for case in bare for probe in _with_class(case, cases, triggers, word)]
    first = cases[0]
    other = [
        replace(first, prompt=text, name=f"{OTHER}{n}_s{first.seed}_{BARE}")
        for n, text in enumerate(UNRELATED)
    ]
    return grid.cells((*bare, *other), checkpoints, request.subject.strengths)


def _with_class(
    bare: Case, cases: Sequence[Case], triggers: Sequence[str], word: str
) -> tuple[Case, ...]:
    """The case without trigger words and that with the class word: one where it names the class."""
    if without_triggers(bare.prompt, (word,)) != bare.prompt:
        return (replace(bare, name=f"{bare.name}_{CLASS}"),)
    name = bare.name.removesuffix(f"_{BARE}")
    called = next(case.prompt for case in cases if case.name == name)
    woken = next(one for one in triggers if replace_trigger(called, one, word) != called)
    called = without_triggers(replace_trigger(called, woken, word), triggers)
    return bare, replace(bare, prompt=called, name=f"{name}_{CLASS}")


def _cluster(address: str, device: str) -> RayCluster | None:
    """Where Ray renders: one worker a GPU, or for as many cores as this process has threads."""
    if not address:
        return None
    from generation.clusters import RayCluster, import_ray

    import_ray()
    if device != "cpu":
        return RayCluster(address, cpus=1, gpus=1)
    return RayCluster(address, cpus=import_engine().threads())


def _elsewhere(
    request: StudyRequest,
    found: CheckpointList,
    checkpoints: Sequence[Checkpoint],
    infos: Mapping[str, LoraInfo],
    refused: Mapping[str, str],
    kind: Kind,
    references: tuple[References, References],
) -> Plan:
    """The plan of a study that servers render."""
    if request.prompts.input_picture:
        raise UserError(
            "servers are given no picture to edit; leave it out, and name the picture in the "
            "workflow.",
            field="input_picture",
        )
    from analysers.runs.elsewhere import plan_elsewhere

    subject, lines = request.subject, request.prompts.prompts
    first = next(iter(infos.values()))
    usable = [one for one in found.checkpoints if one.name in infos]
    there = plan_elsewhere(
        request,
        usable,
        first,
        lambda: default_prompts(first),
    )
    return Plan(
        kind=kind,
        title=first.metadata.get("ss_output_name") or found.checkpoints[0].name,
        out=request.folder,
        renderer=there.renderer,
        settings=there.settings,
        cells=grid.cells(there.cases, checkpoints, subject.strengths),
        checkpoints=tuple(checkpoints),
        loras=tuple(infos.values()),
        warnings=(*found.warnings, *doubts(lines), *there.warnings),
        refused={**refused, **there.refused},
        told=there.told,
        trigger=request.prompts.trigger,
        probes=_probes(request, there.cases, checkpoints, infos.values()),
        references=references,
    )


def _kind(subject: Subject, checkpoints: int) -> Kind:
    """The question that these checkpoints at these strengths can answer."""
    if subject.kind == "strength" and checkpoints > 1:
        raise UserError(
            f"a study of strengths takes one LoRA, got {checkpoints}; give one, or compare them "
            f"all by a study of epochs (analyse-epochs) with {named('strengths')}.",
            field="loras",
        )
    return "plane" if subject.kind == "epochs" and len(subject.strengths) > 1 else subject.kind


def _base_model(rendering: Rendering, lora: LoraInfo) -> BaseModel:
    if not rendering.model:
        asks = f"it asks for {lora.family_words or 'a base model that its metadata does not name'}"
        raise UserError(
            f"{named('model')} is missing: name the base model of {lora.path.name}; {asks}."
        )
    if rendering.model != DEMO_MODEL:
        check_name(rendering.model)
    embedded = str(sample_data.PATH / "model")
    base: BaseModel = import_engine().find_model(
        embedded if rendering.model == DEMO_MODEL else rendering.model,
        config=rendering.model_config,
        prediction_type=rendering.prediction_type,
    )
    return base


def _refuse_what_it_has_not(request: StudyRequest, base: BaseModel) -> None:
    """Raise UserError for fields that a model of this family has no use for."""
    traits, name = base.traits, words(base.family)
    prompts = request.prompts
    if not traits.negative and (prompts.negative or any(p.negative for p in prompts.prompts)):
        raise UserError(f"{name} takes no negative prompt; leave it out.", field="negative")
    if prompts.input_picture and not base.edits:
        raise UserError(f"{name} edits no picture; leave it out.", field="input_picture")
    if request.rendering.clip_skip and not traits.clip_skip:
        raise UserError(
            f"{name} reads no layer that could be skipped; leave it out.", field="clip_skip"
        )
    if request.rendering.guidance_rescale and not traits.chunked:
        raise UserError(f"{name} has no rescaled guidance; leave it out.", field="guidance_rescale")
    if extra := request.subject.part_strengths.keys() - {"unet", "text", *traits.encoders}:
        raise UserError(
            f"{name} has {len(traits.encoders)} text encoder(s), not "
            f"{', '.join(sorted(extra))}; give one factor for all, or one for each.",
            field="te_strength",
        )


def _edited(lines: Sequence[PromptLine], usual: Path | None) -> dict[Path | None, InputPicture]:
    """The pictures that a model is to edit, by what the lines name; `usual` where they name none.

    Raises UserError where there is none, or no picture in it.
    """
    paths = {line.picture: line.picture or usual for line in lines}
    if None in paths.values():
        bare = next(line.prompt for line in lines if not line.picture)
        raise UserError(
            f"the model edits pictures, and none is named for {bare[:60]!r}; name one for all "
            "prompts, or one in each line of the prompt file.",
            field="input_picture",
        )
    return {said: find_input(path) for said, path in paths.items() if path is not None}


def _settings(
    request: StudyRequest,
    base: BaseModel,
    structure: Callable[[], Targets],
    lines: Sequence[PromptLine],
    trained_at: tuple[int, int] | None,
    fixed: Sequence[tuple[Checkpoint, Decimal]],
) -> RenderSettings:
    """What is asked, else what the prompt lines say, else the LoRA's metadata, else the model."""
    engine, traits = import_engine(), base.traits
    subject, asked = request.subject, request.rendering
    natural = trained_at or (base.width, base.height)
    usual = Sampling(*natural, traits.steps, traits.guidance_scale, engine.usual(base))
    used = sampling(asked, lines, usual)
    device = engine.choose_device(asked.device)
    settings = RenderSettings(
        model=asked.model,
        model_hash=base.digest,
        **vars(used),
        clip_skip=asked.clip_skip,
        guidance_rescale=asked.guidance_rescale,
        dtype=engine.choose_dtype(device, asked.dtype, base.family),
        device=device,
        batch_size=asked.batch_size,
        versions=engine.versions(),
        fixed_loras=tuple((checkpoint.tensor_hash, str(weight)) for checkpoint, weight in fixed),
        part_strengths=tuple(
            (part, str(value)) for part, value in sorted(subject.part_strengths.items())
        ),
        block_weights=_block_weights(subject.block_weights, base.family, structure),
        scheduler=engine.scheduler_record(base, used.sampler),
        compiled=asked.compiled,
    )
    sides = settings.width, settings.height
    if any(side % traits.multiple for side in sides) or min(sides) < 64:
        raise UserError(
            f"{settings.width}x{settings.height} cannot be rendered; "
            f"both sides must be multiples of {traits.multiple} and at least 64.",
            field="size",
        )
    return settings


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
    structure: Callable[[], Targets],
    fitted: Collection[str],
    allow: Sequence[str],
    clip_skip: int,
) -> tuple[str, ...]:
    """What speaks against the LoRAs under this model, in words; those that do not fit are moved
    from `infos` to `refused`. Files whose SHA-256 is among `fitted` are known to fit. Raises
    UserError if none is left, or one of --with does not fit."""
    flow = base.traits.flow
    predicts = None if flow else str(base.scheduler.get("prediction_type") or "epsilon")
    zero_snr = bool(base.scheduler.get("rescale_betas_zero_snr"))

    def examine(info: LoraInfo) -> tuple[str, ...]:
        found = findings(
            info,
            base.family,
            base.name,
            predicts,
            zero_snr=zero_snr,
            clip_skip=clip_skip,
            edits=bool(base.edits),
        )
        said = judged(found, allow)
        if not fitted or sha256(info.path) not in fitted:
            fit(info, structure())
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


def known_to_fit(out: Path, base: BaseModel) -> frozenset[str]:
    """SHA-256 of the LoRA files that the finished run in a folder says this version found to fit
    this base model, so that a run with nothing left to render loads no classes of models."""
    with suppress(OSError, ValueError):
        done: RunRecord = build(RunRecord, read_json(out / "run.json"))
        settings = done.settings or {}
        held = done.request is not None  # 0.1.0, which tells no request, held no file against it
        same = settings.get("model_hash") == base.digest and done.versions == versions()
        if held and same and settings.get("versions") == import_engine().versions():
            return frozenset(lora.sha256 for lora in done.loras or ())
    return frozenset()


def _block_weights(text: str, family: str, structure: Callable[[], Targets]) -> str:
    """The block weights in their one spelling. Raises UserError where they do not fit the model."""
    if not text:
        return ""
    weights = blocks.parse(text, family)
    weights.of_weights((part, name) for part, names in structure().items() for name in names)
    return weights.text


def _fixed(path: Path) -> Checkpoint:
    """A LoRA under every picture. Raises UserError if it cannot be applied."""
    info = inspect(path)
    if info.unsupported:
        raise UserError(
            f"{path.name} cannot be applied: it holds {', '.join(info.unsupported)}.", field="fixed"
        )
    return Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))


def default_prompts(info: LoraInfo) -> tuple[PromptLine, ...]:
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
