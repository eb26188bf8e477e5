"""Size and sampling of a study's pictures: one rule for every renderer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from analysers.runs.request import Rendering
from generation.errors import UserError
from generation.prompts import PromptLine
from generation.samplers import sampler_key


@dataclass(frozen=True)
class Sampling:
    """Size in pixels, steps, guidance and sampler."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str


def sampling(asked: Rendering, lines: Sequence[PromptLine], usual: Sampling) -> Sampling:
    """What is asked, else what the prompt lines say, else what is usual for LoRA and base model.

    One sampler has one name: however it is spelled, the pictures' content keys are the same.
    """

    def first(name: str) -> Any:
        told = getattr(asked, name)
        told = agreed(lines, name) if told is None else told
        return getattr(usual, name) if told is None else told

    found = {field.name: first(field.name) for field in fields(Sampling)}
    return Sampling(**found | {"sampler": sampler_key(found["sampler"]) or found["sampler"]})


def agreed(lines: Sequence[PromptLine], name: str) -> Any:
    """The one value of a setting that the prompt file's lines give, or None. Raises UserError if
    they disagree."""
    values = {getattr(line, name) for line in lines} - {None}
    if len(values) > 1:
        raise UserError(
            f"the lines disagree on {name} ({', '.join(map(str, values))}); "
            "a study needs one for all.",
            field="prompts",
        )
    return next(iter(values), None)
