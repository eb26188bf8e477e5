"""Whether a name or a text hints at a LoRA: what is not understood is never taken for none."""

from __future__ import annotations

import re

TAG = re.compile(r"<\s*(?:lora|lyco|lycoris|locon|loha|lokr|hypernet)\s*:", re.I)

_NAME = re.compile(r"lora|lyco|locon|loha(?![a-z])|lokr|hypernet", re.I)
# "floral", "exploration" and "ColorAdjust" hold the letters and mean nothing.
_INNOCENT = re.compile(
    r"(?:[Ff]|[Pp]|[Cc]o|[Ee]xp|[Ii]mp|[Dd]ep|[Aa]mph)lora(?=[a-z])|[Cc]olorA(?=[a-z])|[Cc]hlora"
    r"|[Ff]lora(?![A-Za-z])|[Ff]loras|olyco|glyco"
)
_WORD = re.compile(
    r"(?<![a-z])(?:lora|lycoris|locon|lyco|loha|lokr|hypernetwork|hypernet|addnet)s?(?![a-z])"
    r"|withlora\(",
    re.I,
)


def hints_at_lora(name: str) -> bool:
    """Whether the name of a key, an input or a node's class speaks of LoRAs ("loraName")."""
    return _NAME.search(_INNOCENT.sub(" ", name[:1000])) is not None


def speaks_of_lora(text: str) -> bool:
    """Whether a text holds a LoRA's tag or the word by itself; "floral" is none."""
    return TAG.search(text) is not None or _WORD.search(text) is not None
