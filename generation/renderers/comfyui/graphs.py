"""Built-in graphs, of ComfyUI's own nodes alone: a checkpoint, LoRAs, two texts, a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from generation.errors import UserError, named

GRAPHS: Mapping[str, str] = {"sd1": "checkpoint", "sd2": "checkpoint", "sdxl": "checkpoint",
                             "flux": "flux"}  # fmt: skip
"""Families with a graph of their own -> its kind."""

SAMPLERS: Mapping[str, str] = {
    "ddim": "ddim", "ddpm": "ddpm", "deis": "deis", "dpm2": "dpm_2", "dpm2_a": "dpm_2_ancestral",
    "dpmpp_2m": "dpmpp_2m", "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_2s_a": "dpmpp_2s_ancestral",
    "dpmpp_3m_sde": "dpmpp_3m_sde", "dpmpp_sde": "dpmpp_sde", "euler": "euler",
    "euler_a": "euler_ancestral", "heun": "heun", "lcm": "lcm", "lms": "lms", "pndm": "ipndm",
    "unipc": "uni_pc",
}  # fmt: skip
"""Our sampler names -> ComfyUI's (comfy/samplers.py)."""

_SCHEDULES = ("karras", "exponential", "sgm_uniform", "beta")


def comfy_sampler(sampler: str) -> tuple[str, str]:
    """ComfyUI's (sampler_name, scheduler) of one of our names; its own names pass as they are.

    Raises UserError for one that ComfyUI has not.
    """
    for schedule in _SCHEDULES:
        if sampler.endswith("_" + schedule):
            return comfy_sampler(sampler[: -len(schedule) - 1])[0], schedule
    if sampler in SAMPLERS:
        return SAMPLERS[sampler], "normal"
    if sampler in SAMPLERS.values():
        return sampler, "normal"
    raise UserError(
        f"ComfyUI has no {sampler}; name another, or give a {named('workflow')}.", field="sampler"
    )


def built_in(
    family: str,
    model: str,
    *,
    width: int,
    height: int,
    steps: int,
    guidance: float,
    sampler: str,
    clip_skip: int = 0,
    fixed: Sequence[tuple[str, Decimal]] = (),
) -> dict[str, Any]:
    """An API graph of this family, with a LoraLoader titled "@lora". Raises UserError.

    `model` and `fixed` are files as the server names them.
    """
    kind = GRAPHS.get(family)
    if kind is None:
        raise UserError(
            f"there is no built-in graph for {family or 'a LoRA of no known family'}; give your "
            "own by " + named("workflow") + " (Workflow > Export (API)).",
            field="workflow",
        )
    method, schedule = comfy_sampler(sampler)
    graph: dict[str, Any] = {
        "model": _node("CheckpointLoaderSimple", ckpt_name=model),
    }
    weights, clip = ["model", 0], ["model", 1]
    if clip_skip:
        graph["skip"] = _node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-1 - clip_skip)
        clip = ["skip", 0]
    for number, (name, weight) in enumerate([*fixed, ("", Decimal(1))]):
        key = f"lora{number + 1}" if name else "lora"
        strength = float(weight)
        graph[key] = _node(
            "LoraLoader", model=weights, clip=clip, lora_name=name, strength_model=strength,
            strength_clip=strength,
        )  # fmt: skip
        weights, clip = [key, 0], [key, 1]
    graph["lora"]["_meta"] = {"title": "@lora"}
    graph["prompt"] = _node("CLIPTextEncode", clip=clip, text="")
    positive, negative = ["prompt", 0], ["negative", 0]
    latent = "EmptyLatentImage"
    if kind == "flux":
        latent = "EmptySD3LatentImage"
        graph["guidance"] = _node("FluxGuidance", conditioning=positive, guidance=guidance)
        graph["negative"] = _node("ConditioningZeroOut", conditioning=positive)
        positive, guidance = ["guidance", 0], 1.0
    else:
        graph["negative"] = _node("CLIPTextEncode", clip=clip, text="")
    graph["latent"] = _node(latent, width=width, height=height, batch_size=1)
    graph["sampler"] = _node(
        "KSampler", model=weights, positive=positive, negative=negative, latent_image=["latent", 0],
        seed=0, steps=steps, cfg=guidance, sampler_name=method, scheduler=schedule, denoise=1.0,
    )  # fmt: skip
    graph["decoded"] = _node("VAEDecode", samples=["sampler", 0], vae=["model", 2])
    graph["picture"] = _node("PreviewImage", images=["decoded", 0])
    return graph


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
