"""Studies whose pictures a server paints: ComfyUI, A1111 and its kin, or SwarmUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from analysers.runs.request import StudyRequest
from analysers.runs.sampling import Sampling, agreed, sampling
from generation import plan as grid
from generation.cells import Case, Checkpoint, RenderSettings
from generation.errors import UserError, named
from generation.families import FAMILIES
from generation.loras.inspection import LoraInfo
from generation.prompts import PromptLine
from generation.renderers.renderer import Renderer
from generation.renderers.servers import (
    Asked,
    Server,
    check_login,
    file_on_server,
    open_servers,
)
from generation.samplers import sampler_key

COMFYUI, A1111 = "http://127.0.0.1:8188", "http://127.0.0.1:7860"
SWARMUI = "http://127.0.0.1:7801"
"""Where the programs listen unless they are told otherwise."""


@dataclass(frozen=True)
class Elsewhere:
    """What a server will paint; `refused` are checkpoints that it has not, with reasons;
    `told` says what was found in a workflow."""

    renderer: Renderer
    settings: RenderSettings
    cases: tuple[Case, ...]
    warnings: tuple[str, ...]
    refused: Mapping[str, str]
    told: tuple[str, ...] = ()


def plan_elsewhere(
    request: StudyRequest,
    checkpoints: Sequence[Checkpoint],
    info: LoraInfo,
    prompts: Callable[[], Sequence[PromptLine]],
) -> Elsewhere:
    """Ask the servers whether they can, and how. `prompts` makes some where none are given.

    Raises UserError for what the request asks and a server cannot.
    """
    _refuse(request)
    opens = {"comfyui": _comfyui, "a1111": _a1111, "swarmui": _swarmui}
    return opens[request.rendering.renderer](request, checkpoints, info, prompts)


def _refuse(request: StudyRequest) -> None:
    """Raise UserError for what only the renderer of this suite can do."""
    rendering, subject = request.rendering, request.subject
    cannot = {
        "block_weights": bool(subject.block_weights),
        "model_config": rendering.model_config is not None,
        "prediction_type": rendering.prediction_type is not None,
        "guidance_rescale": rendering.guidance_rescale != 0,
        "cluster": bool(rendering.cluster),
        "compiled": rendering.compiled,
        "low_vram": rendering.low_vram,
        "te_strength": len(subject.te_strength) > 1,
    }
    for name, asked in cannot.items():
        if asked:
            raise UserError(
                f"{rendering.renderer} cannot be asked for this; leave it out, or render here.",
                field=name,
            )
    if rendering.workflow and rendering.renderer != "comfyui":
        raise UserError(f"only {named('renderer')} comfyui has one.", field="workflow")
    if rendering.sets and rendering.workflow is None:
        raise UserError(f"it belongs to {named('workflow')}.", field="sets")


def _sampling(request: StudyRequest, info: LoraInfo) -> Sampling:
    """Usual is the LoRA's metadata, else what its family is rendered with."""
    family = FAMILIES.get(info.family or "")
    side = 1024 if info.family in _LARGE else 512
    usual = Sampling(
        *(info.resolution or (side, side)),
        family.steps if family else 25,
        family.guidance_scale if family else 7.0,
        "euler" if family and family.flow else "dpmpp_2m_karras",
    )
    return sampling(request.rendering, request.prompts.prompts, usual)


_LARGE = ("sdxl", "flux", "sd3")

_DISTILLED = ("flux", "flux2")
"""Families that read a guidance scale: CFG on top of it would be guidance twice."""


def _comfyui(
    request: StudyRequest,
    checkpoints: Sequence[Checkpoint],
    info: LoraInfo,
    prompts: Callable[[], Sequence[PromptLine]],
) -> Elsewhere:
    from generation.renderers.comfyui.graphs import built_in
    from generation.renderers.comfyui.render import ComfyUI, look, options
    from generation.renderers.comfyui.workflow import analyse, read_workflow

    asked = request.rendering
    servers = open_servers(asked.urls, COMFYUI)
    listed = _loras(servers, lambda server: options(server, "LoraLoader", "lora_name"))
    if asked.workflow is not None:
        if asked.model or asked.clip_skip or request.subject.fixed:
            name = "model" if asked.model else "clip_skip" if asked.clip_skip else "fixed"
            raise UserError("the workflow decides this; change it there.", field=name)
        workflow = read_workflow(asked.workflow, asked.sets, checkpoints[0].path.name)
        lines = request.prompts.prompts
        sampler = asked.sampler or agreed(lines, "sampler")
        given = {
            "width": asked.width or agreed(lines, "width"),
            "height": asked.height or agreed(lines, "height"),
            "steps": asked.steps or agreed(lines, "steps"),
            "cfg": asked.guidance_scale,
            **_comfy_sampler(sampler),
        }
        workflow = workflow.with_values({k: v for k, v in given.items() if v is not None})
    else:
        usual = _sampling(request, info)
        files = options(servers[0], "CheckpointLoaderSimple", "ckpt_name") or []
        if not asked.model:
            raise UserError(
                f"{named('model')} is missing: name one of the server's checkpoints "
                f"({', '.join(files[:8]) or 'it has none'}), or give a {named('workflow')}."
            )
        workflow = analyse(
            built_in(
                info.family or "",
                asked.model if asked.model in files else _checkpoint(asked.model, files, servers),
                width=usual.width,
                height=usual.height,
                steps=usual.steps,
                guidance=usual.guidance_scale,
                sampler=usual.sampler,
                clip_skip=asked.clip_skip,
                fixed=[
                    (file_on_server(one.path.name, listed, servers[0].url), one.weight)
                    for one in request.subject.fixed
                ],
            )
        )
    told = look(servers, workflow)
    names, refused = _names(checkpoints, lambda c: _comfy_name(servers, c, listed))
    lines = request.prompts.prompts
    if not lines:
        own = workflow.text(workflow.prompt)
        lines = tuple(prompts()) if not own or info.trigger_words else (PromptLine(own),)
    negative = request.prompts.negative or workflow.text(workflow.negative)
    cases = grid.cases(lines, request.prompts.seeds, negative)
    if not workflow.negative and any(case.negative for case in cases):
        raise UserError("the workflow has no negative prompt; leave it out.", field="negative")
    factors = request.subject.part_strengths
    renderer = ComfyUI(
        servers,
        workflow,
        names,
        told,
        factors={"model": factors.get("unet", Decimal(1)), "clip": factors.get("text", Decimal(1))},
    )
    return Elsewhere(
        renderer,
        _told(workflow, servers),
        cases,
        check_login(servers),
        refused,
        workflow.found,
    )


def _comfy_sampler(sampler: str | None) -> dict[str, str]:
    from generation.renderers.comfyui.graphs import comfy_sampler

    if not sampler:
        return {}
    method, schedule = comfy_sampler(sampler_key(sampler) or sampler)
    return {"sampler_name": method, "scheduler": schedule}


def _checkpoint(model: str, files: Sequence[str], servers: Sequence[Server]) -> str:
    try:
        return file_on_server(model, files, servers[0].url)
    except UserError:
        raise UserError(
            f"{servers[0].url} has no checkpoint {model!r}; it has "
            f"{', '.join(files[:8]) or 'none'}.",
            field="model",
        ) from None


def _loras(
    servers: Sequence[Server], listed: Callable[[Server], Sequence[str] | None]
) -> list[str]:
    """The LoRA files that every one of the servers has."""
    each = [list(listed(server) or ()) for server in servers]
    return [name for name in each[0] if all(name in other for other in each[1:])]


def _comfy_name(servers: Sequence[Server], checkpoint: Checkpoint, listed: Sequence[str]) -> str:
    from generation.renderers.a1111 import check_hash
    from generation.renderers.comfyui.render import lora_metadata

    name = file_on_server(checkpoint.path.name, listed, servers[0].url)
    for server in servers:
        metadata = lora_metadata(server, name)
        check_hash(metadata, checkpoint.tensor_hash, checkpoint.path.name, server.url)
    return name


def _names(
    checkpoints: Sequence[Checkpoint], find: Callable[[Checkpoint], str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Names on the server by tensor hash, and why checkpoints that it has not are left out.

    Raises UserError if it has none of them.
    """
    names: dict[str, str] = {}
    refused: dict[str, str] = {}
    for checkpoint in checkpoints:
        try:
            names[checkpoint.tensor_hash] = find(checkpoint)
        except UserError as error:
            refused[checkpoint.name] = str(error)
    if checkpoints and not names:
        raise UserError(next(iter(refused.values())))
    return names, refused


def _told(workflow: Any, servers: Sequence[Server]) -> RenderSettings:
    """What a person is told of a workflow's settings; 0 where it does not say."""
    sampling = workflow.sampling or {}
    held = {name: workflow.value([place]) for name, place in sampling.items()}
    sizes = workflow.sizes or {}

    def number(value: Any) -> float:
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0

    method, schedule = str(held.get("sampler_name", "")), str(held.get("scheduler", ""))
    return RenderSettings(
        model=_model(workflow.graph) or "the workflow's",
        model_hash="",
        width=int(number(workflow.value(sizes.get("width", ())))),
        height=int(number(workflow.value(sizes.get("height", ())))),
        steps=int(number(held.get("steps"))),
        guidance_scale=float(number(held.get("cfg"))),
        sampler=sampler_key(f"{method} {schedule}") or method,
        dtype="ComfyUI",
        device=", ".join(server.url for server in servers),
        batch_size=1,
    )


def _model(graph: Mapping[str, Any]) -> str:
    """The one base model that a graph loads by name, "" where there are none or several."""
    found = {
        str(value)
        for node in graph.values()
        for name, value in node["inputs"].items()
        if name in ("ckpt_name", "unet_name") and isinstance(value, str)
    }
    return found.pop() if len(found) == 1 else ""


def _a1111(
    request: StudyRequest,
    checkpoints: Sequence[Checkpoint],
    info: LoraInfo,
    prompts: Callable[[], Sequence[PromptLine]],
) -> Elsewhere:
    from generation.renderers import a1111

    servers = open_servers(request.rendering.urls, A1111)
    return _by_settings(request, servers, a1111, a1111.A1111, checkpoints, info, prompts)


def _swarmui(
    request: StudyRequest,
    checkpoints: Sequence[Checkpoint],
    info: LoraInfo,
    prompts: Callable[[], Sequence[PromptLine]],
) -> Elsewhere:
    from generation.renderers.comfyui import swarmui

    servers = open_servers(request.rendering.urls, SWARMUI, cookie=swarmui.COOKIE)
    return _by_settings(request, servers, swarmui, swarmui.SwarmUI, checkpoints, info, prompts)


def _by_settings(
    request: StudyRequest,
    servers: Sequence[Server],
    program: Any,
    renderer: Callable[..., Renderer],
    checkpoints: Sequence[Checkpoint],
    info: LoraInfo,
    prompts: Callable[[], Sequence[PromptLine]],
) -> Elsewhere:
    """The plan for a program that is asked for pictures by settings; `program` is its module."""
    asked, usual = request.rendering, _sampling(request, info)
    for server in servers:
        program.refresh(server)
    told = program.look(servers, asked.model)
    sampler = program.sampler_there(servers[0], usual.sampler, told["version"])

    def named_there(path: Path, digest: str) -> str:
        name: str = [program.lora_there(server, path.name, digest) for server in servers][0]
        return name

    names, refused = _names(checkpoints, lambda c: named_there(c.path, c.tensor_hash))
    factors = request.subject.part_strengths
    settings = Asked(
        **vars(usual),
        clip_skip=asked.clip_skip,
        fixed=tuple(
            (named_there(one.path, _tensors(one.path)), str(one.weight))
            for one in request.subject.fixed
        ),
        factors=tuple(
            (part, str(factors.get(ours, 1))) for part, ours in (("te", "text"), ("unet", "unet"))
        )
        if factors
        else (),
    )
    lines = request.prompts.prompts or tuple(prompts())
    shown = RenderSettings(
        model=str(told["model"]),
        model_hash=str(told.get("sha256", "")),
        **vars(usual),
        clip_skip=asked.clip_skip,
        dtype=str(told["version"]),
        device=", ".join(server.url for server in servers),
        batch_size=1,
    )
    return Elsewhere(
        renderer(servers, settings, names, told, sampler, distilled=info.family in _DISTILLED),
        shown,
        grid.cases(lines, request.prompts.seeds, request.prompts.negative),
        check_login(servers),
        refused,
    )


def _tensors(path: Path) -> str:
    from generation.loras.inspection import tensor_hash

    return tensor_hash(path)
