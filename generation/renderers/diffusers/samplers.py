"""Samplers by the names that people use, as diffusers schedulers that do what the name says."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers

from generation.errors import UserError, named
from generation.families import words
from generation.renderers.diffusers.models import BaseModel
from generation.samplers import sampler_key, shown_sampler


def _dpmpp(
    order: int = 0, *, sde: bool = False, spacing: str = ""
) -> tuple[str, Mapping[str, Any]]:
    """DPM-Solver++ (Lu et al. 2022): multistep of this order, or singlestep without one; `spacing`
    of the noise levels is the model's own, karras or exponential."""
    flags: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++" if sde else "dpmsolver++"}
    flags |= {"solver_order": order} if order else {}
    flags |= {"use_karras_sigmas": spacing == "karras"}
    flags |= {"use_exponential_sigmas": True} if spacing == "exponential" else {}
    return f"DPMSolver{'Multistep' if order else 'Singlestep'}Scheduler", flags


SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": _dpmpp(2),
    "dpmpp_2m_karras": _dpmpp(2, spacing="karras"),
    "dpmpp_2m_sde": _dpmpp(2, sde=True),
    "dpmpp_2m_sde_karras": _dpmpp(2, sde=True, spacing="karras"),
    "dpmpp_3m_sde": _dpmpp(3, sde=True),
    "dpmpp_3m_sde_karras": _dpmpp(3, sde=True, spacing="karras"),
    "dpmpp_sde": _dpmpp(sde=True),
    "dpmpp_sde_karras": _dpmpp(sde=True, spacing="karras"),
    "dpmpp_2m_sde_exponential": _dpmpp(2, sde=True, spacing="exponential"),
    "dpmpp_3m_sde_exponential": _dpmpp(3, sde=True, spacing="exponential"),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
"""Sampler names (`generation.samplers`) -> diffusers class and the flags that make it so."""


def chosen(text: str) -> str:
    """The name of a sampler in any of its spellings; UserError if it is none that can be used."""
    name = sampler_key(text)
    if name is None or name not in SAMPLERS:
        known = ", ".join(shown_sampler(key) for key in SAMPLERS)
        shown = shown_sampler(name) if name else text
        raise UserError(f"{shown} is not available; known are {known}.", field="sampler")
    return name


FLOW = "flow_prediction"
"""What diffusers calls the prediction of flow matching's velocity in schedulers of other models."""


def flows(model: BaseModel) -> bool:
    """Whether the denoiser was trained for flow matching: by the family, or, where a UNet was
    trained so anew, by the model's scheduler."""
    own = model.scheduler
    by_class = str(own.get("_class_name", "")).startswith("FlowMatch")
    return model.traits.flow or own.get("prediction_type") == FLOW or by_class


def usual(model: BaseModel) -> str:
    """The sampler of a model for which none is asked."""
    return "dpmpp_2m" if flows(model) and not model.traits.flow else model.traits.sampler


def scheduler(name: str, model: BaseModel) -> Any:
    """A new scheduler for a sampler's name; the model's own for "".

    Raises UserError if the name is unknown or does not fit the model's family or its own
    scheduler, and where this diffusers ignores a flag that makes the sampler what it is.
    """
    own = dict(model.scheduler)
    name = chosen(name) if name else ""
    if not hasattr(diffusers, own["_class_name"]):
        raise UserError(
            f"{model.name} is made for {own['_class_name']}, which this diffusers does not have; "
            "name one that it has in scheduler/scheduler_config.json.",
            field="model",
        )
    if own["_class_name"].startswith("EDM"):
        raise UserError(
            f"{model.name} is made for {own['_class_name']}, whose noise levels no sampler here "
            "has; choose another base model.",
            field="model",
        )
    if model.traits.flow:
        if name not in {"", "euler"}:
            raise UserError(
                f"{shown_sampler(name)} does not fit {words(model.family)}, which is trained "
                f"for flow matching; leave {named('sampler')} out.",
                field="sampler",
            )
        name = ""
    anew = flows(model) and not model.traits.flow
    if not name and not anew:
        return getattr(diffusers, own["_class_name"]).from_config(own)
    kind, flags = SAMPLERS[name or usual(model)]
    if anew:
        if flags.get("use_karras_sigmas") or flags.get("use_exponential_sigmas"):
            raise UserError(
                f"{model.name} was trained for flow matching, which has noise levels of its own; "
                f"choose {shown_sampler(usual(model))} or leave {named('sampler')} out.",
                field="sampler",
            )
        shift = own.get("flow_shift", own.get("shift", 1.0))
        flags = {**flags, "prediction_type": FLOW, "use_flow_sigmas": True, "flow_shift": shift}
    made = getattr(diffusers, kind)
    scheduler = made.from_config(own, **flags)
    wanted = {flag: own[flag] for flag in ("prediction_type", "rescale_betas_zero_snr")
              if own.get(flag) not in (None, False, "epsilon")} | dict(flags)  # fmt: skip
    taken = signature(made.__init__).parameters  # its config holds what it does not take, too
    ignored = [
        flag
        for flag, value in wanted.items()
        if flag not in taken or scheduler.config.get(flag) != value
    ]
    if ignored:
        raise UserError(
            f"{kind} of this diffusers ignores {', '.join(ignored)}, which "
            f"{shown_sampler(name)} needs with this model; choose another sampler.",
            field="sampler",
        )
    return scheduler


def scheduler_record(model: BaseModel, sampler: str) -> dict[str, Any]:
    """The scheduler's class and configuration that `sampler` stands for with this model.

    Raises UserError if the name is unknown or does not fit the model's family.
    """
    made = scheduler(sampler, model)
    config = {k: v for k, v in made.config.items() if not k.startswith("_") and v is not None}
    # JSON has no infinity.
    plain = {k: v if v not in (float("inf"), -float("inf")) else str(v) for k, v in config.items()}
    return {"class": type(made).__name__, **plain}
