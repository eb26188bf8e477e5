"""The story of a study in order: plan, render, measure, decide, write.

`plan_study` and `run_study` render; `score_pictures` judges pictures made elsewhere; both end in
the same `Study`. The two commands are a thin translation of their options into these calls.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import sample_data
from analysers import checks, ranking
from analysers.measure import Measured, Task, measure
from analysers.metrics.metric import load_metric
from analysers.study import Candidate, Kind, Score, Study, from_json, to_json
from generation import plan as grid
from generation.cells import Case, Cell, Checkpoint, RenderSettings
from generation.errors import UserError
from generation.executors import Executor, InProcess, ProcessPool, default_workers
from generation.files import make_folder, read_json, read_utf8, write_text
from generation.loras import blocks, deltas
from generation.loras.checkpoints import find_checkpoints
from generation.loras.inspection import FAMILY_NAMES, LoraInfo, inspect, tensor_hash
from generation.pictures.store import Layout, Store
from generation.renderers.diffusers import batches
from generation.renderers.diffusers.prompts import check as check_prompts
from generation.renderers.diffusers.render import BATCHES_A_TASK, render, stretches

if TYPE_CHECKING:
    from analysers.intake import PictureSet
    from generation.renderers.diffusers.engine import Engine
    from generation.renderers.diffusers.models import BaseModel

DEMO_MODEL = "demo"
"""The name that `--model` knows the embedded model by."""

NOISE_CASES = 3
"""How many controls are rendered a second time to measure the noise floor."""

PACE_STEPS = 4
"""Denoising steps of the short renders that two ways of batching are compared by."""

MOST_STUDY = 1 << 30
"""Bytes of a study.json that are read: a study of a million pictures has a few hundred MB."""

PIP_RENDER = "pip install 'lora-analysers[render]'"


class Progress(Protocol):
    """Where long work reports to; the command line shows a bar, a library user may do nothing."""

    def start(self, label: str, total: int) -> None: ...

    def advance(self, *, timed: bool = True) -> None:
        """One is done; `timed` says that it took as long as those still to come will."""

    def finish(self) -> None: ...


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, label: str, total: int) -> None:
        """Nothing to show."""

    def advance(self, *, timed: bool = True) -> None:
        """Nothing to show."""

    def finish(self) -> None:
        """Nothing to show."""


@dataclass(frozen=True)
class Options:
    """How to score and decide. `margin` and `tie_tolerance` are in units of `rank_by`.

    Without a margin that of the metric is taken (`ranking.MARGINS`); a metric that has none is not
    judged clean or broken.

    `workers` is the number of measuring processes; 0 measures in this process. None chooses: one a
    core, less one; none beside rendering on the CPU, whose cores wait for each other in every
    parallel loop, so that a second process costs more than the measuring itself.
    """

    metrics: tuple[str, ...] = ()
    rank_by: str = "brisque"
    tie_tolerance: float = 0.01
    margin: float | None = None
    workers: int | None = None

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """SSIM and BRISQUE, the ranked metric, then the extra ones, each once."""
        return tuple(dict.fromkeys(("ssim", "brisque", self.rank_by, *self.metrics)))

    def __post_init__(self) -> None:
        """Raise UserError if a metric is unknown, lacks its weights or cannot be ranked by."""
        for name in self.all_metrics:
            load_metric(name).check()
        if load_metric(self.rank_by).better is None:
            raise UserError(f"--rank-by: {self.rank_by} describes a picture and cannot rank it.")


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
    prompts: Sequence[grid.PromptLine] = (),
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
) -> RenderPlan:
    """Decide everything about a study that renders; nothing is loaded and nothing written.

    `fixed_loras` (file, weight) are merged under every picture, controls included;
    `part_strengths` multiply the strength of the LoRA under study in "unet" (the denoiser), "text"
    (all text encoders), or "te", "te2", "te3" (each of them), `block_weights` (as
    `generation.loras.blocks.parse` reads them) in its blocks.
    Where an option is None, the prompt file's flags decide, then the LoRA's metadata, then the
    model. Raises UserError for anything that would only fail later.
    """
    found = find_checkpoints(loras, name=name, ema=ema)
    broken = tuple(checkpoint for checkpoint, _ in found.unreadable)
    checkpoints = (*found.checkpoints, *broken)
    infos, refused = _inspect(found.checkpoints)
    refused.update((checkpoint.name, reason) for checkpoint, reason in found.unreadable)
    if not infos:
        raise UserError(next(iter(refused.values())))
    if kind == "strength" and len(found.checkpoints) > 1:
        raise UserError(
            f"analyse-strength takes one LoRA, got {len(found.checkpoints)}; "
            "use analyse-epochs with --strengths to compare checkpoints."
        )
    if kind == "epochs" and len(strengths) > 1:
        kind = "plane"
    first = next(iter(infos.values()))
    family = FAMILY_NAMES.get(first.family or "", "")
    if not model:
        asks = f"it asks for {family or 'a base model that its metadata does not name'}"
        raise UserError(f"--model is missing: name the base model of {first.path.name}; {asks}.")
    engine = import_engine()
    base: BaseModel = engine.find_model(
        str(sample_data.PATH / "model") if model == DEMO_MODEL else model,
        config=model_config,
        prediction_type=prediction_type,
    )
    traits = base.traits
    fixed = tuple((_fixed(path), weight) for path, weight in fixed_loras)
    for info in (first, *(inspect(checkpoint.path) for checkpoint, _ in fixed)):
        if info.family and info.family != base.family:
            raise UserError(
                f"{info.path.name} is made for {FAMILY_NAMES[info.family]} and --model {model} is "
                f"{FAMILY_NAMES[base.family]}; name a base model of its family."
            )
    if not traits.negative and (negative or any(line.negative for line in prompts)):
        raise UserError(
            f"--negative: {FAMILY_NAMES[base.family]} takes no negative prompt; leave it out."
        )
    if clip_skip and base.family == "flux":
        raise UserError("--clip-skip: FLUX.1 reads no layer that could be skipped; leave it out.")
    if extra := (part_strengths or {}).keys() - {"unet", "text", *traits.encoders}:
        raise UserError(
            f"--te-strength: {FAMILY_NAMES[base.family]} has {len(traits.encoders)} text "
            f"encoder(s), not {', '.join(sorted(extra))}; give one factor for all, or one for each."
        )
    lines = tuple(prompts) or _default_prompts(first)
    natural = first.resolution or (base.width, base.height)
    chosen_device = engine.choose_device(device)
    usual = "euler" if traits.flow else "dpmpp_2m_karras"
    chosen_sampler = _first(sampler, _agreed(lines, "sampler"), usual)
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
        block_weights=blocks.parse(block_weights, base.family).text if block_weights else "",
        scheduler=engine.scheduler_record(base, chosen_sampler),
        compiled=compiled,
    )
    sides = settings.width, settings.height
    if any(side % traits.multiple for side in sides) or min(sides) < 64:
        raise UserError(
            f"--size: {settings.width}x{settings.height} cannot be rendered; "
            f"both sides must be multiples of {traits.multiple} and at least 64."
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
        warnings=(*found.warnings, *check_prompts(texts, base.family)),
        refused=refused,
        fixed=fixed,
        low_vram=low_vram,
    )


def estimate(plan: RenderPlan) -> tuple[int, float]:
    """Pictures still to render, and seconds for them, from two measured batches; writes nothing."""
    plan, probed = with_batch_size(plan)
    missing = plan.store().missing(plan.cells)
    if not missing:
        return 0, 0.0
    engine = probed or plan.open_engine()
    todo = stretches(missing, engine.mixed)
    _, each = _timed(engine, engine.render, todo[0])
    count = sum(-(-len(stretch) // engine.batch_size) for stretch in todo)
    devices = import_engine().devices(plan.settings.device)
    return len(missing), each * -(-count // len(devices))


def with_batch_size(plan: RenderPlan) -> tuple[RenderPlan, Engine | None]:
    """The plan with its batches decided, and the engine where one was loaded to decide it.

    A run folder keeps what it began with. Otherwise a batch has the smallest size that needs no
    more batches than the largest that fits (or that was asked for). A GPU is asked what fits, and,
    where few cases leave it idle, whether batches of many strengths are faster.
    """
    engine = None
    batching = batches.kept(plan.out, _batch_key(plan))
    if batching is None:
        if plan.settings.device.startswith("cuda"):
            engine = plan.open_engine()
        most = plan.settings.batch_size or (
            engine.most_pictures() if engine else batches.MOST_ON_CPU
        )
        batching = batches.Batching(batches.balanced(len(plan.cases), most))
        if engine is not None:
            mixed = batches.Batching(batches.balanced(len(plan.cells), most), mixed=True)
            larger = mixed.size > batching.size and _can_mix(plan)
            if larger and _pace(plan, engine, mixed) > _pace(plan, engine, batching):
                batching = mixed
            engine.batch_size, engine.mixed = batching.size, batching.mixed
    settings = replace(plan.settings, batch_size=batching.size, mixed=batching.mixed)
    return replace(plan, settings=settings), engine


def _can_mix(plan: RenderPlan) -> bool:
    """Whether batches of many strengths are possible for this study."""
    usable = [c.path for c in plan.checkpoints if c.name not in plan.refused]
    return (
        len(plan.strengths) > 1
        and not plan.settings.compiled
        and all(deltas.is_low_rank(path) for path in usable)
    )


def _pace(plan: RenderPlan, engine: Engine, batching: batches.Batching) -> float:
    """Pictures a second of this study's first stretch with these batches, over a few steps."""
    stretch = next(s for s in stretches(plan.cells[len(plan.cases) :], batching.mixed))
    usual = engine.steps, engine.batch_size, engine.mixed
    engine.steps, engine.batch_size, engine.mixed = PACE_STEPS, batching.size, batching.mixed
    try:
        count, seconds = _timed(engine, engine.denoise, stretch)
        return count / seconds
    except (MemoryError, UserError):
        return 0.0
    finally:
        engine.apply(None, Decimal(0))
        engine.steps, engine.batch_size, engine.mixed = usual


def _timed(engine: Engine, paint: Callable[..., Any], stretch: Sequence[Cell]) -> tuple[int, float]:
    """Pictures in the stretch's first batch, and the seconds that painting it takes once warm."""
    engine.prepare(stretch)
    chunk = engine.batch(stretch)
    strengths = [cell.strength for cell in chunk] if engine.mixed else []
    for _ in range(2):  # the first one warms up
        start = perf_counter()
        paint([cell.case for cell in chunk], strengths)
        seconds = perf_counter() - start
    return len(chunk), seconds


def _batch_key(plan: RenderPlan) -> str:
    s = plan.settings
    asked = f" at most {s.batch_size}" if s.batch_size else ""
    return f"{plan.model.digest[:16]} {s.width}x{s.height} {s.dtype} {s.device}{asked}"


def run_study(
    plan: RenderPlan,
    options: Options,
    *,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    resume: bool = True,
) -> Study:
    """Render what is missing, measure as pictures land, decide, and write study.json.

    Running the same plan again completes it: nothing is rendered or measured twice. Without
    `resume` everything is rendered anew, and earlier pictures are kept aside.
    """
    bar = progress or Silent()
    make_folder(plan.out)
    asked = _batch_key(plan)
    plan, probed = with_batch_size(plan)
    settings = plan.settings
    batches.keep(plan.out, asked, batches.Batching(settings.batch_size, settings.mixed))
    store = plan.store()
    rendered: dict[Cell, str] = {}
    opened: list[Engine] = [probed] if probed else []
    devices = import_engine().devices(plan.settings.device)
    if len(devices) > 1:
        del probed
        opened.clear()  # each device's process loads its own
        import_engine().free_memory()

    def open_engine() -> Engine:
        if not opened:
            opened.append(plan.open_engine(devices[0]))
        return opened[0]

    good = [c for c in plan.cells if c.checkpoint is None or c.checkpoint.name not in plan.refused]

    painted: list[Cell] = []
    rendering = 0.0

    def tasks() -> Iterator[Task]:
        nonlocal rendering
        early: list[Task] = []
        opener = plan.open_engine if len(devices) > 1 else open_engine
        begin = perf_counter()
        for done in render(good, store, opener, resume=resume, devices=devices):
            fresh = done.fresh and done.path is not None
            if fresh:
                painted.append(done.cell)
            bar.advance(timed=fresh and len(painted) > _warm_up(plan, len(devices)))
            rendering = perf_counter() - begin
            if done.path is None:
                rendered[done.cell] = done.reason
            else:
                control = None if done.cell.is_control else store.path(Cell(done.cell.case))
                task = Task(done.path, control, done.cell.case.prompt, done.cell)
                if control is None or control.is_file():
                    yield task
                else:  # a kill can leave a picture whose control is rendered only now
                    early.append(task)
        yield from early

    bar.start("Rendering", len(good))
    start = perf_counter()
    try:
        measured = {
            result.task.tag: result
            for result in measure(
                tasks(),
                options.all_metrics,
                _executor(options, plan.settings.device),
                plan.out / "measured.jsonl",
            )
        }
    finally:
        bar.finish()
    noise = _noise_floor(plan, store, open_engine, bar)
    places = {checkpoint.path: i for i, checkpoint in enumerate(plan.checkpoints)}
    scores = []
    for cell in plan.cells:
        reason = rendered.get(cell, "")
        if cell.checkpoint is not None:
            reason = plan.refused.get(cell.checkpoint.name, reason)
        candidate = None if cell.checkpoint is None else _candidate(cell, places)
        image, control = store.layout.place(cell), store.layout.place(Cell(cell.case))
        scores.append(
            _score(
                measured.get(cell),
                candidate,
                cell.case.name,
                cell.case.prompt,
                cell.case.seed,
                image.as_posix() if not reason else "",
                "" if cell.is_control else control.as_posix(),
                reason,
            )
        )
    run = {
        "format": 1,
        "command": list(command),
        "seconds": round(perf_counter() - start, 1),
        "rendered": {
            "pictures": sum(not cell.is_control for cell in painted),
            "controls": sum(cell.is_control for cell in painted),
            "kept": len(good) - len(painted) - len(rendered),
            "seconds": round(rendering, 2),
        },
        "model": {"name": plan.settings.model, "sha256": plan.settings.model_hash},
        "loras": [_lora_record(info) for info in plan.loras],
        "settings": asdict(plan.settings),
        "cases": [asdict(case) for case in plan.cases],
        "strengths": [str(s) for s in plan.strengths],
        "versions": _versions(),
    }
    evidence: dict[str, Any] = {"noise": noise} if noise else {}
    if plan.kind != "strength":
        evidence["weights"] = _weights(plan)
    return _conclude(
        plan.kind, plan.title, scores, measured.values(), options, plan.out, evidence, run,
        plan.warnings,
    )  # fmt: skip


def score_pictures(
    kind: Kind,
    pictures: PictureSet,
    *,
    out: Path,
    options: Options,
    title: str = "",
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> Study:
    """Judge pictures that were rendered elsewhere; torch is not needed.

    Pictures that cannot be read or have no control are listed with their reason.
    """
    bar = progress or Silent()
    make_folder(out)
    places: dict[tuple[Any, ...], int] = {}
    controls = {pair.control: pair for pair in pictures.pairs if pair.control is not None}
    work = [
        *(Task(path, None, pair.picture.prompt, path) for path, pair in controls.items()),
        *(
            Task(p.picture.path, p.control, p.picture.prompt, i)
            for i, p in enumerate(pictures.pairs)
        ),
    ]
    bar.start("Measuring", len(work))
    measured: dict[Any, Measured] = {}
    cache = out / "measured.jsonl"
    try:
        for result in measure(work, options.all_metrics, _executor(options), cache):
            bar.advance(timed=bool(measured))  # the first one waits for the processes to start
            measured[result.task.tag] = result
    finally:
        bar.finish()
    scores = [
        _score(
            measured.get(path),
            None,
            pair.case,
            pair.picture.prompt,
            pair.picture.seed,
            _relative(path, out),
            "",
            "",
        )  # fmt: skip
        for path, pair in controls.items()
    ]
    for index, pair in enumerate(pictures.pairs):
        picture = pair.picture
        # the pairs come in order of training, a final checkpoint without a number last
        place = places.setdefault((picture.step, picture.epoch), len(places))
        label = f"epoch {picture.epoch}" if picture.epoch is not None else ""
        label = label or (f"step {picture.step}" if picture.step is not None else "")
        candidate = Candidate(
            picture.lora, picture.epoch, picture.step, picture.strength, place, label
        )
        row = _score(
            measured.get(index), candidate, pair.case, picture.prompt, picture.seed,
            _relative(picture.path, out), _relative(pair.control, out), "",
        )  # fmt: skip
        if pair.control is None and row.status == "ok":
            row = replace(row, status="flagged", reason="no control found, so no SSIM")
        scores.append(row)
    warnings = [*pictures.warnings]
    warnings += [f"{r.path.name} was left out: {r.reason}" for r in pictures.rejected]
    run = {
        "format": 1,
        "command": list(command),
        "pictures": [str(p.picture.path) for p in pictures.pairs],
        "versions": _versions(),
    }
    return _conclude(
        kind, title or out.name, scores, measured.values(), options, out, {}, run, warnings
    )


def trigger_words(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The words that the files say wake them, each once; a file that cannot be read says none."""
    infos, _ = _inspect(checkpoints)
    return tuple(dict.fromkeys(w for info in infos.values() for w in info.trigger_words))


def join(pictures: PictureSet, checkpoints: Sequence[Checkpoint]) -> PictureSet:
    """The pictures with each checkpoint known by its tensors, whatever its file was called then."""
    from analysers.intake import join_checkpoints

    hashes = {c.tensor_hash: c.file for c in checkpoints if c.tensor_hash}
    joined = join_checkpoints([pair.picture for pair in pictures.pairs], hashes)
    pairs = zip(pictures.pairs, joined, strict=True)
    return replace(pictures, pairs=tuple(replace(pair, picture=p) for pair, p in pairs))


def folder_name(label: str, index: int) -> str:
    """A label as a folder's name, unique by its number."""
    words = re.sub(r"[^\w.-]+", "_", label).strip("._")[:60]
    return f"{index + 1:02d}_{words}" if words else f"{index + 1:02d}"


def load_study(run: Path) -> Study:
    """The finished study in a run folder; UserError if there is none."""
    path = run / "study.json"
    try:
        return from_json(read_utf8(path, MOST_STUDY))
    except OSError as error:
        raise UserError(
            f"--report-only: {run} holds no study.json; name the folder of a finished run."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--report-only: {path} cannot be read ({error}); run the study again."
        ) from error


def _conclude(
    kind: Kind,
    title: str,
    scores: Sequence[Score],
    measured: Any,
    options: Options,
    out: Path,
    evidence: Mapping[str, Any],
    run: Mapping[str, Any],
    warnings: Sequence[str],
) -> Study:
    """Decide, add what argues for and against the decision, and write study.json and run.json."""
    from analysers.overcooking import likeness

    results: list[Measured] = list(measured)
    evidence = {**evidence, **_trust(results, options)}
    thumbnails: dict[Candidate | None, list[Any]] = {}
    pixels: dict[str, str] = {}
    by_image = {_relative(r.task.image, out): r for r in results}
    for score in scores:
        result = by_image.get(score.image)
        if result is not None and result.pixels:
            thumbnails.setdefault(score.candidate, []).append(result.thumbnail)
            pixels[score.image] = result.pixels
    alike = {c: likeness(images) for c, images in thumbnails.items() if len(images) > 1}
    better = load_metric(options.rank_by).better or "lower"
    floor = evidence.get("noise", {}).get("floor", {})
    trust = evidence.get("trust", {})
    doubts = [trust["sentence"]] if trust and not trust["trusted"] else []
    found = checks.check(
        scores, kind=kind, floor=floor, pixels=pixels, unrelated=_unrelated(results)
    )
    summaries, verdict = ranking.decide(
        scores,
        kind=kind,
        rank_by=options.rank_by,
        better=better,
        tie_tolerance=options.tie_tolerance,
        margin=options.margin,
        noise_floor=floor,
        likeness=alike,
        warnings=(*doubts, *found, *warnings),
    )
    study = Study(
        kind=kind,
        title=title,
        rank_by=options.rank_by,
        better=better,
        metrics=options.all_metrics,
        scores=tuple(scores),
        summaries=summaries,
        verdict=verdict,
        tie_tolerance=options.tie_tolerance,
        margin=ranking.margin_of(options.rank_by, options.margin),
        evidence=evidence,
        run=run,
    )
    write_text(out / "run.json", json.dumps(run, indent=1, default=str) + "\n")
    write_text(out / "study.json", to_json(study))
    return study


def _score(
    result: Measured | None,
    candidate: Candidate | None,
    case: str,
    prompt: str,
    seed: int | None,
    image: str,
    control: str,
    reason: str,
) -> Score:
    if reason or result is None:
        return Score(
            candidate, case, prompt, seed, image, control, {}, "failed", reason or "not rendered"
        )
    return Score(
        candidate, case, prompt, seed, image, control, result.values, result.status, result.reason
    )


def _warm_up(plan: RenderPlan, devices: int) -> int:
    """After how many pictures the model is loaded and compiled everywhere: a batch, or a piece
    of work from each device."""
    batch = plan.settings.batch_size
    if devices < 2:
        return batch
    return devices * min(BATCHES_A_TASK * batch, len(plan.cases))


def _noise_floor(
    plan: RenderPlan, store: Store, open_engine: Callable[[], Engine], bar: Progress
) -> dict[str, Any]:
    """Controls rendered again in another batch size: what rounding alone does to the scores.

    Measured once and kept beside the pictures. A device that has no memory for it, with all
    pictures rendered, fails no study.
    """
    kept = plan.out / "noise.json"
    keys = [store.key(Cell(case)) for case in plan.cases[:NOISE_CASES]]
    if kept.is_file():
        try:
            record = read_json(kept)
            if record["keys"] == keys:
                return dict(record)
        except (OSError, ValueError, KeyError, TypeError):
            pass
    from analysers.metrics.brisque import brisque
    from analysers.metrics.ssim import ssim
    from generation.pictures.pixels import read_image

    controls = [Cell(case) for case in plan.cases[:NOISE_CASES]]
    controls = [control for control in controls if store.path(control).is_file()]
    if not controls:
        return {}
    pairs = []
    bar.start("Noise floor", len(controls))
    try:
        engine = open_engine()
        engine.prepare(controls)
        # A GPU paints few pictures together as fast as one; a CPU rounds alike from two on.
        size = 1 if plan.settings.device == "cpu" else len(controls)
        engine.batch_size = size + 1 if size == plan.settings.batch_size else size
        while controls:
            batch = engine.batch(controls)
            pictures = engine.render([control.case for control in batch])
            for control, again in zip(batch, pictures, strict=True):
                bar.advance()
                if again is not None:
                    first = read_image(store.path(control))
                    pairs.append((ssim(again, first), abs(brisque(again) - brisque(first))))
            controls = [control for control in controls if control not in batch]
    except (UserError, MemoryError):
        return {}
    finally:
        bar.finish()
    floor = checks.noise_floor(pairs)
    record = {"keys": keys, "pairs": pairs, "floor": floor}
    write_text(kept, json.dumps(record, indent=1) + "\n")
    return record


def _trust(results: Sequence[Measured], options: Options) -> dict[str, Any]:
    """Degrade the user's own controls and see whether BRISQUE notices."""
    from analysers.metrics.brisque import brisque
    from analysers.trust import trust_check

    images = _controls(results, 4)
    if options.rank_by != "brisque" or not images:
        return {}
    return {"trust": asdict(trust_check(images, brisque))}


def _unrelated(results: Sequence[Measured]) -> float | None:
    """The usual SSIM between controls of different cases, or None with fewer than two of a size."""
    from analysers.metrics.ssim import ssim

    images = _controls(results, 5)
    values = [ssim(a, b) for a, b in pairwise(images) if a.shape == b.shape]
    return median(values) if values else None


def _controls(results: Sequence[Measured], at_most: int) -> list[Any]:
    """The first controls that could be read and differ from each other, as arrays."""
    from generation.pictures.pixels import read_image

    unique = {r.pixels: r.task.image for r in results if r.task.control is None and r.pixels}
    return [read_image(path) for path in sorted(unique.values())[:at_most]]


def _weights(plan: RenderPlan) -> dict[str, Any]:
    from analysers.weights import weight_report

    usable = [c for c in plan.checkpoints if c.name not in plan.refused]
    try:
        frame = weight_report(usable).to_frame()
    except UserError as error:
        return {"rows": [], "reason": str(error)}
    return {"rows": json.loads(frame.to_json(orient="records"))}


def _inspect(checkpoints: Sequence[Checkpoint]) -> tuple[dict[str, LoraInfo], dict[str, str]]:
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


def _fixed(path: Path) -> Checkpoint:
    """A LoRA of --with. Raises UserError if it cannot be applied."""
    info = inspect(path)
    if info.unsupported:
        raise UserError(
            f"--with: {path.name} cannot be applied: it holds {', '.join(info.unsupported)}."
        )
    return Checkpoint(path, path.stem, tensor_hash=tensor_hash(path))


def _default_prompts(info: LoraInfo) -> tuple[grid.PromptLine, ...]:
    """Six prompts around the trigger word that the training metadata tells."""
    if not info.trigger_words:
        raise UserError(
            "--prompts is missing, and the LoRA's metadata names no trigger word to make prompts "
            "from; write one prompt a line into a text file."
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
    return tuple(grid.PromptLine(f"{word}, {scene}") for scene in scenes)


def _agreed(lines: Sequence[grid.PromptLine], field_name: str) -> Any:
    """The one value that the prompt file's lines give, or None; they must agree."""
    values = {getattr(line, field_name) for line in lines} - {None}
    if len(values) > 1:
        raise UserError(
            f"--prompts: the lines disagree on {field_name} ({', '.join(map(str, values))}); "
            "a study needs one for all."
        )
    return next(iter(values), None)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _candidate(cell: Cell, places: Mapping[Path, int]) -> Candidate:
    checkpoint = cell.checkpoint
    assert checkpoint is not None
    return Candidate(
        checkpoint.file,
        checkpoint.epoch,
        checkpoint.step,
        cell.strength,
        places[checkpoint.path],
        checkpoint.label,
        checkpoint.tensor_hash,
    )


def _executor(options: Options, device: str = "") -> Executor:
    """Where pictures are measured, with rendering going on on `device`."""
    workers = options.workers
    if workers is None:
        workers = 0 if device == "cpu" else default_workers()
    return ProcessPool(workers) if workers else InProcess()


def _lora_record(info: LoraInfo) -> dict[str, Any]:
    from generation.loras.inspection import sha256

    return {
        "file": info.path.name,
        "sha256": sha256(info.path),
        "format": info.format,
        "family": info.family,
        "rank": info.rank,
        "epoch": info.epoch,
        "step": info.step,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("lora-analysers", "numpy", "scipy", "pillow", "piq"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _relative(path: Path | None, out: Path) -> str:
    """A path as rows hold it: relative to the run folder where it lies inside, else absolute."""
    if path is None:
        return ""
    try:
        return path.resolve().relative_to(out.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()
