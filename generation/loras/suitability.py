"""What speaks against applying a LoRA to a base model, from headers and names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from generation.errors import UserError, named
from generation.families import ALL, FAMILIES, words
from generation.loras import deltas
from generation.loras.container import show
from generation.loras.inspection import LoraInfo
from generation.loras.training import flag, whole_number

CHECKS = ("base", "prediction")
"""The checks whose refusal can be turned into a warning: what metadata say may be wrong."""

DESCENDANTS = ("pony", "illustrious", "noob", "animagine")
"""Descendants of SDXL far enough from it that LoRAs of one fit another only in part."""

_NAMES = (
    "ss_base_model_version",
    "modelspec.architecture",
    "ss_sd_model_name",
    "ss_new_sd_model_name",
    "modelspec.title",
)


@dataclass(frozen=True)
class Finding:
    """One objection: by which check, in which sentence, and whether it keeps the LoRA out."""

    check: str
    sentence: str
    refuses: bool = False


def findings(
    info: LoraInfo,
    family: str,
    model: str,
    prediction: str | None,
    *,
    zero_snr: bool | None = None,
    clip_skip: int | None = None,
    edits: bool = False,
) -> list[Finding]:
    """The objections to a file under a base model, the gravest first.

    `family` is the model's, `model` its name for people, `prediction` what it predicts (epsilon or
    v_prediction; None for flow matching), `zero_snr` whether its schedule ends in pure noise,
    `clip_skip` how many of CLIP's last layers are left out; None is not asked. `edits` says that
    the model is given a picture to edit. What shapes say is
    certain; what metadata say may be wrong, and those refusals are of a check in `CHECKS`.
    """
    found = [*_family(info, family, model), *_prediction(info, prediction, model)]
    if prediction is not None and zero_snr is not None:
        found += _zero_snr(info, zero_snr, model)
    found += _descendant(info, family, model)
    found += _called(prediction, model)
    if not edits and re.search(r"kontext|[._ -]edit(?![a-z])", _told(info)):
        found.append(
            Finding(
                "edit",
                f"{show(info.path)} says that it was trained for editing pictures, and is rendered "
                "here without one to edit; what it does then says little of it.",
            )
        )
    if clip_skip is not None:
        found += _clip_skip(info, family, clip_skip)
    if info.magnitude_per_output:
        found.append(
            Finding(
                "dora",
                f"{show(info.path)} is a DoRA normalised per output, which is applied here as "
                "LyCORIS and peft train it; ComfyUI and A1111 divide by other norms, so their "
                "pictures of it differ.",
            )
        )
    if info.alpha_assumed and info.layout in {"peft", "diffusers"}:
        found.append(
            Finding(
                "alpha",
                f"{show(info.path)} stores no alpha, which is taken as the rank; if it was trained "
                "with another, every strength here means strength times rank / alpha there.",
            )
        )
    if info.alpha_zero:
        found.append(
            Finding(
                "alpha",
                f"{show(info.path)} stores an alpha of 0, which stands for the rank here, as in "
                "kohya and LyCORIS; ComfyUI and A1111 multiply by it, so that the LoRA does "
                "nothing there.",
            )
        )
    return found


def _family(info: LoraInfo, family: str, model: str) -> list[Finding]:
    name, here = show(info.path), words(family)
    shapes = words(*info.families[:3])
    if info.families and family not in info.families:
        made_for = f"{name} is made for {shapes}{_remedy(info.families, model, here)}"
        return [Finding("family", made_for, True)]
    stated = info.stated_family
    if stated and stated != family:
        says = f"{name} says that it was made for {words(stated)}"
        return [Finding("base", f"{says}{_remedy([stated], model, here)}", True)]
    if info.base_model and not stated:
        return [
            Finding(
                "base",
                f"{name} says that it was made for {info.base_model!r}, a base that is not known "
                f"here; its layers are tried on {here}.",
            )
        ]
    return []


def _remedy(families: Sequence[str], model: str, here: str) -> str:
    if any(ALL[one].rendering for one in families):
        return f", and {named('model')} {model} is {here}; name a base model of its family."
    return (
        f", which is not rendered here ({named('model')} {model} is {here}); render its pictures "
        f"elsewhere, such as in ComfyUI, and judge them with {named('images')}."
    )


def _prediction(info: LoraInfo, prediction: str | None, model: str) -> list[Finding]:
    if prediction is None:
        return []
    name = show(info.path)
    if info.prediction_type == "v_prediction" and prediction != "v_prediction":
        return [
            Finding(
                "prediction",
                f"{name} was trained on v-prediction, and {named('model')} {model} predicts noise; "
                f"name a v-prediction model, or say what it predicts with "
                f"{named('prediction_type')}.",
                True,
            )
        ]
    if info.prediction_type == "epsilon" and prediction == "v_prediction":
        return [
            Finding(
                "prediction",
                f"{name} was trained on noise prediction, and {named('model')} {model} predicts "
                "velocity; it may work only in part.",
            )
        ]
    told = re.search(r"v[._ -]?pred", _told(info))
    if info.prediction_type is None and told and prediction != "v_prediction":
        return [
            Finding(
                "prediction",
                f"{name} names a v-prediction model as its base, and {named('model')} {model} "
                "predicts noise; if both are true, its pictures are wrong.",
            )
        ]
    return []


def _zero_snr(info: LoraInfo, zero_snr: bool, model: str) -> list[Finding]:
    """By kohya's `ss_zero_terminal_snr`."""
    if zero_snr or not flag(info.metadata, "ss_zero_terminal_snr"):
        return []
    return [
        Finding(
            "zero_snr",
            f"{show(info.path)} was trained on a schedule that ends in pure noise (zero terminal "
            f"SNR), and that of {named('model')} {model} does not; if the model's should, say "
            f"{named('prediction_type')} v_prediction_zsnr.",
        )
    ]


def _clip_skip(info: LoraInfo, family: str, clip_skip: int) -> list[Finding]:
    """By kohya's `ss_clip_skip`, which counts the last layer as 1 and which SDXL's training reads
    nothing of: SDXL always takes the last layer but one, which is "clip skip 2" to Pony's users."""
    rendering = FAMILIES.get(family)
    if rendering is None or not rendering.chunked:
        return []
    if rendering.penultimate:
        if not clip_skip:
            return []
        return [
            Finding(
                "clip_skip",
                f"{words(family)} takes CLIP's last layer but one by itself, which is what clip "
                f"skip 2 means for Pony and its kin; {named('clip_skip')} {clip_skip} leaves out "
                f"{clip_skip} more.",
            )
        ]
    stated = whole_number(info.metadata.get("ss_clip_skip"))
    if stated is None or not 1 <= stated <= 12 or stated - 1 == clip_skip:
        return []
    return [
        Finding(
            "clip_skip",
            f"{show(info.path)} was trained with clip skip {stated}; render it with "
            f"{named('clip_skip')} {stated - 1}, which leaves out as many layers.",
        )
    ]


def _descendant(info: LoraInfo, family: str, model: str) -> list[Finding]:
    if family != "sdxl":
        return []
    theirs = [one for one in DESCENDANTS if one in _told(info)]
    if not theirs or any(one in model.lower() for one in theirs):
        return []
    return [
        Finding(
            "descendant",
            f"{show(info.path)} was trained on {theirs[0].capitalize()}, and {named('model')} "
            f"{model} is not named so; on another descendant of SDXL it works only in part.",
        )
    ]


def _called(prediction: str | None, model: str) -> list[Finding]:
    """Merges often lose the keys that say what they predict."""
    if prediction != "epsilon" or not re.search(r"v[._ -]?pred", PurePath(model).name.lower()):
        return []
    return [
        Finding(
            "prediction",
            f"{named('model')} {model} is called a v-prediction model and is rendered as one that "
            f"predicts noise; unless you know better, say {named('prediction_type')} v_prediction, "
            "or v_prediction_zsnr for NoobAI and its kin.",
        )
    ]


def _told(info: LoraInfo) -> str:
    """All that the file says about its base model, in lower case."""
    told = [info.metadata.get(key, "") for key in _NAMES]
    return " ".join([*told, info.base_model or ""]).lower()


def judged(found: Iterable[Finding], allowed: Iterable[str] = ()) -> tuple[str, ...]:
    """The objections as warnings. Raises UserError with the first that refuses, if not allowed."""
    allowed = set(allowed)
    warnings = []
    for one in found:
        if one.refuses and one.check not in allowed:
            way = (
                f" {named('allow')} {one.check} applies it all the same."
                if one.check in CHECKS
                else ""
            )
            raise UserError(one.sentence + way)
        warnings.append(one.sentence)
    return tuple(warnings)


def fit(info: LoraInfo, targets: deltas.Targets) -> None:
    """Raise UserError if any key of the file has no place in a model of these parameters.

    `targets` are {part: {parameter name: shape}}. Nothing but the header is read.
    """
    deltas.resolve(deltas.outlines(info.path), targets)


def check_allowed(checks: Iterable[str]) -> None:
    """Raise UserError for a check that cannot be allowed to fail."""
    for check in checks:
        if check not in CHECKS:
            raise UserError(
                f"{check} is no check that can be passed over; known are {', '.join(CHECKS)}.",
                field="allow",
            )
