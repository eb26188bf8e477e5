"""The model families that LoRAs are made for: one file for each that is rendered here.

A family says which layers its published models have (so that a LoRA is recognised by the names and
shapes of what it changes), how trainers spell them, which blocks its weights lie in, which text
encoders it has, and how it is rendered. `named` holds those that are only recognised.
"""

from __future__ import annotations

from collections.abc import Mapping

from generation.families.chroma import CHROMA
from generation.families.family import Family, Rendering
from generation.families.flux import FLUX
from generation.families.flux2 import FLUX2
from generation.families.hidream import HIDREAM
from generation.families.klein import KLEIN
from generation.families.lumina2 import LUMINA2
from generation.families.named import NAMED
from generation.families.qwen import QWEN
from generation.families.sd1 import SD1
from generation.families.sd2 import SD2
from generation.families.sd3 import SD3
from generation.families.sdxl import SDXL
from generation.families.zimage import ZIMAGE

__all__ = ["ALL", "FAMILIES", "Family", "Rendering", "words"]

_FAMILIES = (
    SD1, SD2, SDXL, SD3, FLUX, CHROMA, FLUX2, KLEIN, QWEN, ZIMAGE, LUMINA2, HIDREAM, *NAMED,
)  # fmt: skip

ALL: Mapping[str, Family] = {family.id: family for family in _FAMILIES}
"""Every family by its id: those that are rendered first."""

FAMILIES: Mapping[str, Rendering] = {
    family.id: family.rendering for family in ALL.values() if family.rendering is not None
}
"""How each family that is rendered here is rendered."""


def words(*ids: str | None) -> str:
    """The families in words: "FLUX.1 or Chroma"; "" for none."""
    names = [ALL[one].words for one in ids if one]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)
