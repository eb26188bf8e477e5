"""The one error that a user is meant to read."""

from __future__ import annotations

import re
from collections.abc import Callable

_NAMED = re.compile("\ufdd0(.*?)\ufdd1")  # two code points that no text has


class UserError(Exception):
    """Something the user can mend: one sentence that names the file or field and the remedy.

    `field` is the field of the request that the sentence is about, "" where it is about a file.
    The sentence may name other fields by `named`. How a field is spelled is the caller's to say:
    `str` spells it as Python does, `told` as a command or a form would.
    """

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field

    def told(self, spell: Callable[[str], str]) -> str:
        """The sentence with its fields as `spell` spells them: "low_vram" -> "--low-vram"."""
        sentence = _NAMED.sub(lambda match: spell(match[1]), self.args[0])
        return f"{spell(self.field)}: {sentence}" if self.field else sentence

    def __str__(self) -> str:
        return self.told(str)


def named(field: str) -> str:
    """A field's name inside of a `UserError`'s sentence."""
    return f"\ufdd0{field}\ufdd1"


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough to stand in a sentence of ours."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 200 else text[:199].rstrip() + "…"
