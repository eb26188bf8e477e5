"""What is known about pictures made elsewhere, and how they are paired with their controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

Axis = Literal["strength", "epoch", "both"]


@dataclass(frozen=True)
class LoraUse:
    """One LoRA at work in a picture.

    `name` is the file's stem or A1111's alias, `hash` the leading hex digits of the SHA-256 of its
    tensor bytes where the interface stores it. `text_strength` is set only where the text encoder
    gets another strength than the denoiser.
    """

    name: str
    strength: Decimal | None = None
    hash: str = ""
    text_strength: Decimal | None = None


@dataclass(frozen=True)
class Facts:
    """What a picture's metadata says, in the words of this project.

    `prompt` has no LoRA tags. `settings` holds what else decides the pixels, as comparable text:
    size ("512x768"), steps, sampler, schedule, guidance, model, model_hash, clip_skip, ...
    `lists_loras` is False where the format never names LoRAs, so that their absence means nothing.
    `unknown` says, in words that follow the picture's name, why its LoRAs or their strengths are
    not certain; "" where they are. `unread` names what the picture holds and cannot be read
    ("prompt", "seed", ...): it is equal to nothing.
    """

    source: str
    prompt: str = ""
    negative: str = ""
    seed: int | None = None
    loras: tuple[LoraUse, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    grid: bool = False
    lists_loras: bool = True
    unknown: str = ""
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One picture under a LoRA; None and "" mean that neither metadata nor name tells.

    `strength` is the denoiser's. `source` names where the facts were read: an interface ("A1111",
    "ComfyUI", "SwarmUI", "InvokeAI", "dgenerate", "lora-analysers"), a trainer ("kohya",
    "ai-toolkit", "OneTrainer", "SimpleTuner") or "name". `background` are LoRAs that every
    picture of the case shares, control included.
    """

    path: Path
    strength: Decimal | None = None
    epoch: int | None = None
    step: int | None = None
    lora: str = ""
    lora_hash: str = ""
    prompt: str = ""
    negative: str = ""
    seed: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    source: str = "name"
    background: tuple[LoraUse, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A picture and the control that it is measured against, None where there is none.

    `case` is the same text for all pictures of one prompt and seed.
    """

    picture: Picture
    control: Path | None
    case: str


@dataclass(frozen=True)
class Rejected:
    """A picture that takes no part, and why, in words that end a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class PictureSet:
    """All that was found in a folder.

    `pairs` are in order of training place, strength and case; pictures of a final checkpoint
    (no number beside numbered siblings) come after those of the numbered ones. `axis` is "both"
    where several places and several strengths occur. `label` names a study after `split_studies`.
    """

    pairs: tuple[Pair, ...]
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()
    axis: Axis = "strength"
    label: str = ""
