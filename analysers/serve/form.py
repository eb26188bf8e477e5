"""The page's form -> a StudyRequest; what the LoRA's metadata propose for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysers.runs.plan import Plan, default_prompts, estimate, inspect_all
from analysers.runs.request import DEMO_MODEL, StudyRequest
from analysers.serve.folders import OUTSIDE, Folders
from generation.errors import UserError
from generation.loras.checkpoints import find_checkpoints
from generation.samplers import shown_sampler

LABELS = {
    "kind": "Question",
    "loras": "LoRA",
    "strengths": "Strengths",
    "seeds": "Seeds",
    "prompts": "Prompts",
    "negative": "Negative prompt",
    "renderer": "Rendered by",
    "model": "Base model",
    "urls": "Server",
    "workflow": "Workflow",
    "sets": "Values in the workflow",
    "resolution": "Finest step",
    "budget": "At most so many pictures",
    "refine": "From coarse to fine",
    "until_decided": "Stop when decided",
    "size": "Size",
    "steps": "Steps",
    "guidance_scale": "Guidance",
    "guidance_rescale": "Guidance rescale",
    "sampler": "Sampler",
    "clip_skip": "Clip skip",
    "input_picture": "Picture to edit",
    "fixed": "Other LoRAs",
    "block_weights": "Block weights",
    "unet_strength": "Strength in the UNet",
    "te_strength": "Strength in the text encoders",
    "name": "Which LoRA",
    "ema": "Averaged weights",
    "references": "Training pictures",
    "held_out": "Pictures kept back",
    "metrics": "More metrics",
    "rank_by": "Rank by",
    "margin": "Margin",
    "tie_tolerance": "Tied within",
    "trigger": "Trigger words",
    "class_word": "Class word",
    "leak_test": "Leak test",
    "model_config": "Model's parts",
    "prediction_type": "What the model predicts",
    "device": "Device",
    "dtype": "Precision",
    "batch_size": "At once",
    "low_vram": "Little memory",
    "run": "Name of the run",
}
"""The form's fields (all but `run` are the request's) and what the page calls them."""

_LISTS = ("prompts", "urls", "sets", "fixed")
_FLAGS = ("refine", "until_decided", "ema", "leak_test", "low_vram")
_NAME = re.compile(r"[\w][\w .+-]{0,99}")


def spelled(field: str) -> str:
    """How the page names a field of the request."""
    return LABELS.get("run" if field == "out" else field, field)


def request(form: Mapping[str, Any], folders: Folders) -> StudyRequest:
    """The request that the form's fields ask for; empty ones are left to their defaults.

    Raises UserError, naming the field, for what cannot be read and for what lies elsewhere.
    """
    if unknown := sorted(map(str, form.keys() - LABELS.keys())):
        raise UserError(f"the form has no field {unknown[0]!r}.", unknown[0])
    given = {name: _read(name, value) for name, value in form.items()}
    given = {name: value for name, value in given.items() if value not in ("", [], None)}
    kind, run = given.pop("kind", "strength"), given.pop("run", "")
    if not given.get("loras"):
        raise UserError("choose a file or a folder.", "loras")
    metrics = [*given.get("metrics", "").split(","), given.get("rank_by", "")]
    _check_metrics(metrics, folders)  # before one looks into a folder
    for line in given.get("fixed", ()):
        if not all(folders.allowed(Path(one)) for one in (line, line.rpartition(":")[0] or line)):
            raise UserError(OUTSIDE, "fixed")
    asked = StudyRequest.of(kind, **given)
    name = run or asked.folder.name
    if not _NAME.fullmatch(name) or name.endswith((".", " ")):
        raise UserError("give letters, digits, blanks, dots and dashes.", "run")
    asked = dataclasses.replace(
        asked, output=dataclasses.replace(asked.output, out=folders.runs / name)
    )
    check_places(asked, folders)
    return asked


def check_places(asked: StudyRequest, folders: Folders) -> None:
    """Raise UserError for a path in the request that lies outside of the named folders."""
    for field, path in _paths(dataclasses.asdict(asked)):
        if field != "out" and not folders.allowed(path):
            raise UserError(OUTSIDE, field)
    _check_metrics(asked.judging.all_metrics, folders)
    model = asked.rendering.model
    if asked.rendering.renderer != "diffusers" or model in ("", DEMO_MODEL):
        return
    local = Path(model).expanduser()
    looks_local = local.is_absolute() or model.startswith((".", "~")) or local.exists()
    if looks_local and not folders.allowed(local):
        raise UserError(OUTSIDE, "model")


def _check_metrics(names: Iterable[str], folders: Folders) -> None:
    """Raise UserError for a metric whose parameter is a folder elsewhere ("clip_score:FOLDER")."""
    for name in names:
        place = name.strip().partition(":")[2]
        if place and not folders.allowed(Path(place)):
            raise UserError(OUTSIDE, "metrics")


def _paths(value: Any, field: str = "") -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield field, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _paths(one, field if name in ("path", "picture") else name)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _paths(one, field)


def _read(name: str, value: Any) -> Any:
    """The field's value; lists are typed one a line."""
    if name in _FLAGS and isinstance(value, bool):
        return value or None
    if not isinstance(value, str):
        raise UserError("give a text.", name)
    lines = [line.strip() for line in value.splitlines() if line.strip()]
    return lines if name in _LISTS else value.strip()


def demo(kind: str) -> dict[str, Any]:
    """The form as the embedded demo fills it."""
    asked = StudyRequest.demo("epochs" if kind == "epochs" else "strength")
    used, judged = asked.rendering, asked.judging
    return {
        "loras": str(asked.subject.loras[0]),
        "model": used.model,
        "strengths": ", ".join(map(str, asked.subject.strengths)),
        "prompts": "\n".join(line.prompt for line in asked.prompts.prompts),
        "seeds": ", ".join(map(str, asked.prompts.seeds)),
        "size": f"{used.width}x{used.height}" if used.width else "",
        "steps": str(used.steps or ""),
        "guidance_scale": "" if used.guidance_scale is None else f"{used.guidance_scale:g}",
        "sampler": shown_sampler(used.sampler) if used.sampler else "",
        "references": str(judged.references or ""),
        "held_out": str(judged.held_out or ""),
        "metrics": ", ".join(judged.metrics),
    }


def proposals(path: str, folders: Folders) -> dict[str, Any]:
    """What the picked LoRA, or the checkpoints in the picked folder, say of themselves."""
    if not path or not folders.allowed(Path(path)):
        raise UserError(OUTSIDE, "loras")
    found = find_checkpoints((Path(path),))
    infos, refused = inspect_all(found.checkpoints)
    if not infos:
        raise UserError(next(iter(refused.values()), "no LoRA was found there."), "loras")
    first = next(iter(infos.values()))
    words = list(dict.fromkeys(word for info in infos.values() for word in info.trigger_words))
    return {
        "summary": first.summary(),
        "base": first.family_words or "",
        "checkpoints": [one.label or one.name for one in found.checkpoints],
        "words": words,
        "prompts": [line.prompt for line in default_prompts(first)] if words else [],
        "warnings": list(found.warnings),
    }


def told(plan: Plan, thrifty: bool, timed: bool) -> dict[str, Any]:
    """The plan as the page shows it. `timed` measures how long rendering takes."""
    used = plan.settings
    missing, seconds = estimate(plan) if timed else (None, None)
    return {
        "title": plan.title,
        "run": plan.out.name,
        "pictures": len(plan.cells) - len(plan.cases),
        "controls": len(plan.cases),
        "probes": len(plan.probes),
        "most": thrifty,
        "missing": missing,
        "seconds": seconds,
        "settings": f"{shown_sampler(used.sampler)}, {used.steps} steps, guidance "
        f"{used.guidance_scale:g}, {used.width}×{used.height}, {used.dtype} on {used.device}",
        "strengths": [str(strength) for strength in plan.strengths],
        "checkpoints": [one.label or one.name for one in plan.checkpoints],
        "prompts": list(dict.fromkeys(case.prompt for case in plan.cases)),
        "warnings": [*plan.told, *plan.warnings],
        "refused": [f"{name} is left out: {reason}" for name, reason in plan.refused.items()],
    }
